"""A tool that fails again and again is left alone for a while."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tool_scene import LOOPS, Drive, ask, code_of, driver, message_of, runner_of

from dispatcher.tools import ToolError
from dispatcher.tools.breaker import STATES, Breaker

Ts = TypeVarTuple("Ts")


@pytest.fixture(params=LOOPS)
def drive(request: pytest.FixtureRequest) -> Drive[Any]:
    return driver(request.param)


def broken(failures: int = 3, now: float = 0.0) -> Breaker:
    breaker = Breaker(3, 30.0)
    for _ in range(failures):
        assert breaker.refuse_s(now) is None
        breaker.failed(now)
    return breaker


def test_so_many_failures_in_a_row_open_it() -> None:
    breaker = broken(2)
    assert breaker.refuse_s(5.0) is None
    assert breaker.failed(5.0)
    assert breaker.refuse_s(6.0) == 29.0
    assert repr(breaker) == "<Breaker open, 3 failures in a row>"


def test_its_state_has_a_name() -> None:
    breaker = broken(2)
    assert breaker.state == "closed"
    breaker.failed(0.0)
    assert breaker.state == "open"
    breaker.refuse_s(30.0)
    assert breaker.state == "half_open"
    breaker.worked()
    assert breaker.state == "closed"
    assert {"open", "half_open", "closed"} == set(STATES)


def test_one_that_works_in_between_begins_the_count_again() -> None:
    breaker = broken(2)
    assert not breaker.worked()
    assert not breaker.failed(0.0)
    assert breaker.failures == 1


def test_after_its_time_one_call_tries_and_decides() -> None:
    breaker = broken()
    assert breaker.refuse_s(30.0) is None
    assert repr(breaker) == "<Breaker trying, 3 failures in a row>"
    assert breaker.refuse_s(30.0) == 30.0
    assert breaker.failed(31.0)
    assert breaker.refuse_s(32.0) == 29.0
    assert breaker.refuse_s(61.0) is None
    assert breaker.worked()
    assert not breaker.is_open
    assert breaker.refuse_s(61.0) is None


def test_a_try_that_shows_nothing_leaves_the_next_one_to_try() -> None:
    breaker = broken()
    assert breaker.refuse_s(30.0) is None
    breaker.let_go()
    assert breaker.refuse_s(30.0) is None


def test_calls_from_before_keep_it_open_no_longer() -> None:
    breaker = broken()
    assert not breaker.failed(29.0)
    assert breaker.refuse_s(30.0) is None


def test_none_may_fail_means_that_all_may() -> None:
    breaker = Breaker(0, 30.0)
    assert not any(breaker.failed(0.0) for _ in range(1_000))
    assert breaker.refuse_s(0.0) is None


@given(st.lists(st.sampled_from(["ask", "worked", "failed", "let_go"]), max_size=80), st.integers(1, 4))
def test_it_is_open_only_after_failures_and_never_for_ever(steps: list[str], failures_max: int) -> None:
    breaker, in_a_row, now = Breaker(failures_max, 10.0), 0, 0.0
    for step in steps:
        now += 1.0
        if step == "ask":
            refuse_s = breaker.refuse_s(now)
            assert refuse_s is None or 0 < refuse_s <= 10.0
        elif step == "worked":
            breaker.worked()
            in_a_row = 0
        elif step == "failed":
            breaker.failed(now)
            in_a_row += 1
        else:
            breaker.let_go()
        assert breaker.failures == in_a_row
        assert not breaker.is_open or in_a_row >= failures_max
    breaker.let_go()
    assert breaker.refuse_s(now + 10.0) is None


def test_a_broken_tool_is_not_run_until_its_time_is_over(drive: Drive[Any]) -> None:
    ran: list[int] = []

    async def search() -> str:
        ran.append(1)
        if len(ran) < 4:
            raise OSError("no route")
        return "found"

    async def scene() -> None:
        runner = runner_of(search, failures=2, open_s=30)
        for _ in range(2):
            assert "no route" in message_of(await runner.run(ask("search")))
        refused = await runner.run(ask("search"))
        assert code_of(refused) == "failed"
        assert refused.error is not None
        assert refused.error.retryable
        assert 0 < (refused.error.retry_after_s or 0) <= 30
        assert message_of(refused).startswith("it has failed 2 times in a row and is left alone for a while")
        assert len(ran) == 2
        assert runner.stats()["search"].is_open
        assert runner.stats()["search"].running == 0
        await runner.close()

    drive(scene())


def test_a_tool_that_works_again_is_run_again(drive: Drive[Any]) -> None:
    ran: list[int] = []

    async def search() -> str:
        ran.append(1)
        if len(ran) < 4:
            raise OSError("no route")
        return "found"

    async def scene() -> None:
        runner = runner_of(search, failures=2, open_s=0.001)
        while (await runner.run(ask("search"))).error is not None:
            pass
        assert not runner.stats()["search"].is_open
        assert len(ran) == 4
        await runner.close()

    drive(scene())


def test_a_tool_that_says_no_works(drive: Drive[Any]) -> None:
    async def search(wants_retry: bool) -> str:
        raise ToolError("nothing is found", retryable=wants_retry)

    async def scene() -> None:
        runner = runner_of(search, failures=2)
        for _ in range(5):
            await runner.run(ask("search", {"wants_retry": False}))
            await runner.run(ask("search", "no json"))
        assert not runner.stats()["search"].is_open
        for _ in range(2):
            await runner.run(ask("search", {"wants_retry": True}))
        assert runner.stats()["search"].is_open
        await runner.close()

    drive(scene())


def test_timeouts_count_when_the_tool_had_its_time(drive: Drive[Any]) -> None:
    async def search() -> str:
        await asyncio.Event().wait()
        return ""

    async def scene() -> None:
        hasty = runner_of(search, failures=1, timeout_s=30)
        assert code_of(await hasty.run(ask("search", timeout_s=0.01))) == "timeout"
        assert not hasty.stats()["search"].is_open
        await hasty.close()
        await assert_a_timeout_counts(search)

    drive(scene())


class EarlyLoop(asyncio.SelectorEventLoop):
    """A loop whose timers are a little early by the clock, as uvloop's are now and then."""

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_later(delay - 0.005, callback, *args, context=context)


def test_a_timeout_counts_where_the_loop_wakes_early() -> None:
    async def search() -> str:
        await asyncio.Event().wait()
        return ""

    with asyncio.Runner(loop_factory=EarlyLoop) as runner:
        runner.run(assert_a_timeout_counts(search))


async def assert_a_timeout_counts(search: Callable[..., object]) -> None:
    """Tries again where the machine was too busy to begin the tool in half of its time: that doesn't count."""
    slow = runner_of(search, failures=1, timeout_s=0.2)
    for _ in range(20):
        assert code_of(await slow.run(ask("search"))) == "timeout"
        if slow.stats()["search"].is_open:
            break
    assert slow.stats()["search"].is_open
    await slow.close()


def test_a_cancelled_try_lets_the_next_one_try(drive: Drive[Any]) -> None:
    ran: list[int] = []
    begun = threading.Event()

    async def search() -> str:
        ran.append(1)
        if len(ran) == 1:
            raise OSError("no route")
        if len(ran) == 2:
            begun.set()
            await asyncio.Event().wait()
        return "found"

    async def scene() -> None:
        runner = runner_of(search, failures=1, open_s=0.001)
        await runner.run(ask("search"))
        trying = asyncio.create_task(runner.run(ask("search")))
        while not begun.is_set():
            if trying.done():
                trying = asyncio.create_task(runner.run(ask("search")))
            await asyncio.sleep(0)
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        assert code_of(await runner.run(ask("search"))) == "ok"
        await runner.close()

    drive(scene())
