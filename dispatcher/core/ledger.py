"""The record of a session's tool calls: what is owed, running, answered.

It sees to it that a call runs at most once: the key is (attempt, call id), a repeat with the same words gets
the stored outcome, a repeat with other words is a breach of contract. It doesn't know what a tool is.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from zlib import crc32

from dispatcher.core.packets import PublishedCall, ToolCall, ToolOutcome


class CallState(Enum):
    OWED = "owed"  # waits until the session runs fewer at once
    RUNNING = "running"
    HELD = "held"  # waits until somebody allows it
    JUDGED = "judged"  # has run, and what came of it waits until it was judged
    ANSWERED = "answered"


@dataclass(slots=True)
class Call:
    """One call of one attempt. `outcome` is set once, when it is answered."""

    attempt: int
    agent: str
    request: ToolCall
    state: CallState
    outcome: ToolOutcome | None = None
    # The offset of the event that told viewers of the outcome.
    told_at: int = 0
    # Somebody has allowed it, perhaps with other arguments than those it was asked with.
    is_approved: bool = False
    approved_json: str | None = None
    # When it was held, and how long its caller has waited since when it was allowed.
    held_at: float = 0.0
    waited_ms: int = 0
    # Whoever asked waits no longer.
    is_withdrawn: bool = False

    @property
    def to_run(self) -> ToolCall:
        """The call as it is to be run."""
        request = self.request
        if self.approved_json is not None:
            request = request._replace(arguments_json=self.approved_json)
        if self.waited_ms and request.timeout_ms is not None:
            request = request._replace(timeout_ms=max(1, request.timeout_ms - self.waited_ms))
        return request


class Asked(Enum):
    """What asking came to."""

    RUN = "run"  # run it now
    OWED = "owed"  # wait: run it when another has finished
    REPEATED = "repeated"  # it runs or waits already
    ANSWERED = "answered"  # it has an outcome: tell it again
    CONFLICT = "conflict"  # the same id with other words


class Ledger:
    """The calls of one session. `running_max` bounds how many run at once."""

    def __init__(self, running_max: int) -> None:
        self._running_max = running_max
        self._calls: dict[tuple[int, str], Call] = {}
        self._owed: deque[Call] = deque()
        # Those that somebody has allowed and that have no outcome, by call id.
        self._allowed: dict[str, Call] = {}
        self.running = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<Ledger {len(self._calls)} calls, {self.running} running, {len(self._owed)} owed>"

    def named(self, request: ToolCall, session_id: str) -> ToolCall:
        """The call with the ids it lacks. A minimal commander's calls are numbered in the order asked. The key is the
        same for the same call of another attempt, and another for another call that bears the same id there."""
        call_id = request.call_id
        if not call_id:
            taken = {used for _, used in self._calls}
            number = len(taken) + 1
            while (call_id := f"call-{number}") in taken:
                number += 1
        asked = f"{request.tool_name}\0{request.arguments_json}".encode(errors="surrogatepass")
        key = request.idempotency_key or f"{session_id}:{call_id}:{crc32(asked):08x}"
        return request._replace(call_id=call_id, idempotency_key=key)

    @property
    def is_idle(self) -> bool:
        """All calls have an outcome."""
        return all(call.state is CallState.ANSWERED for call in self._calls.values())

    @property
    def waiting_calls(self) -> tuple[str, ...]:
        """Calls that wait until fewer run, in their order."""
        return tuple(call.request.call_id for call in self._owed) if self._owed else ()

    @property
    def allowed_calls(self) -> tuple[tuple[str, str | None], ...]:
        """Calls that somebody has allowed and that have no outcome, with other arguments where there were any."""
        allowed = self._allowed
        return tuple((call_id, call.approved_json) for call_id, call in allowed.items()) if allowed else ()

    def find(self, attempt: int, call_id: str) -> Call | None:
        return self._calls.get((attempt, call_id))

    def ask(self, attempt: int, agent: str, request: ToolCall) -> Asked:
        """Enters a call; `request` bears its ids already."""
        known = self._calls.get((attempt, request.call_id))
        if known is not None:
            if known.request != request:
                return Asked.CONFLICT
            return Asked.ANSWERED if known.state is CallState.ANSWERED else Asked.REPEATED
        call = Call(attempt, agent, request, CallState.RUNNING)
        self._calls[attempt, request.call_id] = call
        if self.running >= self._running_max:
            call.state = CallState.OWED
            self._owed.append(call)
            return Asked.OWED
        self.running += 1
        return Asked.RUN

    def finish(self, attempt: int, call_id: str, outcome: ToolOutcome) -> Call | None:
        """Stores the outcome of a running call; None when it isn't one, so a second outcome counts nothing."""
        call = self._calls.get((attempt, call_id))
        if call is None or call.state is not CallState.RUNNING:
            return None
        call.state = CallState.ANSWERED
        call.outcome = outcome
        self.running -= 1
        self._allowed.pop(call_id, None)
        return call

    def judge(self, call: Call) -> None:
        """What was just finished has no outcome yet: that is judged."""
        call.state, call.outcome = CallState.JUDGED, None
        if call.is_approved:
            # It may run again after a restart, and nobody is asked about it again.
            self._allowed[call.request.call_id] = call

    def judged(self, attempt: int, call_id: str, outcome: ToolOutcome) -> Call | None:
        """Stores the outcome that was judged; None when nobody waits for it any more."""
        call = self._calls.get((attempt, call_id))
        if call is None or call.state is not CallState.JUDGED:
            return None
        call.state, call.outcome = CallState.ANSWERED, outcome
        self._allowed.pop(call_id, None)
        return call

    def hold(self, attempt: int, call_id: str, now: float) -> Call | None:
        """A running call has not begun, and waits until somebody allows it; None when it isn't running."""
        call = self._calls.get((attempt, call_id))
        if call is None or call.state is not CallState.RUNNING:
            return None
        call.state = CallState.HELD
        call.held_at = now
        self.running -= 1
        return call

    def allow(self, call: Call, arguments_json: str | None, now: float) -> None:
        """A held call may run, with those arguments where they are given: it is owed before others."""
        call.waited_ms = int((now - call.held_at) * 1000) if call.held_at else 0
        call.is_approved, call.approved_json = True, arguments_json
        self._allowed[call.request.call_id] = call
        call.state = CallState.OWED
        self._owed.appendleft(call)

    def refuse(self, call: Call) -> None:
        """A call that has not begun is not to run, and is about to be answered."""
        if call.state is CallState.RUNNING:
            return
        if call.state is CallState.OWED:
            self._owed.remove(call)
        call.state = CallState.RUNNING
        self.running += 1

    def withdraw(self, call: Call) -> bool:
        """A call without an outcome is answered now, by the one that the caller gives it. Whether it runs."""
        is_running = call.state is CallState.RUNNING
        if is_running:
            self.running -= 1
        elif call.state is CallState.OWED:
            self._owed.remove(call)
        self._allowed.pop(call.request.call_id, None)
        call.state = CallState.ANSWERED
        return is_running

    def next_owed(self) -> Call | None:
        """The next call that may run now, marked as running."""
        if not self._owed or self.running >= self._running_max:
            return None
        call = self._owed.popleft()
        call.state = CallState.RUNNING
        self.running += 1
        return call

    def published(self, since_attempt: int, unheard: Collection[int] = ()) -> tuple[PublishedCall, ...]:
        """The calls since that attempt, in the order asked. Without their outcomes those that were told at one of
        these offsets."""
        return tuple(
            PublishedCall(call.request, None if call.told_at in unheard else call.outcome)
            for (attempt, _), call in self._calls.items()
            if attempt >= since_attempt
        )

    def lose(self) -> list[tuple[Call, bool]]:
        """The attempt is lost: its calls that have no outcome, each with whether it has begun. They are answered now,
        by whatever outcome the caller gives them."""
        begun = (CallState.RUNNING, CallState.JUDGED)
        lost = [(call, call.state in begun) for call in self._calls.values()]
        lost = [(call, has_begun) for call, has_begun in lost if call.state is not CallState.ANSWERED]
        for call, _ in lost:
            call.state = CallState.ANSWERED
        self.abandon()
        return lost

    def put_back(self, attempt: int, agent: str, request: ToolCall) -> None:
        """Enters a call of a life before; it may have begun."""
        self._calls[attempt, request.call_id] = Call(attempt, agent, request, CallState.RUNNING)

    def put_back_outcome(self, attempt: int, call_id: str, outcome: ToolOutcome, told_at: int) -> None:
        call = self._calls[attempt, call_id]
        call.state, call.outcome, call.told_at = CallState.ANSWERED, outcome, told_at

    def put_back_waiting(self, attempt: int, call_ids: Iterable[str]) -> None:
        """These had not begun, and wait for their turn again."""
        for call_id in call_ids:
            call = self._calls[attempt, call_id]
            call.state = CallState.OWED
            self._owed.append(call)

    def put_back_held(self, attempt: int, call_ids: Iterable[str]) -> None:
        """These had not begun, and wait for somebody who allows them."""
        for call_id in call_ids:
            self._calls[attempt, call_id].state = CallState.HELD

    def put_back_allowed(self, attempt: int, allowed: Iterable[tuple[str, str | None]]) -> None:
        """Nobody is asked about these again, whether they have begun or not."""
        for call_id, arguments_json in allowed:
            call = self._calls[attempt, call_id]
            call.is_approved, call.approved_json = True, arguments_json
            self._allowed[call_id] = call

    def died(
        self, idempotent_tools: frozenset[str], alive: Collection[str] = ()
    ) -> tuple[list[Call], list[Call]]:
        """What ran died with the process that ran it: those that are answered now, by the outcome that the caller gives
        them, and those that run once more. `alive` did not die: their agents run in commanders. An agent that was not
        asked yet is asked now."""
        dead, again = [], []
        self.running = 0
        for call in self._calls.values():
            if call.state is not CallState.RUNNING:
                continue
            if call.request.call_id in alive:
                self.running += 1
            elif call.request.to_agent or call.request.tool_name in idempotent_tools:
                again.append(call)
                self.running += 1
            else:
                call.state = CallState.ANSWERED
                self._allowed.pop(call.request.call_id, None)
                dead.append(call)
        return dead, again

    def abandon(self) -> None:
        """The session is over: nothing that waits will run, nothing that runs is waited for."""
        self._owed.clear()
        self._allowed.clear()
        self.running = 0
