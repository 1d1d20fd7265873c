"""How an agent runs, from its first line to its end: an async one as a task of the agents' loop, a sync one in a
thread.

The same for the agent of a turn and for the members of its teams; who they are, and what their end means, is the
business of `runner.py` and `team.py`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from typing import Any

from commander.agent import AnyAgent, Kind
from commander.core.turn import Outcome
from commander.crossing import Passage
from commander.errors import AgentError, AgentFailure, Stopped
from commander.logs import CURRENT_TURN
from commander.outputs import Output
from commander.turn import BlockingTurn, Turn, not_sayable, what_is_meant

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

# Told how long an agent has waited for room in the outbox, seconds.
Waited = Callable[[float], None]


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
    """An async agent, in the task that `live` runs in. `hang_up` ends what it has under way besides: answers of models,
    teams."""

    def __init__(
        self,
        agent: AnyAgent,
        turn: Turn,
        crossing: Passage,
        turns: LoopTurns,
        hang_up: Callable[[], None],
        waited: Waited,
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        # What came of it; nothing when it was stopped.
        self.outcome: Outcome | None = None
        self.failure: AgentFailure | None = None
        # What it raised.
        self.error: BaseException | None = None
        self._agent = agent
        self._turn = turn
        self._crossing = crossing
        self._turns = turns
        self._hang_up = hang_up
        self._waited = waited
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
            self._hang_up()

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
            self.error = error
            self.outcome, self.failure = _failed(crossing, error)
        finally:
            self._hang_up()

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
        self._waited(time.perf_counter() - began_at)

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
    """A sync agent, in the thread that `live` runs in."""

    def __init__(self, agent: AnyAgent, turn: BlockingTurn, crossing: Passage, waited: Waited) -> None:
        # As of `AsyncRun`.
        self.outcome: Outcome | None = None
        self.failure: AgentFailure | None = None
        self.error: BaseException | None = None
        self._agent = agent
        self._turn = turn
        self._crossing = crossing
        self._waited = waited

    def live(self) -> None:
        crossing = self._crossing
        CURRENT_TURN.set((crossing.request.session_id, crossing.request.attempt))
        try:
            made = self._agent.function(self._turn)
            if self._agent.kind is Kind.GENERATOR:
                self._listen(made)
            else:
                _say_answer(crossing, made)
            self.outcome = Outcome.COMPLETED
        except BaseException as error:  # noqa: BLE001 - whatever an agent raises is its session's failure alone
            self.error = error
            self.outcome, self.failure = _failed(crossing, error)

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
            with self._crossing.guard:
                has_room = put(self._crossing, output)
            if not has_room:
                began_at = time.perf_counter()
                self._crossing.room().result()
                self._waited(time.perf_counter() - began_at)
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


def put(crossing: Passage, output: object) -> bool:
    """What an agent yielded, as it may be: True while there is room for more."""
    if isinstance(output, str):
        return crossing.say(str(output))
    if isinstance(output, Output):
        return crossing.put(output)
    raise not_sayable("yielded", output)


def _say_answer(crossing: Passage, answer: Any) -> None:
    if answer is None:
        return
    if not isinstance(answer, str):
        kind, advice = type(answer), "to say more than that, make it a generator"
        if what_is_meant(kind):
            advice = (
                "does a decorator hide that it is an async function, or a generator? Then that one is to await it, or"
                " to yield what it yields"
            )
        raise TypeError(
            f"an agent that is a function returns its answer as a str, not {kind.__name__}; {advice}"
        )
    with crossing.guard:
        crossing.say(answer)


def _failed(crossing: Passage, error: BaseException) -> tuple[Outcome | None, AgentFailure | None]:
    """What came of an agent that raised this: nothing when it was stopped. Raises nothing itself.

    An exception is its author's code too: to ask for its text may raise again, SystemExit included.
    """
    try:
        if not crossing.is_over:
            return Outcome.FAILED, told(error)
        if not isinstance(error, asyncio.CancelledError):
            _LOG.warning("the agent was stopped, and failed while it ended", exc_info=error)
    except BaseException:  # noqa: BLE001 - see above
        # Not even its name may be asked for in the common way: that may be its author's code as well.
        kind = str(type.__dict__["__name__"].__get__(type(error)))
        return Outcome.FAILED, AgentFailure.of(UNTOLD.code, UNTOLD.message, kind, False, None)
    return None, None


def told(error: BaseException) -> AgentFailure:
    """What is told of it; the log has the traceback. Of a group, which a TaskGroup makes of what its tasks raise, it is
    the one that has words for the user, or else the first."""
    raised, leaves = error, _leaves(error)
    error = next((each for each in leaves if isinstance(each, AgentError)), leaves[0])
    kind = type(error).__name__
    try:
        message = str(error)
    except BaseException:  # noqa: BLE001 - its own __str__ may be what is broken
        message = ""
    if isinstance(error, AgentError):
        _LOG.info("the agent gives up: %s", message, exc_info=raised if len(leaves) > 1 else None)
        return AgentFailure.of(
            error.code,
            message or kind,
            kind,
            error.retryable,
            error.retry_after_s,
            error.origin,
            error.upstream_status,
        )
    _LOG.error("the agent failed", exc_info=raised)
    if isinstance(error, asyncio.CancelledError):
        # Nobody asked for it: other code in this process did it, and need not do it again.
        message = message or "the agent was cancelled from within"
        return AgentFailure.of("agent_exception", message, kind, True, None)
    return AgentFailure.of("agent_exception", message or kind, kind, False, None)


def _leaves(error: BaseException) -> list[BaseException]:
    """What a group holds, those within it included; else the error itself."""
    leaves, rest = [], [error]
    while rest:
        one = rest.pop()
        if isinstance(one, BaseExceptionGroup):
            rest.extend(reversed(one.exceptions))
        else:
            leaves.append(one)
    return leaves
