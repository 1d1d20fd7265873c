"""Gets an answer out of a model: tries, waits, falls back, and knows when to give up.

Before the first sign of an answer, what fails in passing is tried again and then asked of the fallbacks. After it
nothing is ever repeated: somebody may have read it. Whoever cancels this closes the provider's connection.
"""

import asyncio
import logging
import random
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, cast

from commander.core.breaker import State
from commander.errors import ModelFailed
from commander.metrics import Metrics
from commander.models.failures import Trouble
from commander.models.registry import Entry
from commander.models.words import Ask, Finished, Said, Tokens

_LOG = logging.getLogger(__name__)

# A connection that can't even be closed within this time is left to the system.
CLOSE_S: Final = 2.0


class _Slow(Trouble):
    """Who still speaks when the time for all of it is over is well."""


# Takes each thing the model says; it may wait, and then so does the model.
Tell = Callable[[Said], Awaitable[None]]


class Speaking:
    """One request. `answered_by` is the model that speaks, once one does. `ask_of` is what each is asked, by its own
    table; Trouble for one that can't be."""

    def __init__(
        self,
        route: list[Entry],
        ask_of: Callable[[Entry], Ask],
        left_s: Callable[[], float | None],
        metrics: Metrics,
    ) -> None:
        self.answered_by = route[0]
        self._route = route
        self._ask_of = ask_of
        self._left_s = left_s
        self._metrics = metrics
        self._has_begun = False

    async def say(self, tell: Tell) -> None:
        """Tells what the model says. ModelFailed when no model said anything, or the one that did broke off."""
        last: ModelFailed | None = None
        for place, entry in enumerate(self._route):
            if place:
                _LOG.warning("model %s: falling back to %s", self._route[place - 1].name, entry.name)
                self._metrics.model_fell_back(self._route[0].name, entry.name)
            self.answered_by = entry
            try:
                await self._try(entry, tell)
            except Trouble as trouble:
                last = self._failed(entry, trouble, last)
                # What a fallback can't do, the next one may: that the first has failed in passing is not undone by it.
                if self._has_begun or not (place or trouble.traits.falls_back):
                    break
            else:
                return
        assert last is not None, "a route has at least one model"
        raise last

    async def _try(self, entry: Entry, tell: Tell) -> None:
        """The tries of one model. Trouble is the last one's."""
        failures, ask = 0, self._ask_of(entry)
        while True:
            try:
                return await self._once(entry, ask, tell)
            except Trouble as trouble:
                failures += 1
                wait_s = self._wait_s(entry, trouble, failures)
                if wait_s is None:
                    raise
                _LOG.warning(
                    "model %s: %s: %s; try %d of %d in %.1f s",
                    entry.name,
                    trouble.code,
                    trouble.message,
                    failures + 1,
                    entry.table.attempts,
                    wait_s,
                )
                self._metrics.model_retried(entry.name, trouble.code)
            await asyncio.sleep(wait_s)

    def _wait_s(self, entry: Entry, trouble: Trouble, failures: int) -> float | None:
        if self._has_begun or not trouble.traits.is_retried:
            return None
        return entry.schedule.wait_s(
            failures,
            asked_s=trouble.retry_after_s,
            left_s=self._left_s(),
            random_unit=random.random(),  # noqa: S311 - jitter, no secret
        )

    async def _once(self, entry: Entry, ask: Ask, tell: Tell) -> None:
        """One try, with the breaker and the metrics told what came of it."""
        loop, breaker = asyncio.get_running_loop(), entry.breaker
        refused_s = breaker.refuse_s(loop.time())
        if refused_s is not None:
            self._metrics.model_requested(entry.name, "model_circuit_open")
            told = f"it failed {breaker.failures} times in a row and is left alone"
            raise Trouble("model_circuit_open", told, retry_after_s=refused_s)
        is_trying = breaker.state is State.HALF_OPEN
        outcome = "cancelled"
        try:
            async with _place(entry):
                await self._listen(entry, ask, tell)
            outcome = "completed"
        except Trouble as trouble:
            trouble.message = entry.told(trouble.message)
            outcome = trouble.code
            if self._is_of_the_provider(trouble):
                if breaker.failed(loop.time()):
                    _LOG.warning("models of %s: the circuit is open", entry.table.circuit)
            elif trouble.upstream_status is not None and not self._has_begun:
                # It answers, if only with no.
                breaker.worked()
            raise
        finally:
            self._metrics.model_requested(entry.name, outcome)
            if is_trying:
                breaker.let_go(loop.time())

    def _is_of_the_provider(self, trouble: Trouble) -> bool:
        """Whether it counts against the provider, whose circuit it may open."""
        if isinstance(trouble, _Slow):
            return False
        # An answer that has begun as one and breaks off is no wrong address.
        return trouble.traits.opens or (self._has_begun and trouble.code == "model_malformed")

    async def _listen(self, entry: Entry, ask: Ask, tell: Tell) -> None:
        """Everything that one try brings, each within its limit."""
        loop, table = asyncio.get_running_loop(), entry.table
        provider = await entry.provider()
        asked_at = loop.time()
        # In which somebody took what was said: no time of the model's.
        taking_s = 0.0
        stream = cast("AsyncGenerator[Said, None]", provider.stream(ask))
        limit, limit_s = "first_token_s", table.first_token_s
        try:
            while True:
                whole_left_s = asked_at + taking_s + table.whole_s - loop.time()
                if whole_left_s < limit_s:
                    limit, limit_s = "whole_s", whole_left_s
                is_slow = self._has_begun and limit == "whole_s"
                late = (_Slow if is_slow else Trouble)(
                    "model_timeout", f"{limit} = {getattr(table, limit):g} is over"
                )
                said = await _next(entry, stream, limit_s, late)
                if not self._has_begun and not isinstance(said, Tokens):
                    self._has_begun = True
                    self._metrics.model_began(entry.name, loop.time() - asked_at)
                    entry.breaker.began()
                told_at = loop.time()
                await tell(said)
                taking_s += loop.time() - told_at
                if isinstance(said, Finished):
                    entry.breaker.worked()
                    return
                limit, limit_s = "silence_s", table.silence_s
        finally:
            await _close(entry, stream)

    def _failed(self, entry: Entry, trouble: Trouble, before: ModelFailed | None) -> ModelFailed:
        traits = trouble.traits
        begun = " after it had begun to answer" if self._has_begun else ""
        message = (
            f"model {entry.name!r} ({entry.table.model}) failed{begun}: {trouble.message}; {traits.advice}"
        )
        is_retryable = traits.is_retryable
        retry_after_s = trouble.retry_after_s if is_retryable else None
        if before is not None:
            message += f" (before: {before.code} of {before.model!r})"
            if not is_retryable:
                # The one before may be well again by then.
                is_retryable, retry_after_s = before.retryable, before.retry_after_s
        return ModelFailed(
            message,
            code=trouble.code,
            model=entry.name,
            retryable=is_retryable,
            retry_after_s=retry_after_s,
            upstream_status=trouble.upstream_status,
            has_begun=self._has_begun,
        )


async def _next(entry: Entry, stream: AsyncGenerator[Said, None], limit_s: float, late: Trouble) -> Said:
    """What comes next, within `limit_s`; `late` is raised when it doesn't. Trouble is all that it raises."""
    limit = asyncio.timeout(max(limit_s, 0.0))
    try:
        async with limit:
            return await anext(stream)
    except StopAsyncIteration:
        raise Trouble("model_malformed", "the stream ended before the answer did") from None
    except Trouble:
        raise
    except Exception as error:  # noqa: BLE001 - a provider may be anybody's
        if limit.expired():
            raise late from None
        # A provider of somebody else's that does not tell its failures as it should.
        stack = entry.hide("".join(traceback.format_exception(error)))
        _LOG.error("a provider of models failed in a way of its own", extra={"stack": stack})
        raise Trouble("model_error", f"{type(error).__name__}: {error}") from None


async def _close(entry: Entry, stream: AsyncGenerator[Said, None]) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await stream.aclose()
    except TimeoutError:
        _LOG.warning("a model's connection could not be closed within %g s", CLOSE_S)
    except Exception as error:  # noqa: BLE001 - the answer is over; what its end raises changes nothing
        _LOG.debug("a model's connection ended with %s", entry.told(repr(error)))


@asynccontextmanager
async def _place(entry: Entry) -> AsyncIterator[None]:
    """One of the model's places, within the time that its first token may take."""
    try:
        async with asyncio.timeout(entry.table.first_token_s):
            await entry.places.acquire()
    except TimeoutError:
        told = f"{entry.table.concurrency} requests are under way"
        raise Trouble("model_busy", told) from None
    try:
        yield
    finally:
        entry.places.release()
