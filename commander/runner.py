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
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import suppress
from typing import Any

from commander.agent import AnyAgent, Kind
from commander.core.turn import Outcome
from commander.crossing import Crossing
from commander.errors import AgentError, AgentFailure, Stopped
from commander.logs import CURRENT_TURN, about
from commander.metrics import Metrics
from commander.models.model import TurnModels
from commander.models.registry import Models
from commander.outputs import Output
from commander.turn import BlockingTurn, Turn, not_sayable

_LOG = logging.getLogger(__name__)

# Generators that never really await give the loop back this often, all of them together: that is what a stop, a
# result or a neighbour's timer waits for at most, however many flood.
LOOP_TURN_S = 0.001
# What another thread gives to an agent reaches it so many turns of the loop later, at most: the one that runs, the
# one in which its future is settled, the one in which its task goes on.
HURRIED_TURNS = 3

IGNORED = "the agent ignored its stop and its closing, and counts as ended: %s"

# What is told of a failure that can't be told as it was.
UNTOLD = AgentFailure("agent_exception", "the agent failed")

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
        self._models = Models({}, "", metrics) if models is None else models
        self._loop = loop
        self._ended = ended
        self._metrics = metrics
        self._turns = LoopTurns(loop)
        self._runs: dict[Crossing, AsyncRun] = {}

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
        run = BlockingRun(agent, crossing, self._ended, self._metrics)
        try:
            threading.Thread(target=run.live, name=_name(agent, crossing), daemon=True).start()
        except RuntimeError as error:
            failure = AgentFailure("no_thread", f"the commander is out of threads: {error}", retryable=True)
            _end(crossing, Outcome.FAILED, failure, self._ended)

    # -- the agents' thread ----------------------------------------------------------------------------------

    def _begin(self, crossing: Crossing, agent: AnyAgent) -> None:
        if crossing.is_over:
            self._ended(crossing, None)
            return
        run = AsyncRun(agent, crossing, self._turns, self._metrics, self._models)
        self._runs[crossing] = run
        run.task = self._loop.create_task(run.live(), name=_name(agent, crossing))
        run.task.add_done_callback(lambda _: self._done(crossing, run))

    def _done(self, crossing: Crossing, run: "AsyncRun") -> None:
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


class LoopTurns:
    """Counts the turns of the loop, as far as somebody wants to know, and deals out its time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.number = 0
        # How long one generator may go on in this turn of the loop.
        self.slice_s = LOOP_TURN_S
        self._share_s = LOOP_TURN_S
        self._hurried = 0
        self._loop = loop
        self._sharing = 0

    def share(self) -> None:
        """A generator begins its slice. `number` will have grown when the loop has turned."""
        if not self._sharing:
            self._loop.call_soon(self._turned)
        self._sharing += 1

    def _turned(self) -> None:
        self._share_s = LOOP_TURN_S / self._sharing
        self._sharing = 0
        self.number += 1
        self.slice_s = 0.0 if self._hurried else self._share_s
        self._hurried = max(0, self._hurried - 1)

    def hurry(self) -> None:
        """The next turns are to be short. From any thread."""
        self._hurried = HURRIED_TURNS
        self.slice_s = 0.0


class AsyncRun:
    """One turn of an async agent, in a task of its own."""

    def __init__(
        self, agent: AnyAgent, crossing: Crossing, turns: LoopTurns, metrics: Metrics, models: Models
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        # What came of it; nothing when it was stopped.
        self.outcome: Outcome | None = None
        self.failure: AgentFailure | None = None
        self._agent = agent
        self._crossing = crossing
        self._turns = turns
        self._metrics = metrics
        self._models = TurnModels(models, lambda: self._turn.time_left_s)
        self._turn = Turn(crossing, self._models)
        # The agent has been told that it is to end: by the cancellation of the task, or through the generator.
        self._is_told = False
        self._slice_turn = -1
        self._slice_began_at = 0.0

    def cancel(self) -> None:
        """Cancels the task, once: what the agent does about it is not to be interrupted."""
        if not self._is_told and self.task is not None:
            self._is_told = True
            self.task.cancel()
            # Wherever the agent stands, and whatever it does about it.
            self._models.hang_up()

    async def live(self) -> None:
        crossing = self._crossing
        CURRENT_TURN.set((crossing.request.session_id, crossing.request.attempt))
        try:
            made = self._agent.function(self._turn)
            if self._agent.kind is Kind.ASYNC_GENERATOR:
                await self._listen(made)
            else:
                _say_answer(crossing, await made)
            self.outcome = Outcome.COMPLETED
        except BaseException as error:  # noqa: BLE001 - whatever an agent raises is its session's failure alone
            self.outcome, self.failure = _failed(crossing, error)
        finally:
            self._models.hang_up()

    async def _listen(self, generator: AsyncGenerator[object, None]) -> None:
        error = await self._pass_on(generator)
        while error is not None:
            if self._crossing.is_over:
                await self._close(generator, error)
                return
            # To the very line that yielded it, so that the traceback names it.
            try:
                output = await generator.athrow(error)
            except StopAsyncIteration:
                return
            error = await self._take(output) or await self._pass_on(generator)

    async def _pass_on(self, generator: AsyncGenerator[object, None]) -> BaseException | None:
        """Takes what the agent yields, to its end or to something that can't be taken."""
        # This runs for every token, so what is added here is not cheap.
        say = self._crossing.say
        async for output in generator:
            try:
                room = say(output) if output.__class__ is str else self._put(output)
                if not room or self._is_slice_over():
                    await self._pause()
            except BaseException as error:  # noqa: BLE001 - goes to the agent
                return error
        return None

    async def _take(self, output: object) -> BaseException | None:
        try:
            if not self._put(output):
                await self._pause()
        except BaseException as error:  # noqa: BLE001 - goes to the agent
            return error
        return None

    def _put(self, output: object) -> bool:
        return put(self._crossing, output)

    def _is_slice_over(self) -> bool:
        now = time.perf_counter()
        if self._slice_turn != self._turns.number:
            self._slice_turn, self._slice_began_at = self._turns.number, now
            self._turns.share()
            return False
        return now - self._slice_began_at > self._turns.slice_s

    async def _pause(self) -> None:
        if self._crossing.turn.has_room:
            await asyncio.sleep(0)
            return
        began_at = time.perf_counter()
        await asyncio.wrap_future(self._crossing.room())
        self._metrics.outbox_waited(self._agent.name, time.perf_counter() - began_at)

    async def _close(self, generator: AsyncGenerator[object, None], error: BaseException) -> None:
        # A cancellation that hit this class while it waited for room has not been seen by the agent.
        has_swallowed = self._is_told and isinstance(error, Stopped)
        self._is_told = True
        with suppress(StopAsyncIteration, asyncio.CancelledError):
            if not has_swallowed:
                await generator.athrow(asyncio.CancelledError())
            try:
                await generator.aclose()
            except RuntimeError as ignored:
                _LOG.warning(IGNORED, ignored)


class BlockingRun:
    """One turn of a sync agent, in a thread of its own."""

    def __init__(self, agent: AnyAgent, crossing: Crossing, ended: Ended, metrics: Metrics) -> None:
        self._agent = agent
        self._crossing = crossing
        self._ended = ended
        self._metrics = metrics

    def live(self) -> None:
        crossing = self._crossing
        CURRENT_TURN.set((crossing.request.session_id, crossing.request.attempt))
        outcome: Outcome | None = None
        failure: AgentFailure | None = None
        try:
            made = self._agent.function(BlockingTurn(crossing))
            if self._agent.kind is Kind.GENERATOR:
                self._listen(made)
            else:
                _say_answer(crossing, made)
            outcome = Outcome.COMPLETED
        except BaseException as error:  # noqa: BLE001 - whatever an agent raises is its session's failure alone
            outcome, failure = _failed(crossing, error)
        finally:
            _end(crossing, outcome, failure, self._ended)

    def _listen(self, generator: Generator[object, None, None]) -> None:
        error = self._pass_on(generator)
        while error is not None:
            if self._crossing.is_over:
                self._close(generator)
                return
            try:
                output = generator.throw(error)
            except StopIteration:
                return
            error = self._take(output) or self._pass_on(generator)

    def _pass_on(self, generator: Generator[object, None, None]) -> BaseException | None:
        for output in generator:
            error = self._take(output)
            if error is not None:
                return error
        return None

    def _take(self, output: object) -> BaseException | None:
        try:
            if not put(self._crossing, output):
                began_at = time.perf_counter()
                self._crossing.room().result()
                self._metrics.outbox_waited(self._agent.name, time.perf_counter() - began_at)
        except BaseException as error:  # noqa: BLE001 - goes to the agent
            return error
        return None

    def _close(self, generator: Generator[object, None, None]) -> None:
        with suppress(StopIteration, asyncio.CancelledError):
            generator.throw(Stopped())
            try:
                generator.close()
            except RuntimeError as ignored:
                _LOG.warning(IGNORED, ignored)


def put(crossing: Crossing, output: object) -> bool:
    """What an agent yielded, as it may be: True while there is room for more."""
    if isinstance(output, str):
        return crossing.say(str(output))
    if isinstance(output, Output):
        return crossing.put(output)
    raise not_sayable("yielded", output)


def _say_answer(crossing: Crossing, answer: Any) -> None:
    if answer is None:
        return
    if not isinstance(answer, str):
        raise TypeError(
            f"an agent that is a function returns its answer as a str, not {type(answer).__name__};"
            " to say more than that, make it a generator"
        )
    crossing.say(answer)


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
        crossing.finish(outcome, failure)
    except Exception:  # noqa: BLE001 - a mistake here must not leave the session without an end
        _LOG.exception("the agent's end could not be told as it was")
        outcome = Outcome.FAILED
        crossing.finish(outcome, UNTOLD)
    return outcome


def _failed(crossing: Crossing, error: BaseException) -> tuple[Outcome | None, AgentFailure | None]:
    """What came of an agent that raised this: nothing when it was stopped. Raises nothing itself.

    An exception is its author's code too: to ask for its text may raise again, SystemExit included.
    """
    try:
        if not crossing.is_over:
            return Outcome.FAILED, _failure(error)
        if not isinstance(error, asyncio.CancelledError):
            _LOG.warning("the agent was stopped, and failed while it ended", exc_info=error)
    except BaseException:  # noqa: BLE001 - see above
        # Not even its name may be asked for in the common way: that may be its author's code as well.
        kind = str(type.__dict__["__name__"].__get__(type(error)))
        return Outcome.FAILED, AgentFailure.of(UNTOLD.code, UNTOLD.message, kind, False, None)
    return None, None


def _failure(error: BaseException) -> AgentFailure:
    kind = type(error).__name__
    try:
        message = str(error)
    except BaseException:  # noqa: BLE001 - its own __str__ may be what is broken
        message = ""
    if isinstance(error, AgentError):
        _LOG.info("the agent gives up: %s", message)
        return AgentFailure.of(
            error.code,
            message or kind,
            kind,
            error.retryable,
            error.retry_after_s,
            error.origin,
            error.upstream_status,
        )
    _LOG.error("the agent failed", exc_info=error)
    if isinstance(error, asyncio.CancelledError):
        # Nobody asked for it: other code in this process did it, and need not do it again.
        message = message or "the agent was cancelled from within"
        return AgentFailure.of("agent_exception", message, kind, True, None)
    return AgentFailure.of("agent_exception", message or kind, kind, False, None)


def _tell_cancelled(crossing: Crossing, why: str) -> None:
    _LOG.info("cancelled: %s", why, extra=about(crossing.request.session_id, crossing.request.attempt))


def _name(agent: AnyAgent, crossing: Crossing) -> str:
    return f"{agent.label} {crossing.request.session_id}/{crossing.request.attempt}"
