"""What the chat transport of Vercel's AI SDK sends, and the contract's messages made of it."""

import base64
import binascii
import json
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.edge.bodies import MESSAGES_MAX, PARTS_MAX, AnswerBody, parsed, require_few_parts
from dispatcher.edge.problems import ProblemError
from dispatcher.requests import LABEL_CHARS_MAX

ANSWER_PART: Final = "data-answer"
# Of a user's message: what else it may be is refused, as the agent would not be told of it.
_SPOKEN: Final = "text, file and data-… are right"

ChatId = Annotated[str, Field(min_length=1, max_length=LABEL_CHARS_MAX)]


class UiMessage(BaseModel):
    """One message as a client keeps it. What only the client knows of it, like its metadata, is no concern here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "user", "assistant"]
    parts: Annotated[list[dict[str, JsonValue]], Field(max_length=PARTS_MAX, fail_fast=True)]


class ChatBody(BaseModel):
    """`id` is the chat's. Whatever else an application adds to the body is handed to the agent as metadata."""

    model_config = ConfigDict(extra="allow", frozen=True, alias_generator=to_camel)

    id: ChatId
    messages: Annotated[list[UiMessage], Field(min_length=1, max_length=MESSAGES_MAX, fail_fast=True)]
    trigger: str = ""
    message_id: str | None = None
    agent: str = ""
    agent_version: str = ""
    user_id: str = ""
    include_thoughts: bool = False

    def ask(self) -> chat_pb2.Ask:
        """Raises ProblemError for parts that are not as they should be."""
        require_few_parts("messages", (message.parts for message in self.messages))
        wire = chat_pb2.Ask(
            agent=self.agent,
            agent_version=self.agent_version,
            user_id=self.user_id,
            include_thoughts=self.include_thoughts,
        )
        for name, value in (self.__pydantic_extra__ or {}).items():
            wire.metadata[name] = value if isinstance(value, str) else _json(value)
        for number, message in enumerate(self.messages):
            wire.messages.extend(_messages(f"messages[{number}]", message))
        if not wire.messages:
            raise ProblemError(
                "invalid_request", "messages: say nothing; a part of text is right", field="messages"
            )
        return wire

    def answers(self) -> list[tuple[str, str, AnswerBody]]:
        """The answers that the last message gives: where, to which question, and what. Raises ProblemError."""
        last = self.messages[-1]
        where = f"messages[{len(self.messages) - 1}].parts"
        found = [(number, part) for number, part in enumerate(last.parts) if part.get("type") == ANSWER_PART]
        if last.role != "user" or not found:
            return []
        if len(found) < len(last.parts):
            told = f"{where}: an answer comes in a message of its own; send what else is said apart from it"
            raise ProblemError("invalid_request", told, field=where)
        places = [(f"{where}[{number}].data", part.get("data")) for number, part in found]
        return [(place, *_answer(place, data)) for place, data in places]


class StopChatBody(BaseModel):
    """`active_stream_id`: the session that was seen running, where the client knows it: no later one is stopped."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)

    active_stream_id: str | None = None


def _answer(where: str, data: JsonValue) -> tuple[str, AnswerBody]:
    told = dict(data) if isinstance(data, dict) else {}
    question_id = told.pop("question_id", None)
    if not isinstance(question_id, str) or not question_id:
        raise ProblemError(
            "invalid_request",
            f"{where}.question_id: is missing; that of the question is right",
            field=f"{where}.question_id",
        )
    try:
        return question_id, parsed(AnswerBody, _json(told).encode())
    except ProblemError as problem:
        joint = "." if problem.field else ": "
        field = f"{where}.{problem.field}" if problem.field else where
        raise ProblemError("invalid_request", f"{where}{joint}{problem.detail}", field=field) from None


def _messages(where: str, message: UiMessage) -> list[agent_pb2.Message]:
    """An assistant's message is several: what it said, what tools answered, what the user said in between."""
    made: list[agent_pb2.Message] = []
    for number, part in enumerate(message.parts):
        at = f"{where}.parts[{number}]"
        kind = part.get("type")
        if not isinstance(kind, str):
            raise ProblemError("invalid_request", f"{at}.type: is missing", field=f"{at}.type")
        role = message.role
        if kind == "text":
            if text := _text(f"{at}.text", part.get("text")):
                _last(made, role).parts.add(text=text)
        elif kind == "file":
            _last(made, role).parts.add().blob.CopyFrom(_file(at, part))
        elif role != "assistant":
            if not kind.startswith("data-"):
                told = f"{at}.type: {kind[:80]!r} is no part of a message of the {role}; {_SPOKEN}"
                raise ProblemError("invalid_request", told, field=f"{at}.type")
            _last(made, role).parts.add(json=_json({"type": kind, "data": part.get("data")}))
        elif kind == "steering-message":
            said = UiMessage.model_construct(role="user", parts=_parts(f"{at}.parts", part.get("parts")))
            made += _messages(at, said)
        elif call := _called(kind, part):
            made.append(agent_pb2.Message(role=agent_pb2.ROLE_TOOL))
            made[-1].parts.add(json=_json(call))
    return made


def _last(made: list[agent_pb2.Message], role: str) -> agent_pb2.Message:
    """The message that what is said next belongs to."""
    wanted = agent_pb2.Role.Value(f"ROLE_{role.upper()}")
    if not made or made[-1].role != wanted:
        made.append(agent_pb2.Message(role=wanted))
    return made[-1]


def _text(where: str, value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ProblemError("invalid_request", f"{where}: should be a text", field=where)
    return value


def _parts(where: str, value: JsonValue) -> list[dict[str, JsonValue]]:
    if not isinstance(value, list):
        raise ProblemError("invalid_request", f"{where}: should be a list", field=where)
    return [part for part in value if isinstance(part, dict)]


def _file(where: str, part: dict[str, JsonValue]) -> agent_pb2.Blob:
    url = _text(f"{where}.url", part.get("url"))
    media_type = _text(f"{where}.mediaType", part.get("mediaType", ""))
    name = _text(f"{where}.filename", part.get("filename") or "")
    if not url.startswith("data:"):
        return agent_pb2.Blob(mime_type=media_type, uri=url, name=name)
    head, comma, text = url.removeprefix("data:").partition(",")
    told, _, encoding = head.rpartition(";")
    try:
        if not comma:
            raise ValueError
        is_base64 = encoding == "base64"
        data = base64.b64decode(text, validate=True) if is_base64 else unquote_to_bytes(text)
    except (binascii.Error, ValueError):
        raise ProblemError(
            "invalid_request",
            f"{where}.url: is no data: URL; data:image/png;base64,… is right",
            field=f"{where}.url",
        ) from None
    return agent_pb2.Blob(
        mime_type=media_type or (told if is_base64 else head).partition(";")[0], data=data, name=name
    )


def _called(kind: str, part: dict[str, JsonValue]) -> dict[str, Any] | None:
    """What a tool was asked and answered; None for what is no call, or was never answered."""
    if kind == "dynamic-tool":
        name = part.get("toolName")
    elif kind.startswith("tool-"):
        name = kind.removeprefix("tool-")
    else:
        return None
    told = {"tool_name": name, "call_id": part.get("toolCallId"), "arguments": part.get("input")}
    match part.get("state"):
        case "output-available":
            return told | {"result": part.get("output")}
        case "output-error":
            return told | {"error": part.get("errorText")}
    return None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
