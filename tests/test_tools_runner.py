"""What a tool answers, how it fails, and what never runs: one request in, exactly one outcome out."""

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from tool_scene import LOOPS, Drive, ask, code_of, driver, message_of, runner_of

from dispatcher.tools import (
    PythonTool,
    RunnerLimits,
    ToolArgumentsError,
    ToolContext,
    ToolDenied,
    ToolError,
    ToolLimits,
    ToolLoadError,
    ToolOutcome,
    ToolRunner,
    tool,
)
from dispatcher.tools.runner import UNKNOWN_TOOL


@pytest.fixture(params=LOOPS)
def drive(request: pytest.FixtureRequest) -> Drive[Any]:
    return driver(request.param)


# --- results ---------------------------------------------------------------------------------------------


def test_sync_and_async_functions_answer(drive: Drive[Any]) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    async def join(words: list[str]) -> dict[str, object]:
        await asyncio.sleep(0)
        return {"text": " ".join(words), "thread": threading.current_thread() is threading.main_thread()}

    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    async def scene() -> None:
        runner = runner_of(add, join, where)
        assert await runner.run(ask("add", {"a": 1, "b": 2})) == ToolOutcome("3")
        assert await runner.run(ask("join", {"words": ["ü", "b"]})) == ToolOutcome(
            '{"text":"ü b","thread":true}'
        )
        assert await runner.run(ask("where")) == ToolOutcome("false")
        assert await runner.run(ask("where", "")) == ToolOutcome("false")
        await runner.close()

    drive(scene())


def test_the_context_is_that_of_the_request(drive: Drive[Any]) -> None:
    def who(context: ToolContext) -> list[object]:
        return [
            context.session_id,
            context.attempt,
            context.call_id,
            context.idempotency_key,
            context.user_id,
            context.agent,
            0 < context.time_left_s() <= 7,
            context.output_bytes,
            context.cancelled.is_set(),
        ]

    async def scene() -> None:
        runner = runner_of(who, timeout_s=7, output_bytes=1234)
        outcome = await runner.run(ask("who"))
        assert json.loads(outcome.result_json) == [
            *("s-1", 2, "call-1", "s-1:call-1", "ada", "team/insight"),
            *(True, 1234, False),
        ]
        await runner.close()

    drive(scene())


def test_offers_carry_the_schema_and_are_made_once() -> None:
    def add(a: int, b: int = 1) -> int:
        """Adds."""
        return a + b

    runner = runner_of(add)
    (offer,) = runner.offers()
    assert (offer.name, offer.description) == ("add", "Adds.")
    assert json.loads(offer.parameters_schema_json)["required"] == ["a"]
    assert runner.offers() is runner.offers()


# --- what never runs -------------------------------------------------------------------------------------


def test_an_unknown_tool_is_told_with_the_nearest_names(drive: Drive[Any]) -> None:
    def search_files() -> None:
        raise AssertionError

    async def scene() -> None:
        runner = runner_of(search_files)
        near = await runner.run(ask("serch_files"))
        assert code_of(near) == "not_found"
        assert 'did you mean "search_files"?' in message_of(near)
        assert "on offer are search_files" in message_of(await runner.run(ask("zzz")))
        assert "there are no tools" in message_of(await ToolRunner([]).run(ask("zzz")))
        assert code_of(await runner.run(ask("x" * 100_000))) == "not_found"

    drive(scene())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("[1]", ["an array", "a JSON object is needed"]),
        ("{", ["not JSON"]),
        ('{"a": NaN}', ["NaN"]),
        ('{"a": 1, "a": 2}', ["given twice"]),
        ('{"a": "\\ud800"}', ["half a character"]),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", ["32 deep"]),
        ('{"a": ' + "[" * 20_000 + "}", ["32 deep"]),
        ('{"a": ' + "1" * 5_000 + "}", ["send it as a string"]),
        ('{"a": 1e999}', ["send it as a string"]),
        ('{"a": "' + "x" * 270_000 + '"}', ["262,144", "270,0"]),
        ("{}", ['"a" (an integer) is missing']),
        ('{"a": "one"}', ["$.a", '"one" is a string', "an integer is needed"]),
        ('{"a": 1, "bee": 2}', ['"bee" is not known', 'did you mean "be"?']),
        ('{"a": 1, "be": "blu"}', ["$.be", 'not one of "blue", "red"', 'did you mean "blue"?']),
        ('{"a": 1, "be": "' + "x" * 10_000 + '"}', ["$.be", "…"]),
    ],
)
def test_arguments_that_do_not_fit_never_run(drive: Drive[Any], arguments: str, words: list[str]) -> None:
    def strict(a: int, be: Literal["blue", "red"] = "red") -> None:
        raise AssertionError("ran")

    async def scene() -> None:
        runner = runner_of(strict)
        outcome = await runner.run(ask("strict", arguments))
        assert code_of(outcome) == "invalid_arguments"
        for word in words:
            assert word in message_of(outcome)
        assert outcome.error is not None
        assert not outcome.error.retryable
        await runner.close()

    drive(scene())


def test_a_number_beyond_all_bounds_does_not_fit(drive: Drive[Any]) -> None:
    def pay(amount: Annotated[float, Field(multiple_of=0.01)]) -> None:
        raise AssertionError("ran")

    async def scene() -> None:
        runner = runner_of(pay)
        outcome = await runner.run(ask("pay", '{"amount": 1' + "0" * 307 + "}"))
        assert code_of(outcome) == "invalid_arguments"
        await runner.close()

    drive(scene())


def test_long_arguments_are_checked_beside_the_loop(drive: Drive[Any]) -> None:
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    async def scene() -> None:
        runner = runner_of(total)
        assert (await runner.run(ask("total", {"numbers": [1] * 5_000}))).result_json == "5000"
        wrong = await runner.run(ask("total", {"numbers": [1] * 5_000 + ["x"] * 5_000}))
        assert "$.numbers[5000]" in message_of(wrong)
        assert message_of(wrong).endswith("and more")
        for broken in ('{"numbers": [' + "1," * 10_000, '{"numbers": ' + "[" * 20_000):
            assert code_of(await runner.run(ask("total", broken))) == "invalid_arguments"
        await runner.close()

    drive(scene())


# --- failures --------------------------------------------------------------------------------------------


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _OddError(ToolError):
    code = "odd"  # type: ignore[assignment]  # a tool's author may get it wrong

    def __init__(self) -> None:
        """Without what the class above does."""


class _Rude(BaseException):
    pass


class _LeavingError(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (ValueError("no such street"), "failed", "ValueError: no such street"),
        (KeyError(), "failed", "KeyError"),
        (ValueError("x" * 5_000), "failed", "ValueError: xx"),
        (ValueError("half \ud800"), "failed", "ValueError: half ?"),
        (_MuteError(), "failed", "_MuteError"),
        (_OddError(), "failed", ""),
        (_Rude("really"), "failed", "_Rude: really"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt"),
        (GeneratorExit(), "failed", "GeneratorExit"),
        (_LeavingError(), "failed", "_LeavingError"),
        (StopIteration(7), "failed", ""),
        (TimeoutError("upstream"), "failed", "TimeoutError: upstream"),
        (asyncio.CancelledError(), "failed", "CancelledError"),
        (ExceptionGroup("two", [ValueError("a")]), "failed", "ExceptionGroup: two"),
        (ToolError("try later", retryable=True, retry_after_s=2), "failed", "try later"),
        (ToolError("try", retryable=True, retry_after_s=float("nan")), "failed", "try"),
        (ToolDenied("not you"), "denied", "not you"),
        (ToolArgumentsError("no such city"), "invalid_arguments", "no such city"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_whatever_a_tool_raises_is_one_outcome(
    drive: Drive[Any], kind: str, raised: BaseException, code: str, text: str
) -> None:
    def sync_tool() -> None:
        raise raised

    async def async_tool() -> None:
        raise raised

    async def scene() -> None:
        runner = runner_of(sync_tool if kind == "sync" else async_tool)
        outcome = await runner.run(ask(f"{kind}_tool"))
        assert code_of(outcome) == code
        assert text in message_of(outcome)
        assert "Traceback" not in outcome.result_json
        assert runner.stats()[f"{kind}_tool"].running == 0
        await runner.close()

    drive(scene())


def test_hints_of_a_tool_arrive(drive: Drive[Any]) -> None:
    def busy(after_s: float | str) -> None:
        raise ToolError("later", retryable=True, retry_after_s=float(after_s))

    async def scene() -> None:
        outcome = await runner_of(busy).run(ask("busy", {"after_s": 2}))
        assert outcome.error is not None
        assert (outcome.error.retryable, outcome.error.retry_after_s) == (True, 2.0)
        # What is no time is not told as one.
        for after_s in ("nan", "inf", "-1"):
            outcome = await runner_of(busy).run(ask("busy", {"after_s": after_s}))
            assert outcome.error is not None
            assert (outcome.error.code, outcome.error.retry_after_s) == ("failed", None)

    drive(scene())


def test_the_traceback_is_in_the_log_alone(drive: Drive[Any], caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ZeroDivisionError("at the bottom")

    async def scene() -> None:
        await runner_of(broken).run(ask("broken"))

    with caplog.at_level(logging.ERROR):
        drive(scene())
    (record,) = [each for each in caplog.records if each.name.startswith("dispatcher.tools")]
    assert record.exc_info is not None
    assert (record.__dict__["session"], record.__dict__["attempt"]) == ("s-1", 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "of type object"),
        ({"a": [1, {2, object()}]}, "$.a[1]"),
        (float("nan"), "is nan"),
        (b"raw", "base64"),
        ({(1, 2): 3}, "a key of type tuple"),
        (threading, "of type module"),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_result_that_is_no_json_has_failed(drive: Drive[Any], kind: str, value: object, text: str) -> None:
    def sync_tool() -> object:
        return value

    async def async_tool() -> object:
        return value

    async def scene() -> None:
        outcome = await runner_of(sync_tool, async_tool).run(ask(f"{kind}_tool"))
        assert code_of(outcome) == "failed"
        assert text in message_of(outcome)

    drive(scene())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_output_is_bounded(drive: Drive[Any], kind: str) -> None:
    def sync_tool(size: int) -> object:
        return ["x" * 9] * (size // 12)

    async def async_tool(size: int) -> object:
        return ["x" * 9] * (size // 12)

    async def scene() -> None:
        runner = runner_of(sync_tool, async_tool, output_bytes=60_000)
        fits = await runner.run(ask(f"{kind}_tool", {"size": 50_000}))
        assert len(json.loads(fits.result_json)) == 50_000 // 12
        outcome = await runner.run(ask(f"{kind}_tool", {"size": 50_000_000}))
        assert code_of(outcome) == "too_large"
        assert "60,000 bytes" in message_of(outcome)
        await runner.close()

    drive(scene())


def test_a_tools_own_limits_count(drive: Drive[Any]) -> None:
    @tool(output_bytes=20, timeout_s=0.05, concurrency=1)
    async def small(text: str) -> str:
        return text

    async def scene() -> None:
        runner = runner_of(small)
        stats = runner.stats()["small"]
        assert (stats.output_bytes, stats.timeout_s, stats.concurrency) == (20, 0.05, 1)
        assert (await runner.run(ask("small", {"text": "x" * 18}))).result_json == f'"{"x" * 18}"'
        assert code_of(await runner.run(ask("small", {"text": "x" * 19}))) == "too_large"
        # Ten characters, thirty bytes.
        assert "32 bytes" in message_of(await runner.run(ask("small", {"text": "漢" * 10})))

    drive(scene())


# --- what the operator sees ------------------------------------------------------------------------------


def test_outcomes_are_counted_and_observed(drive: Drive[Any]) -> None:
    def add(a: int) -> int:
        return a + 1

    async def scene() -> None:
        told: list[tuple[str, str]] = []

        def observe(name: str, code: str, seconds: float) -> None:
            assert seconds >= 0
            told.append((name, code))

        runner = ToolRunner([PythonTool(add)], observe=observe)
        await runner.run(ask("add", {"a": 1}))
        await runner.run(ask("add", {"a": "x"}))
        await runner.run(ask("invented-by-an-agent"))
        assert told == [("add", "ok"), ("add", "invalid_arguments"), (UNKNOWN_TOOL, "not_found")]
        stats = runner.stats()["add"]
        assert (stats.calls, dict(stats.outcomes)) == (2, {"ok": 1, "invalid_arguments": 1})
        await runner.close()

    drive(scene())


def test_a_metric_that_fails_takes_no_outcome_with_it(drive: Drive[Any]) -> None:
    async def one() -> int:
        return 1

    def observe(name: str, code: str, seconds: float) -> None:
        raise RuntimeError("no metric")

    async def scene() -> None:
        runner = ToolRunner([PythonTool(one)], observe=observe)
        assert (await runner.run(ask("one"))).result_json == "1"

    drive(scene())


# --- settings and tools that can't be --------------------------------------------------------------------


@dataclass(frozen=True)
class Bare:
    """A tool that is no Python function."""

    name: str = "bare"
    description: str = ""
    parameters_schema: Mapping[str, object] = field(default_factory=lambda: {"type": "object"})
    limits: ToolLimits = field(default_factory=ToolLimits)

    async def call(self, arguments: dict[str, object], context: ToolContext) -> object:
        return [arguments, await context.in_thread(sorted, [3, 1, 2])]


def test_any_tool_will_do_and_may_use_the_threads(drive: Drive[Any]) -> None:
    async def scene() -> None:
        runner = ToolRunner([Bare()])
        assert (await runner.run(ask("bare", {"x": 1}))).result_json == '[{"x":1},[1,2,3]]'
        await runner.close()

    drive(scene())


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ([Bare(), Bare()], "'bare' is given twice"),
        ([Bare(name="")], "1 to 64"),
        ([Bare(name="a b")], "letters, digits"),
        ([Bare(name="x" * 65)], "1 to 64"),
        ([Bare(limits=ToolLimits(output_bytes=917_505))], "output_bytes is 917,505; .* fit a message"),
        ([Bare(parameters_schema={"type": "object", "properties": 3})], "no valid JSON Schema"),
        ([Bare(parameters_schema={"type": "object", "$ref": "#/nowhere"})], "#/nowhere"),
    ],
)
def test_tools_that_can_not_be_served_are_refused_at_the_start(tools: list[Bare], text: str) -> None:
    with pytest.raises(ToolLoadError, match=text):
        ToolRunner(tools)


@pytest.mark.parametrize(
    "name",
    ["timeout_s", "output_bytes", "output_bytes_max", "arguments_bytes", "concurrency", "waiting", "threads"],
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "many"])
def test_limits_that_make_no_sense_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*greater than 0 is needed"):
        RunnerLimits(**{name: value})  # type: ignore[arg-type]  # on purpose


def test_a_result_must_fit_a_message() -> None:
    with pytest.raises(ValueError, match="output_bytes is 1,001; at most output_bytes_max, 1,000"):
        RunnerLimits(output_bytes=1_001, output_bytes_max=1_000)
    large = Bare(limits=ToolLimits(output_bytes=2_000_000))
    with pytest.raises(ToolLoadError, match="output_bytes is 2,000,000"):
        ToolRunner([large])
    runner = ToolRunner([large], RunnerLimits(output_bytes=3_000_000))
    runner.change_limits(RunnerLimits(output_bytes=1_000, output_bytes_max=5_000))
    assert runner.stats()["bare"].output_bytes == 5_000


# --- laws ------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=150)
@given(
    st.text()
    | JSON.map(json.dumps)
    | st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), JSON, max_size=4).map(json.dumps)
)
def test_law_no_arguments_crash_the_runner(text: str) -> None:
    def take(
        a: int, b: list[str] | None = None, c: dict[str, float] | None = None, d: object = None
    ) -> object:
        return [a, b, c, d]

    async def scene() -> None:
        runner = runner_of(take)
        assert code_of(await runner.run(ask("take", text))) in ("ok", "invalid_arguments")
        assert (await runner.run(ask("take", {"a": 7}))).result_json == "[7,null,null,null]"
        await runner.close()

    asyncio.run(scene())
