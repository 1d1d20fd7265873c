"""What an agent is asked and told: plain, frozen, and free of the wire."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with a MIME type, or a place to get them."""

    mime_type: str
    data: bytes = b""
    uri: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class JsonPart:
    """A JSON value, as text."""

    json: str


Part = str | Blob | JsonPart


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        parts: object = self.parts
        # A text is a sequence of texts too: of its letters.
        if isinstance(parts, str):
            raise TypeError("a message's parts should be a tuple, e.g. ('Hello',), not a str")
        if self.role not in ROLES:
            raise ValueError(f"a message's role should be one of {', '.join(ROLES)}, not {self.role!r}")

    @property
    def text(self) -> str:
        """All its text, in order."""
        return "".join(part for part in self.parts if isinstance(part, str))


def checked_messages(what: str, messages: object) -> tuple[Message, ...]:
    """Those of a conversation that an author gives. TypeError for what are none; `what` begins it."""
    if isinstance(messages, str) or not isinstance(messages, Iterable):
        raise TypeError(f"{what}: messages should be a list of Message, not {type(messages).__name__}")
    told = tuple(messages)
    for number, message in enumerate(told):
        if not isinstance(message, Message):
            raise TypeError(f"{what}: messages[{number}] should be a Message, not {type(message).__name__}")
    return told


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool that the agent may call. `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ToolFailure:
    """Why a call failed; `code` is a key of `errors.TOOL_FAILURES`."""

    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class PublishedCall:
    """A call of an earlier attempt. `result_json` is None where it was never answered: it may have run or not. Asked
    again with its `idempotency_key`, where it has one, it is the same deed for the tool. Of one that was parked, None
    says that it has waited no longer."""

    tool: str
    arguments_json: str
    result_json: str | None
    failure: ToolFailure | None = None
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class UserMessage:
    """What the user says while the agent runs."""

    text: str
    message_id: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class PublishedAnswer:
    """A question of an earlier attempt, and what came of it."""

    text: str
    options: tuple[str, ...]
    answer: "UserAnswer"


@dataclass(frozen=True, slots=True)
class Published:
    """What viewers already have of a session whose earlier attempt was lost, for an agent that continues."""

    content: str
    # In the order asked.
    calls: tuple[PublishedCall, ...] = ()
    # What the user has said that an earlier attempt has taken; what none has taken comes as it always does.
    messages: tuple[UserMessage, ...] = ()
    # What has been asked and answered, in order.
    answers: tuple[PublishedAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool answered: JSON, or a failure."""

    result_json: str
    failure: ToolFailure | None = None


@dataclass(frozen=True, slots=True)
class UserAnswer:
    """What the user answered: JSON, or why there is no answer."""

    value_json: str
    unanswered: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """All that a turn begins with. `deadline` is on this process's monotonic clock, seconds; None: no bound."""

    session_id: str
    attempt: int
    messages: tuple[Message, ...]
    tools: tuple[ToolOffer, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    user_id: str = ""
    deadline: float | None = None
    published: Published | None = None
    # What an attempt was given that was parked: this one runs the same again.
    rerun: Published | None = None
    traceparent: str = ""
    tracestate: str = ""
    # What ids have to begin with that viewers see.
    id_prefix: str = ""

    @property
    def text(self) -> str:
        """The text of the last message of the user; empty when there is none."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline, 0 when it is over. None: no bound."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
