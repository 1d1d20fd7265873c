"""The testing kit for authors: what an agent says is gathered, what it asks for is scripted, and what a test gets wrong
is told."""

import asyncio
import datetime as dt
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from asynchronous import asynchronous, soon

from commander import (
    BlockingTurn,
    Message,
    Output,
    Published,
    QuestionUnanswered,
    ToolDenied,
    ToolFailed,
    ToolNotFound,
    Turn,
    agent,
)
from commander.testing import DECLINED, Question, ScriptError, run_agent, running_agent


@agent
async def weather(turn: Turn) -> AsyncIterator[str | Output]:
    """Looks it up, and says it in pieces."""
    yield turn.thought("Planning", "A forecast ")
    yield turn.thought("Planning", "is needed.")
    report = await turn.call_tool("forecast", city=turn.text)
    for word in ("It ", "will ", report["sky"]):
        yield word
    yield turn.usage(input_tokens=3, output_tokens=5, model="tiny")


def sunny(city: str) -> dict[str, str]:
    return {"sky": f"shine in {city}."}


@asynchronous
async def test_what_it_says_is_gathered_whatever_the_pace() -> None:
    run = await run_agent(weather, "Oslo", tools={"forecast": sunny})
    assert run.outcome == "completed"
    assert run.text == "It will shine in Oslo."
    assert run.thoughts == "A forecast is needed."
    assert run.kinds() == ["thought", "tool_call", "content", "usage"]
    (call,) = run.calls
    assert (call.tool, call.arguments) == ("forecast", {"city": "Oslo"})
    assert call.result == {"sky": "shine in Oslo."}
    assert (run.usage.output_tokens, run.usage.model) == (5, "tiny")


@agent
async def careful(turn: Turn) -> AsyncIterator[str]:
    for number in range(2):
        try:
            await turn.call_tool("pay", euros=number)
        except ToolFailed as failed:
            yield f"{type(failed).__name__}: {failed.message}\n"


def _denies(euros: int) -> None:
    raise ToolDenied("pay", f"{euros} is too much")


def _breaks(euros: int) -> float:
    return 1 / euros - 1 / (euros - 1)


async def _never(euros: int) -> None:
    await asyncio.Event().wait()


@asynchronous
async def test_tools_fail_as_the_test_wants() -> None:
    denied = await run_agent(careful, tools={"pay": _denies})
    assert denied.text == "ToolDenied: 0 is too much\nToolDenied: 1 is too much\n"
    assert [call.failure for call in denied.calls] == ["denied", "denied"]
    broken = await run_agent(careful, tools={"pay": _breaks})
    assert broken.text.count("ToolFailed: ZeroDivisionError") == 2
    missing = await run_agent(careful, tools={"paid": _denies})
    assert missing.text.startswith(f"{ToolNotFound.__name__}: no such tool; the test has scripted: paid")


@agent
async def hasty(turn: Turn) -> AsyncIterator[str]:
    try:
        await turn.call_tool_with("pay", {"euros": 1}, timeout_s=0.01)
    except ToolFailed as failed:
        yield failed.code


@asynchronous
async def test_a_tool_that_takes_too_long_times_out() -> None:
    assert (await run_agent(hasty, tools={"pay": _never})).text == "timeout"


@agent
async def wizard(turn: Turn) -> AsyncIterator[str]:
    """Two questions, and something the user may add."""
    size = await turn.ask("Which size?", ["S", "M"])
    try:
        count = await turn.ask("How many?", schema={"type": "integer", "minimum": 1})
    except QuestionUnanswered as unanswered:
        yield f"{size}, {unanswered.why}"
        return
    yield f"{count} × {size}"


@asynchronous
async def test_questions_are_answered_by_a_script() -> None:
    run = await run_agent(wizard, answers={"Which size?": "M", "How many?": 3})
    assert run.text == "3 × M"
    assert [(question.text, question.options) for question in run.questions] == [
        ("Which size?", ("S", "M")),
        ("How many?", ()),
    ]

    def answer(question: Question) -> object:
        return question.options[0] if question.options else DECLINED

    assert (await run_agent(wizard, answers=answer)).text == "S, declined"


@asynchronous
async def test_questions_are_answered_by_hand() -> None:
    async with running_agent(wizard) as run:
        await run.until("question")
        with pytest.raises(ScriptError, match="'L' is none of 'S', 'M'"):
            run.answer("L")
        run.answer("S")
        asked = await run.until("question")
        with pytest.raises(ScriptError, match="0 is less than the minimum"):
            run.answer(0, asked.fields["question_id"])
        run.expire()
        with pytest.raises(ScriptError, match="no question is open"):
            run.answer(1)
        assert (await run.over()).text == "S, expired"


@asynchronous
async def test_what_is_no_agent_is_told() -> None:
    async def bare(turn: Turn) -> str:
        return turn.text

    for wrong in (bare, "weather"):
        with pytest.raises(ScriptError, match="is no agent: put @agent before the function"):
            await run_agent(cast("Any", wrong))


@asynchronous
async def test_what_is_not_scripted_is_told() -> None:
    with pytest.raises(ScriptError, match=r"asks 'How many\?', and answers has 'Which size\?'"):
        await run_agent(wizard, answers={"Which size?": "M"})
    async with running_agent(weather, "Oslo", tools={"forecast": sunny}) as run:
        with pytest.raises(ScriptError, match=r"has ended \(completed\) without an event 'question'"):
            await run.until("question")
    with pytest.raises(
        ScriptError, match=r"its end did not come within 0\.05 s; the agent is waiting answer"
    ):
        async with running_agent(wizard, patience_s=0.05) as run:
            await run.over()


@agent
async def steered(turn: Turn) -> AsyncIterator[str]:
    async for message in turn.messages():
        yield f"[{message}]"
        if message.text == "enough":
            return


@asynchronous
async def test_the_user_adds_something_meanwhile() -> None:
    async with running_agent(steered) as run:
        run.say("shorter")
        await run.until_text("[shorter]")
        run.say("enough")
        assert (await run.over()).text == "[shorter][enough]"


@agent
async def tidy(turn: Turn) -> AsyncIterator[str]:
    try:
        yield "a"
        await asyncio.Event().wait()
    finally:
        _tidied.set()


_tidied = asyncio.Event()


@asynchronous
async def test_a_stop_reaches_it_and_nothing_after_counts() -> None:
    async with running_agent(tidy) as run:
        await run.until_text("a")
        run.stop()
        assert (await run.over()).outcome == "stopped"
    await soon(_tidied.wait())


@asynchronous
async def test_what_still_runs_is_stopped_with_the_block() -> None:
    _tidied.clear()
    async with running_agent(tidy) as run:
        await run.until_text("a")
    assert _tidied.is_set()
    assert run.outcome == "stopped"


@agent
async def stubborn(turn: Turn) -> AsyncIterator[str]:
    yield "a"
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if _released.is_set():
                raise


_released = asyncio.Event()


@asynchronous
async def test_one_that_ignores_its_stop_is_named() -> None:
    with pytest.raises(ScriptError, match="ignored its stop"):
        async with running_agent(stubborn, patience_s=0.05) as run:
            await run.until_text("a")
    _released.set()


@agent
async def broken(turn: Turn) -> AsyncIterator[str]:
    yield "half"
    raise ValueError("no such city")


@asynchronous
async def test_a_failure_is_there_to_be_looked_at() -> None:
    run = await run_agent(broken)
    assert (run.outcome, run.text) == ("failed", "half")
    assert run.failure is not None
    assert (run.failure.error_type, run.failure.message) == ("ValueError", "no such city")


@agent
def blocking(turn: BlockingTurn) -> Iterator[str]:
    yield turn.metadata["lang"]
    yield f" {turn.ask('Go on?')} {turn.call_tool('forecast', city='Rome')['sky']}"
    yield f" {turn.user_id} {turn.time_left_s is not None}"


@asynchronous
async def test_sync_agents_run_too() -> None:
    run = await run_agent(
        blocking,
        metadata={"lang": "en"},
        user_id="ada",
        time_left_s=60,
        tools={"forecast": sunny},
        answers={"Go on?": True},
    )
    assert run.text == "en True shine in Rome. ada True"


@agent(on_restart="continue")
async def continued(turn: Turn) -> AsyncIterator[str | Output]:
    said = turn.published.content if turn.published else ""
    for message in turn.conversation:
        yield f"{message.role}: {message.text}; "
    yield f"{turn.attempt}: {len(said)}"
    yield turn.artifact("a.txt", b"x" * 300_000, mime_type="text/plain")


@asynchronous
async def test_it_is_given_what_a_dispatcher_would_give() -> None:
    told = (Message("system", ("Be brief.",)), Message("user", ("Go on.",)))
    run = await run_agent(continued, told, attempt=2, published=Published("so far"))
    assert run.text == "system: Be brief.; user: Go on.; 2: 6"
    assert run.artifacts == {"a.txt": b"x" * 300_000}


@agent
async def talkative(turn: Turn) -> AsyncIterator[str]:
    for number in range(20_000):
        yield f"{number} "


@asynchronous
async def test_one_that_says_more_than_an_outbox_holds_is_read_to_its_end() -> None:
    run = await run_agent(talkative)
    assert run.text == "".join(f"{number} " for number in range(20_000))
    assert run.kinds() == ["content"]


# ---- as the real ones do ----


@dataclass
class Weather:
    sky: str
    on: dt.date


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        (lambda: Weather("fair", dt.date(2026, 1, 31)), "{'sky': 'fair', 'on': '2026-01-31'}"),
        (lambda: {1}, "[1]"),
        (lambda: asyncio.ensure_future(asyncio.sleep(0, "later")), "later"),
        (lambda: [object()], "failed: PydanticSerializationError: Unable to serialize"),
        (lambda: math.nan, "failed: ValueError: Out of range float values"),
        (lambda: b"bytes", "failed: TypeError: bytes are not JSON"),
        (lambda: raises(TimeoutError("the other side")), "failed: TimeoutError: the other side"),
        (lambda: raises(asyncio.CancelledError()), "failed: CancelledError"),
        (
            lambda city: city,
            "invalid_arguments: missing a required argument: 'city'; the scripted tool takes (city)",
        ),
    ],
)
@asynchronous
async def test_whatever_a_tool_gives_or_raises_the_agent_is_told(tool: Any, text: str) -> None:
    @agent
    async def caller(turn: Turn) -> AsyncIterator[str]:
        try:
            yield str(await turn.call_tool("tool"))
        except ToolFailed as failed:
            yield f"{failed.code}: {failed.message}"

    assert text in (await run_agent(caller, tools={"tool": tool})).text


def raises(error: BaseException) -> None:
    raise error


@asynchronous
async def test_another_agent_that_says_nothing_has_answered_so() -> None:
    @agent
    async def asker(turn: Turn) -> AsyncIterator[str]:
        yield repr(await turn.delegate("silent", "Hi"))

    assert (await run_agent(asker, tools={"silent": lambda text: None})).text == "''"


@agent
async def asks_for_a_moment(turn: Turn) -> AsyncIterator[str]:
    try:
        yield str(await turn.ask("Which?", expires_in_s=0.01))
    except QuestionUnanswered as unanswered:
        yield unanswered.why


@asynchronous
async def test_a_question_expires_in_its_own_time() -> None:
    async with running_agent(asks_for_a_moment) as run:
        assert (await run.over()).text == "expired"


@asynchronous
async def test_a_session_ends_when_its_time_is_over() -> None:
    @agent
    async def endless(turn: Turn) -> AsyncIterator[str]:
        yield "begin"
        await asyncio.Event().wait()

    assert (await run_agent(endless, time_left_s=0.01)).outcome == "stopped"


@pytest.mark.parametrize("answer", [{1}, math.nan])
@asynchronous
async def test_an_answer_that_is_no_json_is_told(answer: object) -> None:
    with pytest.raises(ScriptError, match=r"'Which\?': .* is no JSON"):
        await run_agent(asks_for_a_moment, answers={"Which?": answer})


@pytest.mark.parametrize("schema", [{"type": "nosuch"}, {"$ref": "http://127.0.0.1:1/schema"}])
@asynchronous
async def test_a_schema_that_is_none_is_held_against_nobody(schema: dict[str, object]) -> None:
    @agent
    async def asker(turn: Turn) -> AsyncIterator[str]:
        yield str(await turn.ask("Which?", schema=schema))

    assert (await run_agent(asker, answers={"Which?": 1})).text == "1"


@asynchronous
async def test_nobody_hears_what_is_said_once_it_is_over() -> None:
    async with running_agent(talkative) as run:
        await run.over()
        with pytest.raises(ScriptError, match="nobody hears 'more': the turn is over"):
            run.say("more")


@asynchronous
async def test_what_is_run_is_an_agent_and_what_it_is_asked_are_messages() -> None:
    with pytest.raises(ScriptError, match="is no agent: put @agent before the function"):
        await run_agent(talkative.function)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"asked: messages\[0\] should be a Message, not int"):
        await run_agent(talkative, [1])  # type: ignore[list-item]


@agent
async def gives_up(turn: Turn) -> AsyncIterator[str]:
    for waiting in (turn.call_tool("work"), turn.delegate("other", "Hi"), turn.ask("Which?")):
        try:
            async with asyncio.timeout(0.01):
                await waiting
        except TimeoutError:
            yield "."
    yield await turn.ask("Really?")


@asynchronous
async def test_what_the_agent_waits_for_no_longer_is_cancelled_and_closed() -> None:
    ended: list[str] = []

    async def work(**asked: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async with running_agent(gives_up, tools={"work": work, "other": work}) as run:
        await run.until_text("...")
        await run.until("withdrawal")
        assert [(call.tool, call.failure) for call in run.calls] == [
            ("work", "cancelled"),
            ("other", "cancelled"),
        ]
        assert [event.fields for event in run.events if event.kind == "withdrawal"][:1] == [
            {"call_id": "call-1"}
        ]
        await run.until("question")
        await run.until("question")
        with pytest.raises(ScriptError, match="no question question-1"):
            run.answer("late", "question-1")
        run.answer("yes")
        assert (await run.over()).text == "...yes"
    assert ended == ["cancelled"] * 2
