"""The agent `demo`: how it reads, what it says, and what comes of both over the real wire."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from asynchronous import asynchronous
from chat_viewer import Conversation, Seen, conversing
from commander_process import running_commander
from dialling import administering
from dispatcher_process import ROOT, DispatcherProcess
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from commander.agents import metadata, sayings
from commander.agents.sums import find_sums
from commander.agents.wishes import (
    COUNT_MAX,
    TEXT_CHARS_MAX,
    Count,
    Hello,
    Remark,
    Search,
    Story,
    Sum,
    Time,
    Wish,
    places_in,
    read,
    read_remark,
    search_words,
)
from commander.errors import TOOL_FAILURES, AgentError, InvalidArguments, ToolFailed

DISPATCHER_FLAGS = ("--tools", "dispatcher.tools.demo:TOOLS")

# -- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("what is 17*23+4", [Sum("17 * 23 + 4")]),
        ("1/0", [Sum("1 / 0")]),
        ("what is 2 plus 2 times (3 - 1)", [Sum("2 + 2 * (3 - 1)")]),
        ("20% of 50, please", [Sum("20 / 100 * 50")]),
        ("the square root of 2", [Sum("sqrt(2)")]),
        ("2^10 and max(1, 200) + 5", [Sum("2 ** 10"), Sum("max(1, 200) + 5")]),
        ("1,000 * 3", [Sum("1000 * 3")]),
        ("find sqrt(2)", [Sum("sqrt(2)")]),
        ("calculate", [Sum("")]),
        ("calculate 3 × 4", [Sum("3 * 4")]),
        ("what time is it in Tokyo and Lisbon", [Time(("Tokyo", "Lisbon"))]),
        (
            "Compare the time in Berlin, Paris, and New York right now!",
            [Time(("Berlin", "Paris", "New York"))],
        ),
        ("what day is it in São Paulo, please", [Time(("São Paulo",))]),
        ("time in Etc/GMT+5", [Time(("Etc/GMT+5",))]),
        ("what time is it?", [Time(())]),
        ("what do the texts say about credit", [Search("credit")]),
        ("Search the texts for the stop ladder.", [Search("stop ladder")]),
        ("find the word fence in the texts", [Search("fence")]),
        ("search", [Search("")]),
        ("count to 20", [Count(1, 20)]),
        ("count from 10 down to 1", [Count(10, 1)]),
        ("tell me a story", [Story(3)]),
        ("Tell me a long story", [Story(60)]),
        ("hello", [Hello()]),
        ("Are you a language model?", [Hello()]),
        ("hi, what is 2+2?", [Sum("2 + 2")]),
        (
            "What is 17 * 23 + 4, and what time is it in Tokyo and Lisbon?",
            [Sum("17 * 23 + 4"), Time(("Tokyo", "Lisbon"))],
        ),
        ("look up credit and tell me the time in UTC", [Search("credit"), Time(("UTC",))]),
        ("what is the time in Paris and what is 3 x 4", [Time(("Paris",)), Sum("3 * 4")]),
        ("2024-05-01", []),
        ("version 1.2.3 - 4", []),
        ("I am 5 years old", []),
        ("Tell me about the weather", []),
        ("", []),
    ],
)
def test_reads(text: str, wishes: list[Wish]) -> None:
    assert read(text) == wishes


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("stop", Remark.ENOUGH),
        ("OK, stop please!", Remark.ENOUGH),
        ("Thanks.", Remark.ENOUGH),
        ("that's enough now", Remark.ENOUGH),
        ("faster", Remark.FASTER),
        ("a bit slower please", Remark.SLOWER),
        ("not so fast", Remark.SLOWER),
        ("fast", None),
        ("stop the clock in Paris", None),
        ("stop " * 40, None),
        ("", None),
    ],
)
def test_reads_remarks(text: str, remark: Remark | None) -> None:
    assert read_remark(text) is remark


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("Tokyo", ("Tokyo",)),
        ("in Port of Spain, and also Lisbon please", ("Port of Spain", "Lisbon")),
        ("Tokyo & Tokyo", ("Tokyo",)),
        ("42", ()),
        ("it", ()),
        ("a" * 61, ()),
    ],
)
def test_finds_places(text: str, places: tuple[str, ...]) -> None:
    assert places_in(text) == places


def test_search_words_leave_out_what_stands_everywhere() -> None:
    assert search_words("What is the credit of a session?") == "credit session"
    assert search_words("what is it") == ""


def _expressions() -> st.SearchStrategy[str]:
    """Tidy arithmetic with at least one operator or call in it."""
    numbers = st.one_of(
        st.integers(0, 10**9).map(str),
        st.decimals(0, 1000, allow_nan=False, allow_infinity=False, places=2).map(str),
        st.sampled_from(["pi", "e"]),
    )

    def larger(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "**"])
        return st.one_of(
            st.tuples(smaller, operators, smaller).map(" ".join),
            st.tuples(smaller, operators, smaller).map(lambda parts: f"({' '.join(parts)})"),
            smaller.map(lambda inner: f"sqrt({inner})"),
            st.tuples(smaller, smaller).map(lambda pair: f"max({pair[0]}, {pair[1]})"),
            smaller.map(lambda inner: f"-{inner}"),
        )

    recursive = st.recursive(numbers, larger, max_leaves=8)
    return recursive.filter(
        lambda text: any(mark in text for mark in (" ", "sqrt")) and not text.startswith("-")
    )


@given(_expressions(), st.sampled_from(["{}", "what is {}?", "Please: {}, thanks", "is it ({} or so"]))
def test_finds_every_sum_whole(expression: str, sentence: str) -> None:
    assert [found.expression for found in find_sums(sentence.format(expression))] == [expression]
    assert ast.parse(expression, mode="eval")


@given(_expressions())
def test_tidying_is_the_same_however_it_is_spaced(expression: str) -> None:
    if "of" not in expression:
        tight = expression.replace(" ", "")
        assert [found.expression for found in find_sums(tight)] == [expression]


_ALPHABET = st.sampled_from(
    [*"0123456789+-*/(),.% \n", *"what time is in story count to and search", "√", "é"]
)


@given(st.one_of(st.text(), st.lists(_ALPHABET).map("".join)))
def test_reading_takes_any_text(text: str) -> None:
    for wish in read(text):
        assert isinstance(wish, Wish)
    read_remark(text)
    places_in(text)
    assert all(text[found.start : found.end] for found in find_sums(text))
    ends = [0, *(found.end for found in find_sums(text))]
    assert all(found.start >= end for found, end in zip(find_sums(text), ends, strict=False))


@pytest.mark.parametrize(
    "unit",
    ["(", "-", "1+(", "what time is it in ", "search and ", " ", "\n ", "1,", "sqrt(", "a, ", "story "],
)
def test_reading_is_bounded(unit: str) -> None:
    """A pattern that walked the longest text again and again would take minutes, and this test's time with it."""
    read(unit * TEXT_CHARS_MAX)
    places_in(unit * TEXT_CHARS_MAX)


# -- saying --------------------------------------------------------------------------------------------------


@given(st.text())
def test_tokens_are_the_text(text: str) -> None:
    assert "".join(sayings.tokens(text)) == text


@given(st.text(min_size=1), st.floats(0, 1))
def test_pauses_are_bounded(token: str, pace_s: float) -> None:
    assert pace_s <= sayings.pause_s(token, pace_s) <= max(pace_s, sayings.BREATH_MAX_S)


def test_plans_say_what_it_is() -> None:
    every: list[Wish] = [Time(("Tokyo", "Lisbon")), Hello(), Story(3), Count(1, 2), Search("a"), Sum("1 + 1")]
    assert "not a language model" in sayings.plan([])
    assert "not a language model" in sayings.plan(every)
    assert "2 tool calls" in sayings.plan([Time(("Tokyo", "Lisbon"))])
    assert "not a language model" in " ".join(sayings.greeting())


@pytest.mark.parametrize(
    ("wish", "result", "sentence"),
    [
        (Sum("1 + 1"), {"expression": "1 + 1", "result": 2}, "1 + 1 = 2."),
        (
            Time(("Tokyo",)),
            {"time": "14:05:09", "weekday": "Friday", "date": "2025-11-21", "utc_offset": "+09:00"},
            "In Tokyo it is 14:05 on Friday, 2025-11-21 (UTC+09:00).",
        ),
        (Search("fence"), {"matches": [], "files_searched": 5}, "I searched 5 texts, and none has “fence”."),
        (
            Search("fence"),
            {"matches": [{"file": "a.txt", "line_number": 3, "line": "A fence."}], "more_matches": 2},
            "\nThe texts have this about “fence”:\n- a.txt, line 3: A fence.\n- and 2 more lines\n",
        ),
        (Sum("1 + 1"), "two", 'About 1 + 1 the tool calculate says: "two".'),
        (Time(("Tokyo",)), None, "About Tokyo the tool clock says: null."),
    ],
)
def test_tells_results(wish: Wish, result: object, sentence: str) -> None:
    (step,) = sayings.steps_of(wish)
    assert sayings.answered(step, result) == sentence


_RESULTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["matches", "result", "line"]), inner),
)


@given(_RESULTS)
def test_tells_any_result(result: object) -> None:
    """A minimal dispatcher's tools answer whatever they like."""
    for wish in (Sum("1 + 1"), Time(("Tokyo",)), Search("fence")):
        (step,) = sayings.steps_of(wish)
        assert sayings.answered(step, result).strip()


@pytest.mark.parametrize("kind", TOOL_FAILURES.values())
def test_explains_every_failure(kind: type[ToolFailed]) -> None:
    (step,) = sayings.steps_of(Sum("1 / 0"))
    told = sayings.failed(step, kind("calculate", "so it is"))
    assert "1 / 0" in told
    assert told.endswith(".")


def test_failures_keep_their_own_question_mark() -> None:
    (step,) = sayings.steps_of(Time(("Tokio",)))
    told = sayings.failed(step, InvalidArguments("clock", "did you mean Tokyo?"))
    assert told == "I can't tell the time in Tokio: did you mean Tokyo?"


def test_counting_is_bounded_and_says_so() -> None:
    assert " ".join(sayings.count(Count(1, 25))) == " ".join(map(str, range(1, 26)))
    assert " ".join(sayings.count(Count(3, 1))) == "3 2 1"
    *numbers, ending = sayings.count(Count(1, 10**9 - 1))
    assert len(" ".join(numbers).split()) == COUNT_MAX
    assert "10,000" in ending


def test_a_story_does_not_repeat_itself_at_once() -> None:
    sentences = list(sayings.story(Story(60)))
    assert all(one != other for one, other in pairwise(sentences))
    assert len(sayings.tokens(" ".join(sentences))) > 2_000


@pytest.mark.parametrize("told", ["x", "", "nan", "inf", "-1", "1001"])
def test_metadata_that_is_no_number_is_named(told: str) -> None:
    with pytest.raises(AgentError, match=r"metadata pace_ms: .* should be a number from 0 to 1000"):
        metadata.number({"pace_ms": told}, "pace_ms", 15, 0, 1000)
    assert metadata.number({}, "pace_ms", 15, 0, 1000) == 15
    assert metadata.number({"pace_ms": "2.5"}, "pace_ms", 15, 0, 1000) == 2.5


# -- over the wire -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(dispatcher: DispatcherProcess) -> Iterator[str]:
    with running_commander(ROOT, "demo", "--dispatcher", dispatcher.address) as commander:
        commander.wait_for("linked to")
        yield dispatcher.address


async def _asked(talk: Conversation, text: str, **told: str) -> Seen:
    """Asks without a pause between words, unless told otherwise."""
    return await talk.ask("demo", text, include_thoughts=True, metadata={"pace_ms": "0", **told})


async def _answer(talk: Conversation, seen: Seen, value: object, count: int = 1) -> agent_pb2.Question:
    question = (await seen.until("question", count)).question
    answer = chat_pb2.AnswerQuestion(question_id=question.question_id, value_json=json.dumps(value))
    receipt = await talk.request("1", answer=answer)
    assert not receipt.HasField("error"), receipt
    return question


async def _completed(seen: Seen) -> str:
    ended = await seen.ended()
    assert ended.ending == chat_pb2.SESSION_ENDING_COMPLETED, ended
    return seen.text


@asynchronous
async def test_works_with_tools_at_once(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _asked(talk, "What is 17 * 23 + 4, and what time is it in Tokyo and Lisbon?")
        text = await _completed(seen)
    assert text.startswith("17 * 23 + 4 = 395. In Tokyo it is ")
    assert "In Lisbon it is " in text
    # A paragraph of its own, whatever was said before.
    assert text.endswith("\n\n(I am a demonstration made of rules, not a language model.)")
    assert "395" in seen.of("tool_result")[0].tool_result.result_json
    # All were asked for before any was waited for, and none was lost.
    steps = [kind for kind in seen.kinds if kind.startswith("tool_")]
    assert steps[0] == "tool_call"
    assert steps.count("tool_call") == steps.count("tool_result") == 3
    assert {event.thought.step_name for event in seen.of("thought")} == {"Planning"}
    assert "not a language model" in "".join(event.thought.delta for event in seen.of("thought"))
    last = seen.of("progress")[-1].progress
    assert (last.current, last.total) == (3, 3)


@asynchronous
async def test_uses_no_tokens_and_says_so(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _asked(talk, "Hello")
        await _completed(seen)
    (usage,) = seen.of("usage")
    assert usage.usage == agent_pb2.Usage()
    ended = await seen.ended()
    assert (ended.usage.input_tokens, ended.usage.output_tokens) == (0, 0)


@asynchronous
async def test_searches(address: str) -> None:
    async with conversing(address) as talk:
        text = await _completed(await _asked(talk, "What do the texts say about credit?"))
    assert "The texts have this about “credit”:\n- limits.txt, line" in text


@asynchronous
async def test_explains_a_tool_that_fails(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _asked(talk, "1/0 and the time in Tokio, please")
        text = await _completed(seen)
    assert "I can't calculate 1 / 0: 1 / 0 divides by zero." in text
    assert "I can't tell the time in Tokio:" in text
    codes = {event.tool_result.error.code for event in seen.of("tool_result")}
    assert codes == {agent_pb2.TOOL_ERROR_CODE_INVALID_ARGUMENTS}


@asynchronous
async def test_does_so_much_at_once_and_says_what_it_leaves_out(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _asked(talk, "; ".join(f"1 + {number}" for number in range(20)))
        text = await _completed(seen)
    assert len(seen.of("tool_call")) == 16
    assert "That is 20 things at once; I do the first 16" in text


@asynchronous
async def test_asks_where(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _asked(talk, "What time is it?")
        question = await _answer(talk, seen, "another place")
        assert list(question.options) == list(sayings.PLACES)
        assert not (await _answer(talk, seen, "Reykjavik", 2)).options
        assert "In Reykjavik it is " in await _completed(seen)


@pytest.mark.parametrize(
    ("choice", "then", "text"),
    [
        ("search the texts for it", None, "The texts have this about “viewer gap”"),
        ("calculate something", "3 * 4", "3 * 4 = 12."),
        ("calculate something", "3 + (", "I can't calculate 3 + (: "),
        ("tell the time", "UTC", "In UTC it is "),
        ("nothing", None, "Then I leave it at that."),
    ],
)
def test_asks_what_is_meant(address: str, choice: str, then: str | None, text: str) -> None:
    @asynchronous
    async def scene() -> None:
        async with conversing(address) as talk:
            seen = await _asked(talk, "Viewer, gap!")
            question = await _answer(talk, seen, choice)
            assert "“Viewer, gap!” says nothing to me." in question.text
            assert "search the texts for it" in question.options
            if then is not None:
                await _answer(talk, seen, then, 2)
            assert text in await _completed(seen)

    scene()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("what is 2 + 2?\n", "2 + 2 = 4."),
        ("what time is it?\nTokyo\n", "In Tokyo it is "),
        ("something else entirely\n", "I did not understand that either"),
    ],
)
def test_understands_words_of_ones_own_where_they_are_let_through(address: str, said: str, text: str) -> None:
    """Whoever answers `commander ask` is held to no options."""
    command = [sys.executable, "-m", "commander", "ask", "Viewer, gap!", "--dispatcher", address]
    asked = subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=60)
    assert asked.returncode == 0, asked.stderr
    assert text in asked.stdout


@asynchronous
async def test_goes_on_without_an_answer(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _asked(talk, "What time is it, and what is 2 + 2?")
        question = (await seen.until("question")).question
        declined = chat_pb2.AnswerQuestion(question_id=question.question_id, decline=True)
        await talk.request("1", answer=declined)
        text = await _completed(seen)
    assert text.startswith("You would rather not say, so I leave that one open. 2 + 2 = 4.")


@asynchronous
async def test_goes_on_when_a_question_expires(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _asked(talk, "Hm", answer_within_s="0.1")
        assert "Nobody has answered, so I leave that one open." in await _completed(seen)


@asynchronous
async def test_takes_up_what_the_user_adds(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _asked(talk, "Count to 10000", pace_ms="1")
        await seen.until_text("20")
        await talk.request("1", message=chat_pb2.AddMessage(text="What is 6 * 7?"))
        await seen.until_text("You say “What is 6 * 7?”. 6 * 7 = 42.\n\n")
        said = len(seen.text)
        # It goes on where it was, until that is enough.
        await seen.when(lambda: len(seen.text) > said, "more numbers")
        await talk.request("1", message=chat_pb2.AddMessage(text="faster"))
        await seen.when(lambda: any(e.thought.delta == "Faster, then." for e in seen.events), "faster")
        await talk.request("1", message=chat_pb2.AddMessage(text="That's enough, thanks"))
        text = await _completed(seen)
    assert text.endswith("All right, I leave it at that.")
    numbers = [int(word) for word in text.split("You say")[0].split()]
    assert numbers == list(range(1, len(numbers) + 1))
    after = text.partition("6 * 7 = 42.\n\n")[2].split()
    assert after[0] == str(len(numbers) + 1)


@asynchronous
async def test_is_stopped_in_the_middle(address: str) -> None:
    async with conversing(address) as talk, administering(address) as admin:
        seen = await _asked(talk, "Tell me a long story", pace_ms="5")
        await seen.until_text("promise is")
        request = admin_pb2.StopSessionRequest(session_id=seen.events[0].session_id, reason="enough")
        answer = await admin.StopSession(request)
        assert answer.result == admin_pb2.STOP_RESULT_STOPPED
        ended = await seen.ended()
    assert ended.ending == chat_pb2.SESSION_ENDING_STOPPED
    assert ended.content_chars == len(seen.text)


@asynchronous
async def test_metadata_that_makes_no_sense_is_named(address: str) -> None:
    async with conversing(address) as talk:
        ended = await (await _asked(talk, "Hello", pace_ms="quick")).ended()
    assert ended.ending == chat_pb2.SESSION_ENDING_AGENT_FAILED
    assert ended.error.code == "invalid_metadata"
    assert ended.error.message == "metadata pace_ms: 'quick' should be a number from 0 to 1000"


@asynchronous
async def test_introduces_itself_once_a_conversation(address: str) -> None:
    messages = [
        agent_pb2.Message(role=role, parts=[agent_pb2.ContentPart(text=text)])
        for role, text in (
            (agent_pb2.ROLE_USER, "1 + 1"),
            (agent_pb2.ROLE_ASSISTANT, "1 + 1 = 2."),
            (agent_pb2.ROLE_USER, "2 + 2"),
        )
    ]
    async with conversing(address) as talk:
        seen = await talk.ask("demo", messages=messages, metadata={"pace_ms": "0"})
        assert await _completed(seen) == "2 + 2 = 4."
