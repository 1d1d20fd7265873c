"""Models in sync agents, over a real link: the thread waits, and everything else is as in async ones."""

import threading
import time
from collections.abc import Iterator

import pytest
from commander_here import serving
from model_scene import table
from model_server import Call, Finish, ModelServer, Pause, Status, Thought, calls, says
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import BlockingTurn, ModelFailed, Output, Stopped, agent
from commander.agent import AnyAgent
from commander.models import ToolReturn

# "Within milliseconds", on a machine that does something else as well.
SOON_S = 1.0
TOKENS = 500

Said = Iterator[str | Output]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


@agent
def talks(turn: BlockingTurn) -> Said:
    yield from turn.model("fast").stream(turn.conversation, system="Be brief.")


def test_text_reasoning_and_usage_come_as_in_an_async_agent(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    tokens = [f"{number} " for number in range(TOKENS)]
    server.then([Thought("Let me see."), *tokens, Finish("stop", 11, 5, 2)])
    with serving(dispatcher.address, talks, models={"fast": table(server)}):
        session = ScriptedSession(dispatcher.accept(), "s")
        done = session.done()
    assert (session.content, dict(session.thoughts)) == ("".join(tokens), {"Thinking": "Let me see."})
    assert (done.usage.input_tokens, done.usage.output_tokens) == (11, 5)
    assert server.requests[0].messages[0] == {"role": "system", "content": "Be brief."}


def test_answers_tools_and_failures(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    @agent
    def asks(turn: BlockingTurn) -> Said:
        model = turn.model()
        yield f"{model.name} {model.rounds}: {model.answer('Hi')} "
        yield f"{model.answer('n?', schema=schema)['n'] + 1} "
        with model.stream("Add", tools=turn.tools) as answer:
            yield from answer
        (call,) = answer.calls
        last = model.stream(("Add", answer.reply, ToolReturn(call, "3")))
        yield from last
        yield f" {last.text!r} {last.finish_reason} {last.usage.output_tokens} {last.model}"
        try:
            model.answer("Fail")
        except ModelFailed as failure:
            yield f" {failure.code}"
        try:
            turn.model("fats")
        except ModelFailed as failure:
            yield f" {failure.code}"

    wanted = calls(Call("add", ["{}"], "c-1"))
    server.then(says("Hello"), says('{"n": 6}'), wanted, says("It is 3."), [Status(402, "no credit")])
    with serving(dispatcher.address, asks, models={"fast": table(server)}):
        session = ScriptedSession(dispatcher.accept(), "s")
        done = session.done()
    assert session.content == (
        "fast 10: Hello 7 It is 3. 'It is 3.' stop 3 fast model_quota_exhausted model_not_configured"
    )
    assert server.requests[3].messages[-1] == {"role": "tool", "tool_call_id": "c-1", "content": "3"}
    # What is awaited whole is told as used as well.
    assert done.usage.output_tokens == 12
    assert sum(each.HasField("usage") for each in session.other) == 4


@agent
def deaf(turn: BlockingTurn) -> Said:
    """Hears nothing of its stop until the test lets it."""
    yield next(turn.model("fast").stream("Hi"))
    _go.wait()


_go = threading.Event()


@pytest.mark.parametrize(
    ("served", "said"), [(talks, [Pause()]), (talks, ["word", Pause()]), (deaf, ["word", Pause()])]
)
def test_a_stop_closes_the_connection_wherever_the_thread_is(
    dispatcher: ScriptedDispatcher, server: ModelServer, served: AnyAgent, said: list[str | Pause]
) -> None:
    server.then(said)
    _go.clear()
    with serving(dispatcher.address, served, models={"fast": table(server)}):
        session = ScriptedSession(dispatcher.accept(), "s")
        server.wait_for()
        if len(said) > 1:
            session.next_of("content")
        began_at = time.monotonic()
        session.stop()
        assert server.wait_left() - began_at < SOON_S
        _go.set()
        session.stop_ack(pb.STOP_PHASE_APPLIED)


def test_an_answer_left_half_taken_is_closed(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    kept = []

    @agent
    def leaves(turn: BlockingTurn) -> Said:
        with turn.model().stream("Hi") as answer:
            yield next(answer)
        kept.append(turn.model().stream("Ho"))
        yield next(kept[0])

    server.then(["word", Pause()])
    with serving(dispatcher.address, leaves, models={"fast": table(server)}):
        assert ScriptedSession(dispatcher.accept(), "s").done().outcome == pb.OUTCOME_COMPLETED
        server.wait_left(1)
        # The turn is over: so is what it has kept.
        server.wait_left(2)


def test_a_stop_is_heard_as_any_other(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    heard = threading.Event()

    @agent
    def hears(turn: BlockingTurn) -> str:
        try:
            return str(turn.model().answer("Hi"))
        except Stopped:
            heard.set()
            raise

    server.then([Pause()])
    with serving(dispatcher.address, hears, models={"fast": table(server)}):
        session = ScriptedSession(dispatcher.accept(), "s")
        server.wait_for()
        session.stop()
        session.stop_ack(pb.STOP_PHASE_APPLIED)
    assert heard.is_set()
