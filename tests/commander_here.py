"""A commander inside the test's own process, its agents' loop in a thread: for all that needs no signals."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from commander.agent import AnyAgent
from commander.serve import Commander
from commander.settings import Settings

PATIENCE_S = 60.0


class CommanderHere:
    """A running commander; `exit_code` is there when it has left."""

    def __init__(self, settings: Settings, agents: list[AnyAgent]) -> None:
        self.exit_code: int | None = None
        by_key = {(agent.name, agent.version): agent for agent in agents}
        self.commander = Commander(settings, by_key)
        self._thread = threading.Thread(target=self._live, name="agents", daemon=True)
        self._thread.start()

    def wait_left(self, patience_s: float = PATIENCE_S) -> int:
        """Until it has left; its exit code."""
        self._thread.join(patience_s)
        assert self.exit_code is not None, f"it still runs: {self.commander!r}"
        return self.exit_code

    def _live(self) -> None:
        loop = asyncio.new_event_loop()
        self.exit_code = self.commander.run(loop)
        # What an agent that never ends leaves behind is nothing to wait for.
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.wait(pending, timeout=1) if pending else asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@contextlib.contextmanager
def serving(address: str, *agents: AnyAgent, **told: object) -> Iterator[CommanderHere]:
    """A commander of these agents, linked or about to be; gone at the end, whatever runs."""
    settings = Settings.model_validate(
        {
            "dispatcher": address,
            "commander_id": "worker",
            "reconnect_first_s": 0.01,
            "reconnect_max_s": 0.05,
            **told,
        }
    )
    here = CommanderHere(settings, list(agents))
    try:
        yield here
    finally:
        here.commander.quit(0, "the test is over")
        here.wait_left()


class Told:
    """Waits for log lines."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "commander")
        self._caplog = caplog

    def wait_for(self, text: str) -> str:
        found: list[str] = []

        def is_told() -> bool:
            found[:] = [line for line in self._caplog.messages if text in line]
            return bool(found)

        wait_until(is_told)
        return found[0]


def wait_until(is_so: Callable[[], bool]) -> None:
    """For what only another thread's state tells."""
    waiting = threading.Condition()
    with waiting:
        # Nobody notifies: the condition is only a way to look again, and again, up to a deadline.
        for _ in range(int(PATIENCE_S / 0.01)):
            if is_so():
                return
            waiting.wait(0.01)
    raise AssertionError("it never came to be so")
