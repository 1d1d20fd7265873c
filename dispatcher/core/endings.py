"""Every way a session ends, in one table: the only place that knows what an ending means to anybody.

The number and name are `SessionEnding` of chat.proto, the rest is what each edge answers and what the client
is told to do. README.md's table of endings is generated from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from dispatcher.core.packets import Ended, ErrorReport, StopCode


@dataclass(frozen=True, slots=True)
class Traits:
    """What an ending means to an edge.

    `grpc` is the name of a gRPC status code, `http` an HTTP status, `retry_after_s` the hint given with a
    retryable ending, in seconds.
    """

    number: int
    grpc: str
    http: int
    retryable: bool
    advice: str
    retry_after_s: float | None = None


class Ending(Enum):
    """How a session ended; the value is its one name in logs, metrics, status and on the wire."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    POLICY_BLOCKED = "policy_blocked"
    LIMIT_EXCEEDED = "limit_exceeded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    AGENT_FAILED = "agent_failed"
    MODEL_FAILED = "model_failed"
    COMMANDER_LOST = "commander_lost"
    INCOMPLETE = "incomplete"
    PROTOCOL_ERROR = "protocol_error"
    QUEUE_TIMEOUT = "queue_timeout"
    DETACHED = "detached"
    SHUTDOWN = "shutdown"
    JOURNAL_FULL = "journal_full"
    POISONED = "poisoned"
    POLICY_UNAVAILABLE = "policy_unavailable"

    @property
    def traits(self) -> Traits:
        return ENDINGS[self]


ENDINGS: Final[dict[Ending, Traits]] = {
    Ending.COMPLETED: Traits(1, "OK", 200, False, "The answer is whole."),
    Ending.STOPPED: Traits(
        2, "CANCELLED", 499, False, "Somebody stopped it; ask again if that was not meant."
    ),
    Ending.POLICY_BLOCKED: Traits(
        3, "PERMISSION_DENIED", 403, False, "A policy does not let this pass; change the request."
    ),
    Ending.LIMIT_EXCEEDED: Traits(
        4, "RESOURCE_EXHAUSTED", 422, False, "Ask for less, or have the limit that is named raised."
    ),
    Ending.DEADLINE_EXCEEDED: Traits(
        5, "DEADLINE_EXCEEDED", 504, True, "Ask for less, or have the time limit that is named raised.", 5.0
    ),
    Ending.AGENT_FAILED: Traits(
        6, "INTERNAL", 502, False, "The agent failed; its commander's log says where."
    ),
    Ending.MODEL_FAILED: Traits(
        7, "UNAVAILABLE", 502, True, "The language model failed; its error says whether to try again.", 5.0
    ),
    Ending.COMMANDER_LOST: Traits(8, "UNAVAILABLE", 503, True, "The worker was lost; try again.", 1.0),
    Ending.INCOMPLETE: Traits(9, "DATA_LOSS", 502, True, "The answer did not arrive whole; try again.", 1.0),
    Ending.PROTOCOL_ERROR: Traits(
        10, "INTERNAL", 502, False, "The worker broke the contract; the message says in what."
    ),
    Ending.QUEUE_TIMEOUT: Traits(11, "UNAVAILABLE", 503, True, "All workers are busy; try again later.", 5.0),
    Ending.DETACHED: Traits(
        12, "CANCELLED", 499, False, "Nobody watched it, and it had asked to be stopped then; ask again."
    ),
    Ending.SHUTDOWN: Traits(13, "UNAVAILABLE", 503, True, "The dispatcher went away; try again.", 2.0),
    Ending.JOURNAL_FULL: Traits(
        14, "RESOURCE_EXHAUSTED", 507, True, "There is no room for its events; try again later.", 30.0
    ),
    Ending.POISONED: Traits(
        15,
        "INTERNAL",
        500,
        False,
        "Each worker that ran it died; their logs say of what. Don't try it again as it is.",
    ),
    Ending.POLICY_UNAVAILABLE: Traits(
        16, "UNAVAILABLE", 503, True, "A policy's service can't be asked now; try again later.", 5.0
    ),
}


# What the commander of a session that ends by itself here is told why it has to stop; others: "fenced".
STOP_OF_ENDING: Final[dict[Ending, StopCode]] = {
    Ending.STOPPED: "admin",
    Ending.POLICY_BLOCKED: "policy_violation",
    Ending.POLICY_UNAVAILABLE: "policy_violation",
    Ending.LIMIT_EXCEEDED: "limit",
    Ending.DEADLINE_EXCEEDED: "limit",
    Ending.JOURNAL_FULL: "limit",
    Ending.DETACHED: "detached",
    Ending.SHUTDOWN: "shutdown",
    Ending.PROTOCOL_ERROR: "protocol",
    Ending.INCOMPLETE: "protocol",
}

# How a stop of this code ends a session; others: stopped.
ENDING_OF_STOP: Final[dict[StopCode, Ending]] = {
    "policy_violation": Ending.POLICY_BLOCKED,
    "limit": Ending.LIMIT_EXCEEDED,
    "detached": Ending.DETACHED,
    "shutdown": Ending.SHUTDOWN,
    "protocol": Ending.PROTOCOL_ERROR,
}


# Endings of an agent's own making.
FINISHED: Final = frozenset({Ending.COMPLETED, Ending.AGENT_FAILED, Ending.MODEL_FAILED})


def of_error(origin: str) -> Ending:
    """How an error ends the session that it is of."""
    return Ending.MODEL_FAILED if origin == "llm" else Ending.AGENT_FAILED


# A model's errors that the request itself is to blame for, and those that come of asking too much, as HTTP statuses.
# The provider's refusal of the commander's key is no fault of who asks, and stays what it is.
_HTTP_OF_CODE: Final[Mapping[str, int]] = {
    "model_context_too_long": 400,
    "model_content_filtered": 400,
    "model_input_refused": 400,
    "model_request_refused": 400,
    "model_rate_limited": 429,
}
_HTTP_OF_UPSTREAM: Final[Mapping[int | None, int]] = {400: 400, 413: 400, 422: 400, 429: 429}
# Nobody comes back after more than a week.
RETRY_AFTER_MS_MAX: Final = 604_800_000


def error_of(ended: Ended) -> ErrorReport | None:
    """The error that an agent of its own making ended with."""
    return ended.error if Ending(ended.ending) in FINISHED else None


def traits_of(ended: Ended) -> Traits:
    """What this very ending means: whoever failed knows better than the table whether to try again, and when."""
    ending, error = Ending(ended.ending), error_of(ended)
    if error is None:
        return ending.traits
    retry_after_s: float | None = None
    if error.retryable:
        retry_after_s = ending.traits.retry_after_s
        if error.retry_after_ms is not None:
            retry_after_s = min(error.retry_after_ms, RETRY_AFTER_MS_MAX) / 1000
    http = ending.traits.http
    if ending is Ending.MODEL_FAILED:
        # What nobody has a code for has at least a status.
        http = _HTTP_OF_CODE.get(error.code, http)
        if not error.code.startswith("model_"):
            http = _HTTP_OF_UPSTREAM.get(error.upstream_status, http)
    return replace(ending.traits, http=http, retryable=error.retryable, retry_after_s=retry_after_s)


class Refusal(Enum):
    """Why a request opened no session; the value is `ErrorSignal.code`."""

    INVALID_REQUEST = "invalid_request"
    NO_SUCH_AGENT = "no_such_agent"
    QUEUE_FULL = "queue_full"
    SESSIONS_FULL = "sessions_full"
    DRAINING = "draining"
    JOURNAL_STALLED = "journal_stalled"
    USER_SESSIONS_FULL = "user_sessions_full"
    USER_QUEUE_FULL = "user_queue_full"
    USER_JOURNAL_FULL = "user_journal_full"
    RATE_LIMITED = "rate_limited"
    KEY_TAKEN = "key_taken"

    @property
    def traits(self) -> Traits:
        return REFUSALS[self]


REFUSALS: Final[dict[Refusal, Traits]] = {
    Refusal.INVALID_REQUEST: Traits(1, "INVALID_ARGUMENT", 400, False, "Mend the field that is named."),
    Refusal.NO_SUCH_AGENT: Traits(
        2, "NOT_FOUND", 404, False, "Ask for an agent that is listed, or start a commander that serves it."
    ),
    Refusal.QUEUE_FULL: Traits(3, "RESOURCE_EXHAUSTED", 429, True, "Too many wait already; try again.", 2.0),
    Refusal.SESSIONS_FULL: Traits(4, "RESOURCE_EXHAUSTED", 429, True, "Too many sessions; try again.", 2.0),
    Refusal.DRAINING: Traits(5, "UNAVAILABLE", 503, True, "This dispatcher goes away; ask another.", 2.0),
    Refusal.JOURNAL_STALLED: Traits(
        6, "UNAVAILABLE", 503, True, "Its journal can't be written now; its log says why.", 10.0
    ),
    Refusal.USER_SESSIONS_FULL: Traits(
        7, "RESOURCE_EXHAUSTED", 429, True, "Too many sessions of this user; end one, or try again.", 2.0
    ),
    Refusal.USER_QUEUE_FULL: Traits(
        8, "RESOURCE_EXHAUSTED", 429, True, "Too many sessions of this user wait already; try again.", 2.0
    ),
    Refusal.USER_JOURNAL_FULL: Traits(
        9,
        "RESOURCE_EXHAUSTED",
        429,
        True,
        "Too much of this user's is kept; end a session, or try again.",
        10.0,
    ),
    Refusal.RATE_LIMITED: Traits(
        10,
        "RESOURCE_EXHAUSTED",
        429,
        True,
        "Too many sessions in too short a time; try again when it says.",
        1.0,
    ),
    Refusal.KEY_TAKEN: Traits(
        11,
        "ALREADY_EXISTS",
        409,
        False,
        "The idempotency key names another request; give this one a key of its own.",
    ),
}
