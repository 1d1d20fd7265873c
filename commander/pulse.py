"""Whether the agents' loop turns, seen from the link's thread.

One ping at a time is left with the loop; when it has not been answered for `blocked_after_s`, an agent blocks the
loop, and the log says where its thread stands. It delays its neighbours, and nothing else: the link and its
heartbeats live elsewhere.
"""

import asyncio
import logging
import sys
import traceback
from dataclasses import dataclass

_LOG = logging.getLogger(__name__)

# A look at the pulse is due this often within `blocked_after_s`.
LOOKS = 4


@dataclass(frozen=True, slots=True)
class Change:
    """The loop is blocked, and has been for so long; or it turns again after so long."""

    is_blocked: bool
    seconds: float


class Pulse:
    """`thread_id` is that of the agents' thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread_id: int,
        blocked_after_s: float,
    ) -> None:
        self._loop = loop
        self._thread_id = thread_id
        self._blocked_after_s = blocked_after_s
        self._asked_at = 0.0
        self._looked_at: float | None = None
        self._is_blocked = False
        self._answered = True

    @property
    def look_every_s(self) -> float:
        return self._blocked_after_s / LOOKS

    def blocked_for_s(self, now: float) -> float:
        """How long the loop has not turned; 0 while that is no longer than it may."""
        if self._answered or not self._is_blocked:
            return 0.0
        return now - self._asked_at

    def look(self, now: float) -> Change | None:
        """To be called every `look_every_s`: what has changed since the last look."""
        # Late itself: the whole process stood still, and that is no agent's fault.
        was_away = self._looked_at is not None and now - self._looked_at > self._blocked_after_s
        self._looked_at = now
        silent_s = now - self._asked_at
        if self._answered:
            was_blocked, self._is_blocked = self._is_blocked, False
            self._ask(now)
            return self._turns_again(silent_s) if was_blocked else None
        if was_away:
            self._asked_at = now
        elif not self._is_blocked and silent_s >= self._blocked_after_s:
            self._is_blocked = True
            self._log_stack(silent_s)
            return Change(is_blocked=True, seconds=silent_s)
        return None

    def _ask(self, now: float) -> None:
        self._answered = False
        self._asked_at = now
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed: there is nothing to watch any more
            self._answered = True

    def _answer(self) -> None:
        self._answered = True

    def _turns_again(self, silent_s: float) -> Change:
        _LOG.warning("the agents' loop turns again, after about %.1f s", silent_s)
        return Change(is_blocked=False, seconds=silent_s)

    def _log_stack(self, silent_s: float) -> None:
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the documented way to it
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
        task = asyncio.current_task(self._loop)
        _LOG.warning(
            "an agent has blocked the agents' loop for %.1f s (%s); let it await, or make it a sync agent, which"
            " has a thread of its own. It stands here:",
            silent_s,
            "no task" if task is None else task.get_name(),
            extra={"stack": stack.rstrip()},
        )
