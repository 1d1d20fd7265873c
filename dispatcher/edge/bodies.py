"""What applications send as JSON, field by field, and the contract's messages made of it.

Judges the shape alone: which fields there are, and of which type. What they may say is judged in `requests.py`, for
every edge alike. The OpenAPI description is made of these classes.
"""

import base64
import binascii
import json
from collections.abc import Iterable
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
from pydantic_core import ErrorDetails
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.edge.problems import ProblemError
from dispatcher.requests import LABEL_CHARS_MAX, LABELS_MAX
from dispatcher.rpc import codec
from dispatcher.rpc.methods import REASON_CHARS_MAX

# More is no conversation that an agent could be told; and wrong or right, each costs the loop some of its time.
MESSAGES_MAX: Final = 10_000
PARTS_MAX: Final = 10_000  # of all messages together
_ERRORS_TOLD_MAX: Final = 10
# They are built all or none, and a body has room for very many.
_ERRORS_BUILT_MAX: Final = 1_000
_FIELD_CHARS_MAX: Final = 256
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
Labels = Annotated[dict[Key, Name], Field(max_length=LABELS_MAX, fail_fast=True)]
# Lists and tables are looked at up to what is wrong first: telling of each item would cost more than the request.
Texts = Annotated[dict[str, str], Field(fail_fast=True)]
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
    content: str | Annotated[list[Part], Field(min_length=1, max_length=PARTS_MAX, fail_fast=True)]


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
    messages: (
        Annotated[list[MessageBody], Field(min_length=1, max_length=MESSAGES_MAX, fail_fast=True)] | None
    ) = None
    user_id: Name = ""
    labels: Labels = {}
    commander_labels: Labels = {}
    metadata: Texts = {}
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
        """Raises ProblemError for bytes that are no base64, and for too many parts."""
        require_few_parts("messages", (message.content for message in self.messages or ()))
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


def require_few_parts(field: str, contents: Iterable[object]) -> None:
    """Of what is said in all messages. Raises ProblemError."""
    count = sum(len(content) for content in contents if isinstance(content, list))
    if count > PARTS_MAX:
        told = f"{field}: have {count} parts; at most {PARTS_MAX} in all are right"
        raise ProblemError("invalid_request", told, field=field)


B = TypeVar("B", bound=BaseModel)


def parsed(kind: type[B], data: bytes) -> B:
    """Raises ProblemError, which names every field that is wrong."""
    try:
        return kind.model_validate_json(data or b"{}")
    except ValidationError as error:
        raise problem_of(error) from None


def problem_of(error: ValidationError, *, is_tagged: bool = False) -> ProblemError:
    """Which fields are wrong, and the first in words. `is_tagged`: paths begin with which body of several it is."""
    if (count := error.error_count()) > _ERRORS_BUILT_MAX:
        told_all = (
            f"the body has {count} mistakes; /openapi.json tells which fields there are, and of which type"
        )
        return ProblemError("invalid_request", told_all)
    told: dict[tuple[int | str, ...], str] = {}
    for each in error.errors(include_url=False, include_input=False):
        if each["type"] == "json_invalid":
            why = each["msg"].removeprefix("Invalid JSON: ")
            return ProblemError("invalid_request", f"the body is no JSON: {why}")
        # Of a field that may be of several types, the last is what it looks like most.
        told[_steps(each["loc"][is_tagged:])] = _what(each)
    # What is said of a whole that has a part which is wrong says less.
    wholes = {steps[:depth] for steps in told for depth in range(1, len(steps))}
    wrong = [{"field": _path(steps), "problem": what} for steps, what in told.items() if steps not in wholes][
        :_ERRORS_TOLD_MAX
    ]
    first = wrong[0]
    detail = f"{first['field']}: {first['problem']}" if first["field"] else first["problem"]
    return ProblemError("invalid_request", detail, field=first["field"], errors=wrong)


def _what(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "too_long":
        return f"has more than {error['ctx']['max_length']}; at most so many are right"
    what = error["msg"].removeprefix("Value error, ")
    return what[:1].lower() + what[1:]


# What pydantic adds to a path to say which of several types it has tried: of content, and of a part behind its number.
_TEXT_TRIED: Final = "str"
_LIST_TRIED: Final = "list["
_TAGS: Final = frozenset({"text", "json", "blob"})


def _steps(where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without what no client has written."""
    steps: list[int | str] = []
    before: int | str = ""
    for part in where:
        is_tried = isinstance(part, str) and (part == _TEXT_TRIED or part.startswith(_LIST_TRIED))
        if not is_tried and not (part in _TAGS and isinstance(before, int)):
            steps.append(part)
        before = part
    return tuple(steps)


def _path(steps: tuple[int | str, ...]) -> str:
    """As JavaScript would write it: `messages[0].content`."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path[:_FIELD_CHARS_MAX]


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
