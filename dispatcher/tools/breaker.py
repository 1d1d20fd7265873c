"""The circuit breaker of one tool: what fails again and again is left alone for a while.

Counts what failed in a row: exceptions nobody foresaw, timeouts, and what a tool itself calls worth another try.
That a tool says no, or can't use its arguments, is an answer like any other. When as many have failed as may, the
breaker is open and no call runs; after its time one call is let through to try, and its outcome decides.

Reads no clock and waits for nothing; `runner.py` asks it before a call and tells it after.
"""

from typing import Final

# As the metric names them: no call runs, but one to try; all run.
STATES: Final = ("open", "half_open", "closed")


class Breaker:
    """`failures_max` in a row open it for `open_s`; 0 of them: never."""

    def __init__(self, failures_max: int, open_s: float) -> None:
        self.failures_max = failures_max
        self.open_s = open_s
        self._failures = 0
        # When the next call may try; None while it is closed.
        self._try_at: float | None = None
        self._is_trying = False

    def __repr__(self) -> str:
        state = "closed" if self._try_at is None else "trying" if self._is_trying else "open"
        return f"<Breaker {state}, {self._failures} failures in a row>"

    @property
    def is_open(self) -> bool:
        return self._try_at is not None

    @property
    def state(self) -> str:
        """One of STATES."""
        return "closed" if self._try_at is None else "half_open" if self._is_trying else "open"

    @property
    def failures(self) -> int:
        """In a row, up to now."""
        return self._failures

    def refuse_s(self, now: float) -> float | None:
        """How long a call has to stay away, seconds; None: it may run, and has to be told of by `worked`, `failed`
        or `let_go`."""
        if self._try_at is None:
            return None
        if self._is_trying:
            return self.open_s
        if now < self._try_at:
            return self._try_at - now
        self._is_trying = True
        return None

    def worked(self) -> bool:
        """The tool has answered. True when that closed the breaker."""
        was_open, self._try_at = self.is_open, None
        self._failures, self._is_trying = 0, False
        return was_open

    def failed(self, now: float) -> bool:
        """The tool has failed. True when that opened the breaker, or keeps it open for another while."""
        self._failures += 1
        if not self.failures_max or (self._failures < self.failures_max and not self._is_trying):
            return False
        if self.is_open and not self._is_trying:
            # A call from before: the breaker knows already.
            return False
        self._try_at, self._is_trying = now + self.open_s, False
        return True

    def let_go(self) -> None:
        """The call has not shown whether the tool works: the next one may try instead."""
        self._is_trying = False
