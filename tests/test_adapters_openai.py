"""OpenAI's SDK, its streams as what an agent yields and its client as an agent: against a scripted server."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from adapter_scene import (
    LEAVES_S,
    answers_fails_and_stops,
    closes_its_connection,
    closes_when_it_is_left,
    script,
    served,
)
from asynchronous import asynchronous
from model_server import Call, Finish, ModelServer, Pause, Raw, Reset, Status, Step, Thought, calls, says

from commander import Agent, Blob, JsonPart, Message, ToolDenied, Turn, agent
from commander.adapters import from_openai, openai_pieces
from commander.agent import AnyAgent
from commander.models import ToolCall
from commander.testing import AgentRun, run_agent, running_agent

HI: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def client_of(server: ModelServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-secret", max_retries=0)


def made(server: ModelServer, **told: Any) -> AnyAgent:
    return from_openai(client_of(server), model="scripted", name="ada", **told)


def failure(run: AgentRun) -> tuple[str, int | None]:
    assert run.failure is not None, run
    assert run.failure.origin == "model"
    assert "sk-secret" not in run.failure.message
    return run.failure.code, run.failure.upstream_status


# ---- a stream ----


def speaking(server: ModelServer, *, is_helper: bool = False, is_awaited: bool = True) -> Agent[..., Any]:
    """An agent of an author who has a stream, in one of the ways in which the SDK gives it."""
    client = client_of(server)

    @agent("speaking")
    async def speaking(turn: Turn) -> Any:
        completions = client.chat.completions
        options: Any = {"include_usage": True}
        if is_helper:
            stream: Any = completions.stream(model="m", messages=HI, stream_options=options)
        else:
            stream = completions.create(model="m", messages=HI, stream=True, stream_options=options)
        async for piece in openai_pieces(await stream if is_awaited else stream):
            yield piece

    return speaking


@asynchronous
@pytest.mark.parametrize(
    "how",
    [{}, {"is_awaited": False}, {"is_helper": True, "is_awaited": False}],
    ids=["stream", "coroutine", "helper"],
)
async def test_a_stream_is_text_thoughts_and_usage(server: ModelServer, how: dict[str, bool]) -> None:
    server.then([Thought("Hm, "), Thought("well."), "Hel", "lo", Finish(reasoning_tokens=2)])
    run = await run_agent(speaking(server, **how))
    assert (run.outcome, run.text, run.thoughts) == ("completed", "Hello", "Hm, well.")
    assert (run.usage.input_tokens, run.usage.output_tokens, run.usage.reasoning_tokens) == (7, 3, 2)
    assert run.usage.model == "scripted"


@asynchronous
async def test_of_several_answers_the_first_is_taken(server: ModelServer) -> None:
    other = {"index": 1, "delta": {"content": "no"}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [other]}
    server.then(["yes", Raw(f"data: {json.dumps(chunk)}\n\n".encode()), Finish()])
    assert (await run_agent(speaking(server))).text == "yes"


@asynchronous
async def test_the_calls_of_a_stream_are_left_to_its_author(server: ModelServer) -> None:
    server.then(calls(Call("add", ['{"a"', ": 1}"], "c-1", 0), Call("find", ["{}"], "c-2", 1)))
    wanted: list[ToolCall] = []
    stream = await client_of(server).chat.completions.create(model="m", messages=HI, stream=True)
    said = [piece async for piece in openai_pieces(stream, calls=wanted)]
    assert wanted == [ToolCall("c-1", "add", '{"a": 1}'), ToolCall("c-2", "find", "{}")]
    assert not [piece for piece in said if isinstance(piece, str)]


def events(*told: dict[str, Any]) -> list[Step]:
    """A stream of the responses API."""
    return [Raw(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode()) for each in told]


RESPONSE: dict[str, Any] = {
    "id": "r", "object": "response", "created_at": 1, "model": "scripted", "output": [], "status": "completed",
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
}  # fmt: skip
USED = {
    "input_tokens": 7, "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 10,
}  # fmt: skip
PLACE = {"item_id": "i", "output_index": 0, "content_index": 0, "sequence_number": 1}


def responding(server: ModelServer) -> Agent[..., Any]:
    client = client_of(server)

    @agent("responding")
    async def responding(turn: Turn) -> Any:
        async for piece in openai_pieces(client.responses.create(model="m", input="Hi", stream=True)):
            yield piece

    return responding


@asynchronous
async def test_a_stream_of_responses_is_understood_too(server: ModelServer) -> None:
    search = {
        "type": "web_search_call",
        "id": "w-1",
        "status": "completed",
        "action": {"type": "search", "query": "x"},
    }
    server.then(
        events(
            {"type": "response.created", "response": RESPONSE, "sequence_number": 0},
            {"type": "response.reasoning_summary_text.delta", "delta": "Hm.", "summary_index": 0, **PLACE},
            {"type": "response.output_item.added", "item": search, "output_index": 0, "sequence_number": 2},
            {"type": "response.output_item.done", "item": search, "output_index": 0, "sequence_number": 3},
            {"type": "response.output_text.delta", "delta": "Hel", "logprobs": [], **PLACE},
            {"type": "response.output_text.delta", "delta": "lo", "logprobs": [], **PLACE},
            {"type": "response.completed", "response": {**RESPONSE, "usage": USED}, "sequence_number": 9},
        )
    )
    run = await run_agent(responding(server))
    assert (run.outcome, run.text) == ("completed", "Hello")
    assert run.thoughts.startswith("Hm.")
    assert [event.fields["text"] for event in run.events if event.kind == "progress"] == ["web_search …"]
    assert (run.usage.input_tokens, run.usage.output_tokens, run.usage.reasoning_tokens) == (7, 3, 2)


@asynchronous
@pytest.mark.parametrize(
    ("last", "code"),
    [
        (
            {
                "type": "response.failed",
                "response": {**RESPONSE, "error": {"code": "rate_limit_exceeded", "message": "later"}},
                "sequence_number": 2,
            },
            "model_rate_limited",
        ),
        ({"type": "response.refusal.delta", "delta": "Never", **PLACE}, "model_content_filtered"),
        ({"type": "response.output_text.delta", "delta": "!", "logprobs": [], **PLACE}, "model_malformed"),
    ],
)
async def test_a_response_that_fails_has_a_code(server: ModelServer, last: dict[str, Any], code: str) -> None:
    begun = {"type": "response.output_text.delta", "delta": "Well", "logprobs": [], **PLACE}
    server.then(events(begun, last))
    run = await run_agent(responding(server))
    assert failure(run) == (code, None)
    assert run.failure is not None
    assert "after it had begun" in run.failure.message


@asynchronous
async def test_the_calls_of_a_response_are_left_to_its_author(server: ModelServer) -> None:
    item = {"type": "function_call", "id": "i", "call_id": "c-1", "name": "add", "arguments": "{}"}
    server.then(
        events(
            {"type": "response.output_item.done", "item": item, "output_index": 0, "sequence_number": 1},
            {"type": "response.completed", "response": RESPONSE, "sequence_number": 2},
        )
    )
    wanted: list[ToolCall] = []
    stream = client_of(server).responses.create(model="m", input="Hi", stream=True)
    assert not [piece async for piece in openai_pieces(stream, calls=wanted)]
    assert wanted == [ToolCall("c-1", "add", "{}")]


@asynchronous
async def test_a_stream_without_async_is_refused_by_name(server: ModelServer) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key="none") as client:

        def opened() -> Any:
            return client.chat.completions.create(model="m", messages=HI, stream=True)

        stream = await asyncio.to_thread(opened)
        with pytest.raises(TypeError, match="AsyncOpenAI client is right"):
            await anext(aiter(openai_pieces(stream)))
        await asyncio.to_thread(stream.close)


@asynchronous
async def test_a_stop_closes_the_stream_of_an_author(server: ModelServer) -> None:
    await closes_its_connection(speaking(server), server, "Well, ")


@asynchronous
async def test_a_stream_that_is_left_is_closed(server: ModelServer) -> None:
    server.then(["one", "two", Pause()])
    said = openai_pieces(client_of(server).chat.completions.create(model="m", messages=HI, stream=True))
    assert await anext(aiter(said)) == "one"
    began_at = time.monotonic()
    await said.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(server.wait_left, 1) - began_at < LEAVES_S


# ---- an agent ----


@asynchronous
async def test_an_agent_of_a_client_calls_the_dispatcher_s_tools(server: ModelServer) -> None:
    wanted = [
        Call("add", ['{"a": 1', ', "b": 2}'], "c-1", 0),
        Call("closed", ["{}"], "c-2", 1),
        Call("hidden", ["{}"], "c-3", 2),
        Call("add", ["{nope"], "c-4", 3),
        Call("add", ["[1]"], "c-5", 4),
    ]
    server.then(["Let me see. ", *calls(*wanted)], says("It is ", "3."))

    def add(a: int, b: int) -> dict[str, int]:
        """Adds"""
        return {"sum": a + b}

    def closed() -> None:
        raise ToolDenied("closed", "not today")

    told = {"system": "You are Ada.", "parameters": {"temperature": 0}, "tools": ["add", "closed"]}
    tools: Any = {"add": add, "closed": closed, "hidden": lambda: 1}
    run = await run_agent(made(server, **told), "1 + 2?", tools=tools)
    assert run.text == "Let me see. It is 3."
    assert [(call.tool, call.failure) for call in run.calls] == [("add", ""), ("closed", "denied")]
    first, second = server.requests
    assert [each["function"]["name"] for each in first.body["tools"]] == ["add", "closed"]
    assert first.body["tools"][0]["function"]["description"] == "Adds"
    assert (first.body["temperature"], first.body["model"]) == (0, "scripted")
    assert first.messages[0] == {"role": "system", "content": "You are Ada."}
    assert second.messages[2]["content"] == "Let me see. "
    assert [(each["tool_call_id"], each["content"]) for each in second.messages[3:]] == [
        ("c-1", '{"sum": 3}'),
        ("c-2", "denied: not today"),
        ("c-3", "not_found: there is no tool 'hidden'; there are add, closed"),
        ("c-4", second.messages[6]["content"]),
        ("c-5", "invalid_arguments: the arguments should be a JSON object"),
    ]
    assert "the arguments are no JSON" in second.messages[6]["content"]
    # Both rounds count.
    assert (run.usage.input_tokens, run.usage.output_tokens) == (14, 6)


@asynchronous
async def test_rounds_without_an_end_have_one(server: ModelServer) -> None:
    server.then(calls(Call("add", ["{}"])))
    run = await run_agent(made(server, rounds=3), "Hi", tools={"add": lambda: 1})
    assert run.failure is not None
    assert (run.failure.code, len(server.requests)) == ("rounds_spent", 3)


@asynchronous
async def test_too_many_calls_at_once_are_cut(server: ModelServer) -> None:
    server.then(calls(*(Call("add", ["{}"], f"c-{number}", number) for number in range(17))), says("Done."))
    run = await run_agent(made(server), "Hi", tools={"add": lambda: 1})
    assert len(run.calls) == 16
    assert server.requests[1].messages[-1]["content"] == "not called: at most 16 calls may be made at once"


@asynchronous
async def test_what_the_user_adds_is_answered_too(server: ModelServer) -> None:
    server.then(["Three.", Pause(), Finish()], says("Drei."))
    async with running_agent(made(server), "1 + 2?") as run:
        await run.until_text("Three.")
        run.say("In German")
        server.go_on()
        await run.over()
    assert run.text == "Three.\n\nDrei."
    assert server.requests[1].messages[-2:] == [
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "In German"},
    ]


@asynchronous
async def test_the_conversation_is_handed_over(server: ModelServer) -> None:
    conversation = [
        Message("system", ("Speak English.",)),
        Message("user", ("Hello",)),
        Message("assistant", ("Hello to you",)),
        Message("tool", (JsonPart('{"a": 1}'),)),
        Message(
            "user",
            (
                "What is this?",
                Blob("image/png", b"\x89PNG"),
                Blob("image/jpeg", uri="https://example.org/a.jpg"),
                Blob("audio/wav", b"RIFF"),
                Blob("application/pdf", b"%PDF", name="a.pdf"),
                Blob("text/csv", b"a,b"),
            ),
        ),
    ]
    run = await run_agent(made(server, system="You are Ada."), conversation)
    assert run.text == "Hello, world!"
    told = server.requests[0].messages
    assert told[:5] == [
        {"role": "system", "content": "You are Ada."},
        {"role": "system", "content": "Speak English."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello to you"},
        {"role": "user", "content": 'A tool returned: {"a": 1}'},
    ]
    assert told[5]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        },
        {"type": "text", "text": "a,b"},
    ]


@asynchronous
@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ((Blob("image/png", uri="file:///etc/passwd"),), "model_input_refused"),
        ((Blob("image/png"),), "model_input_refused"),
        ((Blob("video/mp4", b"x"),), "model_input_refused"),
        ((), "model_request_refused"),
    ],
)
async def test_what_can_not_be_handed_over_is_told(server: ModelServer, parts: Any, code: str) -> None:
    run = await run_agent(made(server, system="You are Ada."), [Message("user", parts)])
    assert failure(run) == (code, None)
    assert not server.requests


@asynchronous
@pytest.mark.parametrize(
    ("steps", "code", "status"),
    [
        ([Status(401, "wrong key sk-secret")], "model_key_refused", 401),
        ([Status(403, "not yours")], "model_key_refused", 403),
        ([Status(404, "no such model")], "model_unknown", 404),
        ([Status(429, "slow down", headers={"Retry-After": "7"})], "model_rate_limited", 429),
        ([Status(429, "no credit", "insufficient_quota")], "model_quota_exhausted", 429),
        ([Status(400, "too long", "context_length_exceeded")], "model_context_too_long", 400),
        ([Status(400, "bad words", "content_filter")], "model_content_filtered", 400),
        ([Status(422, "what?")], "model_request_refused", 422),
        ([Status(503, "overloaded")], "model_unavailable", 503),
        (["half", Finish("content_filter")], "model_content_filtered", None),
        (["half"], "model_malformed", None),
        (["half", Reset()], "model_unreachable", None),
        ([Raw(b'data: {"error": {"message": "it broke"}}\n\n')], "model_error", None),
    ],
)
async def test_errors_have_a_code_and_the_status(
    server: ModelServer, steps: list[Step], code: str, status: int | None
) -> None:
    server.then(steps)
    run = await run_agent(made(server), "Hi")
    assert failure(run) == (code, status)
    assert run.failure is not None
    assert run.failure.retry_after_s == (7 if code == "model_rate_limited" else None)


@asynchronous
async def test_nobody_there_is_told() -> None:
    with ModelServer() as gone:
        pass
    run = await run_agent(made(gone), "Hi")
    assert failure(run) == ("model_unreachable", None)


@asynchronous
async def test_an_answer_that_was_cut_is_told_as_such(server: ModelServer) -> None:
    server.then(["half a", Finish("length")])
    run = await run_agent(made(server), "Hi")
    (progress,) = [event.fields["text"] for event in run.events if event.kind == "progress"]
    assert (run.outcome, "cut" in progress) == ("completed", True)


@asynchronous
async def test_one_that_is_left_closes_the_model_s_connection(server: ModelServer) -> None:
    await closes_when_it_is_left(made(server), server)


@asynchronous
@pytest.mark.parametrize("before", [[], ["Well, "]])
async def test_a_stop_closes_the_connection(server: ModelServer, before: list[Step]) -> None:
    await closes_its_connection(made(server), server, *before)


def test_a_client_without_async_is_refused_by_name() -> None:
    client: Any = openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key="none")
    with pytest.raises(TypeError, match="should be an AsyncOpenAI, not OpenAI"):
        from_openai(client, model="m", name="ada")
    client.close()


FILE = """
from openai import AsyncOpenAI

from commander.adapters import from_openai

client = AsyncOpenAI(base_url="{base_url}", api_key="none", max_retries=0)
calculator = from_openai(client, model="scripted", name="calculator", tools=["calculate"])
"""


@asynchronous
async def test_through_a_real_dispatcher(server: ModelServer, tmp_path: Path) -> None:
    server.then(script)
    async with served(tmp_path, FILE.format(base_url=server.base_url), "calculator") as conversation:
        await answers_fails_and_stops(conversation, "calculator", server)
