"""What an author can say, ask and catch, and what becomes of an agent that fails."""

import asyncio
import functools
import gc
import json
import logging
import math
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from commander_here import PATIENCE_S, Told, serving
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import (
    AgentError,
    BlockingTurn,
    InvalidArguments,
    Message,
    Published,
    PublishedCall,
    QuestionUnanswered,
    Stopped,
    ToolFailed,
    ToolNotFound,
    ToolTimeout,
    ToolTooLarge,
    Turn,
    UserMessage,
    agent,
)
from commander.agent import AnyAgent
from commander.conversation import ToolFailure
from commander.errors import TOOL_FAILURES


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


def run(dispatcher: ScriptedDispatcher, served: AnyAgent, **told: Any) -> ScriptedSession:
    """A session of this agent to its end."""
    start = told.pop("start", None)
    with serving(dispatcher.address, served, **told):
        session = ScriptedSession(dispatcher.accept(), "s", text="the question", start=start)
        session.done()
    return session


def done_of(session: ScriptedSession) -> pb.Done:
    return session.other[-1].done


# ---- kinds of agents ----


@agent("async-generator")
async def an_async_generator(turn: Turn) -> Any:
    yield turn.thought("Plan", "to ")
    yield turn.thought("Plan", "answer")
    yield "the "
    yield turn.content("answer")


@agent("generator")
def a_generator(turn: BlockingTurn) -> Any:
    yield turn.thought("Plan", "to answer")
    yield "the "
    yield turn.content("answer")


@agent("coroutine")
async def a_coroutine(turn: Turn) -> str:
    await turn.emit(turn.thought("Plan", "to answer"))
    await turn.emit("the ")
    return "answer"


@agent("function")
def a_function(turn: BlockingTurn) -> str:
    turn.emit(turn.thought("Plan", "to answer"))
    turn.emit("the ")
    return "answer"


@pytest.mark.parametrize(
    "served", [an_async_generator, a_generator, a_coroutine, a_function], ids=lambda served: served.name
)
def test_every_kind_of_agent_says_the_same(dispatcher: ScriptedDispatcher, served: AnyAgent) -> None:
    session = run(dispatcher, served)
    assert session.content == "the answer"
    assert session.thoughts == {"Plan": "to answer"}
    assert done_of(session).outcome == pb.OUTCOME_COMPLETED


def test_an_agent_is_still_its_function() -> None:
    @agent
    def two_words(number: int) -> int:
        """Doubles it. And more."""
        return number * 2

    assert two_words(21) == 42
    assert two_words.name == "two-words"
    assert two_words.description == "Doubles it. And more."
    assert two_words.kind.is_blocking
    assert repr(two_words) == "<Agent two-words (function)>"


@pytest.mark.parametrize("name", ["", "two words", "x" * 129, 5])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="an agent's name should be"):
        agent(name)(an_async_generator.function)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"version": 2}, "an agent's version should be a str, not int"),
        ({"version": "2" * 129}, "an agent's version has 129 characters; up to 128 are right"),
        ({"description": b"weather"}, "an agent's description should be a str, not bytes"),
        ({"description": "half \ud800"}, "an agent's description has half characters"),
        (
            {"accepts": "image/*"},
            "an agent's accepts should be a list of MIME types, e.g. ['text/plain'], not str",
        ),
        ({"accepts": [1]}, "an agent's accepts should be a str, not int"),
        ({"accepts": ["text/plain"] * 17}, "an agent's accepts has 17 MIME types; up to 16 are right"),
    ],
)
def test_what_no_dispatcher_takes_of_an_agent_is_refused_where_it_is_made(
    told: dict[str, Any], why: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(why)):
        agent("a", **told)(an_async_generator.function)


def test_an_agent_of_many_words_links_and_is_told_of_in_fewer(dispatcher: ScriptedDispatcher) -> None:
    wordy = agent("wordy", description="word " * 400_000)(an_async_generator.function)
    with serving(dispatcher.address, wordy):
        (offer,) = dispatcher.accept().hello.agents
    assert (len(offer.description), offer.description[-5:]) == (1_024, " wor…")


def test_a_function_that_takes_no_turn_is_no_agent() -> None:
    with pytest.raises(
        TypeError, match=re.escape("should be called with one argument, the turn: (turn), not ()")
    ):

        @agent
        async def forgetful() -> str:
            return "never"

    @agent
    async def generous(turn: Turn, more: int = 2, *rest: int, **named: int) -> str:
        return "fine"

    assert generous.name == "generous"


@pytest.mark.parametrize("on_restart", ["", "resume", "Restart", None, ["never"]])
def test_what_it_does_on_a_restart_is_one_of_three(on_restart: Any) -> None:
    right = re.escape(
        f"an agent's on_restart should be one of 'restart', 'continue', 'never', not {on_restart!r}"
    )
    with pytest.raises(ValueError, match=right):
        agent("a", on_restart=on_restart)(an_async_generator.function)


# ---- what it is told ----


def test_a_turn_knows_what_it_was_asked(dispatcher: ScriptedDispatcher) -> None:
    @agent("curious")
    async def curious(turn: Turn) -> str:
        told = {
            "text": turn.text,
            "roles": [message.role for message in turn.conversation],
            "texts": [message.text for message in turn.conversation],
            "session": turn.session_id,
            "attempt": turn.attempt,
            "user": turn.user_id,
            "metadata": dict(turn.metadata),
            "tools": [[tool.name, tool.parameters["type"]] for tool in turn.tools],
            "has_time": turn.time_left_s is not None and 50 < turn.time_left_s <= 60,
            "published": turn.published.content if turn.published else None,
            "trace": turn.trace_context[0],
        }
        return json.dumps(told)

    start = pb.Start(
        messages=[pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.ContentPart(text="an answer")])],
        tools=[pb.ToolOffer(name="add", parameters_schema_json='{"type": "object"}')],
        metadata={"tenant": "t"},
        user_id="alice",
        published=pb.Published(content="so far"),
        trace_context=pb.TraceContext(traceparent="00-1"),
    )
    start.time_left.seconds = 60
    told = json.loads(run(dispatcher, curious, start=start).content)
    assert told == {
        "text": "the question",
        "roles": ["user", "assistant"],
        "texts": ["the question", "an answer"],
        "session": "s",
        "attempt": 1,
        "user": "alice",
        "metadata": {"tenant": "t"},
        "tools": [["add", "object"]],
        "has_time": True,
        "published": "so far",
        "trace": "00-1",
    }


PUBLISHED = pb.Published(
    content="one two ",
    calls=[
        pb.PublishedCall(
            request=pb.ToolCallRequest(tool_name="add", arguments_json='{"n": 1}', call_id="call-1"),
            result=pb.ToolCallResult(result_json="1", call_id="call-1"),
        ),
        pb.PublishedCall(
            request=pb.ToolCallRequest(tool_name="add", call_id="call-2"),
            result=pb.ToolCallResult(
                result_json="{}",
                call_id="call-2",
                error=pb.ToolError(code=pb.TOOL_ERROR_CODE_DENIED, message="not today"),
            ),
        ),
        pb.PublishedCall(
            request=pb.ToolCallRequest(tool_name="pay", call_id="call-3", idempotency_key="order-7")
        ),
    ],
    messages=[pb.UserMessage(text="faster", message_id="m1")],
)


def test_one_that_continues_is_told_all_that_was_published(dispatcher: ScriptedDispatcher) -> None:
    told: list[Published | None] = []

    @agent("continuing", on_restart="continue")
    async def continuing(turn: Turn) -> str:
        told.append(turn.published)
        return "three"

    assert run(dispatcher, continuing, start=pb.Start(published=PUBLISHED)).content == "three"
    assert told == [
        Published(
            "one two ",
            (
                PublishedCall("add", '{"n": 1}', "1"),
                PublishedCall("add", "", "{}", ToolFailure("denied", "not today")),
                PublishedCall("pay", "", None, None, "order-7"),
            ),
            (UserMessage("faster", "m1"),),
        )
    ]


@pytest.mark.parametrize(
    ("start", "prefix"), [(pb.Start(), ""), (pb.Start(published=PUBLISHED), "3.")], ids=["anew", "continued"]
)
def test_ids_are_none_of_an_earlier_attempt_but_those_of_the_same_call(
    dispatcher: ScriptedDispatcher, start: pb.Start, prefix: str
) -> None:
    """Of a call alone one that begins anew wants to be known again: its idempotency key is made of its id."""

    @agent("asker")
    async def asker(turn: Turn) -> Any:
        yield turn.artifact("dot", b"1")
        calls = turn.call_tool("add"), turn.call_tool("add")
        yield str(await asyncio.gather(turn.ask("Sure?"), *calls))

    with serving(dispatcher.address, asker):
        session = ScriptedSession(dispatcher.accept(), "s", attempt=3, start=start)
        assert session.next_of("artifact").artifact.artifact_id == "artifact-3.1"
        question = session.next_of("question").question
        assert question.question_id == "question-3.1"
        for number in (1, 2):
            call = session.next_of("tool_call")
            assert call.tool_call.call_id == f"call-{prefix}{number}"
            session.answer_call(call, f"{number}")
        answer = pb.Answer(question_id=question.question_id, value_json="0")
        session.owe(pb.DownstreamPacket(answer=answer))
        session.done()
    assert session.content == "[0, 1, 2]"


# ---- what it may say ----


def test_what_an_agent_says_keeps_its_order(dispatcher: ScriptedDispatcher) -> None:
    @agent("talkative")
    async def talkative(turn: Turn) -> Any:
        yield "one "
        yield turn.progress("half", current=1, total=2, percent=50, left_s=40)
        yield "two "
        yield turn.embedding([0.5, -1.0], name="vector", model="m")
        yield turn.usage(input_tokens=1, output_tokens=2, reasoning_tokens=3, model="m")
        yield turn.usage(output_tokens=5)
        yield ""
        yield turn.content("")

    session = run(dispatcher, talkative)
    kinds = [packet.WhichOneof("payload") for packet in session.other]
    assert kinds == ["progress", "embedding", "usage", "usage", "done"]
    progress, embedding = session.other[0], session.other[1]
    assert (progress.sequence, embedding.sequence) == (2, 4)
    assert (progress.progress.current, progress.progress.percent) == (1, 50)
    assert progress.progress.text == "half, about 40 s left"
    assert list(embedding.embedding.values) == [0.5, -1.0]
    usage = done_of(session).usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens, usage.model) == (1, 7, 3, "m")


@pytest.mark.parametrize("size", [0, 1, 1_000, 300_000])
def test_an_artifact_of_any_size_crosses_in_pieces(dispatcher: ScriptedDispatcher, size: int) -> None:
    data = bytes(number % 251 for number in range(size))

    @agent("painter")
    async def painter(turn: Turn) -> Any:
        yield "here: "
        yield turn.artifact("picture", data, mime_type="image/png")
        yield "done"

    session = run(dispatcher, painter, packet_bytes_max=1_000)
    pieces = [packet.artifact for packet in session.other if packet.HasField("artifact")]
    assert b"".join(piece.data for piece in pieces) == data
    assert max(len(piece.data) for piece in pieces) <= 1_000
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert {(piece.name, piece.mime_type, piece.artifact_id) for piece in pieces} == {
        ("picture", "image/png", "artifact-1")
    }
    assert session.content == "here: done"


@pytest.mark.parametrize(
    "view",
    [
        bytearray,
        memoryview,
        lambda buffer: memoryview(buffer)[::2],
        lambda buffer: memoryview(buffer).cast("I"),
    ],
)
def test_an_artifact_is_what_it_was_when_it_was_said(dispatcher: ScriptedDispatcher, view: Any) -> None:
    @agent("painter")
    async def painter(turn: Turn) -> Any:
        buffer = bytearray(b"a" * 4_000)
        data = view(buffer) if view is not bytearray else buffer
        for letter in b"bc":
            yield turn.artifact("picture", data)
            buffer[:] = bytes([letter]) * 4_000

    session = run(dispatcher, painter, packet_bytes_max=1_000)
    pieces = [packet.artifact for packet in session.other if packet.HasField("artifact")]
    whole = {
        each: b"".join(piece.data for piece in pieces if piece.artifact_id == f"artifact-{each}")
        for each in (1, 2)
    }
    assert [set(whole[1]), set(whole[2])] == [set(b"a"), set(b"b")]
    assert len(whole[1]) == len(whole[2]) == len(bytes(view(bytearray(4_000))))


def test_a_long_text_is_cut_between_code_points(dispatcher: ScriptedDispatcher) -> None:
    text = "añb→c𝄞" * 5_000

    @agent("longwinded")
    async def longwinded(_: Turn) -> Any:
        yield text

    assert run(dispatcher, longwinded, packet_bytes_max=256).content == text


class Unspeakable:
    """Whoever shows it fails."""

    def __repr__(self) -> str:
        raise RuntimeError


class Done:
    """Something that waits to be awaited."""

    def __await__(self) -> Iterator[None]:
        return iter(())


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (5, "an agent yielded int '5'"),
        (None, "an agent yielded NoneType"),
        (b"bytes", "an agent yielded bytes; it may be"),
        ({"api_key": "sk-1"}, "an agent yielded dict; it may be"),
        (10**5_000, "an agent yielded int; it may be"),
        (Unspeakable(), "an agent yielded Unspeakable; it may be"),
        (Done(), "makes: await it first"),
        (iter([]), "makes: yield what it gives, piece by piece"),
        ("lone \ud800", "surrogates not allowed"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_what_cannot_be_said_fails_at_the_very_yield(
    dispatcher: ScriptedDispatcher, output: Any, told: str, kind: str
) -> None:
    caught: list[BaseException] = []

    @agent("async")
    async def mistaken(_: Turn) -> Any:
        yield "begin"
        try:
            yield output
        except (TypeError, UnicodeError) as error:
            caught.append(error)
            raise

    @agent("sync")
    def mistaken_too(_: BlockingTurn) -> Any:
        yield "begin"
        try:
            yield output
        except (TypeError, UnicodeError) as error:
            caught.append(error)
            raise

    session = run(dispatcher, mistaken if kind == "async" else mistaken_too)
    error = done_of(session).error
    assert told in error.message
    assert error.error_type in ("TypeError", "UnicodeEncodeError")
    assert session.content == "begin"
    assert len(caught) == 1


def test_an_agent_may_go_on_after_its_mistake(dispatcher: ScriptedDispatcher) -> None:
    @agent("forgiving")
    async def forgiving(_: Turn) -> Any:
        try:
            yield 5
        except TypeError:
            yield "never mind"

    session = run(dispatcher, forgiving)
    assert session.content == "never mind"
    assert done_of(session).outcome == pb.OUTCOME_COMPLETED


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda turn: turn.progress("x", percent=101), "percent must lie between 0 and 100"),
        (lambda turn: turn.progress("x", current=float("nan")), "current must be a finite number"),
        (lambda turn: turn.progress("x", left_s=float("inf")), "left_s must be a finite number"),
        (lambda turn: turn.progress("x", left_s=-1), "left_s must be 0 or more"),
        (lambda turn: turn.progress("x", current=10**400), "current must be a number that can cross, up to"),
        (lambda turn: turn.thought(5, "x"), "thought: step must be a str, not int"),
        (lambda turn: turn.embedding(None), "embedding: values must be numbers, not None"),
        (lambda turn: turn.embedding([1], name=5), "embedding: name must be a str, not int"),
        (
            lambda turn: turn.usage(input_tokens=None),
            "usage: input_tokens must be a whole number, not NoneType",
        ),
        (
            lambda turn: turn.usage(output_tokens=1.5),
            "usage: output_tokens must be a whole number, not float",
        ),
        (
            lambda turn: turn.usage(reasoning_tokens=-1),
            "usage: reasoning_tokens must be a whole number from 0 to",
        ),
        (
            lambda turn: turn.usage(input_tokens=2**64),
            "usage: input_tokens must be a whole number from 0 to 18,446",
        ),
        (lambda turn: turn.artifact("a", "text"), "data must be bytes, not str"),
        (lambda turn: turn.embedding(["x"]), "values must be numbers"),
        (lambda turn: turn.embedding([0.0] * 400_000), "at most 1044480 can cross"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name(
    dispatcher: ScriptedDispatcher, make: Any, told: str
) -> None:
    @agent("mistaken")
    async def mistaken(turn: Turn) -> Any:
        yield make(turn)

    error = done_of(run(dispatcher, mistaken)).error
    assert told in error.message


# ---- tools ----


def test_calls_run_side_by_side_and_their_results_find_home(dispatcher: ScriptedDispatcher) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> Any:
        results = await asyncio.gather(*(turn.call_tool("square", n=number) for number in range(3)))
        yield json.dumps(results)

    with serving(dispatcher.address, caller):
        session = ScriptedSession(dispatcher.accept(), "s")
        calls = [session.next() for _ in range(3)]
        for call in reversed(calls):
            number = json.loads(call.tool_call.arguments_json)["n"]
            session.answer_call(call, json.dumps({"square": number**2}))
        session.done()
    assert len({call.tool_call.call_id for call in calls}) == 3
    assert json.loads(session.content) == [{"square": 0}, {"square": 1}, {"square": 4}]


def test_a_call_says_how_long_it_waits_and_what_makes_it_the_same(dispatcher: ScriptedDispatcher) -> None:
    @agent("caller")
    def caller(turn: BlockingTurn) -> Any:
        yield str(turn.call_tool_with("pay", {"name": "é"}, timeout_s=1.5, idempotency_key="order-7"))

    with serving(dispatcher.address, caller):
        session = ScriptedSession(dispatcher.accept(), "s")
        call = session.next()
        session.answer_call(call, "")
        session.done()
    assert call.tool_call.timeout_ms == 1_500
    assert call.tool_call.idempotency_key == "order-7"
    assert json.loads(call.tool_call.arguments_json) == {"name": "é"}
    assert session.content == "None"


CODES = {
    pb.TOOL_ERROR_CODE_UNSPECIFIED: "failed",
    pb.TOOL_ERROR_CODE_NOT_FOUND: "not_found",
    pb.TOOL_ERROR_CODE_INVALID_ARGUMENTS: "invalid_arguments",
    pb.TOOL_ERROR_CODE_DENIED: "denied",
    pb.TOOL_ERROR_CODE_TIMEOUT: "timeout",
    pb.TOOL_ERROR_CODE_FAILED: "failed",
    pb.TOOL_ERROR_CODE_CANCELLED: "cancelled",
    pb.TOOL_ERROR_CODE_TOO_LARGE: "too_large",
    pb.TOOL_ERROR_CODE_UNKNOWN_OUTCOME: "unknown_outcome",
}


def test_every_way_a_call_fails_has_its_exception(dispatcher: ScriptedDispatcher) -> None:
    raised: list[ToolFailed] = []

    @agent("caller")
    async def caller(turn: Turn) -> Any:
        for _ in CODES:
            try:
                await turn.call_tool("tool")
            except ToolFailed as failure:
                raised.append(failure)
        yield "done"

    assert set(CODES) == set(pb.ToolErrorCode.values())
    with serving(dispatcher.address, caller):
        session = ScriptedSession(dispatcher.accept(), "s")
        for code in CODES:
            error = pb.ToolError(code=code, message="because", retryable=True, retry_after_ms=1_500)
            session.answer_call(session.next(), '{"error": {}}', error)
        session.done()
    assert [type(failure) for failure in raised] == [TOOL_FAILURES[name] for name in CODES.values()]
    assert set(TOOL_FAILURES) == set(CODES.values())
    for failure in raised:
        assert (failure.tool, failure.message) == ("tool", "because")
        assert (failure.retryable, failure.retry_after_s) == (True, 1.5)


class Loop:
    pass


LOOP: list[Any] = []
LOOP.append(LOOP)
# Deeper than json goes, and nowhere within itself.
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"good": 1, "when": {1, 2}}, "argument 'when' is no JSON"),
        ({"what": Loop()}, "argument 'what' is no JSON"),
        ({"share": float("nan")}, "argument 'share' is no JSON"),
        ({"text": "\ud800"}, "argument 'text' is no JSON"),
        ({"loop": LOOP}, "argument 'loop' is"),
    ],
)
def test_arguments_that_are_no_json_are_named_and_nothing_goes(
    dispatcher: ScriptedDispatcher, arguments: dict[str, Any], told: str
) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> Any:
        with pytest.raises(InvalidArguments, match=told):
            await turn.call_tool("tool", **arguments)
        yield "done"

    session = run(dispatcher, caller)
    assert session.content == "done"
    assert [packet.WhichOneof("payload") for packet in session.other] == ["done"]


def test_arguments_too_large_to_cross_are_told_before_they_go(dispatcher: ScriptedDispatcher) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> Any:
        with pytest.raises(ToolTooLarge, match="at most 61440"):
            await turn.call_tool("tool", text="x" * 70_000)
        yield "done"

    assert run(dispatcher, caller, max_message_bytes=65_536).content == "done"


def test_a_result_that_is_no_json_is_a_failed_call(dispatcher: ScriptedDispatcher) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> Any:
        with pytest.raises(ToolFailed, match="its result is no JSON"):
            await turn.call_tool("tool")
        yield "done"

    with serving(dispatcher.address, caller):
        session = ScriptedSession(dispatcher.accept(), "s")
        session.answer_call(session.next(), "{")
        session.done()


@pytest.mark.parametrize(
    ("tool", "key", "failure", "why"),
    [
        ("", "", ToolNotFound, "has 0 characters; 1 to 128 printable ones are right"),
        ("t" * 129, "", ToolNotFound, "has 129 characters; 1 to 128 printable ones are right"),
        ("my\ntool", "", ToolNotFound, "has characters that can't be printed"),
        ("half \ud800", "", ToolNotFound, "has characters that can't be printed"),
        ("pay", "order 7", InvalidArguments, "idempotency_key: has a blank"),
        ("pay", "order\t7", InvalidArguments, "idempotency_key: has a blank"),
        ("pay", "k" * 129, InvalidArguments, "idempotency_key: has 129 characters; up to 128"),
    ],
    ids=lambda value: value[:8].encode("ascii", "replace").decode() if isinstance(value, str) else "",
)
def test_a_call_that_no_dispatcher_would_take_fails_before_it_goes(
    dispatcher: ScriptedDispatcher, tool: str, key: str, failure: type[ToolFailed], why: str
) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> Any:
        with pytest.raises(failure) as caught:
            await turn.call_tool_with(tool, {}, idempotency_key=key)
        assert why in caught.value.message
        assert len(str(caught.value)) < 300
        yield "caught"

    session = run(dispatcher, caller)
    assert session.content == "caught"
    assert [packet.WhichOneof("payload") for packet in session.other] == ["done"]


@pytest.mark.parametrize(("tool", "key"), [("my tool", ""), ("t" * 128, "k" * 128)])
def test_an_odd_name_is_for_the_dispatcher_to_judge(
    dispatcher: ScriptedDispatcher, tool: str, key: str
) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> Any:
        yield await turn.call_tool_with(tool, {}, idempotency_key=key)

    with serving(dispatcher.address, caller):
        session = ScriptedSession(dispatcher.accept(), "s")
        call = session.next()
        session.answer_call(call, '"taken"')
        session.done()
    assert (call.tool_call.tool_name, call.tool_call.idempotency_key) == (tool, key)
    assert session.content == "taken"


@pytest.mark.parametrize(
    ("call", "kind", "why"),
    [
        (
            lambda turn: turn.call_tool_with("t", {}, timeout_s="5"),
            TypeError,
            "timeout_s should be a number of sec",
        ),
        (
            lambda turn: turn.call_tool_with("t", {}, timeout_s=True),
            TypeError,
            "timeout_s should be a number of s",
        ),
        (
            lambda turn: turn.call_tool_with("t", {}, timeout_s=math.nan),
            ValueError,
            "timeout_s should be a numb",
        ),
        (
            lambda turn: turn.call_tool_with("t", {}, timeout_s=-1.5),
            ToolTimeout,
            "timeout_s is -1.5, so there is no",
        ),
        (
            lambda turn: turn.delegate("other", "Hi", timeout_s=0),
            ToolTimeout,
            "timeout_s is 0, so there is no time",
        ),
        (
            lambda turn: turn.call_tool_with("t", {}, idempotency_key=5),
            TypeError,
            "idempotency_key should be a str",
        ),
        (
            lambda turn: turn.call_tool(None),
            TypeError,
            "the name of a tool or an agent should be a str, not NoneT",
        ),
    ],
)
@pytest.mark.parametrize("kind_of_agent", ["async", "sync"])
def test_a_call_that_can_not_be_meant_says_which_argument_is_wrong(
    dispatcher: ScriptedDispatcher, call: Any, kind: type[Exception], why: str, kind_of_agent: str
) -> None:
    def caught(error: Exception) -> str:
        assert isinstance(error, kind), repr(error)
        return str(error)

    @agent("async")
    async def caller(turn: Turn) -> Any:
        try:
            await call(turn)
        except (TypeError, ValueError, ToolFailed) as error:
            yield caught(error)

    @agent("sync")
    def caller_too(turn: BlockingTurn) -> Any:
        try:
            call(turn)
        except (TypeError, ValueError, ToolFailed) as error:
            yield caught(error)

    session = run(dispatcher, caller if kind_of_agent == "async" else caller_too)
    assert why in session.content
    assert [packet.WhichOneof("payload") for packet in session.other] == ["done"]


@pytest.mark.parametrize("timeout_s", [math.inf, 1e300, 10**400], ids=["inf", "1e300", "int"])
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_call_may_wait_for_as_long_as_there_are_numbers(
    dispatcher: ScriptedDispatcher, timeout_s: float, kind: str
) -> None:
    @agent("async")
    async def patient(turn: Turn) -> Any:
        yield await turn.call_tool_with("tool", {}, timeout_s=timeout_s)

    @agent("sync")
    def patient_too(turn: BlockingTurn) -> Any:
        yield turn.call_tool_with("tool", {}, timeout_s=timeout_s)

    with serving(dispatcher.address, patient if kind == "async" else patient_too):
        session = ScriptedSession(dispatcher.accept(), "s")
        call = session.next()
        session.answer_call(call, '"here"')
        session.done()
    assert call.tool_call.timeout_ms == 4_000_000_000
    assert session.content == "here"


def test_a_call_given_up_leaves_nothing_behind(dispatcher: ScriptedDispatcher) -> None:
    @agent("impatient")
    async def impatient(turn: Turn) -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(turn.call_tool("slow"), 0.01)
        yield "gave up "
        yield str(await turn.call_tool("quick"))

    with serving(dispatcher.address, impatient):
        session = ScriptedSession(dispatcher.accept(), "s")
        slow = session.next()
        quick = session.next_of("tool_call")
        session.answer_call(slow, "1")
        session.answer_call(quick, "2")
        session.done()
    assert session.content == "gave up 2"


def test_an_uncaught_failure_of_a_tool_fails_the_turn(dispatcher: ScriptedDispatcher) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> Any:
        yield await turn.call_tool("nowhere")

    with serving(dispatcher.address, caller):
        session = ScriptedSession(dispatcher.accept(), "s")
        error = pb.ToolError(code=pb.TOOL_ERROR_CODE_NOT_FOUND, message="no such tool")
        session.answer_call(session.next(), "{}", error)
        done = session.done()
    assert done.outcome == pb.OUTCOME_FAILED
    assert done.error.error_type == ToolNotFound.__name__


# ---- the user ----


def test_a_question_waits_for_its_answer(dispatcher: ScriptedDispatcher) -> None:
    @agent("asker")
    async def asker(turn: Turn) -> Any:
        chosen = await turn.ask("Which?", ["a", "b"], schema={"type": "string"}, expires_in_s=2.5)
        yield f"chosen: {chosen}"

    with serving(dispatcher.address, asker):
        session = ScriptedSession(dispatcher.accept(), "s")
        question = session.next().question
        answer = pb.Answer(question_id=question.question_id, value_json='"b"')
        session.owe(pb.DownstreamPacket(answer=answer))
        session.done()
    assert (question.text, list(question.options)) == ("Which?", ["a", "b"])
    assert json.loads(question.response_schema_json) == {"type": "string"}
    assert (question.expires_in.seconds, question.expires_in.nanos) == (2, 500_000_000)
    assert session.content == "chosen: b"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"question": None}, "ask: the question should be a str, not NoneType"),
        ({"question": ""}, "ask: the question is empty"),
        ({"question": "half \ud800"}, "ask: the question has half characters"),
        ({"options": "yes"}, 'ask: options should be a list of str, e.g. ["yes", "no"], not str'),
        ({"options": {"yes": 1}}, "ask: options should be a list of str"),
        ({"options": [1, 2]}, "ask: an option should be a str, not int"),
        ({"options": ["yes", ""]}, "ask: an option is empty"),
        ({"options": ["\udc00"]}, "ask: an option has half characters"),
        ({"schema": "integer"}, "ask: schema should be a JSON Schema as a dict"),
        ({"schema": {"type": int}}, "ask: schema is no JSON: Object of type type"),
        ({"schema": {"minimum": math.nan}}, "ask: schema is no JSON"),
        ({"schema": {"not": DEEP}}, "ask: schema is nested too deeply, or within itself"),
        ({"expires_in_s": "60"}, "ask: expires_in_s should be a number of seconds, or None, not str"),
        ({"expires_in_s": math.nan}, "ask: expires_in_s should be a number of seconds, or None, not nan"),
    ],
)
def test_a_question_that_nobody_could_answer_is_not_asked(
    dispatcher: ScriptedDispatcher, wrong: dict[str, Any], why: str
) -> None:
    @agent("asker")
    async def asker(turn: Turn) -> Any:
        with pytest.raises((TypeError, ValueError)) as caught:
            await turn.ask(**{"question": "Which?", **wrong})
        yield str(caught.value)

    session = run(dispatcher, asker)
    assert why in session.content
    assert [packet.WhichOneof("payload") for packet in session.other] == ["done"]


@pytest.mark.parametrize(
    ("expires_in_s", "asked_s"),
    [(-1, 0), (0, 0), (math.inf, 4_000_000), (10**400, 4_000_000)],
    ids=["negative", "zero", "inf", "int"],
)
def test_a_question_waits_for_as_long_as_there_are_numbers(
    dispatcher: ScriptedDispatcher, expires_in_s: float, asked_s: int
) -> None:
    @agent("asker")
    async def asker(turn: Turn) -> Any:
        yield await turn.ask("Which?", expires_in_s=expires_in_s)

    with serving(dispatcher.address, asker):
        session = ScriptedSession(dispatcher.accept(), "s")
        question = session.next().question
        answer = pb.Answer(question_id=question.question_id, value_json='"this"')
        session.owe(pb.DownstreamPacket(answer=answer))
        session.done()
    assert (question.HasField("expires_in"), question.expires_in.seconds) == (True, asked_s)


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_question_may_stay_unanswered(dispatcher: ScriptedDispatcher, kind: str) -> None:
    @agent("async")
    async def asker(turn: Turn) -> Any:
        try:
            await turn.ask("Which?")
        except QuestionUnanswered as unanswered:
            yield unanswered.why

    @agent("sync")
    def asker_too(turn: BlockingTurn) -> Any:
        try:
            turn.ask("Which?")
        except QuestionUnanswered as unanswered:
            yield unanswered.why

    with serving(dispatcher.address, asker if kind == "async" else asker_too):
        session = ScriptedSession(dispatcher.accept(), "s")
        question = session.next().question
        cancelled = pb.Answer(question_id=question.question_id, cancelled=pb.AnswerCancelled(why="expired"))
        session.owe(pb.DownstreamPacket(answer=cancelled))
        session.done()
    assert session.content == "expired"


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_the_user_may_talk_while_it_runs(dispatcher: ScriptedDispatcher, kind: str) -> None:
    @agent("async")
    async def listener(turn: Turn) -> Any:
        yield "listening "
        async for message in turn.messages():
            yield f"{message.message_id}={message} "
            if message.text == "enough":
                break

    @agent("sync")
    def listener_too(turn: BlockingTurn) -> Any:
        yield "listening "
        for message in turn.messages():
            yield f"{message.message_id}={message} "
            if message.text == "enough":
                break

    with serving(dispatcher.address, listener if kind == "async" else listener_too):
        session = ScriptedSession(dispatcher.accept(), "s")
        session.next()
        for number, text in enumerate(["faster", "enough"]):
            said = pb.UserMessage(text=text, message_id=f"m{number}")
            session.owe(pb.DownstreamPacket(user_message=said))
        session.done()
    assert session.content == "listening m0=faster m1=enough "


def say(session: ScriptedSession, *texts: str) -> None:
    for text in texts:
        session.owe(pb.DownstreamPacket(user_message=pb.UserMessage(text=text)))


def test_looking_for_messages_for_a_moment_leaves_nothing_behind(dispatcher: ScriptedDispatcher) -> None:
    def waiting() -> int:
        gc.collect()
        return sum(isinstance(each, Future) for each in gc.get_objects())

    @agent("glances")
    async def glances(turn: Turn) -> Any:
        before = waiting()
        for _ in range(200):
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    async for _ in turn.messages():
                        pass
        yield str(waiting() - before < 100)

    assert run(dispatcher, glances).content == "True"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({}, "delegate: either a text or messages should be given"),
        ({"text": 5}, "delegate: text should be a str, not int"),
        ({"messages": "Hi"}, "delegate: messages should be a list of Message, not str"),
        ({"messages": ["Hi"]}, "delegate: messages[0] should be a Message, not str"),
        ({"text": "Hi", "metadata": ["lang"]}, "delegate: metadata should be a dict of texts, not list"),
    ],
)
def test_another_agent_is_asked_nothing_that_can_not_be_meant(
    dispatcher: ScriptedDispatcher, asked: dict[str, Any], why: str
) -> None:
    @agent("asker")
    async def asker(turn: Turn) -> Any:
        with pytest.raises((TypeError, ValueError)) as caught:
            await turn.delegate("other", **asked)
        yield str(caught.value)

    assert why in run(dispatcher, asker).content


def test_a_message_is_made_of_parts_and_of_a_role_that_there_is() -> None:
    with pytest.raises(TypeError, match=re.escape("parts should be a tuple, e.g. ('Hello',), not a str")):
        Message("user", "Hello")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="role should be one of system, user, assistant, tool, not 'human'"):
        Message("human", ("Hello",))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_what_the_agent_takes_is_told_and_no_more(dispatcher: ScriptedDispatcher, kind: str) -> None:
    @agent("async")
    async def choosy(turn: Turn) -> None:
        await turn.call_tool("wait")
        await turn.call_tool("wait")
        async for _ in turn.messages():
            break
        await turn.call_tool("wait")
        turn.take_messages()
        await turn.call_tool("wait")

    @agent("sync")
    def choosy_too(turn: BlockingTurn) -> None:
        turn.call_tool("wait")
        turn.call_tool("wait")
        for _ in turn.messages():
            break
        turn.call_tool("wait")
        turn.take_messages()
        turn.call_tool("wait")

    with serving(dispatcher.address, choosy if kind == "async" else choosy_too):
        session = ScriptedSession(dispatcher.accept(), "s")

        def next_after(*texts: str) -> tuple[int, int]:
            """The user says these, and the agent may go on: what its next packet tells of signals and messages."""
            say(session, *texts)
            session.answer_call(session.other[-1], "1")
            packet = session.next()
            return packet.signals_received, packet.messages_read

        session.next()
        # They came, and were not taken.
        assert next_after("one", "two") == (3, 0)
        assert next_after() == (4, 1)
        # The number is that of the signal, and between messages there are others.
        assert next_after("three") == (6, 5)
        # What comes too late for the agent is not read.
        assert next_after("four") == (8, 0)
        assert session.other[-1].HasField("done")


def test_done_does_not_overtake_what_was_read(dispatcher: ScriptedDispatcher) -> None:
    @agent("hasty")
    async def hasty(turn: Turn) -> None:
        async for _ in turn.messages():
            return

    with serving(dispatcher.address, hasty):
        session = ScriptedSession(dispatcher.accept(), "s")
        say(session, "enough")
        assert session.next_of("done").messages_read == 1


def test_what_a_stopped_agent_had_read_is_told_with_its_stop(dispatcher: ScriptedDispatcher) -> None:
    reading = threading.Event()
    after_its_stop: list[UserMessage] = []

    @agent("reader")
    async def reader(turn: Turn) -> None:
        async for _ in turn.messages():
            break
        reading.set()
        try:
            await asyncio.Event().wait()
        finally:
            after_its_stop.extend(turn.take_messages())

    with serving(dispatcher.address, reader):
        session = ScriptedSession(dispatcher.accept(), "s")
        say(session, "one", "two")
        assert reading.wait(PATIENCE_S)
        session.stop()
        assert session.stop_ack(pb.STOP_PHASE_RECEIVED).messages_read == 1
        assert session.stop_ack(pb.STOP_PHASE_APPLIED).messages_read == 1
    assert after_its_stop == []


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_more_messages_than_may_wait_fail_the_turn_and_none_is_lost(
    dispatcher: ScriptedDispatcher, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(caplog)

    @agent("async")
    async def busy(turn: Turn) -> Any:
        yield "first "
        await turn.call_tool("work")
        yield "never"

    @agent("sync")
    def busy_too(turn: BlockingTurn) -> Any:
        yield "first "
        turn.call_tool("work")
        yield "never"

    with serving(dispatcher.address, busy if kind == "async" else busy_too, messages_waiting_max=2, slots=1):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next_of("tool_call")
        say(session, "one", "two", "three", "four")
        ended = session.next_of("done")
        assert ended.done.outcome == pb.OUTCOME_FAILED
        assert ended.done.error.code == "too_many_messages"
        assert "messages_waiting_max" in ended.done.error.message
        assert session.content == "first "
        # None of them counts as read: all are given back.
        assert not link.seen(lambda packet: packet.messages_read > 0)
        assert ended.messages_read == 0
        # Its slot is free again.
        told.wait_for("ended: failed")
        assert ScriptedSession(link, "next").next().content.text == "first "


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_an_agent_whose_turn_failed_over_its_messages_is_closed(
    dispatcher: ScriptedDispatcher, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(caplog)

    @agent("async")
    async def stubborn(_: Turn) -> Any:
        while True:
            with suppress(asyncio.CancelledError):
                yield "on and on "
                await asyncio.sleep(0)

    @agent("sync")
    def stubborn_too(_: BlockingTurn) -> Any:
        while True:
            with suppress(asyncio.CancelledError):
                yield "on and on "

    with serving(dispatcher.address, stubborn if kind == "async" else stubborn_too, messages_waiting_max=1):
        session = ScriptedSession(dispatcher.accept(), "s")
        say(session, "one", "two")
        done = session.done()
        assert done.error.code == "too_many_messages"
        told.wait_for("ended: failed")


# ---- many that say something at once ----

EMITTED = 60
UNDER_WAY = 2
WAITING = 4


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_many_at_once_keep_the_outbox_within_its_bound(dispatcher: ScriptedDispatcher, kind: str) -> None:
    emitted: list[int] = []

    @agent("async")
    async def at_once(turn: Turn) -> None:
        async def emit(number: int) -> None:
            await turn.emit(turn.progress(str(number)))
            emitted.append(number)

        await asyncio.gather(*map(emit, range(EMITTED)))

    @agent("sync")
    def threads(turn: BlockingTurn) -> None:
        def emit(number: int) -> None:
            turn.emit(turn.progress(str(number)))
            emitted.append(number)

        with ThreadPoolExecutor(EMITTED) as pool:
            list(pool.map(emit, range(EMITTED)))

    served = at_once if kind == "async" else threads
    with serving(dispatcher.address, served, outbox_packets=WAITING):
        session = ScriptedSession(dispatcher.accept(), "s", credit=UNDER_WAY)
        for number in range(1, EMITTED + 1):
            assert session.next(acked=False).HasField("progress")
            # What had been acknowledged until now let so many go.
            assert len(emitted) <= number - 1 + UNDER_WAY + WAITING
            session.ack(number, credit=UNDER_WAY)
        session.done()
    told = [int(packet.progress.text) for packet in session.other[:-1]]
    assert sorted(told) == list(range(EMITTED))
    if kind == "async":
        assert told == sorted(told), "they go in the order in which they came"


def test_who_waits_to_emit_when_the_agent_ends_is_told_so(dispatcher: ScriptedDispatcher) -> None:
    ends: list[asyncio.Task[None]] = []
    all_over = threading.Event()

    @agent("hasty")
    async def hasty(turn: Turn) -> None:
        async def emit() -> None:
            await turn.emit(turn.progress("late"))

        ends[:] = [asyncio.create_task(emit()) for _ in range(10)]
        asyncio.gather(*ends, return_exceptions=True).add_done_callback(lambda _: all_over.set())
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    with serving(dispatcher.address, hasty, outbox_packets=1):
        ScriptedSession(dispatcher.accept(), "s", credit=0, credit_bytes=1)
        assert all_over.wait(PATIENCE_S)
    said = [end for end in ends if not end.cancelled() and end.exception() is None]
    assert len(said) == 1


# ---- failures ----


class Unprintable(Exception):  # noqa: N818 - named for what it is
    def __str__(self) -> str:
        raise RuntimeError


class Exiting(Exception):  # noqa: N818 - named for what it does
    def __str__(self) -> str:
        raise SystemExit(9)


class Codeless(AgentError):  # noqa: N818 - named for what it lacks
    """Even its code ends the process, when it is asked for."""

    def __init__(self) -> None:
        Exception.__init__(self, "no code")

    @property
    def code(self) -> str:
        raise KeyboardInterrupt

    @code.setter
    def code(self, _: str) -> None: ...


@pytest.mark.parametrize(
    ("error", "code", "kind", "message"),
    [
        (ValueError("no such city"), "agent_exception", "ValueError", "no such city"),
        (ValueError(), "agent_exception", "ValueError", "ValueError"),
        (Unprintable(), "agent_exception", "Unprintable", "Unprintable"),
        (Exiting(), "agent_exception", "Exiting", "Exiting"),
        (Codeless(), "agent_exception", "Codeless", "the agent failed"),
        (SystemExit(3), "agent_exception", "SystemExit", "3"),
        (KeyboardInterrupt(), "agent_exception", "KeyboardInterrupt", "KeyboardInterrupt"),
        (
            asyncio.CancelledError(),
            "agent_exception",
            "CancelledError",
            "the agent was cancelled from within",
        ),
        (ValueError("x" * 5_000), "agent_exception", "ValueError", "x" * 499 + "…"),
        (AgentError("no model is free", code="model_busy"), "model_busy", "AgentError", "no model is free"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("kind_of_agent", ["async", "sync"])
def test_what_an_agent_raises_fails_its_turn_alone(
    dispatcher: ScriptedDispatcher,
    error: BaseException,
    code: str,
    kind: str,
    message: str,
    kind_of_agent: str,
) -> None:
    @agent("async")
    async def failing(turn: Turn) -> Any:
        yield "begin"
        if turn.session_id == "s":
            raise error

    @agent("sync")
    def failing_too(turn: BlockingTurn) -> Any:
        yield "begin"
        if turn.session_id == "s":
            raise error

    with serving(dispatcher.address, failing if kind_of_agent == "async" else failing_too):
        link = dispatcher.accept()
        done = ScriptedSession(link, "s").done()
        assert ScriptedSession(link, "next").done().outcome == pb.OUTCOME_COMPLETED
    assert done.outcome == pb.OUTCOME_FAILED
    assert (done.error.code, done.error.error_type, done.error.message) == (code, kind, message)
    assert done.error.origin == pb.ERROR_ORIGIN_COMMANDER
    assert done.error.scope == pb.ERROR_SCOPE_SESSION


def test_what_a_task_of_a_group_raises_is_told_as_it_is(
    dispatcher: ScriptedDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "commander.runs")

    async def raises(error: Exception) -> None:
        raise error

    @agent("errand")
    async def errand(turn: Turn) -> Any:
        yield "begin"
        async with asyncio.TaskGroup() as outer:
            outer.create_task(raises(ValueError("no such city")))
            if turn.session_id == "words":
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(raises(AgentError("closed", code="archive_closed", retryable=True)))

    with serving(dispatcher.address, errand):
        link = dispatcher.accept()
        words, plain = (
            ScriptedSession(link, "words").done().error,
            ScriptedSession(link, "plain").done().error,
        )
    assert (words.code, words.message, words.retryable) == ("archive_closed", "closed", True)
    assert (plain.code, plain.error_type, plain.message) == ("agent_exception", "ValueError", "no such city")
    # Of what is not told, the log has the traceback.
    (gives_up,) = [each for each in caplog.records if each.getMessage() == "the agent gives up: closed"]
    assert gives_up.exc_info is not None
    assert "ValueError: no such city" in caplog.text


def test_an_agent_error_says_whether_to_try_again(dispatcher: ScriptedDispatcher) -> None:
    @agent("failing")
    async def failing(_: Turn) -> str:
        raise AgentError("later", retryable=True, retry_after_s=2.5)

    error = done_of(run(dispatcher, failing)).error
    assert (error.code, error.retryable, error.retry_after_ms) == ("agent_error", True, 2_500)


def test_the_traceback_is_for_the_log(
    dispatcher: ScriptedDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    @agent("failing")
    async def failing(_: Turn) -> Any:
        yield "begin"
        raise ValueError("in this line")

    done = done_of(run(dispatcher, failing))
    assert "Traceback" not in str(done)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "in failing" in caplog.text
    assert record.getMessage() == "the agent failed"


def test_a_function_that_returns_something_else_is_told_what_would_be_right(
    dispatcher: ScriptedDispatcher,
) -> None:
    @agent("numeric")
    async def numeric(_: Turn) -> Any:
        return 5

    assert "returns its answer as a str, not int" in done_of(run(dispatcher, numeric)).error.message


@pytest.mark.parametrize("hidden", [an_async_generator, a_generator])
def test_a_generator_that_a_decorator_hides_is_told_of(
    dispatcher: ScriptedDispatcher, hidden: AnyAgent
) -> None:
    @functools.wraps(hidden.function)
    def wrapper(turn: Any) -> Any:
        return hidden.function(turn)

    error = done_of(run(dispatcher, agent("hidden")(wrapper))).error
    assert "does a decorator hide that it is an async function, or a generator?" in error.message


def test_once_it_is_over_nothing_counts(dispatcher: ScriptedDispatcher) -> None:
    kept: list[Turn] = []
    refused = threading.Event()

    @agent("leaking")
    async def leaking(turn: Turn) -> Any:
        kept.append(turn)
        yield "done"

    @agent("late")
    async def late(turn: Turn) -> Any:
        with pytest.raises(Stopped):
            await kept[0].emit("too late")
        with pytest.raises(Stopped):
            await kept[0].call_tool("too-late")
        refused.set()
        yield turn.text

    with serving(dispatcher.address, leaking, late):
        link = dispatcher.accept()
        ScriptedSession(link, "first", agent="leaking").done()
        ScriptedSession(link, "second", agent="late").done()
    assert refused.is_set()


def test_a_generator_that_never_awaits_lets_others_speak(dispatcher: ScriptedDispatcher) -> None:
    spoken = threading.Event()

    @agent("greedy")
    async def greedy(_: Turn) -> Any:
        while not spoken.is_set():
            yield "token "

    @agent("modest")
    async def modest(turn: Turn) -> Any:
        for _ in range(10):
            await asyncio.sleep(0)
            yield "word "
        spoken.set()

    with serving(dispatcher.address, greedy, modest):
        link = dispatcher.accept()
        flood = ScriptedSession(link, "flood", agent="greedy", credit=10_000, credit_bytes=100_000_000)
        flood.next()
        ScriptedSession(link, "word", agent="modest").done()
        flood.done()


def test_a_call_with_a_time_of_its_own_does_not_wait_for_ever(dispatcher: ScriptedDispatcher) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> Any:
        with pytest.raises(ToolTimeout, match=r"no answer within 0\.01 s"):
            await turn.call_tool_with("slow", {}, timeout_s=0.01)
        yield "done"

    assert run(dispatcher, caller).content == "done"
