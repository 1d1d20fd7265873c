"""One call at work: its task, its jobs in threads, its place until all of them have really ended.

An answer may be given earlier: at the timeout, or when the session is stopped. A thread can't be killed and a
task may take its time over a cancellation, so the place is not free then; otherwise a tool that hangs would
run more often at once than its limit says.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeVar, cast

from dispatcher.tools.contract import ToolError, ToolOutcome, said
from dispatcher.tools.threads import Job, Raised, Returned, Threads, ThreadsClosedError, ThreadsFullError

T = TypeVar("T")

# A tool's own affair in its thread; raised in a coroutine they would mean something else.
_ACTS_ON_LOOP = (StopIteration, StopAsyncIteration)


class NoThreadError(ToolError):
    """No thread is free and there is no room to wait for one, or there are no threads any more."""


class Call:
    """Belongs to the event loop it was made in; calls `when_ended` there, once, when all has ended."""

    def __init__(self, threads: Threads, when_ended: Callable[["Call"], None]) -> None:
        self._threads = threads
        self._when_ended = when_ended
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[Job, asyncio.Future[Returned | Raised]] = {}
        self._task: asyncio.Task[ToolOutcome] | None = None
        self.began_at = time.monotonic()
        # When it was abandoned, a function of it had not got a thread, and now never will.
        self.waited_for_thread = False
        # Seen by the tool: nobody waits for its answer.
        self.cancelled = threading.Event()
        # Done when nobody waits for its answer any more.
        self.dropped: asyncio.Future[None] = self._loop.create_future()
        # Done when nothing of it runs any more.
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        state = "ended" if self.ended.done() else "abandoned" if self.cancelled.is_set() else "running"
        return f"<Call {state}, {len(self._jobs)} in threads>"

    def start(self, work: Coroutine[object, object, ToolOutcome]) -> asyncio.Task[ToolOutcome]:
        """Runs `work`; it may use `in_thread`. Once."""
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(lambda _: self._settle())
        return self._task

    def abandon(self) -> None:
        """The answer is no longer wanted: tells the tool, cancels what can be, never waits."""
        self.cancelled.set()
        if not self.dropped.done():
            self.dropped.set_result(None)
        # At once, not when the task comes to it: a thread may become free in between.
        for job in [each for each in self._jobs if self._threads.withdraw(each)]:
            self.waited_for_thread = True
            self._jobs.pop(job).cancel()
        if self._task is not None:
            self._task.cancel()

    async def in_thread(self, function: Callable[..., T], /, *arguments: object) -> T:
        """What `function` returns or raises. Cancelled, it ends at once; a function that had begun runs on.

        Raises NoThreadError; the function has then not begun.
        """
        end: asyncio.Future[Returned | Raised] = self._loop.create_future()
        try:
            job = self._threads.submit(partial(function, *arguments), self._deliver)
        except ThreadsFullError:
            raise NoThreadError(
                "the threads for tools are busy and as many calls wait for one as may",
                retryable=True,
                retry_after_s=1.0,
            ) from None
        except ThreadsClosedError:
            raise NoThreadError("the dispatcher is going away", retryable=True) from None
        # The job may have ended already; its end comes through the loop, so after this line.
        self._jobs[job] = end
        try:
            ended = await end
        except asyncio.CancelledError:
            if job in self._jobs and self._threads.withdraw(job):
                self._forget(job)
            raise
        if isinstance(ended, Returned):
            return cast("T", ended.value)
        if isinstance(ended.exception, Exception) and not isinstance(ended.exception, _ACTS_ON_LOOP):
            raise ended.exception
        raise RuntimeError(said(ended.exception)) from ended.exception

    def _deliver(self, job: Job, end: Returned | Raised) -> None:
        """In the job's thread."""
        try:
            self._loop.call_soon_threadsafe(self._take, job, end)
        except RuntimeError:
            return  # the loop is closed: nobody is left to be told

    def _take(self, job: Job, end: Returned | Raised) -> None:
        waiting = self._jobs[job]
        if not waiting.done():
            waiting.set_result(end)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        del self._jobs[job]
        self._settle()

    def _settle(self) -> None:
        if self._jobs or self._task is None or not self._task.done() or self.ended.done():
            return
        self.ended.set_result(None)
        self._when_ended(self)
