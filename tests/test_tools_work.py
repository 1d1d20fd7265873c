"""Tools at work: timeouts, places, cancellation and closing, with real threads on both event loops."""

import asyncio
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_scene import (
    LOOPS,
    PATIENCE_S,
    Drive,
    Gate,
    ask,
    code_of,
    driver,
    message_of,
    runner_of,
    until,
)

from dispatcher.tools import PythonTool, RunnerLimits, ToolContext, ToolRunner, tool

# A timeout that bites, and not before a coroutine on a busy machine has begun.
LONG_ENOUGH_TO_BEGIN_S = 0.2


@pytest.fixture(params=LOOPS)
def drive(request: pytest.FixtureRequest) -> Drive[Any]:
    return driver(request.param)


# --- time ------------------------------------------------------------------------------------------------


def test_an_async_tool_is_cancelled_at_its_timeout(drive: Drive[Any]) -> None:
    ended = asyncio.Event()

    async def slow(context: ToolContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            assert context.cancelled.is_set()
            ended.set()

    async def scene() -> None:
        runner = runner_of(slow)
        outcome = await runner.run(ask("slow", timeout_s=LONG_ENOUGH_TO_BEGIN_S))
        assert code_of(outcome) == "timeout"
        assert "slow took longer than 0.2 s" in message_of(outcome)
        await ended.wait()
        await until(lambda: runner.stats()["slow"].running == 0)

    drive(scene())


@pytest.mark.parametrize(
    ("own", "asked", "told"), [(0.02, 9.0, "0.02"), (9.0, 0.03, "0.03"), (0.04, None, "0.04")]
)
def test_the_shorter_timeout_counts(drive: Drive[Any], own: float, asked: float | None, told: str) -> None:
    @tool(timeout_s=own)
    async def slow() -> None:
        await asyncio.Event().wait()

    async def scene() -> None:
        assert told in message_of(await runner_of(slow).run(ask("slow", timeout_s=asked)))

    drive(scene())


@pytest.mark.parametrize("asked", [0.0, -1.0])
def test_no_time_at_all_runs_nothing(drive: Drive[Any], asked: float) -> None:
    def never() -> None:
        raise AssertionError

    async def scene() -> None:
        outcome = await runner_of(never).run(ask("never", timeout_s=asked))
        assert code_of(outcome) == "timeout"
        assert "did not begin" in message_of(outcome)

    drive(scene())


def test_a_time_that_is_no_number_is_no_limit_of_its_own(drive: Drive[Any]) -> None:
    async def quick() -> int:
        return 1

    async def scene() -> None:
        for odd in (float("nan"), float("inf")):
            assert (await runner_of(quick).run(ask("quick", timeout_s=odd))).result_json == "1"

    drive(scene())


def test_an_async_tool_that_swallows_its_cancellation_keeps_its_place(drive: Drive[Any]) -> None:
    let_go = asyncio.Event()

    @tool(concurrency=1)
    async def stubborn() -> str:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    async def scene() -> None:
        runner = runner_of(stubborn)
        assert code_of(await runner.run(ask("stubborn", timeout_s=LONG_ENOUGH_TO_BEGIN_S))) == "timeout"
        stats = runner.stats()["stubborn"]
        assert (stats.running, stats.abandoned) == (1, 1)
        waited = await runner.run(ask("stubborn", timeout_s=0.02))
        assert code_of(waited) == "timeout"
        assert "did not begin" in message_of(waited)
        let_go.set()
        assert (await runner.run(ask("stubborn"))).result_json == '"at last"'
        assert dict(runner.stats()["stubborn"].outcomes) == {"timeout": 2, "ok": 1}

    drive(scene())


def test_a_sync_tool_past_its_timeout_keeps_its_place_until_it_returns(drive: Drive[Any]) -> None:
    gate = Gate()

    @tool(concurrency=1)
    def stuck(context: ToolContext) -> bool:
        gate.pass_in_thread()
        return context.cancelled.is_set()

    async def scene() -> None:
        runner = runner_of(stuck)
        # A thread takes its time to begin on a busy machine; what has not begun is taken back.
        while not gate.begun.acquire(blocking=False):
            assert code_of(await runner.run(ask("stuck", timeout_s=0.05))) == "timeout"
        assert runner.stats()["stuck"].abandoned == 1
        # Nobody gets the place: what comes next waits, in vain.
        assert "did not begin" in message_of(await runner.run(ask("stuck", timeout_s=0.02)))
        gate.opened.set()
        # The late result of the first belongs to nobody; the third call gets its own.
        assert (await runner.run(ask("stuck"))).result_json == "false"
        assert runner.stats()["stuck"].running == 0
        await runner.close()

    drive(scene())


def test_a_sync_tool_sees_that_it_is_no_longer_wanted(drive: Drive[Any]) -> None:
    begun, seen = threading.Event(), threading.Event()

    def polite(context: ToolContext) -> None:
        begun.set()
        assert context.cancelled.wait(PATIENCE_S)
        seen.set()

    async def scene() -> None:
        runner = runner_of(polite)
        while not begun.is_set():
            assert code_of(await runner.run(ask("polite", timeout_s=0.02))) == "timeout"
        await until(seen.is_set)
        await until(lambda: runner.stats()["polite"].running == 0)

    drive(scene())


def test_waiting_for_a_thread_counts_and_is_told(drive: Drive[Any]) -> None:
    gate = Gate()

    def takes_a_thread() -> None:
        gate.pass_in_thread()

    async def scene() -> None:
        runner = runner_of(takes_a_thread, threads=1)
        first = asyncio.create_task(runner.run(ask("takes_a_thread")))
        await gate.wait_begun()
        second = await runner.run(ask("takes_a_thread", timeout_s=0.05))
        assert "waited for a thread, and all 1 are busy" in message_of(second)
        gate.opened.set()
        assert code_of(await first) == "ok"
        # The one that timed out in the queue was taken out of it and never ran.
        assert not gate.begun.acquire(blocking=False)
        assert runner.stats()["takes_a_thread"].running == 0
        await runner.close()

    drive(scene())


def test_a_tool_that_gives_up_on_a_thread_takes_its_function_back(drive: Drive[Any]) -> None:
    gate = Gate()
    ran = threading.Event()

    def holds() -> None:
        gate.pass_in_thread()

    async def impatient(context: ToolContext) -> str:
        try:
            async with asyncio.timeout(0.02):
                await context.in_thread(ran.set)
        except TimeoutError:
            return "gave up"
        return "had it"

    async def scene() -> None:
        runner = runner_of(holds, impatient, threads=1)
        holding = asyncio.create_task(runner.run(ask("holds")))
        await gate.wait_begun()
        assert (await runner.run(ask("impatient"))).result_json == '"gave up"'
        assert runner.stats()["impatient"].running == 0
        gate.opened.set()
        assert code_of(await holding) == "ok"
        assert await runner.close(PATIENCE_S) == 0
        assert not ran.is_set()

    drive(scene())


# --- concurrency -----------------------------------------------------------------------------------------


def test_calls_run_in_parallel_up_to_the_limit_in_the_order_asked(drive: Drive[Any]) -> None:
    gate = Gate()
    running = 0
    highest = 0
    order: list[int] = []
    lock = threading.Lock()

    @tool(concurrency=3)
    def counted(number: int) -> int:
        nonlocal running, highest
        with lock:
            running += 1
            highest = max(highest, running)
            order.append(number)
        gate.pass_in_thread()
        with lock:
            running -= 1
        return number

    async def scene() -> None:
        runner = runner_of(counted)
        tasks = [asyncio.create_task(runner.run(ask("counted", {"number": each}))) for each in range(12)]
        await gate.wait_begun(3)
        stats = runner.stats()["counted"]
        assert (stats.running, stats.waiting, stats.calls) == (3, 9, 12)
        gate.opened.set()
        outcomes = await asyncio.gather(*tasks)
        assert [each.result_json for each in outcomes] == [str(each) for each in range(12)]
        assert highest == 3
        assert set(order[:3]) == {0, 1, 2}
        await runner.close()

    drive(scene())


def test_beyond_the_queue_a_call_is_refused_with_a_hint(drive: Drive[Any]) -> None:
    gate = Gate()

    @tool(concurrency=1)
    def one() -> None:
        gate.pass_in_thread()

    async def scene() -> None:
        runner = runner_of(one, waiting=2)
        tasks = [asyncio.create_task(runner.run(ask("one"))) for _ in range(3)]
        await gate.wait_begun()
        refused = await runner.run(ask("one"))
        assert code_of(refused) == "failed"
        assert refused.error is not None
        assert refused.error.retryable
        assert refused.error.retry_after_s is not None
        assert 0.1 <= refused.error.retry_after_s <= 60
        assert "1 calls of it run and 2 wait" in message_of(refused)
        gate.opened.set()
        assert [code_of(each) for each in await asyncio.gather(*tasks)] == ["ok"] * 3
        await runner.close()

    drive(scene())


def test_one_tool_that_hangs_leaves_the_others_alone(drive: Drive[Any]) -> None:
    gate = Gate()

    def hangs() -> None:
        gate.pass_in_thread()

    def works() -> str:
        return "fine"

    async def scene() -> None:
        runner = runner_of(hangs, works, concurrency=2, threads=4)
        hung = [asyncio.create_task(runner.run(ask("hangs"))) for _ in range(4)]
        await gate.wait_begun(2)
        for _ in range(10):
            assert (await runner.run(ask("works"))).result_json == '"fine"'
        gate.opened.set()
        await asyncio.gather(*hung)
        await runner.close()

    drive(scene())


def test_limits_change_while_it_runs(drive: Drive[Any]) -> None:
    gate = Gate()

    def waits() -> None:
        gate.pass_in_thread()

    async def scene() -> None:
        runner = runner_of(waits, concurrency=1)
        tasks = [asyncio.create_task(runner.run(ask("waits"))) for _ in range(3)]
        await gate.wait_begun(1)
        runner.change_limits(RunnerLimits(concurrency=3, timeout_s=5))
        await gate.wait_begun(2)
        assert runner.stats()["waits"].running == 3
        assert runner.limits.timeout_s == runner.stats()["waits"].timeout_s == 5
        with pytest.raises(ValueError, match="threads is 5"):
            runner.change_limits(RunnerLimits(threads=5))
        gate.opened.set()
        await asyncio.gather(*tasks)
        await runner.close()

    drive(scene())


# --- cancellation ----------------------------------------------------------------------------------------


def test_cancelling_run_cancels_an_async_tool(drive: Drive[Any]) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def scene() -> None:
        told: list[tuple[str, str]] = []
        runner = ToolRunner([PythonTool(slow)], observe=lambda name, code, _: told.append((name, code)))
        task = asyncio.create_task(runner.run(ask("slow")))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended.wait()
        await until(lambda: runner.stats()["slow"].running == 0)
        assert told == [("slow", "cancelled")]
        assert dict(runner.stats()["slow"].outcomes) == {"cancelled": 1}

    drive(scene())


def test_cancelling_run_drops_a_sync_tools_result_and_keeps_its_place(drive: Drive[Any]) -> None:
    gate = Gate()

    @tool(concurrency=1)
    def slow() -> None:
        gate.pass_in_thread()

    async def scene() -> None:
        runner = runner_of(slow)
        task = asyncio.create_task(runner.run(ask("slow")))
        await gate.wait_begun()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stats = runner.stats()["slow"]
        assert (stats.running, stats.abandoned) == (1, 1)
        gate.opened.set()
        assert code_of(await runner.run(ask("slow"))) == "ok"
        await runner.close()

    drive(scene())


def test_cancelling_one_that_waits_for_its_place_costs_nobody_a_place(drive: Drive[Any]) -> None:
    gate = Gate()

    @tool(concurrency=1)
    def slow() -> None:
        gate.pass_in_thread()

    async def scene() -> None:
        runner = runner_of(slow)
        tasks = [asyncio.create_task(runner.run(ask("slow"))) for _ in range(4)]
        await gate.wait_begun()
        tasks[1].cancel()
        tasks[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        gate.opened.set()
        assert code_of(await tasks[0]) == code_of(await tasks[3]) == "ok"
        assert runner.stats()["slow"].running == runner.stats()["slow"].waiting == 0
        await runner.close()

    drive(scene())


# --- closing ---------------------------------------------------------------------------------------------


def test_close_answers_everyone_and_takes_nothing_more(drive: Drive[Any]) -> None:
    gate = Gate()
    swallowed = asyncio.Event()

    @tool(concurrency=1)
    def in_thread() -> None:
        gate.pass_in_thread()

    async def obedient() -> None:
        await asyncio.Event().wait()

    async def stubborn() -> None:
        while not swallowed.is_set():
            try:
                await swallowed.wait()
            except asyncio.CancelledError:
                continue

    async def scene() -> None:
        runner = runner_of(in_thread, obedient, stubborn)
        names = ["in_thread", "in_thread", "obedient", "stubborn"]
        tasks = [asyncio.create_task(runner.run(ask(each))) for each in names]
        await gate.wait_begun()
        assert await runner.close(grace_s=0.2) == 2
        codes = [code_of(each) for each in await asyncio.gather(*tasks)]
        assert codes == ["cancelled", "failed", "cancelled", "cancelled"]  # the second had not begun
        late = await runner.run(ask("obedient"))
        assert late.error is not None
        assert (late.error.code, late.error.retryable) == ("failed", True)
        assert "going away" in message_of(late)
        gate.opened.set()
        swallowed.set()
        assert await runner.close(grace_s=PATIENCE_S) == 0
        assert repr(runner).startswith("<ToolRunner closed, 3 tools, 0 calls")

    drive(scene())


def test_a_stuck_thread_does_not_keep_the_process_alive() -> None:
    program = """
        import asyncio, threading
        from dispatcher.tools import PythonTool, ToolRequest, ToolRunner

        begun = threading.Event()

        def stuck() -> None:
            begun.set()
            threading.Event().wait()

        async def main() -> None:
            runner = ToolRunner([PythonTool(stuck)])
            call = asyncio.create_task(runner.run(ToolRequest("s", 1, "c", "stuck", "", "k", None, "", "")))
            await asyncio.to_thread(begun.wait)
            left = await runner.close(0.05)
            print((await call).code, left, flush=True)

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "cancelled 1"), ended.stderr


# --- the law ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One call of the law below: what the tool does, and what happens to the call."""

    behaviour: str
    timeout_s: float | None
    cancelled_after_steps: int | None


PLANS = st.builds(
    Plan,
    st.sampled_from(
        ["returns", "raises", "waits", "swallows", "in_thread", "no_json", "bad_arguments", "gone"]
    ),
    st.sampled_from([None, 0.0, 0.001, 0.01]),
    st.none() | st.integers(1, 6),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(PLANS, min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 4))
def test_law_every_request_has_exactly_one_outcome(plans: list[Plan], concurrency: int, waiting: int) -> None:
    async def scene() -> None:
        over = asyncio.Event()
        told: list[str] = []

        async def act(behaviour: str, context: ToolContext) -> object:
            match behaviour:
                case "raises":
                    raise ValueError(behaviour)
                case "waits":
                    await over.wait()
                case "swallows":
                    while not over.is_set():
                        try:
                            await over.wait()
                        except asyncio.CancelledError:
                            continue
                case "in_thread":
                    await context.in_thread(context.cancelled.wait, 0.005)
                case "no_json":
                    return object()
            return behaviour

        runner = ToolRunner(
            [PythonTool(act)],
            RunnerLimits(concurrency=concurrency, waiting=waiting, threads=1, timeout_s=0.02),
            observe=lambda _, code, __: told.append(code),
        )

        async def one(plan: Plan) -> str:
            arguments: dict[str, object] = (
                {} if plan.behaviour == "bad_arguments" else {"behaviour": plan.behaviour}
            )
            name = "gone" if plan.behaviour == "gone" else "act"
            task = asyncio.create_task(runner.run(ask(name, arguments, timeout_s=plan.timeout_s)))
            if plan.cancelled_after_steps is not None:
                for _ in range(plan.cancelled_after_steps):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                return code_of(await task)
            except asyncio.CancelledError:
                return "cancelled"

        codes = await asyncio.gather(*(one(plan) for plan in plans))
        assert sorted(codes) == sorted(told)
        over.set()
        assert await runner.close(PATIENCE_S) == 0
        stats = runner.stats()["act"]
        assert (stats.running, stats.waiting, stats.abandoned) == (0, 0, 0)
        assert stats.calls == sum(stats.outcomes.values()) == sum(plan.behaviour != "gone" for plan in plans)

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_S))
