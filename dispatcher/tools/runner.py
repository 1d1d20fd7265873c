"""Runs tools: one request in, exactly one outcome out, within every limit.

The order of a call: is there such a tool; may this agent and user call it; are the arguments JSON and do they fit; is
it not too often; is there a place; then it runs, bounded in time and output. Nothing has run when one of these says no.
That a call is run at most once is the ledger's promise: the runner runs what it is asked.

Called by the hub, from one event loop. Not from several threads.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import TypeVar, get_args

from dispatcher.tools import arguments as arguments_of
from dispatcher.tools.agent import AgentTool
from dispatcher.tools.call import Call, NoThreadError
from dispatcher.tools.contract import (
    Delegation,
    FailureCode,
    Tool,
    ToolAway,
    ToolContext,
    ToolError,
    ToolOffer,
    ToolOutcome,
    ToolRequest,
    said,
)
from dispatcher.tools.places import PlacesClosedError, PlacesFullError
from dispatcher.tools.result import encode, encode_if_short
from dispatcher.tools.rules import Rules
from dispatcher.tools.station import RunnerLimits, Station, ToolStats
from dispatcher.tools.stations import Make, Stations
from dispatcher.tools.threads import Threads

# (tool name, "ok" or a failure code, seconds from request to outcome). Unknown names are told as
# UNKNOWN_TOOL, or an agent that invents names would make a metric series of each.
Observe = Callable[[str, str, float], None]
UNKNOWN_TOOL = "(unknown)"

# Up to so much is read on the loop, in well under a millisecond; more in a thread. A value takes about 10 µs
# to check.
PARSED_ON_LOOP_CHARS_MAX = 16_384
CHECKED_ON_LOOP_VALUES_MAX = 200

T = TypeVar("T")

log = logging.getLogger(__name__)


class ToolRunner:
    """All tools on offer. Made before the loop runs or in it; used in one loop."""

    def __init__(
        self,
        tools: Iterable[Tool],
        limits: RunnerLimits | None = None,
        *,
        observe: Observe | None = None,
        rules: Rules | None = None,
    ) -> None:
        """Raises ToolLoadError: a name twice or unfit, a schema that is invalid or refers to elsewhere."""
        self._limits = limits or RunnerLimits()
        self._observe = observe
        self._rules = rules or Rules()
        self._threads = Threads(self._limits.threads, self._limits.waiting)
        # For checking long arguments and writing long results: a thread that no tool can hold up.
        self._paperwork = Threads(1, self._limits.waiting, "tool-json")
        # For documents and schemas of sources.
        self._desk = Threads(2, self._limits.waiting, "tool-source")
        self._closed = False
        self._stations = Stations(tools, self._limits)

    def __repr__(self) -> str:
        running = sum(station.places.taken for station in self._stations.all)
        state = "closed" if self._closed else "open"
        return (
            f"<ToolRunner {state}, {len(self._stations.by_name)} tools, {running} calls, {self._threads!r}>"
        )

    @property
    def idempotent_tools(self) -> frozenset[str]:
        """Names of those that say so: to run them twice with one key does no more than to run them once."""
        stations = self._stations.by_name.items()
        return frozenset(name for name, station in stations if getattr(station.tool, "is_idempotent", False))

    @property
    def limits(self) -> RunnerLimits:
        return self._limits

    def offers(self) -> tuple[ToolOffer, ...]:
        """The tools as told to agents, in the order given."""
        return self._stations.offers

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called whenever there are other offers than before."""
        self._stations.watchers.append(changed)

    async def replace(self, source: str, make: Make) -> list[str]:
        """What `source` offers from now on: what `make` gives, called in a thread. Calls under way end as they would
        have. A tool that can't be offered is left out: returns why, for each. Raises what `make` raises."""
        checking = self._stations.checking(source, make, self._limits)
        checked = await Call(self._desk, lambda _: None).in_thread(checking)
        return self._stations.replace(source, checked, self._limits)

    def stats(self) -> dict[str, ToolStats]:
        """By tool name, as of now."""
        return {name: station.stats() for name, station in self._stations.by_name.items()}

    def change_limits(self, limits: RunnerLimits) -> None:
        """For calls from now on; those that run keep theirs. Raises ValueError: threads can't be changed."""
        if limits.threads != self._limits.threads:
            raise ValueError(
                f"threads is {limits.threads}; it can't be changed from {self._limits.threads} while running"
            )
        self._limits = limits
        for station in self._stations.all:
            station.limit(limits)

    async def run(self, request: ToolRequest) -> ToolOutcome:
        """Runs one call. Raises CancelledError alone, which cancels the tool; never outlasts the timeout. A call of an
        agent that is offered as a tool is not run here: the outcome says whom to ask `instead`."""
        asked_at = time.monotonic()
        station = self._stations.by_name.get(request.tool_name)
        code = "cancelled"
        try:
            if station is None:
                outcome = self._not_found(request.tool_name)
            else:
                station.calls += 1
                outcome = await self._run_at(station, request, asked_at)
            code = outcome.code
            return outcome
        finally:
            self._note(station, code, time.monotonic() - asked_at)

    async def close(self, grace_s: float = 5.0) -> int:
        """Takes no more calls, cancels those that run, waits for them at most `grace_s`.

        Returns how many have still not ended; their threads are left behind and don't keep the process alive.
        Every `run` under way returns its outcome. May be called again.
        """
        self._closed = True
        stations = self._stations.all
        for station in stations:
            station.places.close()
            for call in station.live:
                call.abandon()
        self._threads.close()
        self._paperwork.close()
        self._desk.close()
        live = [call.ended for station in stations for call in station.live]
        if live:
            await asyncio.wait(live, timeout=grace_s)
        stuck = {each.tool.name: len(each.live) for each in stations if each.live}
        if stuck:
            log.warning(
                "left behind tools that did not end: %s",
                ", ".join(f"{name} ({count})" for name, count in stuck.items()),
            )
        return sum(stuck.values())

    # --- one call ----------------------------------------------------------------------------------------

    def _not_found(self, name: str) -> ToolOutcome:
        names = sorted(self._stations.by_name)
        on_offer = (
            f"; on offer are {', '.join(names[:10])}{', …' if len(names) > 10 else ''}" if names else ""
        )
        hint = arguments_of.did_you_mean(name, names) or on_offer or "; there are no tools"
        return ToolOutcome.failed("not_found", f"no tool is named {arguments_of.shortened(name)}{hint}")

    async def _run_at(self, station: Station, request: ToolRequest, asked_at: float) -> ToolOutcome:
        allowed_s = _shorter(station.timeout_s, request.timeout_s)
        deadline = asked_at + allowed_s
        try:
            self._rules.require_may(request)
            arguments = await self._checked(station, request, deadline)
            if self._rules.is_dry(request.tool_name):
                return ToolOutcome(await self._written(_dry(request, arguments), station.output_bytes))
            approval = self._rules.approval(request, station.offer.parameters_schema_json)
            if approval is not None:
                return ToolOutcome("", instead=approval)
            with self._rules.spending(request.tool_name, time.monotonic()):
                if isinstance(station.tool, AgentTool):
                    task = await station.tool.call(arguments, ToolContext())
                    asked = json.dumps(task, ensure_ascii=False)
                    return ToolOutcome("", instead=Delegation(station.tool.agent, asked, allowed_s))
                await self._place(station, deadline)
                self._ask_breaker(station)
        except ToolError as refusal:
            return _failed(refusal)
        except TimeoutError:
            waited = f"it waited {allowed_s:g} s for its turn and did not begin"
            return ToolOutcome.failed("timeout", waited, retryable=True)
        except Exception:  # ours: the outcome is owed all the same
            log.exception("tool %s: checking a call went wrong", request.tool_name, extra=_where(request))
            return ToolOutcome.failed("failed", "the dispatcher could not check the arguments; nothing ran")
        return await self._at_work(station, request, arguments, allowed_s, deadline)

    async def _checked(self, station: Station, request: ToolRequest, deadline: float) -> dict[str, object]:
        """Raises ToolError, and TimeoutError where checking took too long."""
        if self._closed:
            raise ToolError(_GOING_AWAY, retryable=True)
        text, limit_bytes = request.arguments_json, self._limits.arguments_bytes
        if len(text) <= PARSED_ON_LOOP_CHARS_MAX or len(text) > limit_bytes:
            arguments, values = arguments_of.parse(text, limit_bytes)
            if values <= CHECKED_ON_LOOP_VALUES_MAX:
                station.schema.check(arguments)
                return arguments

        def parsed_and_checked() -> dict[str, object]:
            read, _ = arguments_of.parse(text, limit_bytes)
            station.schema.check(read)
            return read

        async with asyncio.timeout_at(asyncio.get_running_loop().time() + _left(deadline)):
            return await self._on_paper(parsed_and_checked)

    async def _place(self, station: Station, deadline: float) -> None:
        """Raises ToolError where as many wait as may, TimeoutError where none became free."""
        places = station.places
        try:
            taken = await places.take(_left(deadline))
        except PlacesFullError:
            hint_s = station.retry_after_s()
            raise ToolError(
                f"{places.taken} calls of it run and {places.waiting} wait, as many as may; "
                f"nothing ran: try again in {hint_s:.1f} s",
                retryable=True,
                retry_after_s=hint_s,
            ) from None
        except PlacesClosedError:
            raise ToolError(_GOING_AWAY, retryable=True) from None
        if not taken:
            raise TimeoutError
        if self._closed or _left(deadline) == 0.0:
            places.give_back()
            raise ToolError(_GOING_AWAY, retryable=True) if self._closed else TimeoutError

    def _ask_breaker(self, station: Station) -> None:
        """Raises ToolError while the tool is left alone. Has a place, which is given back then."""
        refuse_s = station.breaker.refuse_s(time.monotonic())
        if refuse_s is not None:
            station.places.give_back()
            raise ToolError(
                f"it has failed {station.breaker.failures} times in a row and is left alone for a while; "
                f"nothing ran: try again in {refuse_s:.1f} s",
                retryable=True,
                retry_after_s=refuse_s,
            )

    async def _at_work(
        self,
        station: Station,
        request: ToolRequest,
        arguments: dict[str, object],
        allowed_s: float,
        deadline: float,
    ) -> ToolOutcome:
        """Has a place; the call gives it back when it has really ended."""
        call = Call(self._threads, station.leave)
        station.live.add(call)
        context = ToolContext(
            session_id=request.session_id,
            attempt=request.attempt,
            call_id=request.call_id,
            idempotency_key=request.idempotency_key,
            user_id=request.user_id,
            agent=request.agent,
            deadline=deadline,
            output_bytes=station.output_bytes,
            cancelled=call.cancelled,
            in_thread=call.in_thread,
            progressed=request.progressed,
        )
        task = call.start(self._outcome(station, request, arguments, context))
        timed_out = False
        try:
            # Not wait_for: it waits until a cancelled task has ended, and that may be never.
            ended, _ = await asyncio.wait(
                (task, call.dropped), timeout=_left(deadline), return_when=asyncio.FIRST_COMPLETED
            )
            # Not asked of the clock: a loop's timers may be a little early by it.
            timed_out = not ended
        finally:
            if not task.done():
                call.abandon()
                # Not the tool's fault: the call was cancelled, or had no thread, or no time to speak of.
                had_time = time.monotonic() - call.began_at >= station.timeout_s / 2
                if had_time and timed_out and not (self._closed or call.waited_for_thread):
                    self._failed_again(station)
                else:
                    station.breaker.let_go()
        if task.done() and not task.cancelled():
            return task.result()
        if self._closed:
            return ToolOutcome.failed("cancelled", f"{_GOING_AWAY}; it may have done part of its work")
        if task.done():
            return ToolOutcome.failed("failed", "CancelledError: the tool cancelled itself")
        return ToolOutcome.failed("timeout", self._too_long(request.tool_name, allowed_s, call))

    async def _outcome(
        self, station: Station, request: ToolRequest, arguments: dict[str, object], context: ToolContext
    ) -> ToolOutcome:
        """What the tool came to, whatever it raised but its cancellation."""
        works = True
        try:
            value = await station.tool.call(arguments, context)
            result_json = await self._written(value, context.output_bytes)
            told_json = self._rules.told(request.tool_name, result_json)
            outcome = ToolOutcome(result_json, told_json=told_json)
        except ToolAway as error:
            station.breaker.let_go()
            return _failed(error)
        except ToolError as error:
            outcome, works = _failed(error), not error.retryable
        except asyncio.CancelledError:
            station.breaker.let_go()
            raise
        except BaseException as error:  # what would end us too: that is only the tool's wish
            log.exception("tool %s failed", request.tool_name, extra=_where(request))
            outcome, works = ToolOutcome.failed("failed", said(error)), False
        if not context.cancelled.is_set():
            self._told_breaker(station, works=works)
        else:
            log.info(
                "tool %s ended late (%s); its outcome is dropped",
                request.tool_name,
                outcome.code,
                extra=_where(request),
            )
        return outcome

    def _told_breaker(self, station: Station, *, works: bool) -> None:
        if not works:
            self._failed_again(station)
        elif station.breaker.worked():
            log.info("tool %s works again: its circuit breaker is closed", station.tool.name)

    def _failed_again(self, station: Station) -> None:
        breaker = station.breaker
        if breaker.failed(time.monotonic()):
            log.error(
                "tool %s has failed %d times in a row: its circuit breaker is open for %g s",
                station.tool.name,
                breaker.failures,
                breaker.open_s,
            )

    async def _written(self, value: object, limit_bytes: int) -> str:
        text = encode_if_short(value, limit_bytes)
        if text is not None:
            return text
        try:
            return await self._on_paper(encode, value, limit_bytes)
        except NoThreadError:
            return encode(value, limit_bytes)  # the tool has run: better late than lost

    async def _on_paper(self, function: Callable[..., T], *arguments: object) -> T:
        return await Call(self._paperwork, lambda _: None).in_thread(function, *arguments)

    def _too_long(self, name: str, allowed_s: float, call: Call) -> str:
        text = f"{name} took longer than {allowed_s:g} s"
        if call.waited_for_thread:
            return f"{text}; it waited for a thread, and all {self._threads.threads_max} are busy"
        return f"{text}; it may have done part of its work"

    def _note(self, station: Station | None, code: str, seconds: float) -> None:
        if station is not None:
            station.outcomes[code] += 1
        if self._observe is None:
            return
        try:
            self._observe(UNKNOWN_TOOL if station is None else station.tool.name, code, seconds)
        except Exception:  # a metric that fails must not take the outcome with it
            log.exception("telling the outcome of a tool failed")


def _dry(request: ToolRequest, arguments: dict[str, object]) -> dict[str, object]:
    return {"dry_run": True, "tool": request.tool_name, "arguments": arguments}


_GOING_AWAY = "the dispatcher is going away"


def _failed(error: ToolError) -> ToolOutcome:
    code = error.code if error.code in get_args(FailureCode) else "failed"
    return ToolOutcome.failed(
        code, error.message, retryable=error.retryable, retry_after_s=error.retry_after_s
    )


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _shorter(own_s: float, asked_s: float | None) -> float:
    return own_s if asked_s is None or math.isnan(asked_s) else min(own_s, max(0.0, asked_s))


def _where(request: ToolRequest) -> dict[str, object]:
    return {"session": request.session_id, "attempt": request.attempt, "call": request.call_id}
