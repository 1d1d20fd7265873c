"""What crosses a link and what a viewer sees, as the core knows it.

The core maps envelopes. It looks into a payload only where a decision depends on it; everything else rides
along as `body`, which the core never opens. `rpc/codec.py` makes these from the wire and the wire from these.
Kinds are the names of the oneof cases of agent.proto and chat.proto, so there is one name for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

# Kinds that are part of a session's content: numbered, acknowledged, journalled.
SEQUENCED: Final = frozenset(
    {
        "thought",
        "content",
        "tool_call",
        "error",
        "progress",
        "question",
        "agent_event",
        "artifact",
        "embedding",
        "usage",
        "done",
        "withdrawal",
        "unknown",
    }
)

Scope = Literal["", "call", "agent", "session"]
Origin = Literal["", "llm", "tool", "commander", "dispatcher", "client"]
StopCode = Literal[
    "",
    "user_cancel",
    "admin",
    "policy_violation",
    "limit",
    "risk_control",
    "detached",
    "shutdown",
    "protocol",
    "fenced",
    "parked",
]
OnRestart = Literal["restart", "continue", "never"]
StopPhase = Literal["", "received", "applied", "killed", "abandoned"]


# Between the parts of what people may read in a packet: each is judged by itself, as they see it by itself.
PART: Final = "\x1f"


# --- details: the payloads a decision depends on ---------------------------------------------------------


class ToolCall(NamedTuple):
    """A call as asked; `call_id` and `idempotency_key` may still be empty."""

    call_id: str
    tool_name: str
    arguments_json: str
    idempotency_key: str = ""
    timeout_ms: int | None = None
    # It is for an agent, not for a tool.
    to_agent: bool = False
    # Of the delegated session that has asked; empty: the session itself.
    session_id: str = ""


class ToolFailure(NamedTuple):
    """Why a call failed; `code` is one of not_found, invalid_arguments, denied, timeout, failed, cancelled,
    too_large, unknown_outcome."""

    code: str
    message: str
    retryable: bool = False
    retry_after_ms: int | None = None


class ToolOutcome(NamedTuple):
    """What a call came to: JSON text, and the failure when it is one. `told_json` is what its agent is told where that
    is less."""

    result_json: str
    failure: ToolFailure | None = None
    told_json: str = ""


def utf8_bytes(text: str) -> int:
    """How long it is in UTF-8; halves of surrogate pairs count as in Python's `surrogatepass`."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def texts_bytes(body: object) -> int:
    """Bytes of all texts in a body made here; in one that a shell has made, and that is opaque, there are none."""
    match body:
        case str():
            return utf8_bytes(body)
        case tuple():
            return sum(map(texts_bytes, body))
        case Mapping():
            return sum(map(texts_bytes, body.items()))
    return 0


class ErrorReport(NamedTuple):
    """The part of an ErrorSignal that decides something, and what people are told."""

    code: str
    origin: Origin
    scope: Scope
    message: str
    error_type: str = ""
    retryable: bool = False
    retry_after_ms: int | None = None
    upstream_status: int | None = None
    call_id: str = ""


class Usage(NamedTuple):
    """Tokens used."""

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    model: str = ""

    def plus(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            other.model or self.model,
        )

    def beyond(self, other: "Usage") -> "Usage":
        """What was used since then, by whatever model."""
        return Usage(
            max(0, self.input_tokens - other.input_tokens),
            max(0, self.output_tokens - other.output_tokens),
            max(0, self.reasoning_tokens - other.reasoning_tokens),
        )


class Question(NamedTuple):
    """A question for the user; `expires_in_s` None waits as long as the session lasts. `told_at` is the offset of the
    event that tells viewers of it."""

    question_id: str
    expires_in_s: float | None
    body: object
    told_at: int = 0


class Withdrawal(NamedTuple):
    """The agent waits no longer for a call or for a question: one of these is set."""

    call_id: str
    question_id: str


class Done(NamedTuple):
    """The turn is over. Length and CRC-32 are of the content its commander sent."""

    completed: bool
    content_chars: int
    content_crc32: int
    usage: Usage | None
    error: ErrorReport | None


class StopAck(NamedTuple):
    phase: StopPhase


class Refused(NamedTuple):
    code: str
    why: str


class Heartbeat(NamedTuple):
    """`phase` is the wire's number; `blocked_for_s` 0 when the agents' loop turns."""

    phase: int
    blocked_for_s: float
    running: int
    stuck: int
    draining: bool = False


class Goodbye(NamedTuple):
    reason: str


Detail = (
    ToolCall
    | ErrorReport
    | Usage
    | Question
    | Withdrawal
    | Done
    | StopAck
    | Refused
    | Heartbeat
    | Goodbye
    | None
)


class Packet(NamedTuple):
    """One packet from a commander.

    `text` is that of content and thoughts; of what comes whole, like a question, it is all that people may read in
    it, for policies to judge, parted by PART. `size` is the payload's bytes. `is_finish`: of content, the answer is
    complete. `body` of a tool call is the same for the same name and arguments. `flaw` is what is
    wrong with it where something is.
    """

    kind: str
    session_id: str
    attempt: int
    sequence: int
    agent: str
    text: str
    is_finish: bool
    signals_received: int
    size: int
    detail: Detail
    body: object
    flaw: str = ""
    messages_read: int = 0


# --- hello -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentOffer:
    name: str
    version: str = ""
    description: str = ""
    accepted_input: tuple[str, ...] = ()
    on_restart: OnRestart = "restart"
    parks: bool = False


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A language model that a commander has; None of what nobody has told."""

    name: str
    # PROVIDER:NAME, or empty.
    model: str = ""
    takes_images: bool | None = None
    takes_files: bool | None = None
    calls_tools: bool | None = None
    structured_output: bool | None = None
    shows_reasoning: bool | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """A session that a returning commander still runs."""

    session_id: str
    attempt: int
    last_sequence_sent: int
    last_signal_received: int


@dataclass(frozen=True, slots=True)
class Hello:
    commander_id: str
    instance: str
    software_version: str
    agents: tuple[AgentOffer, ...]
    labels: Mapping[str, str]
    slots: int
    stuck: int
    resumes: tuple[Resume, ...]
    draining: bool = False
    # The largest message it takes; 0: any.
    message_bytes_max: int = 0
    models: tuple[ModelOffer, ...] = ()


# --- down ------------------------------------------------------------------------------------------------


class Ack(NamedTuple):
    """Cumulative: all up to `sequence` is kept, so much more may be under way."""

    sequence: int
    credit: int
    credit_bytes: int


class Stop(NamedTuple):
    stop_id: str
    code: StopCode
    reason: str
    grace_ms: int
    actor: str = ""
    policy: str = ""


class ToolResult(NamedTuple):
    """`session_id` is that of the delegated session that had asked; empty: the session itself."""

    call_id: str
    tool_name: str
    outcome: ToolOutcome
    session_id: str = ""


# Of an answer without a value: the user would not give one.
DECLINED: Final = "declined"
# Of one that nobody waits for.
WITHDRAWN: Final = "withdrawn"


class Answer(NamedTuple):
    """`value_json` None: there will be no answer, `why` says why."""

    question_id: str
    value_json: str | None
    why: str = ""


class UserMessage(NamedTuple):
    message_id: str
    text: str


class Drain(NamedTuple):
    reason: str
    deadline_s: float | None


class Verdict(NamedTuple):
    """What becomes of one resume. `next_sequence` and the credit are of one that is resumed, `why` of one that is
    fenced or has ended."""

    session_id: str
    attempt: int
    kind: Literal["resumed", "fenced", "ended", "unknown"]
    next_sequence: int = 0
    credit: int = 0
    credit_bytes: int = 0
    why: str = ""


class Welcome(NamedTuple):
    credit: int
    credit_bytes: int
    verdicts: tuple[Verdict, ...]


class PublishedCall(NamedTuple):
    """A call of an earlier attempt; `outcome` None: it was never answered, or nobody has waited for that."""

    request: ToolCall
    outcome: ToolOutcome | None


class PublishedAnswer(NamedTuple):
    """A question as it was asked, unopened, and what came of it."""

    question: object
    answer: Answer


class Published(NamedTuple):
    """What viewers already have, for an agent that goes on from there; `messages` are those that were taken. `parked`:
    it runs the same again, up to its last answer."""

    content: str
    calls: tuple[PublishedCall, ...]
    messages: tuple[UserMessage, ...]
    answers: tuple[PublishedAnswer, ...] = ()
    parked: bool = False


class Start(NamedTuple):
    """Run this. `request` is what was asked, unopened."""

    agent: str
    agent_version: str
    user_id: str
    time_left_s: float | None
    credit: int
    credit_bytes: int
    request: bytes | None
    published: Published | None = None
    # What ids of calls, questions and artifacts begin with.
    id_prefix: str = ""


class LinkHeartbeat(NamedTuple):
    """Still here."""


SignalBody = (
    Ack | Stop | ToolResult | Answer | UserMessage | Drain | Welcome | Start | Goodbye | LinkHeartbeat
)


class Signal(NamedTuple):
    """One packet to a commander; `sequence` is 0 except on owed signals."""

    body: SignalBody
    session_id: str = ""
    attempt: int = 0
    sequence: int = 0


# --- what viewers see ------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """`parent_session_id` is that of the session that asked for this one; empty: an application did."""

    agent: str
    user_id: str
    labels: Mapping[str, str]
    parent_session_id: str = ""


class AgentTold(NamedTuple):
    """What became of a delegated session, as the session sees it that asked for it. `text` is the begin of its answer
    once it has completed."""

    kind: Literal["started", "completed", "failed"]
    text: str = ""
    error: ErrorReport | None = None


class Started(NamedTuple):
    commander_id: str


class Reset(NamedTuple):
    """The session begins anew: what came after this offset and before this event is to be discarded, but for
    messages of the user."""

    discard_after: int
    reason: str


class Ended(NamedTuple):
    """The last event of a session; length and CRC-32 are of the content that viewers were given."""

    ending: str
    message: str
    content_chars: int
    content_crc32: int
    usage: Usage
    stop: Stop | None = None
    error: ErrorReport | None = None
    # Ids of the user's messages that no agent has taken.
    unread: tuple[str, ...] = ()


class SessionEvent(NamedTuple):
    """One thing a viewer sees. `body` is one of the types above or a payload that the core never opened."""

    offset: int
    kind: str
    attempt: int
    agent: str
    text: str
    body: object
