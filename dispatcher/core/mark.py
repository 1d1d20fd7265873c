"""Where a session stands, as far as its events do not tell: with them, and with what was asked, a dispatcher that was
started anew takes it up where it stood. A journal with a file keeps one for each session, the latest."""

from typing import NamedTuple

from dispatcher.core.packets import OnRestart, Usage

# A number of a signal owed to the commander, and the offset of the event that tells of the same.
Owed = tuple[int, int]


class Redacted(NamedTuple):
    """Of one speaker's text what waits to be redacted, the first characters of it `hidden`; see `holdback.py`."""

    left: str
    held: str
    hidden: int
    passed: int
    arrivals: tuple[tuple[int, int], ...]


class HeldText(NamedTuple):
    """What policies know of one speaker's text; see `holdback.py`. `arrivals` are pairs of a packet's number and of the
    characters received with it. `redacted`: what came before `held` and waits for other patterns."""

    kind: str
    agent: str
    step: str
    left: str
    held: str
    released: int
    arrivals: tuple[tuple[int, int], ...]
    redacted: Redacted | None = None


class ReviewMark(NamedTuple):
    """What waits of one speaker's text until services have judged it; see `review.py`. `arrivals` are pairs of a
    packet's number and of the characters received with it, `steps` of the characters received and of their step."""

    kind: str
    agent: str
    before: str
    held: str
    passed: int
    arrivals: tuple[tuple[int, int], ...]
    steps: tuple[tuple[int, str], ...]


class GuardMark(NamedTuple):
    """What a session has used, as policies count it, and what they hold; see `policy.Guard`."""

    content_chars: int = 0
    thought_chars: int = 0
    tool_calls: int = 0
    held: tuple[HeldText, ...] = ()
    cost_dollars: float = 0.0
    reviews: tuple[ReviewMark, ...] = ()


class Mark(NamedTuple):
    """See `Session` for the fields. `commander_id` is empty where it is nobody's, `attempt` 0 before the first."""

    attempt: int = 0
    tries: int = 0
    deaths: int = 0
    touched: bool = False
    on_restart: OnRestart = "restart"
    goes_on: bool = False
    since_attempt: int = 1
    commander_id: str = ""
    instance: str = ""
    received: int = 0
    safe: int = 0
    sent_chars: int = 0
    sent_crc32: int = 0
    content_chars: int = 0
    content_crc32: int = 0
    thought_chars: int = 0
    usage: Usage = Usage()
    usage_before: Usage = Usage()
    owed: tuple[Owed, ...] = ()
    owed_sequence: int = 0
    # Messages of the user that the agent has not taken yet.
    unread: tuple[Owed, ...] = ()
    # Those that wait for an answer: their ids, the offsets of their events, and how long they wait, seconds.
    questions: tuple[tuple[str, int, float | None], ...] = ()
    # Calls that wait for others to end: these have not begun.
    waiting_calls: tuple[str, ...] = ()
    guard: GuardMark = GuardMark()
    # Runs of packets beyond `safe`: the last of each, and its bytes.
    unsafe: tuple[tuple[int, int], ...] = ()
    # Of its last event.
    offset: int = 0
    # Ids of questions, open or not, and the attempt that asked first under each.
    asked: tuple[tuple[str, int], ...] = ()
    # Attempts that count among `deaths`, each with the instance that had vanished.
    vanished: tuple[tuple[int, str], ...] = ()
    # Tokens used by delegated sessions of this attempt; and what of its own the session that asked for it knows of.
    usage_below: Usage = Usage()
    usage_told: Usage = Usage()
    # Questions that ask whether a call may run, each with the call.
    approvals: tuple[tuple[str, str], ...] = ()
    # Calls that somebody has allowed and that have no outcome, each with other arguments where there were any.
    allowed_calls: tuple[tuple[str, str | None], ...] = ()
    # Questions that have been answered, as an agent is told that runs again: the offsets of both events.
    answers: tuple[tuple[int, int], ...] = ()
    parks: bool = False
    parked: bool = False
    # Offsets of answers and outcomes for which its agent has not waited.
    withdrawn: tuple[int, ...] = ()

    @property
    def has_spoken(self) -> bool:
        """Content or thoughts of the attempt were received, which nobody may have seen yet."""
        held = any(each.held or (each.redacted and each.redacted.held) for each in self.guard.held)
        return bool(self.sent_chars) or held or any(each.held for each in self.guard.reviews)
