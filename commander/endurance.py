"""Keeps the agents' loop turning until the commander has left, whatever agents do to it.

asyncio lets two exceptions through, SystemExit and KeyboardInterrupt: from an author's helper task or callback they
would end the loop, and so would `loop.stop()`, and with it the turns of everybody else. None of them harms the loop:
it is told in the log and goes on where it stood. For the same reason no task is the main one, whose cancellation
would be the end. A real Ctrl-C is a signal, and never comes this way.

Whatever else comes out of a loop has broken it. Its agents stand still then, so nobody's end can be told; the caller
is to end the process without a goodbye, and the dispatcher gives the sessions to another commander.
"""

import asyncio
import logging
from collections.abc import Callable

_LOG = logging.getLogger(__name__)

# Of the tasks there are when somebody stops the loop, so many are named.
TASKS_NAMED_MAX = 10


class Endurance:
    """Turns `loop` in the thread that calls `run`, until `end` is called in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._has_ended = False

    def run(self, on_turning: Callable[[], None]) -> None:
        """Raises what broke the loop. `on_turning` is called in it each time that it begins to turn."""
        while not self._has_ended:
            self._loop.call_soon(on_turning)
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                _LOG.error(
                    "%s in a task or a callback of an agent; the agents' loop goes on",
                    type(error).__name__,
                    exc_info=error,
                )
            else:
                if not self._has_ended:
                    _LOG.error(
                        "an agent called stop(); the agents' loop goes on; what still runs there: %s",
                        self._tasks(),
                    )

    def end(self) -> None:
        """In the loop."""
        self._has_ended = True
        self._loop.stop()

    def _tasks(self) -> str:
        names = sorted(task.get_name() for task in asyncio.all_tasks(self._loop))
        more = len(names) - TASKS_NAMED_MAX
        return ", ".join(names[:TASKS_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
