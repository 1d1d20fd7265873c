"""When viewers are written to: all that have news, together, at most once a turn of the loop.

What a word costs on its way out is a write, not its bytes. So nobody is written to in the middle of a turn, and under
load the turns in which viewers are written to are spaced out, by the loop's own lag: then more words share a write.
Nothing is left out for it, and idle there is no spacing at all.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

log = logging.getLogger(__name__)

# No word waits longer for others.
SPACING_S_MAX: Final = 0.05
# How much of the loop's time may go by between two flushes, for each second that a flush takes.
_REST: Final = 2.0
# Lag below this is the loop's own grain.
_GRAIN_S: Final = 0.001
# The weight of the latest flush among those before.
_LATEST: Final = 0.2


class Writing(Protocol):
    """Somebody who has news for a viewer."""

    def flush(self, shared: dict[Any, Any]) -> None:
        """Writes it. `shared` lives as long as one flush of all: what one has made others may take from there."""

    def fail(self) -> None:
        """It could not: its viewer has to come back."""


class Flusher:
    """One for all viewers of an edge."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._fresh: dict[Writing, None] = {}
        self._is_due = False
        self._due_at = 0.0
        self._flushed_at = 0.0
        self._lag_s = 0.0

    def __repr__(self) -> str:
        return f"<Flusher, {len(self._fresh)} with news, every {self.spacing_s:g} s>"

    @property
    def spacing_s(self) -> float:
        """How far flushes are apart now, at least."""
        return 0.0 if self._lag_s < _GRAIN_S else min(SPACING_S_MAX, self._lag_s * _REST)

    def news(self, writing: Writing) -> None:
        """It is flushed with the others, soon."""
        self._fresh[writing] = None
        if not self._is_due:
            self._is_due = True
            self._due()

    def forget(self, writing: Writing) -> None:
        self._fresh.pop(writing, None)

    def _due(self) -> None:
        now = self._clock()
        wait_s = self._flushed_at + self.spacing_s - now
        if wait_s <= 0:
            self._due_at = now
            self._loop.call_soon(self._flush)
        else:
            self._due_at = now + wait_s
            self._loop.call_later(wait_s, self._flush)

    def _flush(self) -> None:
        began = self._clock()
        fresh, self._fresh = self._fresh, {}
        shared: dict[Any, Any] = {}
        for writing in fresh:
            try:
                writing.flush(shared)
            except Exception:
                # Of one viewer alone: the others are written to.
                log.exception("could not write to %r", writing)
                writing.fail()
        # From when it was due to when the last was written: that is how late a word may be.
        lag_s = max(0.0, self._clock() - self._due_at)
        self._lag_s += (lag_s - self._lag_s) * _LATEST
        self._flushed_at = began
        self._is_due = bool(self._fresh)
        if self._is_due:
            self._due()
