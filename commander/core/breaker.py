"""A circuit breaker: a peer that fails again and again is left alone for a while, so that nobody waits for it.

    closed --as many failures in a row as may be--> open --after its time--> half_open --it worked--> closed
                                                      ^------------- it failed ---------|

Half open, one request is let through to try, and its outcome decides; the others are refused until it has begun.
Reads no clock: time is an argument.
"""

from enum import Enum


class State(Enum):
    """The value is for metrics and logs."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """`failures_max` in a row open it for `open_s`; 0 of them: never."""

    def __init__(self, failures_max: int, open_s: float) -> None:
        self._failures_max = failures_max
        self._open_s = open_s
        self._failures = 0
        self._state = State.CLOSED
        # Open: when one may try.
        self._try_at = 0.0

    def __repr__(self) -> str:
        return f"<Breaker {self._state.value}, {self._failures} failures in a row>"

    @property
    def state(self) -> State:
        return self._state

    @property
    def failures(self) -> int:
        """In a row, up to now."""
        return self._failures

    def refuse_s(self, now: float) -> float | None:
        """How long a request has to stay away, seconds. None: it may go, and `worked`, `failed` or `let_go` is to be
        called when it is known what came of it."""
        if self._state is State.CLOSED:
            return None
        if self._state is State.OPEN and now >= self._try_at:
            self._state = State.HALF_OPEN
            return None
        # Of one that tries nobody knows how long it takes.
        return self._open_s if self._state is State.HALF_OPEN else self._try_at - now

    def began(self) -> None:
        """The peer has begun to answer: others need not wait for its end. If it fails yet, it is one more in a row."""
        if self._state is State.HALF_OPEN:
            self._state = State.CLOSED

    def worked(self) -> None:
        """The peer has answered."""
        self._failures, self._state = 0, State.CLOSED

    def failed(self, now: float) -> bool:
        """The peer has failed. True when that opened the breaker, or opened it anew."""
        self._failures += 1
        if self._state is State.OPEN:
            # A request from before: known already.
            return False
        if self._state is State.CLOSED and not 0 < self._failures_max <= self._failures:
            return False
        self._state, self._try_at = State.OPEN, now + self._open_s
        return True

    def let_go(self, now: float) -> None:
        """The request has shown nothing, because it was given up: the next one may try instead."""
        if self._state is State.HALF_OPEN:
            self._state, self._try_at = State.OPEN, now
