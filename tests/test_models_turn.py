"""Models in a turn, over a real link: what viewers get, what a stop does at the provider, what an error becomes."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from commander_here import serving
from model_scene import table
from model_server import Call, Finish, ModelServer, Pause, Reset, Status, Thought, calls, says
from scripted_dispatcher import ScriptedDispatcher, ScriptedLink, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import Message, ModelFailed, Turn, agent
from commander.agent import AnyAgent
from commander.models import ToolReturn

# "Within milliseconds", on a machine that does something else as well.
SOON_S = 1.0


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


@agent("talks")
async def talks(turn: Turn):  # type: ignore[no-untyped-def]  # as authors write it
    async for output in turn.model("fast").stream(turn.conversation, system="Be brief."):
        yield output


def session_of(
    dispatcher: ScriptedDispatcher, name: str = "s", link: ScriptedLink | None = None, **start: object
) -> ScriptedSession:
    link = link or dispatcher.accept()
    return ScriptedSession(link, name, start=pb.Start(**start))  # type: ignore[arg-type]


def test_text_is_content_reasoning_is_thoughts_and_usage_is_usage(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then([Thought("Let me "), Thought("see."), "Hello", " world", Finish("stop", 11, 5, 2)])
    with serving(dispatcher.address, talks, models={"fast": table(server)}):
        session = session_of(dispatcher)
        done = session.done()
    assert done.outcome == pb.OUTCOME_COMPLETED
    assert (session.content, dict(session.thoughts)) == ("Hello world", {"Thinking": "Let me see."})
    (used,) = [each.usage for each in session.other if each.HasField("usage")]
    assert used == pb.Usage(input_tokens=11, output_tokens=5, reasoning_tokens=2, model="scripted")
    assert (done.usage.input_tokens, done.usage.output_tokens) == (11, 5)
    assert server.requests[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]


def test_the_whole_conversation_can_be_handed_over_as_it_is(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    told = [
        pb.Message(role=pb.ROLE_SYSTEM, parts=[pb.ContentPart(text="You are Ada.")]),
        pb.Message(role=pb.ROLE_USER, parts=[pb.ContentPart(text="What is this?")]),
        pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.ContentPart(text="A picture?")]),
        pb.Message(
            role=pb.ROLE_USER,
            parts=[
                pb.ContentPart(text="This one:"),
                pb.ContentPart(blob=pb.Blob(mime_type="image/png", data=b"\x89PNG")),
                pb.ContentPart(blob=pb.Blob(mime_type="image/png", uri="https://example.org/a.png")),
                pb.ContentPart(json='{"a": 1}'),
            ],
        ),
    ]
    with serving(dispatcher.address, talks, models={"fast": table(server)}):
        session_of(dispatcher, messages=told).done()
    messages = server.requests[0].messages
    assert [each["role"] for each in messages] == ["system", "user", "system", "user", "assistant", "user"]
    image, address = (part["image_url"]["url"] for part in messages[-1]["content"] if "image_url" in part)
    assert image == "data:image/png;base64,iVBORw=="
    assert address == "https://example.org/a.png"
    assert [part["text"] for part in messages[-1]["content"] if "text" in part] == ["This one:", '{"a": 1}']


# ---- the stop ----


def stopped_after(session: ScriptedSession, server: ModelServer) -> float:
    """Seconds from the stop to the moment when the provider's client has left."""
    server.wait_for()
    began_at = time.monotonic()
    session.stop()
    return server.wait_left() - began_at


def test_a_stop_closes_the_model_s_connection_before_a_first_token_that_never_comes(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then([Pause()])
    with serving(dispatcher.address, talks, models={"fast": table(server)}):
        session = session_of(dispatcher)
        assert stopped_after(session, server) < SOON_S
        session.stop_ack(pb.STOP_PHASE_APPLIED)
    assert len(server.requests) == 1


def test_a_stop_closes_the_model_s_connection_in_the_middle_of_an_answer(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then(["word", Pause()])
    with serving(dispatcher.address, talks, models={"fast": table(server)}):
        session = session_of(dispatcher)
        session.next_of("content")
        assert stopped_after(session, server) < SOON_S


def test_a_stop_ends_the_wait_for_another_try(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    server.then([Status(500)])
    with serving(dispatcher.address, talks, models={"fast": table(server, retry_first_s=600)}):
        session = session_of(dispatcher)
        server.wait_for()
        session.stop()
        session.stop_ack(pb.STOP_PHASE_APPLIED)
    assert len(server.requests) == 1


@agent("stubborn")
async def stubborn(turn: Turn):  # type: ignore[no-untyped-def]
    answer = turn.model("fast").stream("Hi")
    yield await anext(answer)
    while not turn.metadata.get("never"):
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            turn.take_messages()
            break
    await asyncio.Event().wait()


@agent("scattered")
async def scattered(turn: Turn):  # type: ignore[no-untyped-def]
    """Listens in a task of its own making, which its own cancellation does not reach."""

    async def listen() -> None:
        async for _ in turn.model("fast").stream("Hi"):
            pass

    task = asyncio.create_task(listen())
    yield "begun"
    await asyncio.wait((task,))


@agent("forgetful")
async def forgetful(turn: Turn):  # type: ignore[no-untyped-def]
    async for output in turn.model("fast").stream("Hi"):
        yield output
        break
    yield " and more"
    await asyncio.Event().wait()


@pytest.mark.parametrize("served", [stubborn, scattered])
def test_a_stop_reaches_the_model_whatever_its_agent_does(
    dispatcher: ScriptedDispatcher, server: ModelServer, served: AnyAgent
) -> None:
    server.then(["word", Pause()])
    with serving(dispatcher.address, served, models={"fast": table(server)}, stop_grace_s=0.5):
        session = session_of(dispatcher)
        session.next_of("content")
        assert stopped_after(session, server) < SOON_S


def test_an_answer_that_is_left_half_taken_is_hung_up(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then(["word", Pause()])
    with serving(dispatcher.address, forgetful, models={"fast": table(server)}):
        session = session_of(dispatcher)
        session.next_of("content")
        server.wait_left()
        session.stop()
        session.stop_ack(pb.STOP_PHASE_APPLIED)


def test_an_agent_that_ends_hangs_up_what_it_has_begun(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    kept = []

    @agent
    async def leaves(turn: Turn):  # type: ignore[no-untyped-def]
        answer = turn.model("fast").stream("Hi")
        kept.append(answer)
        yield await anext(answer)

    server.then(["word", Pause()])
    with serving(dispatcher.address, leaves, models={"fast": table(server)}):
        assert session_of(dispatcher).done().outcome == pb.OUTCOME_COMPLETED
        server.wait_left()


# ---- errors ----


def test_a_failure_is_told_with_its_origin_status_and_advice(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then([Status(429, "slow down", headers={"Retry-After": "60"})])
    with serving(dispatcher.address, talks, models={"fast": table(server)}):
        done = session_of(dispatcher).done()
    assert done.outcome == pb.OUTCOME_FAILED
    error = done.error
    assert (error.code, error.origin, error.scope) == (
        "model_rate_limited",
        pb.ERROR_ORIGIN_LLM,
        pb.ERROR_SCOPE_SESSION,
    )
    assert (error.upstream_status, error.retryable, error.retry_after_ms) == (429, True, 60_000)
    assert "slow down; ask again later" in error.message
    assert error.error_type == "ModelFailed"


def test_an_answer_that_breaks_off_ends_the_session_with_what_was_said(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then(["half", Reset()])
    with serving(dispatcher.address, talks, models={"fast": table(server)}):
        session = session_of(dispatcher)
        done = session.done()
    assert (session.content, done.error.code) == ("half", "model_unreachable")
    assert "after it had begun to answer" in done.error.message


def test_a_name_that_there_is_not_lists_those_there_are(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    @agent
    async def asks(turn: Turn):  # type: ignore[no-untyped-def]
        yield repr(turn.model()) + repr(turn.model("default"))
        try:
            turn.model("fats")
        except ModelFailed as failure:
            yield str(failure)

    with serving(
        dispatcher.address, asks, models={"fast": table(server), "deep": table(server)}, model="deep"
    ):
        session = session_of(dispatcher)
        session.done()
    assert session.content.startswith("<Model deep openai-chat:scripted><Model deep ")
    assert "there is no language model 'fats'; did you mean fast? there are fast, deep" in session.content


def test_without_any_model_it_is_said_how_to_name_one(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, talks):
        error = session_of(dispatcher).done().error
    assert error.code == "model_not_configured"
    assert "--model PROVIDER:NAME" in error.message


def test_models_are_told_by_name_and_never_with_their_keys(
    dispatcher: ScriptedDispatcher, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-hunter2")
    models = {"fast": table(server, api_key_env="THE_KEY"), "deep": table(server)}
    with serving(
        dispatcher.address, talks, models=models, labels={"region": "eu", "model.deep": "mine"}
    ) as here:
        hello = dispatcher.accept().hello
        assert "hunter2" not in repr(here.commander) + str(here.commander.settings)
    assert dict(hello.labels) == {"region": "eu", "model.deep": "mine", "model.fast": "openai-chat:scripted"}


# ---- answers, rounds, budgets ----


def test_a_loop_of_tools_by_hand(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    @agent
    async def loops(turn: Turn):  # type: ignore[no-untyped-def]
        model, messages = turn.model(), [*turn.conversation]
        answer = model.stream(messages, tools=turn.tools)
        async for output in answer:
            yield output
        returns = [ToolReturn(call, '{"sum": 3}') for call in answer.calls]
        async for output in model.stream([*messages, answer.reply, *returns], tools=turn.tools):
            yield output

    server.then(calls(Call("add", ['{"a": 1', ', "b": 2}'], "c-1")), says("It is 3."))
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}}'
    tools = [pb.ToolOffer(name="add", description="Adds", parameters_schema_json=schema)]
    with serving(dispatcher.address, loops, models={"fast": table(server)}):
        session = session_of(dispatcher, tools=tools)
        done = session.done()
    assert (session.content, done.error.message) == ("It is 3.", "")
    first, second = server.requests
    (offered,) = first.body["tools"]
    assert (offered["function"]["name"], offered["function"]["description"]) == ("add", "Adds")
    called, returned = second.messages[-2:]
    (function,) = called["tool_calls"]
    assert (function["id"], function["function"]["name"]) == ("c-1", "add")
    assert (returned["role"], returned["tool_call_id"], returned["content"]) == ("tool", "c-1", '{"sum": 3}')


def test_an_answer_awaited_is_its_text_or_the_value_that_fits(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    @agent
    async def awaits(turn: Turn):  # type: ignore[no-untyped-def]
        model = turn.model()
        yield await model.answer("Hi", system="Be brief.")
        yield str((await model.answer([Message("user", ("n?",))], schema=schema))["n"] + 1)
        try:
            await model.answer("n?", schema=schema)
        except ModelFailed as failure:
            yield f" {failure.code} {failure}"

    server.then(says("Hello "), says('```json\n{"n": ', "6}\n```"), says('{"n": "six"}'))
    with serving(dispatcher.address, awaits, models={"fast": table(server)}):
        session = session_of(dispatcher)
        done = session.done()
    assert session.content.startswith("Hello 7 model_schema_mismatch")
    assert "at $.n: 'six' is not of type 'integer'" in session.content
    assert done.usage.output_tokens == 9
    sent = server.requests[1].body["response_format"]["json_schema"]["schema"]
    assert sent["properties"] == schema["properties"]


def test_a_budget_of_tokens_is_one_turn_s_and_is_told_to_the_provider(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    @agent
    async def spends(turn: Turn):  # type: ignore[no-untyped-def]
        for _ in range(9):
            yield await turn.model().answer("Hi")

    server.then(says("word ", output_tokens=4))
    told = table(server, output_tokens_max=10, parameters={"temperature": 0.5, "max_tokens": 8})
    with serving(dispatcher.address, spends, models={"fast": told}):
        link = dispatcher.accept()
        for name in ("s-1", "s-2"):
            session = session_of(dispatcher, name, link)
            assert session.done().error.code == "model_budget_spent"
            assert session.content == "word word word "
    assert [request.body["max_tokens"] for request in server.requests] == [8, 6, 2] * 2
    assert server.requests[0].body["temperature"] == 0.5


def test_a_part_that_the_model_does_not_read_is_refused_before_anything_is_asked(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    picture = pb.ContentPart(blob=pb.Blob(mime_type="image/png", data=b"\x89PNG"))
    told = [pb.Message(role=pb.ROLE_USER, parts=[picture])]
    with serving(dispatcher.address, talks, models={"fast": table(server, accepts=["application/pdf"])}):
        error = session_of(dispatcher, messages=told).done().error
    assert error.code == "model_input_refused"
    assert "it takes text and application/pdf, not 'image/png'" in error.message
    assert not server.requests
