"""Whether the event loop turns, seen from a thread of its own.

One ping at a time is left with the loop; when it has not been answered for `blocked_after_s`, something blocks the
loop: a tool that is async and does not await, most likely. Every session stands still then, stops too. The log says
where the loop's thread is, once for each time, and when it turns again. Started by `serve.py`; changes nothing.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

# A look at the pulse is due this often within `blocked_after_s`.
LOOKS = 4


class Pulse:
    """Watches the running loop while the context lasts. Made in the loop's thread."""

    def __init__(self, blocked_after_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._blocked_after_s = blocked_after_s
        self._answered = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._answered.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._blocked_after_s / LOOKS):
            self._answered.clear()
            asked_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._answered.set)
            if self._answered.wait(self._blocked_after_s) or self._over.is_set():
                continue
            if time.monotonic() - asked_at < self._blocked_after_s * 2:
                # Not later itself: this process runs, and the loop does not.
                self._log_stack(time.monotonic() - asked_at)
            self._answered.wait()
            log.warning("the event loop turns again, after about %.1f s", time.monotonic() - asked_at)

    def _log_stack(self, silent_s: float) -> None:
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the documented way to it
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)\n"
        task = asyncio.current_task(self._loop)
        log.error(
            "the event loop is blocked for %.1f s (%s), and every session with it; a tool that does not await belongs "
            "into a plain function, which has a thread of its own. It stands here:",
            silent_s,
            "no task" if task is None else task.get_name(),
            extra={"stack": stack.rstrip()},
        )
