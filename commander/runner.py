"""Runs agents: async ones as a task each in the agents' loop, sync ones in a thread each.

The rules of an end are the same for both.
- A stop reaches an agent wherever it stands: as CancelledError at what it awaits (or, in a sync one, as Stopped
  at its next yield or call). It may clean up, and await while it does.
- One that swallows it and yields again is closed, as a generator is. One that swallows that too has ended.
- What an agent raises ends its session as failed, with the exception's text for the user and the traceback for
  the log. Nothing an agent raises, SystemExit included, reaches the loop.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from commander.agent import AnyAgent
from commander.core.turn import Outcome
from commander.crossing import Crossing
from commander.errors import AgentFailure
from commander.logs import about
from commander.metrics import Metrics
from commander.models.registry import Models
from commander.runs import UNTOLD, AsyncRun, BlockingRun, LoopTurns
from commander.team import Stage, Teams

_LOG = logging.getLogger(__name__)

Ended = Callable[[Crossing, Outcome | None], None]


class Runner:
    """Begins and cancels turns; told by the link's thread. `ended` is called from the turn's own thread."""

    def __init__(
        self,
        agents: Mapping[tuple[str, str], AnyAgent],
        loop: asyncio.AbstractEventLoop,
        ended: Ended,
        metrics: Metrics,
        models: Models | None = None,
    ) -> None:
        self._agents = agents
        self._loop = loop
        self._ended = ended
        self._turns = LoopTurns(loop)
        models = Models({}, "", metrics) if models is None else models
        self._stage = Stage(loop, self._turns, metrics, models)
        self._runs: dict[Crossing, AsyncRun] = {}
        # Of sync agents: what they have under way in the loop.
        self._teams: dict[Crossing, Teams] = {}

    # -- the link's thread -----------------------------------------------------------------------------------

    def begin(self, crossing: Crossing, agent: tuple[str, str]) -> None:
        served = self._agents[agent]
        crossing.is_blocking = served.kind.is_blocking
        if served.kind.is_blocking:
            self._begin_thread(crossing, served)
        else:
            self._loop.call_soon_threadsafe(self._begin, crossing, served)

    def cancel(self, crossing: Crossing, why: str) -> None:
        """The turn is fenced: the agent is to end. Idempotent."""
        if crossing.is_blocking:
            crossing.release()
            teams = self._teams.get(crossing)
            if teams is not None:
                self._loop.call_soon_threadsafe(teams.hang_up)
            _tell_cancelled(crossing, why)
        else:
            self._loop.call_soon_threadsafe(self._cancel, crossing, why)
            self._turns.hurry()

    def hurry(self) -> None:
        """Some agent was just given what it waits for; those that flood are to let it go on soon."""
        self._turns.hurry()

    def insist(self, crossing: Crossing) -> None:
        """It has been told, and has not ended: once more, whatever it does."""
        if not crossing.is_blocking:
            self._loop.call_soon_threadsafe(self._insist, crossing)

    def _begin_thread(self, crossing: Crossing, agent: AnyAgent) -> None:
        teams = Teams.of_root(self._stage, crossing, agent)
        self._teams[crossing] = teams
        run = BlockingRun(agent, teams.blocking_turn(), crossing, teams.waited)
        name = _name(agent, crossing)
        try:
            threading.Thread(target=lambda: self._live_thread(crossing, run), name=name, daemon=True).start()
        except RuntimeError as error:
            del self._teams[crossing]
            failure = AgentFailure("no_thread", f"the commander is out of threads: {error}", retryable=True)
            _end(crossing, Outcome.FAILED, failure, self._ended)

    def _live_thread(self, crossing: Crossing, run: BlockingRun) -> None:
        run.live()
        teams = self._teams.pop(crossing)
        with suppress(RuntimeError):  # the loop is closed, and nothing runs in it any more
            self._loop.call_soon_threadsafe(teams.hang_up)
        _end(crossing, run.outcome, run.failure, self._ended)

    # -- the agents' thread ----------------------------------------------------------------------------------

    def _begin(self, crossing: Crossing, agent: AnyAgent) -> None:
        if crossing.is_over:
            self._ended(crossing, None)
            return
        teams = Teams.of_root(self._stage, crossing, agent)
        run = AsyncRun(agent, teams.turn(), crossing, self._turns, teams.hang_up, teams.waited)
        self._runs[crossing] = run
        run.task = self._loop.create_task(run.live(), name=_name(agent, crossing))
        run.task.add_done_callback(lambda _: self._done(crossing, run))

    def _done(self, crossing: Crossing, run: AsyncRun) -> None:
        del self._runs[crossing]
        _end(crossing, run.outcome, run.failure, self._ended)

    def _cancel(self, crossing: Crossing, why: str) -> None:
        run = self._runs.get(crossing)
        if run is not None:
            run.cancel()
        # After the agent's own task: a helper task of its author may be waiting too.
        crossing.release()
        # A line of the log takes longer than a cancellation: the agent hears of it first.
        self._loop.call_soon(_tell_cancelled, crossing, why)

    def _insist(self, crossing: Crossing) -> None:
        run = self._runs.get(crossing)
        if run is not None and run.task is not None:
            run.task.cancel()


def _end(crossing: Crossing, outcome: Outcome | None, failure: AgentFailure | None, ended: Ended) -> None:
    """The agent runs no more. Whatever goes wrong in saying how, its slot is given back."""
    told: Outcome | None = None
    try:
        told = _finish(crossing, outcome, failure)
    finally:
        ended(crossing, told)


def _finish(crossing: Crossing, outcome: Outcome | None, failure: AgentFailure | None) -> Outcome | None:
    if crossing.is_over or outcome is None:
        crossing.release()
        return None
    try:
        with crossing.guard:
            crossing.finish(outcome, failure)
    except Exception:  # noqa: BLE001 - a mistake here must not leave the session without an end
        _LOG.exception("the agent's end could not be told as it was")
        outcome = Outcome.FAILED
        crossing.finish(outcome, UNTOLD)
    return outcome


def _tell_cancelled(crossing: Crossing, why: str) -> None:
    _LOG.info("cancelled: %s", why, extra=about(crossing.request.session_id, crossing.request.attempt))


def _name(agent: AnyAgent, crossing: Crossing) -> str:
    return f"{agent.label} {crossing.request.session_id}/{crossing.request.attempt}"
