"""What can happen to the router, and what it wants done about it: two closed unions.

Events are in the past tense and come from the hub; effects are imperatives and go back to it, in the order in
which they are to be performed. One that is added to a union and not handled in `router.py` or `hub.py` is named by
`tests/test_router.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from dispatcher.core.endings import Refusal
from dispatcher.core.limits import Limits
from dispatcher.core.mark import Mark
from dispatcher.core.packets import (
    Hello,
    Packet,
    Question,
    SessionEvent,
    Signal,
    StopCode,
    ToolCall,
    ToolOutcome,
)
from dispatcher.core.policy import Budgets
from dispatcher.core.rules import Judged, Kind, Service

# --- events ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """A commander's stream was accepted. `session_id` is minted for the case that it is a minimal one."""

    link_id: str
    peer: str
    session_id: str


@dataclass(frozen=True, slots=True)
class HelloReceived:
    link_id: str
    hello: Hello


class PacketsReceived(NamedTuple):
    """What one gRPC message held."""

    link_id: str
    packets: list[Packet]


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The stream ended. `half_closed`: by the peer, in order, which is clean only after a Goodbye or a
    minimal commander's finish. `status` is what its caller is told otherwise."""

    link_id: str
    half_closed: bool
    why: str
    status: str = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class SignalDropped:
    """A signal to a commander is larger than one message may be, and was not sent."""

    session_id: str
    attempt: int
    size_bytes: int
    limit_bytes: int


class Delegated(NamedTuple):
    """A call by which a session asks for another one. `path` is that of the new one's agent in the events of the one
    that asks; the core gives it."""

    session_id: str
    attempt: int
    call_id: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class SessionRequested:
    """Somebody asks. `request` is what goes to the agent, unopened; None: nothing does. Answered by Accepted or
    Declined."""

    session_id: str
    agent: str
    request: bytes | None
    agent_version: str = ""
    user_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    commander_labels: Mapping[str, str] = field(default_factory=dict)
    affinity_key: str = ""
    idempotency_key: str = ""
    budgets: Budgets | None = None
    stop_when_unwatched_s: float | None = None
    # Nobody needs to watch while a question of its is open: who is asked may come back only with the answer.
    held_by_questions: bool = False
    # Who asks for the user, as its token names it: each has idempotency keys of its own.
    application: str = ""
    # Of what is asked, to know another request under the same key.
    request_crc32: int = 0
    # Of one that a session asks for: the call that it answers.
    delegated: Delegated | None = None
    # What the user says in it, for policies to judge, and what services have said of that. It is kept nowhere; in
    # `request` it stands with marks already.
    said: tuple[str, ...] = ()
    judged: tuple[Judged, ...] = ()


@dataclass(frozen=True, slots=True)
class DelegationRequested:
    """A session asks for another one. That gets its id, and all that it inherits, from the one that asks; where none is
    opened, the call is answered."""

    asked: Delegated
    requested: SessionRequested


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Answered by Stopped, or Declined when there is no such session."""

    session_id: str
    stop_id: str
    code: StopCode
    reason: str
    actor: str = ""
    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """Which sessions: all that is set must hold. Nothing set selects nothing, unless `everything`."""

    user_id: str = ""
    agent: str = ""
    commander_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    everything: bool = False


@dataclass(frozen=True, slots=True)
class StopsRequested:
    """`stop_id` is the prefix of the ids of the single stops. Answered by StoppedMany."""

    selector: Selector
    stop_id: str
    code: StopCode
    reason: str
    actor: str = ""
    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class AnswerGiven:
    """`value_json` None: the user declines. `attempt`: the one that asked, where that was said. Answered by Accepted or
    Declined."""

    session_id: str
    question_id: str
    value_json: str | None
    attempt: int | None = None
    # Who it was, as its token names it.
    actor: str = ""
    # All that people may read in it, for policies to judge; what services have said of it, and what goes on in its
    # place where they want marks in it.
    said: str = ""
    judged: tuple[Judged, ...] = ()
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class MessageGiven:
    """The user speaks while the agent runs. Answered by Accepted or Declined."""

    session_id: str
    message_id: str
    text: str
    # What services have said of it, and what goes on in its place where they want marks in it.
    judged: tuple[Judged, ...] = ()
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class ToolFinished:
    session_id: str
    attempt: int
    call_id: str
    outcome: ToolOutcome
    # All that people may read in it, for policies to judge.
    text: str = ""


@dataclass(frozen=True, slots=True)
class ToolProgressed:
    """A tool that runs says how far it is; `text` is what people may read in it."""

    session_id: str
    attempt: int
    call_id: str
    text: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """A call is not to run before somebody has allowed it, who is asked this."""

    session_id: str
    attempt: int
    call_id: str
    question: Question


@dataclass(frozen=True, slots=True)
class TextJudged:
    """What JudgeText asked for."""

    session_id: str
    attempt: int
    review_id: str
    judged: tuple[Judged, ...]


@dataclass(frozen=True, slots=True)
class ViewerCame:
    session_id: str


@dataclass(frozen=True, slots=True)
class ViewerLeft:
    session_id: str


@dataclass(frozen=True, slots=True)
class CommanderDrainRequested:
    """Answered by Draining, or Declined when there is no such commander."""

    commander_id: str
    reason: str
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """The whole dispatcher: no new sessions. Answered by Draining."""

    reason: str


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """The dispatcher leaves, now. Sessions that are left end, or are left as they stand where it `hands_over` to a
    life after this one. `stop_id` is the prefix of the ids of the single stops."""

    stop_id: str
    reason: str
    hands_over: bool = False


@dataclass(frozen=True, slots=True)
class JournalChanged:
    """Nothing can be kept for now, e.g. because the disk is full, or it can again. Nobody is told anything meanwhile,
    so no new sessions either."""

    is_stalled: bool


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """An operator changed limits. Policies of sessions that are open keep the limits they began with."""

    limits: Limits


class Kept(NamedTuple):
    """A session as a journal has kept it over a restart: all its events in order, each with the wall clock at which it
    was kept, Unix milliseconds."""

    requested: SessionRequested
    mark: Mark
    entries: Sequence[tuple[int, SessionEvent]]


@dataclass(frozen=True, slots=True)
class Restored:
    """The dispatcher was started anew, and nothing else has happened yet. What its journal brings from the life
    before: sessions in the order in which they were opened, and the commanders that were there last. `unix_ms` is the
    wall clock now. `idempotent_tools`: names of those that may run once more when nobody knows what they did."""

    sessions: Sequence[Kept]
    commanders: Sequence[Hello]
    unix_ms: int
    idempotent_tools: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline may be due. `late_s`: so much later than it was to be told, because the process stood still."""

    late_s: float = 0.0


Event = (
    LinkOpened
    | HelloReceived
    | PacketsReceived
    | LinkLost
    | SignalDropped
    | SessionRequested
    | DelegationRequested
    | StopRequested
    | StopsRequested
    | AnswerGiven
    | MessageGiven
    | ToolFinished
    | ToolProgressed
    | ApprovalRequested
    | TextJudged
    | ViewerCame
    | ViewerLeft
    | CommanderDrainRequested
    | DrainRequested
    | ShutdownRequested
    | JournalChanged
    | LimitsChanged
    | Restored
    | TimePassed
)

# --- effects ---------------------------------------------------------------------------------------------


class Open(NamedTuple):
    """Keep what was asked: a session begins."""

    requested: SessionRequested


class Append(NamedTuple):
    """Keep these events of a session, and where it stands now; then tell its viewers. All other effects but urgent
    ones wait until that is kept."""

    session_id: str
    events: list[SessionEvent]


class Remember(NamedTuple):
    """Keep what a commander said of itself last; None: it is gone."""

    commander_id: str
    hello: Hello | None


class Send(NamedTuple):
    """Tell a commander. `urgent` goes before whatever waits to be written."""

    link_id: str
    signal: Signal
    urgent: bool = False


class RunTool(NamedTuple):
    session_id: str
    attempt: int
    # Path of the sub-agent that asks; empty for the root agent.
    agent: str
    user_id: str
    call: ToolCall
    # The name of the agent that the session is with.
    session_agent: str = ""
    # Somebody has allowed it.
    is_approved: bool = False


class CancelTools(NamedTuple):
    """Cancel what runs for this attempt; outcomes are no longer wanted."""

    session_id: str
    attempt: int


class CancelTool(NamedTuple):
    """Cancel what runs for this call; its outcome is no longer wanted."""

    session_id: str
    attempt: int
    call_id: str


class JudgeText(NamedTuple):
    """Have services judge a text, each for itself; see TextJudged. `agent` is the path of who speaks, `session_agent`
    the name of whom the session is with."""

    session_id: str
    attempt: int
    review_id: str
    kind: Kind
    agent: str
    text: str
    services: tuple[Service, ...]
    before: str = ""
    is_final: bool = True
    session_agent: str = ""
    user_id: str = ""
    labels: Mapping[str, str] = {}
    tool_name: str = ""


class CloseLink(NamedTuple):
    """End the stream with this gRPC status, after what waits was written."""

    link_id: str
    status: str
    message: str


class Forget(NamedTuple):
    """The session is no longer kept."""

    session_id: str


class Leave(NamedTuple):
    """The dispatcher drains and its last session has ended: nothing keeps it any more."""


class Count(NamedTuple):
    """Count something for the metrics; `labels` are the values of the metric's labels, in their order."""

    metric: str
    labels: tuple[str, ...] = ()
    amount: float = 1


class Measure(NamedTuple):
    """Observe a duration for the metrics, seconds."""

    metric: str
    seconds: float
    labels: tuple[str, ...] = ()


class Log(NamedTuple):
    level: Literal["debug", "info", "warning", "error"]
    text: str
    session_id: str = ""
    attempt: int = 0
    link_id: str = ""
    commander_id: str = ""


class Audit(NamedTuple):
    """Write down what a policy found, and what was done about it. Never any text.

    `policy` is its name, `rule` that of a rule or pattern, if it has one. `kind` and `agent` say whose text, `position`
    from which of its characters on; None where it was no text."""

    session_id: str
    attempt: int
    policy: str
    rule: str
    action: Literal["observe", "redact", "deny", "stop", "failed_open"]
    kind: str
    agent: str
    position: int | None
    told: str


# What a step answers to whoever caused it. At most one per step.


class Accepted(NamedTuple):
    """`joined`: an idempotency key named a session that exists."""

    session_id: str
    joined: bool = False


class Declined(NamedTuple):
    """No, and why: `code` is stable, `message` says which field and what would be right. `retry_after_s` None: as the
    refusal says."""

    code: str
    message: str
    refusal: Refusal | None = None
    retry_after_s: float | None = None


class Stopped(NamedTuple):
    """`already_ended`: it had ended before. `stop_id` is that of the stop that counted."""

    session_id: str
    stop_id: str
    ending: str
    already_ended: bool


class StoppedMany(NamedTuple):
    session_ids: list[str]


class Draining(NamedTuple):
    running: int


Reply = Accepted | Declined | Stopped | StoppedMany | Draining

Effect = (
    Open
    | Append
    | Remember
    | Send
    | RunTool
    | CancelTools
    | CancelTool
    | JudgeText
    | CloseLink
    | Forget
    | Leave
    | Count
    | Measure
    | Log
    | Audit
    | Reply
)
