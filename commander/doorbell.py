"""How the writer of a link learns that there is something to send.

It is woken only when it sleeps, so what gathers while a write is under way goes out together, and what comes while
none is goes out at once. A writer that pauses, because the process is short of time, is woken by what is urgent
alone. Knows neither gRPC nor what is sent; `link.py` and `ask.py` wait, whoever has something rings.
"""

import asyncio
import contextlib
from collections.abc import Callable


class Doorbell:
    """Wakes the one that sleeps in `wait`, on `loop`; costs nothing while it is awake."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sleeps = False
        self._pauses = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self, *, urgent: bool = False) -> None:
        """From any thread. What is to be found must have been put in place before."""
        if self._sleeps or (urgent and self._pauses):
            self._sleeps = self._pauses = False
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is to be woken any more
                self._loop.call_soon_threadsafe(self._wake)

    def ring_here(self, *, urgent: bool = True) -> None:
        """From the thread of the loop."""
        if self._sleeps or (urgent and self._pauses):
            self._sleeps = self._pauses = False
            self._wake()

    async def wait(self, has_something: Callable[[], bool]) -> None:
        """Until somebody rings, or at once when there is something already."""
        self._sleeps = True
        # Whoever put something in before it could see the sleeper did not ring.
        if has_something():
            self._sleeps = False
            return
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._sleeps = False

    async def pause(self, seconds: float, has_urgent: Callable[[], bool]) -> None:
        """Until the time is over, or somebody rings for what is urgent; at once when there is that already."""
        self._pauses = True
        if has_urgent():
            self._pauses = False
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
            self._pauses = False

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
