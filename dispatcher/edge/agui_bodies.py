"""What an AG-UI client sends, version 1.0 and before, and the contract's messages made of it."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel
from pydantic_core import from_json
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.edge.bodies import MESSAGES_MAX, PARTS_MAX, AnswerBody, require_few_parts
from dispatcher.edge.problems import ProblemError
from dispatcher.requests import LABEL_CHARS_MAX

# As the contract's field has room for it.
ATTEMPT_MAX: Final = 2**32 - 1
THREAD_LABEL: Final = "agui_thread"
RUN_LABEL: Final = "agui_run"
_ROLES: Final = {
    "developer": agent_pb2.ROLE_SYSTEM,
    "system": agent_pb2.ROLE_SYSTEM,
    "user": agent_pb2.ROLE_USER,
    "assistant": agent_pb2.ROLE_ASSISTANT,
}
# Of what only the client shows: thoughts, and what it makes of events.
_SHOWN_ONLY: Final = frozenset({"reasoning", "activity"})
_MEDIA: Final = frozenset({"image", "audio", "video", "document"})

Id = Annotated[str, Field(min_length=1, max_length=LABEL_CHARS_MAX)]


class Run(NamedTuple):
    """What a client asked for; `messages` as it sent them, `is_older`: it speaks no 1.0."""

    thread_id: str
    run_id: str
    messages: Sequence[Mapping[str, Any]]
    is_older: bool


class Interrupt(NamedTuple):
    """Where a question was asked: all that its interrupt's id says."""

    session_id: str
    offset: int
    attempt: int
    question_id: str

    def __str__(self) -> str:
        return f"{self.session_id}:{self.offset}:{self.attempt}:{self.question_id}"


def parse_interrupt(text: str) -> Interrupt | None:
    """None for what is no interrupt's id."""
    session_id, *numbers, question_id = (text.split(":", 3) + [""] * 4)[:4]
    if not all(each.isdecimal() and each.isascii() and len(each) < 16 for each in numbers):
        return None
    offset, attempt = map(int, numbers)
    if attempt > ATTEMPT_MAX or not session_id or not question_id:
        return None
    return Interrupt(session_id, offset, attempt, question_id)


class _Said(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)


class ResumeBody(_Said):
    """The answer to one interrupt."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: JsonValue = None

    def answer(self) -> AnswerBody:
        if self.status == "cancelled":
            return AnswerBody(decline=True)
        return AnswerBody(value=self.payload)


class RunBody(_Said):
    """`RunAgentInput`. What is said in `forwarded_props`, `state` and `context` is handed to the agent as metadata."""

    thread_id: Id
    run_id: Id
    protocol_version: str = ""
    messages: Annotated[list[dict[str, JsonValue]], Field(max_length=MESSAGES_MAX, fail_fast=True)]
    tools: list[JsonValue] = []
    state: JsonValue = None
    context: Annotated[list[JsonValue], Field(max_length=PARTS_MAX)] = []
    forwarded_props: JsonValue = None
    resume: Annotated[list[ResumeBody], Field(max_length=MESSAGES_MAX, fail_fast=True)] = []

    @property
    def run(self) -> Run:
        return Run(self.thread_id, self.run_id, self.messages, not self.protocol_version)

    @property
    def include_thoughts(self) -> bool:
        """Raises ProblemError."""
        wanted = self._props.get("includeThoughts", False)
        if not isinstance(wanted, bool):
            field = "forwardedProps.includeThoughts"
            raise ProblemError("invalid_request", f"{field}: should be true or false", field=field)
        return wanted

    @property
    def _props(self) -> Mapping[str, JsonValue]:
        props = self.forwarded_props
        return props if isinstance(props, dict) else {}

    def ask(self) -> chat_pb2.Ask:
        """Raises ProblemError for what is not as it should be."""
        self.require_no_tools()
        for name in ("content", "toolCalls"):
            require_few_parts("messages", (message.get(name) for message in self.messages))
        wire = chat_pb2.Ask(include_thoughts=self.include_thoughts)
        wire.labels[THREAD_LABEL], wire.labels[RUN_LABEL] = self.thread_id, self.run_id
        told = {name: value for name, value in self._props.items() if name != "includeThoughts"}
        if self.state not in (None, {}, ""):
            told["state"] = self.state
        if self.context:
            told["context"] = self.context
        for name, value in told.items():
            wire.metadata[name] = value if isinstance(value, str) else _json(value)
        wire.messages.extend(_Conversation().told(self.messages))
        if not wire.messages:
            raise ProblemError(
                "invalid_request", "messages: say nothing; a message of the user is right", field="messages"
            )
        return wire

    def require_no_tools(self) -> None:
        """An answer of an agent that was not told of them would be another than the client expects."""
        if self.tools:
            why = "tools: those of the client can't be called: agents call what the dispatcher has, which runs it"
            raise ProblemError("invalid_request", f"{why}; leave them out", field="tools")

    def interrupts(self) -> list[tuple[Interrupt, AnswerBody]]:
        """Whose answers come, all of one session. Raises ProblemError."""
        answers: list[tuple[Interrupt, AnswerBody]] = []
        for number, entry in enumerate(self.resume):
            field = f"resume[{number}].interruptId"
            interrupt = parse_interrupt(entry.interrupt_id)
            if interrupt is None:
                raise unknown_interrupt(field, entry.interrupt_id)
            if answers and answers[0][0].session_id != interrupt.session_id:
                told = f"{field}: is of another session than the first; one run resumes one session"
                raise ProblemError("invalid_request", told, field=field)
            answers.append((interrupt, entry.answer()))
        return answers


def unknown_interrupt(field: str, interrupt_id: str) -> ProblemError:
    told = f"{field}: there is no interrupt {interrupt_id[:256]!r} of this thread, or it is no longer kept"
    return ProblemError("no_such_question", told, field=field)


class _Conversation:
    """Makes messages of a client's, in order: what a tool answered is told together with what it was asked."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[str, Any]] = {}

    def told(self, messages: Sequence[Mapping[str, JsonValue]]) -> list[agent_pb2.Message]:
        made = [self._message(f"messages[{number}]", each) for number, each in enumerate(messages)]
        return [message for message in made if message is not None and message.parts]

    def _message(self, where: str, message: Mapping[str, JsonValue]) -> agent_pb2.Message | None:
        role = message.get("role")
        if role in _SHOWN_ONLY:
            return None
        if role == "tool":
            return self._answered(where, message)
        if not isinstance(role, str) or role not in _ROLES:
            known = ", ".join([*_ROLES, "tool"])
            raise ProblemError(
                "invalid_request", f"{where}.role: should be one of {known}", field=f"{where}.role"
            )
        wire = agent_pb2.Message(role=_ROLES[role])
        for number, call in enumerate(_list(f"{where}.toolCalls", message.get("toolCalls"))):
            self._called(f"{where}.toolCalls[{number}]", call)
        content = message.get("content")
        if isinstance(content, str):
            if content:
                wire.parts.add(text=content)
            return wire
        for number, part in enumerate(_list(f"{where}.content", content)):
            wire.parts.append(_part(f"{where}.content[{number}]", part))
        return wire

    def _called(self, where: str, call: Mapping[str, JsonValue]) -> None:
        function = call.get("function")
        if not isinstance(function, dict):
            raise ProblemError("invalid_request", f"{where}.function: is missing", field=f"{where}.function")
        call_id = _text(f"{where}.id", call.get("id"))
        arguments = _text(f"{where}.function.arguments", function.get("arguments", "{}"))
        self._calls[call_id] = {
            "tool_name": _text(f"{where}.function.name", function.get("name")),
            "call_id": call_id,
            "arguments": _value(arguments),
        }

    def _answered(self, where: str, message: Mapping[str, JsonValue]) -> agent_pb2.Message:
        call_id = _text(f"{where}.toolCallId", message.get("toolCallId"))
        told = self._calls.get(call_id, {"call_id": call_id})
        content = message.get("content")
        result = _value(content) if isinstance(content, str) else content
        error = message.get("error")
        outcome = {"error": error} if error else {"result": result}
        wire = agent_pb2.Message(role=agent_pb2.ROLE_TOOL)
        wire.parts.add(json=_json(told | outcome))
        return wire


def _part(where: str, part: Mapping[str, JsonValue]) -> agent_pb2.ContentPart:
    kind = part.get("type")
    if kind == "text":
        return agent_pb2.ContentPart(text=_text(f"{where}.text", part.get("text")))
    if kind == "binary":
        # As clients before 1.0 send it.
        return agent_pb2.ContentPart(blob=_binary(where, part))
    source = part.get("source")
    if kind not in _MEDIA or not isinstance(source, dict):
        raise ProblemError(
            "invalid_request",
            f"{where}: should be a text, or an image, audio, video or document with its source",
            field=where,
        )
    return agent_pb2.ContentPart(blob=_source(f"{where}.source", source))


def _source(where: str, source: Mapping[str, JsonValue]) -> agent_pb2.Blob:
    value = _text(f"{where}.value", source.get("value"))
    mime_type = _text(f"{where}.mimeType", source.get("mimeType") or "")
    match source.get("type"):
        case "data":
            return agent_pb2.Blob(mime_type=mime_type, data=_decoded(f"{where}.value", value))
        case "url":
            return agent_pb2.Blob(mime_type=mime_type, uri=value)
    told = f"{where}.type: should be data or url; files of a provider can't be read here"
    raise ProblemError("invalid_request", told, field=f"{where}.type")


def _binary(where: str, part: Mapping[str, JsonValue]) -> agent_pb2.Blob:
    blob = agent_pb2.Blob(
        mime_type=_text(f"{where}.mimeType", part.get("mimeType") or ""),
        name=_text(f"{where}.filename", part.get("filename") or ""),
    )
    if url := part.get("url"):
        blob.uri = _text(f"{where}.url", url)
    else:
        blob.data = _decoded(f"{where}.data", _text(f"{where}.data", part.get("data")))
    return blob


def _decoded(where: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProblemError("invalid_request", f"{where}: is no base64", field=where) from None


def _text(where: str, value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ProblemError("invalid_request", f"{where}: should be a text", field=where)
    return value


def _list(where: str, value: JsonValue) -> list[dict[str, JsonValue]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ProblemError("invalid_request", f"{where}: should be a list", field=where)
    for number, each in enumerate(value):
        if not isinstance(each, dict):
            field = f"{where}[{number}]"
            raise ProblemError("invalid_request", f"{field}: should be an object", field=field)
    return [each for each in value if isinstance(each, dict)]


def _value(text: str) -> JsonValue:
    """JSON as a value; a text that is none, as the text that it is. Halves of surrogate pairs are none: nobody could be
    told of them."""
    try:
        value: JsonValue = from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    return value


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
