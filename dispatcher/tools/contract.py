"""What a tool is, what it is asked and what it answers.

The words shared by the tools, by whoever runs them (`runner.py`) and by whoever asks (the hub). Nothing here
knows gRPC, a transport or the ledger.

A tool is anything with a name, a description, a JSON Schema of its arguments, limits and an async `call`.
It answers by returning a value that has a JSON form, or says what went wrong by raising `ToolError` or one of
its kinds. Any other exception means that the tool failed; its type and text reach the agent, its traceback
only the log.
"""

import asyncio
import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypeVar, runtime_checkable

FailureCode = Literal[
    "not_found", "invalid_arguments", "denied", "timeout", "failed", "cancelled", "too_large"
]

# A failure is read by a model and shown to a person; a library's error text can run to megabytes.
MESSAGE_CHARS_MAX = 1_000
# What every model provider takes as a tool's name.
NAME_CHARS_MAX = 64
NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")

T = TypeVar("T")


class ToolLoadError(Exception):
    """Something named as a tool can't be one. The message says which, why, and what would be right."""


class ToolError(Exception):
    """Raised by a tool that can say what went wrong.

    `retryable` promises that the same call may succeed later, unchanged; `retry_after_s` says when.
    """

    code: ClassVar[FailureCode] = "failed"
    # Defaults in the class, for a subclass with an __init__ of its own.
    message: str = ""
    retryable: bool = False
    retry_after_s: float | None = None

    def __init__(self, message: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = str(message)
        self.retryable = bool(retryable)
        self.retry_after_s = None if retry_after_s is None else float(retry_after_s)


class ToolAway(ToolError):  # noqa: N818 - reads as what happened
    """Raised by a tool that could not begin, because what it works with is away for now. Nothing ran.

    Says nothing about the tool itself: its circuit breaker takes no note.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retryable=True, retry_after_s=retry_after_s)


class ToolDenied(ToolError):  # noqa: N818 - reads as what happened, beside the code "denied"
    """Raised by a tool that won't do this for this caller."""

    code: ClassVar[FailureCode] = "denied"


class ToolArgumentsError(ToolError):
    """Raised by a tool whose arguments fit the schema and still make no sense. Nothing was done."""

    code: ClassVar[FailureCode] = "invalid_arguments"


@dataclass(frozen=True, slots=True)
class ToolFailure:
    """Why a call has no result."""

    code: FailureCode
    # For people and models: which argument, what was wrong, what would be right.
    message: str
    # The same call may succeed later, unchanged.
    retryable: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One call to be run. The ids are those of the ledger, which has seen to it that they are set."""

    session_id: str
    attempt: int
    call_id: str
    tool_name: str
    # A JSON object; empty means {}.
    arguments_json: str
    idempotency_key: str
    # How long the caller will wait. Cuts the tool's own timeout, never extends it.
    timeout_s: float | None
    user_id: str
    # Path of the sub-agent that asks; empty for the root agent.
    agent: str
    # The name of the agent that the session is with.
    session_agent: str = ""
    # Somebody has allowed it, where somebody has to.
    is_approved: bool = False
    # Hears how far the call is, in any thread.
    progressed: "Progressed | None" = None


@dataclass(frozen=True, slots=True)
class Delegation:
    """An agent is to answer the call, with these arguments, in so many seconds."""

    agent: str
    arguments_json: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody is to be asked before the call runs; the schema is that of its arguments."""

    schema_json: str
    # How long it waits for an answer, seconds. None: as any question does.
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """The one answer to a call. Always valid UTF-8, always JSON, never longer than the limits say."""

    # For a failure {"error": {"code", "message"}}, so that a peer which reads nothing else understands.
    result_json: str
    error: ToolFailure | None = None
    # What the agent is told where that is less.
    told_json: str = ""
    # This comes first, and the answer of it.
    instead: Delegation | Approval | None = None

    @property
    def code(self) -> str:
        """The failure's code, or "ok"."""
        return "ok" if self.error is None else self.error.code

    @classmethod
    def failed(
        cls,
        code: FailureCode,
        message: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> "ToolOutcome":
        """A failure whose message may come from anywhere: it is cut, and made fit for UTF-8."""
        fit = sendable(message)
        if retry_after_s is not None and not 0 <= retry_after_s < math.inf:
            retry_after_s = None
        text = json.dumps({"error": {"code": code, "message": fit}}, ensure_ascii=False)
        return cls(text, ToolFailure(code, fit, retryable, retry_after_s))


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """What a tool may take. None: the runner's default."""

    timeout_s: float | None = None
    output_bytes: int | None = None
    # How many calls of it run at once.
    concurrency: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError that names the field."""
        for name, value in (
            ("timeout_s", self.timeout_s),
            ("output_bytes", self.output_bytes),
            ("concurrency", self.concurrency),
        ):
            require_positive(name, value, whole=name != "timeout_s")


# (text, how much is done, of how much).
Progressed = Callable[[str, float | None, float | None], None]


class InThread(Protocol):
    """Runs a blocking function in one of the runner's threads and waits for what it returns."""

    def __call__(self, function: Callable[..., T], /, *arguments: object) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know about the call it answers. A Python tool asks for it by a parameter's type."""

    session_id: str = ""
    attempt: int = 1
    call_id: str = ""
    # The same for every repeat of this call, in every attempt: hand it to the world beyond.
    idempotency_key: str = ""
    user_id: str = ""
    agent: str = ""
    # When the answer is no longer waited for, on `time.monotonic()`'s clock.
    deadline: float = math.inf
    # A longer result is refused as too_large.
    output_bytes: int = 262_144
    # Set when the answer is no longer wanted: stopped, timed out, or the dispatcher goes away. A tool in a
    # thread can't be interrupted, so a long one looks here; an async one is cancelled as well.
    cancelled: threading.Event = field(default_factory=threading.Event)
    in_thread: InThread = field(default=asyncio.to_thread, repr=False)
    progressed: Progressed | None = field(default=None, repr=False)

    def progress(self, text: str, *, current: float | None = None, total: float | None = None) -> None:
        """Tells viewers how far the call is, from any thread. Told too often, some of it is left out."""
        if self.progressed is not None and not self.cancelled.is_set():
            self.progressed(text, current, total)

    def time_left_s(self) -> float:
        """Never negative."""
        return max(0.0, self.deadline - time.monotonic())


@runtime_checkable
class Tool(Protocol):
    """What the runner runs."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters_schema(self) -> Mapping[str, object]:
        """A JSON Schema, Draft 2020-12, of type object, without references to the world outside."""
        ...

    @property
    def limits(self) -> ToolLimits: ...
    async def call(self, arguments: dict[str, object], context: ToolContext) -> object:
        """Arguments fit the schema. Cancelling this must end it soon; until then its place is taken."""
        ...


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool as it is told to agents."""

    name: str
    description: str
    parameters_schema_json: str


@dataclass(frozen=True, slots=True)
class SourceState:
    """How it stands with something that tools come from, e.g. a server."""

    # As its table in the settings: "mcp.files".
    name: str
    # Its tools can be called now.
    is_up: bool
    # Times that it went away.
    losses: int = 0


def sendable(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """The text, cut, with half characters (lone surrogates, which no UTF-8 has) replaced by "?"."""
    if len(text) > chars_max:
        text = text[: chars_max - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")


def said(error: BaseException) -> str:
    """An exception as a text: its type and what it says, without its traceback."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - an exception whose text can't be had still has a type
        text = "its text can't be had"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def require_positive(name: str, value: float | None, *, whole: bool) -> None:
    """Raises ValueError that names the field. None is fine: it stands for a default."""
    if value is None:
        return
    right = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value < math.inf
        and not (whole and value != int(value))
    )
    if not right:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} is {value!r}; {kind} greater than 0 is needed")


def require_name(tool: Tool) -> None:
    """Raises ToolLoadError when models would not take the tool's name."""
    if not (0 < len(tool.name) <= NAME_CHARS_MAX and NAME_CHARS.issuperset(tool.name)):
        raise ToolLoadError(
            f"tool {tool.name[:100]!r}: its name must have 1 to {NAME_CHARS_MAX} letters, digits, _ and -; "
            "models take no others"
        )
