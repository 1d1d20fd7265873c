"""When the dispatcher is to go, and how fast: signals and Admin.Drain decide it here, together."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator

log = logging.getLogger(__name__)


class Leaving:
    """When to go, and how fast. `wanted` is set once; `deadline_s` is how long sessions may still take."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.wanted = asyncio.Event()
        # What signals mean; Admin.Drain may say otherwise.
        self._signal_deadline_s = deadline_s
        self._was_signalled = False
        self._over = asyncio.Event()
        self._patience: asyncio.Timeout | None = None

    def ask(self, deadline_s: float | None = None) -> None:
        """Wants it to go; asked again, the sooner deadline holds."""
        if not self.wanted.is_set():
            self.deadline_s = self.deadline_s if deadline_s is None else deadline_s
            self.wanted.set()
        elif deadline_s is not None:
            self.deadline_s = min(self.deadline_s, deadline_s)
            if self._patience is not None:
                sooner = asyncio.get_running_loop().time() + deadline_s
                self._patience.reschedule(min(sooner, self._patience.when() or sooner))

    def idle(self) -> None:
        """No session is left."""
        self._over.set()

    async def over(self) -> None:
        """Waits until no session is left, the deadline has passed, or somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.deadline_s) as self._patience:
                await self._over.wait()
        self._patience = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        """The first takes part in a drain that Admin.Drain began: supervisors send one and mean no hurry by it."""
        name = signal.Signals(number).name
        if self._was_signalled:
            log.warning("%s again: ending at once", name)
            self._over.set()
            return
        self._was_signalled = True
        self.ask(self._signal_deadline_s)
        log.info("%s: draining for up to %g s; send it again to end at once", name, self._left_s())

    def _left_s(self) -> float:
        due = self._patience.when() if self._patience is not None else None
        return self.deadline_s if due is None else round(due - asyncio.get_running_loop().time(), 1)
