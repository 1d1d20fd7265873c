"""What applications send as JSON, field by field, and the contract's messages made of it.

Judges the shape alone: which fields there are, and of which type. What they may say is judged in `requests.py`, for
every edge alike. The OpenAPI description is made of these classes.
"""

import base64
import binascii
import json
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.edge.problems import ProblemError
from dispatcher.requests import LABEL_CHARS_MAX, LABELS_MAX
from dispatcher.rpc import codec
from dispatcher.rpc.methods import REASON_CHARS_MAX

_ERRORS_TOLD_MAX: Final = 10
_COUNT_MAX: Final = 2**32 - 1
_BIG_MAX: Final = 2**63 - 1
_SECONDS_MAX: Final = 604_800.0


def _whole(value: object) -> object:
    """JSON has one kind of number: 3.0 is as whole as 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=0, le=_COUNT_MAX), BeforeValidator(_whole)]
Big = Annotated[int, Field(ge=0, le=_BIG_MAX), BeforeValidator(_whole)]
Seconds = Annotated[float, Field(ge=0, le=_SECONDS_MAX)]
# A limit of no time would be none of work either.
SomeSeconds = Annotated[float, Field(ge=0.001, le=_SECONDS_MAX)]
Name = Annotated[str, Field(max_length=LABEL_CHARS_MAX)]
Key = Annotated[str, Field(min_length=1, max_length=LABEL_CHARS_MAX)]
Labels = Annotated[dict[Key, Name], Field(max_length=LABELS_MAX)]
# Checked by its decoder, which says it in better words.
Base64 = Annotated[
    str,
    Field(
        json_schema_extra={
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
            "contentEncoding": "base64",
        }
    ),
]


class Body(BaseModel):
    """Unknown fields are mistakes: a budget with a typing error would be none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)


class TextPart(Body):
    type: Literal["text"]
    text: str


class JsonPart(Body):
    """Any JSON value."""

    type: Literal["json"]
    value: JsonValue


class BlobPart(Body):
    """Bytes with a type, or a place to get them."""

    type: Literal["blob"]
    mime_type: str
    data_base64: Base64 = ""
    uri: str = ""
    name: str = ""


Part = Annotated[TextPart | JsonPart | BlobPart, Field(discriminator="type")]


class MessageBody(Body):
    """Something said in the conversation. `content` as a text is one part of text."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(min_length=1)]


class BudgetsBody(Body):
    """What the session may spend; without it the dispatcher's limits alone hold."""

    content_chars: Big | None = None
    thought_chars: Big | None = None
    tool_calls: Count | None = None
    output_tokens: Big | None = None
    total_time_s: SomeSeconds | None = None
    first_token_time_s: SomeSeconds | None = None


class OnDetachBody(Body):
    """`stop_after_s`: the session is stopped when nobody has watched it for so long. Without it, it goes on."""

    stop_after_s: Seconds | None = None


class TraceContextBody(Body):
    traceparent: str
    tracestate: str = ""


class AskBody(Body):
    """Opens a session. One of `input`, the user's one message, and `messages`, the conversation, is needed."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["input"],
                    "properties": {"input": {"type": "string"}, "messages": {"type": "null"}},
                },
                {
                    "required": ["messages"],
                    "properties": {"messages": {"type": "array"}, "input": {"type": "null"}},
                },
            ]
        }
    )

    agent: Name = ""
    agent_version: Name = ""
    input: str | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1)] | None = None
    user_id: Name = ""
    labels: Labels = {}
    commander_labels: Labels = {}
    metadata: dict[str, str] = {}
    budgets: BudgetsBody | None = None
    affinity_key: Name = ""
    include_thoughts: bool = False
    idempotency_key: Name = ""
    on_detach: OnDetachBody | None = None
    trace_context: TraceContextBody | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "AskBody":
        if (self.input is None) == (self.messages is None):
            raise ValueError("one of input and messages is needed, and not both")
        return self

    def ask(self) -> chat_pb2.Ask:
        """Raises ProblemError for bytes that are no base64."""
        wire = chat_pb2.Ask(
            agent=self.agent,
            agent_version=self.agent_version,
            user_id=self.user_id,
            labels=self.labels,
            commander_labels=self.commander_labels,
            metadata=self.metadata,
            affinity_key=self.affinity_key,
            include_thoughts=self.include_thoughts,
            idempotency_key=self.idempotency_key,
        )
        if self.input is not None:
            wire.messages.add(role=agent_pb2.ROLE_USER).parts.add(text=self.input)
        for number, message in enumerate(self.messages or ()):
            wire.messages.append(_message(f"messages[{number}]", message))
        if self.budgets is not None:
            _spend(wire.budgets, self.budgets)
        if self.on_detach is not None and self.on_detach.stop_after_s is not None:
            wire.on_detach.stop_after.CopyFrom(codec.duration(self.on_detach.stop_after_s))
        if self.trace_context is not None:
            wire.trace_context.traceparent = self.trace_context.traceparent
            wire.trace_context.tracestate = self.trace_context.tracestate
        return wire


class AnswerBody(Body):
    """Answers a question: any JSON value that fits it, or `decline`. `attempt` as the question's event tells it."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["value"], "properties": {"decline": {"const": False}}},
                {
                    "required": ["decline"],
                    "properties": {"decline": {"const": True}},
                    "not": {"required": ["value"]},
                },
            ]
        }
    )

    value: JsonValue = None
    decline: bool = False
    attempt: Count | None = None

    @model_validator(mode="after")
    def _is_one_answer(self) -> "AnswerBody":
        if self.decline == ("value" in self.model_fields_set):
            raise ValueError("one of value and decline: true is needed, and not both")
        return self

    def answer(self, question_id: str) -> chat_pb2.AnswerQuestion:
        wire = chat_pb2.AnswerQuestion(question_id=question_id)
        if self.decline:
            wire.decline = True
        else:
            wire.value_json = json.dumps(self.value, ensure_ascii=False)
        if self.attempt is not None:
            wire.attempt = self.attempt
        return wire


class AddMessageBody(Body):
    """What the user adds while the agent runs."""

    text: Annotated[str, Field(min_length=1)]
    idempotency_key: Name = ""


class StopBody(Body):
    """`reason` is for people, and for the log."""

    reason: Annotated[str, Field(max_length=REASON_CHARS_MAX)] = ""


B = TypeVar("B", bound=BaseModel)


def parsed(kind: type[B], data: bytes) -> B:
    """Raises ProblemError, which names every field that is wrong."""
    try:
        return kind.model_validate_json(data or b"{}")
    except ValidationError as error:
        raise problem_of(error) from None


def problem_of(error: ValidationError, *, is_tagged: bool = False) -> ProblemError:
    """Every field that is wrong, and the first in words. `is_tagged`: paths begin with which body of several it is."""
    told: dict[str, str] = {}
    for each in error.errors(include_url=False, include_context=False):
        if each["type"] == "json_invalid":
            why = each["msg"].removeprefix("Invalid JSON: ")
            return ProblemError("invalid_request", f"the body is no JSON: {why}")
        what = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            what = "there is no such field"
        # Of a field that may be of several types, the last is what it looks like most.
        told[_path(each["loc"][is_tagged:])] = what[:1].lower() + what[1:]
    # What is said of a whole that has a part which is wrong says less.
    wrong = [
        {"field": field, "problem": what}
        for field, what in told.items()
        if not any(other.startswith((f"{field}.", f"{field}[")) for other in told if field)
    ][:_ERRORS_TOLD_MAX]
    first = wrong[0]
    detail = f"{first['field']}: {first['problem']}" if first["field"] else first["problem"]
    return ProblemError("invalid_request", detail, field=first["field"], errors=wrong)


# What pydantic adds to a path to say which of several types it has tried: of content, and of a part behind its number.
_TEXT_TRIED: Final = "str"
_LIST_TRIED: Final = "list["
_TAGS: Final = frozenset({"text", "json", "blob"})


def _path(where: tuple[int | str, ...]) -> str:
    """As JavaScript would write it: `messages[0].content`."""
    path = ""
    before: int | str = ""
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (
            part == _TEXT_TRIED or part.startswith(_LIST_TRIED) or (part in _TAGS and isinstance(before, int))
        ):
            path += f".{part}" if path else part
        before = part
    return path


def _message(where: str, body: MessageBody) -> agent_pb2.Message:
    wire = agent_pb2.Message(role=agent_pb2.Role.Value(f"ROLE_{body.role.upper()}"))
    if isinstance(body.content, str):
        wire.parts.add(text=body.content)
        return wire
    for number, part in enumerate(body.content):
        match part:
            case TextPart():
                wire.parts.add(text=part.text)
            case JsonPart():
                wire.parts.add(json=json.dumps(part.value, ensure_ascii=False))
            case BlobPart():
                blob = wire.parts.add().blob
                blob.mime_type, blob.uri, blob.name = part.mime_type, part.uri, part.name
                blob.data = _decoded(f"{where}.content[{number}].data_base64", part.data_base64)
    return wire


def _decoded(where: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProblemError("invalid_request", f"{where}: is no base64", field=where) from None


def _spend(wire: agent_pb2.Budgets, body: BudgetsBody) -> None:
    wire.SetInParent()
    told: dict[str, Any] = body.model_dump(exclude_none=True)
    for name, value in told.items():
        if name.endswith("_time_s"):
            getattr(wire, name.removesuffix("_s")).CopyFrom(codec.duration(value))
        else:
            setattr(wire, name, value)
