"""OpenAI's own client, and LangChain's on top of it, against a real dispatcher: what they parse, raise and stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous, soon
from commander_process import CommanderProcess
from dispatcher_process import ROOT, DispatcherProcess, running_dispatcher
from scripted_commander import Turn, linked, unique
from southwest.ai.agent.v1 import agent_pb2

pytestmark = pytest.mark.interop
openai: Any = pytest.importorskip("openai")

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0",
    "--http-left-stop-s", "0.1",
    "--tools", "dispatcher.tools.demo:TOOLS",
)  # fmt: skip
HI: Any = [{"role": "user", "content": "Hi"}]


@contextlib.asynccontextmanager
async def client_of(dispatcher: DispatcherProcess) -> AsyncIterator[Any]:
    """It tries nothing again: what it raises is seen."""
    url = f"{dispatcher.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def demo(dispatcher: DispatcherProcess) -> Iterator[None]:
    """The agent `demo`, in a commander of its own."""
    flags = ("run", "commander.agents.demo:demo", "--dispatcher", dispatcher.address, "--metrics-address", "")
    process = CommanderProcess(flags, Path(ROOT))
    try:
        process.wait_for("linked")
        yield
    finally:
        process.close()


async def _spoken(turn: Turn) -> None:
    await turn.think("Plan", "aloud")
    await turn.say("Forty-")
    await turn.call("nothing", '{"a": 1}', "c-1")
    await turn.result()
    await turn.say("two")
    await turn.send(usage={"input_tokens": 3, "output_tokens": 4})
    await turn.finish()


async def _read(stream: Any, chunks: list[Any]) -> None:
    async for chunk in stream:
        chunks += [chunk]


# --- chat completions ------------------------------------------------------------------------------------


@asynchronous
async def test_chat_in_chunks(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, client_of(dispatcher) as client:
        extra = {"include_thoughts": True, "include_events": True}
        options = {"include_usage": True}
        stream = await client.chat.completions.create(
            model=agent, messages=HI, stream=True, stream_options=options, extra_body=extra
        )
        await _spoken(await link.started())
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Forty-two"
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "aloud"
    # The client sees no tool to run; who looks for ours finds it.
    assert all(delta.tool_calls is None for delta in deltas)
    told = [chunk.chatstream["event"] for chunk in chunks if getattr(chunk, "chatstream", None)]
    assert {"tool_call", "tool_result"} <= set(told)
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 7


@asynchronous
async def test_chat_whole_and_raw(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, client_of(dispatcher) as client:
        raw = client.chat.completions.with_raw_response
        asked = asyncio.ensure_future(raw.create(model=agent, messages=HI))
        turn = await link.started()
        await _spoken(turn)
        response = await soon(asked)
        assert response.headers["location"] == f"/v1/sessions/{turn.session_id}"
        completion = response.parse()
        assert completion.choices[0].message.content == "Forty-two"
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage.completion_tokens == 4
        # Its requests are told apart by the session.
        assert completion._request_id == turn.session_id  # noqa: SLF001 - so it is in the client's documentation
        models = [model.id async for model in client.models.list()]
        assert agent in models
        assert (await client.models.retrieve(agent)).owned_by == "chatstream"


@asynchronous
async def test_the_client_without_async(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")

    def chatted() -> str:
        with openai.OpenAI(base_url=f"{dispatcher.url}/v1", api_key="none") as client:
            stream = client.chat.completions.create(model=agent, messages=HI, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    async with linked(dispatcher.address, agent) as link:
        asked = asyncio.ensure_future(asyncio.to_thread(chatted))
        await _spoken(await link.started())
        assert await soon(asked) == "Forty-two"


@asynchronous
async def test_its_helper_for_streams_takes_them(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        client_of(dispatcher) as client,
        client.chat.completions.stream(model=agent, messages=HI) as stream,
    ):
        await _spoken(await link.started())
        completion = await soon(stream.get_final_completion())
    assert completion.choices[0].message.content == "Forty-two"


@asynchronous
async def test_errors_have_their_types(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent, slots=2) as link, client_of(dispatcher) as client:
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="nobody", messages=HI)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as wrong:
            await create(model=agent, messages=HI, n=2)
        assert wrong.value.param == "n"
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_none")
        # A failure in the midst of a stream is raised too.
        stream = await create(model=agent, messages=HI, stream=True)
        turn = await link.started()
        await turn.say("Half")
        error = agent_pb2.ErrorSignal(code="x", message="it broke", scope=agent_pb2.ERROR_SCOPE_SESSION)
        await turn.send(error=error)
        chunks: list[Any] = []
        with pytest.raises(openai.APIError) as failed:
            await _read(stream, chunks)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Half"
        assert failed.value.code == "x"
        asked = asyncio.ensure_future(create(model=agent, messages=HI))
        turn = await link.started()
        await turn.send(error=error)
        with pytest.raises(openai.InternalServerError) as whole:
            await soon(asked)
        assert whole.value.code == "x"


@asynchronous
async def test_it_tries_again_what_may_be_tried_again() -> None:
    """It goes by our word for it, and not by the status alone."""
    agent = unique("agent")
    flags = ("--http-address", "127.0.0.1:0", "--sessions-max", "1")
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link, client_of(dispatcher) as client:
            stream = await client.chat.completions.create(model=agent, messages=HI, stream=True)
            turn = await link.started()
            with pytest.raises(openai.RateLimitError) as full:
                await client.chat.completions.create(model=agent, messages=HI)
            assert full.value.response.headers["retry-after"] == "2"
            patient = client.with_options(max_retries=5).chat.completions
            asked = asyncio.ensure_future(patient.create(model=agent, messages=HI))
            await turn.finish()
            await stream.close()
            # There is room again: the same call gets its answer.
            await _spoken(await link.started())
            assert (await soon(asked)).choices[0].message.content == "Forty-two"
            # A failure that would come again is not tried again.
            asked = asyncio.ensure_future(patient.create(model=agent, messages=HI))
            error = agent_pb2.ErrorSignal(code="x", message="it broke", scope=agent_pb2.ERROR_SCOPE_SESSION)
            await (await link.started()).send(error=error)
            with pytest.raises(openai.InternalServerError):
                await soon(asked)
            assert link.started_nothing()


@asynchronous
async def test_closing_early_reaches_the_agent(dispatcher: DispatcherProcess) -> None:
    """So no token is made that nobody reads."""
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, client_of(dispatcher) as client:
        stream = await client.chat.completions.create(model=agent, messages=HI, stream=True)
        turn = await link.started()
        await turn.say("Long ")
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        assert (await turn.stopped()).code == agent_pb2.STOP_CODE_DETACHED


# --- responses -------------------------------------------------------------------------------------------


@asynchronous
async def test_a_response_in_events(dispatcher: DispatcherProcess) -> None:
    """Its own helper puts the events together, and holds them to what it expects of each."""
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, client_of(dispatcher) as client:
        summary = {"summary": "auto"}
        async with client.responses.stream(model=agent, input="Hi", reasoning=summary) as stream:
            await _spoken(await link.started())
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.status == "completed"
    assert final.output_text == "Forty-two"
    assert [item.type for item in final.output] == ["reasoning", "message", "mcp_call", "message"]
    assert final.output[0].summary[0].text == "**Plan**\n\naloud"
    call = final.output[2]
    assert (call.name, call.arguments, call.server_label, call.status) == (
        "nothing", '{"a": 1}', "dispatcher", "failed",
    )  # fmt: skip
    assert final.usage.total_tokens == 7


@asynchronous
async def test_every_event_is_of_a_type_that_it_knows(dispatcher: DispatcherProcess) -> None:
    """Field by field, as strictly as its types say."""
    pydantic: Any = pytest.importorskip("pydantic")
    types: Any = pytest.importorskip("openai.types.responses")
    known = pydantic.TypeAdapter(types.ResponseStreamEvent)
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, client_of(dispatcher) as client:
        stream = await client.responses.create(
            model=agent, input="Hi", stream=True, reasoning={"summary": "auto"}
        )
        await _spoken(await link.started())
        events = [event async for event in stream]
    for event in events:
        assert type(known.validate_python(event.to_dict(mode="json"))) is type(event)


@asynchronous
async def test_one_in_the_background_is_come_back_to_and_cancelled(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, client_of(dispatcher) as client:
        made = await client.responses.create(model=agent, input="Hi", background=True)
        assert made.status in ("queued", "in_progress")
        turn = await link.started()
        await _spoken(turn)
        stream = await client.responses.retrieve(made.id, stream=True)
        events = [event async for event in stream]
        for position in range(0, len(events), 3):
            after = events[position].sequence_number
            stream = await client.responses.retrieve(made.id, stream=True, starting_after=after)
            assert [event async for event in stream] == events[position + 1 :]
        state = await client.responses.retrieve(made.id)
        assert (state.status, state.output_text) == ("completed", "Forty-two")
        made = await client.responses.create(model=agent, input="Hi", background=True)
        turn = await link.started()
        await turn.say("Long ")
        cancelled = await client.responses.cancel(made.id)
        assert cancelled.status == "cancelled"
        assert (await turn.stopped()).code == agent_pb2.STOP_CODE_USER_CANCEL


# --- the demo, and LangChain -----------------------------------------------------------------------------


@pytest.mark.usefixtures("demo")
@asynchronous
async def test_the_demo_answers(dispatcher: DispatcherProcess) -> None:
    async with client_of(dispatcher) as client:
        said = [{"role": "user", "content": "How much is 6 * 7?"}]
        completion = await client.chat.completions.create(model="demo", messages=said)
        assert "42" in completion.choices[0].message.content
        response = await client.responses.create(model="demo", input="How much is 6 * 7?")
        assert "42" in response.output_text
        assert "mcp_call" in [item.type for item in response.output]


@pytest.mark.usefixtures("demo")
@asynchronous
async def test_langchain_asks_the_demo(dispatcher: DispatcherProcess) -> None:
    """By both APIs. Its clients share connections, so they are of one loop."""
    langchain: Any = pytest.importorskip("langchain_openai")
    how: dict[str, Any] = {"model": "demo", "base_url": f"{dispatcher.url}/v1", "api_key": "none"}
    question = "How much is 6 * 7?"
    models = [
        langchain.ChatOpenAI(**how, use_responses_api=is_response, stream_usage=True)
        for is_response in (False, True)
    ]
    try:
        for model in models:
            whole = await model.ainvoke(question)
            assert "42" in whole.text
            assert not whole.tool_calls
            assert whole.usage_metadata is not None
            first, *others = [chunk async for chunk in model.astream(question)]
            streamed = sum(others, first)
            assert streamed.text == whole.text
            assert not streamed.tool_calls
            assert streamed.usage_metadata is not None
    finally:
        await models[0].root_async_client.close()
