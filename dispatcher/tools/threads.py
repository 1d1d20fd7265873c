"""Threads for tools that block. Bounded in threads and in waiting jobs; nobody waits for a stuck one.

`concurrent.futures.ThreadPoolExecutor` won't do: it joins its threads when the interpreter exits, so one tool
that never returns would keep a drained dispatcher alive for ever. Python can't kill a thread, so these are
daemons, and the process leaves without them.

Knows nothing of tools or of asyncio: a job's end is told by a callback, in the job's thread.
"""

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


class ThreadsFullError(Exception):
    """All threads are busy and as many jobs wait as may."""


class ThreadsClosedError(Exception):
    """The threads were closed."""


@dataclass(frozen=True, slots=True)
class Returned:
    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    # Kept as a value: a StopIteration or CancelledError that a tool raised must not act as one here.
    exception: BaseException


class Job:
    """One function to be called once. Compared by identity."""

    __slots__ = ("_deliver", "_work")

    def __init__(
        self, work: Callable[[], object], deliver: Callable[["Job", Returned | Raised], None]
    ) -> None:
        self._work = work
        self._deliver = deliver

    def run(self) -> None:
        """Calls the function and tells what came of it."""
        end: Returned | Raised
        try:
            end = Returned(self._work())
        except BaseException as exception:  # noqa: BLE001 - SystemExit too: it is the tool's, not the thread's
            end = Raised(exception)
        self._deliver(self, end)


class Threads:
    """A bounded set of daemon threads, started as they are needed."""

    def __init__(self, threads_max: int, waiting_max: int, name: str = "tool") -> None:
        self._threads_max = threads_max
        self._waiting_max = waiting_max
        self._name = name
        # All below is read and written under this lock alone.
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._started = 0
        self._idle = 0
        self._closed = False

    def __repr__(self) -> str:
        with self._changed:
            busy = self._started - self._idle
            return f"<Threads {busy} busy of {self._threads_max}, {len(self._jobs)} waiting>"

    @property
    def threads_max(self) -> int:
        return self._threads_max

    @property
    def busy(self) -> int:
        """How many threads run a job, stuck ones included."""
        with self._changed:
            return self._started - self._idle

    def submit(self, work: Callable[[], object], deliver: Callable[[Job, Returned | Raised], None]) -> Job:
        """Has `work` called in a thread, in the caller's context variables, in the order of submission.

        `deliver` is called in that thread with what came of it, unless the job is withdrawn before it begins.
        It must not raise. Raises ThreadsFullError, ThreadsClosedError.
        """
        context = contextvars.copy_context()
        job = Job(lambda: context.run(work), deliver)
        with self._changed:
            if self._closed:
                raise ThreadsClosedError
            free = self._idle + self._threads_max - self._started
            if len(self._jobs) >= self._waiting_max + free:
                raise ThreadsFullError
            if len(self._jobs) >= self._idle and self._started < self._threads_max:
                self._start_thread()
            self._jobs.append(job)
            self._changed.notify()
        return job

    def withdraw(self, job: Job) -> bool:
        """True when the job had not begun: it never will."""
        with self._changed:
            try:
                self._jobs.remove(job)
            except ValueError:
                return False
            return True

    def close(self) -> None:
        """Takes no more jobs. Those that wait are still run; the threads end when there are none."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start_thread(self) -> None:
        number = self._started + 1
        thread = threading.Thread(target=self._work_on, name=f"{self._name}-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system gives no more threads. With one at least, the job waits for it.
            if self._started == 0:
                raise ThreadsFullError from None
            return
        self._started = number
        self._idle += 1  # from now on, not from its first step: it will take a job

    def _work_on(self) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    if self._closed:
                        return
                    self._changed.wait()
                self._idle -= 1
                job = self._jobs.popleft()
            job.run()
            del job  # an idle thread holds on to nobody's arguments
            with self._changed:
                self._idle += 1
