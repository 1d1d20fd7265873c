"""OpenAI's Chat Completions and Models: answers in chunks and whole, every ending, what is wrong in their form, and a
client that goes stops what it has asked for."""

import asyncio
import base64
import signal
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous, eventually
from dispatcher_process import DispatcherProcess, running_dispatcher
from openai_viewer import CHAT, ChunkReader, chatting, said
from scripted_commander import Link, Turn, linked, unique
from southwest.ai.agent.v1 import agent_pb2
from web_viewer import JSON, browsing

from dispatcher.core.endings import Ending

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0",
    "--http-left-stop-s", "0.1",
    "--viewer-heartbeat-s", "0.2",
    "--deny", "secret",
    "--tool-calls-max", "2",
    "--request-bytes-max", "20000",
)  # fmt: skip
ERROR = agent_pb2.ErrorSignal


async def _whole(client: Any, agent: str, headers: Any = None, **more: Any) -> Any:
    return await client.post(CHAT, json={"model": agent, "messages": said(), **more}, headers=headers)


@asynchronous
async def test_an_answer_comes_in_chunks(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    text = 'data: x\n\n{"a"}\r\n\u2028 é 🎈'
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        chatting(client, agent, stream_options={"include_usage": True}) as stream,
    ):
        turn = await link.started()
        await turn.think("Plan", "hidden")
        await turn.say("One ")
        await turn.call("nothing", "{}", "c-1")
        await turn.say(text)
        await turn.send(usage={"input_tokens": 3, "output_tokens": 4, "reasoning_tokens": 1})
        await turn.finish()
        chunks = await stream.rest()
        headers = stream.response.headers
    assert stream.is_done
    assert stream.text == turn.text == f"One {text}"
    assert stream.reasons == ["stop"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{turn.session_id}"}
    assert {chunk["model"] for chunk in chunks} == {agent}
    assert len({chunk["created"] for chunk in chunks}) == 1
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert chunks[-2]["ending"]["name"] == "completed"
    # The tool ran here: no client is to run it again.
    assert "tool_calls" not in str(chunks)
    assert "hidden" not in str(chunks)
    assert (headers["session-id"], headers["x-request-id"]) == (turn.session_id, turn.session_id)
    assert headers["location"] == f"/v1/sessions/{turn.session_id}"
    assert headers["x-accel-buffering"] == "no"


@asynchronous
async def test_an_answer_comes_whole(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        asked = asyncio.ensure_future(_whole(client, agent, include_thoughts=True, include_events=True))
        turn = await link.started()
        await turn.think("Plan", "first")
        await turn.say("Forty-")
        await turn.send(progress={"text": "nearly"})
        await turn.say("two")
        await turn.finish()
        answer = await asked
        record = answer.json()
        # The thoughts and events of others are nobody's.
        asked = asyncio.ensure_future(_whole(client, agent))
        turn = await link.started()
        await turn.think("Plan", "hidden")
        await turn.finish()
        plain = (await asked).json()
    assert answer.status_code == 200
    assert answer.headers["session-id"] == record["id"].removeprefix("chatcmpl-")
    assert record["object"] == "chat.completion"
    assert record["model"] == agent
    assert record["choices"][0]["finish_reason"] == "stop"
    message = record["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", "Forty-two")
    assert message["reasoning_content"] == message["reasoning"] == "first"
    assert [each["event"] for each in record["chatstream"]] == ["opened", "started", "progress", "ended"]
    assert record["usage"]["total_tokens"] == 0
    assert "hidden" not in str(plain)
    assert "chatstream" not in plain


@asynchronous
async def test_every_kind_of_event_is_told_to_who_asks_and_no_other(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")

    async def spoken(turn: Turn) -> None:
        await turn.think("Plan", "aloud")
        await turn.call("nothing", "{}", "c-1")
        await turn.result()
        await turn.ask("q-1", "Which?")
        await turn.heard("answer")
        await turn.send(progress={"text": "half"})
        await turn.send(artifact={"name": "x.bin", "data": b"\0\1", "is_last": True})
        await turn.send(embedding={"name": "v", "values": [1.5]})
        await turn.send(agent_event={"started": {"description": "sub"}}, agent="lead/sub")
        await turn.send(error=ERROR(code="odd", message="once", scope=agent_pb2.ERROR_SCOPE_CALL))
        await turn.send(usage={"output_tokens": 5})
        await turn.say("Word", agent="lead/sub")
        await turn.finish()

    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with chatting(client, agent, include_events=True, include_thoughts=True) as shown:
            await spoken(await link.started())
            await shown.rest()
        async with chatting(client, agent) as plain:
            await spoken(await link.started())
            await plain.rest()
    events = [chunk["chatstream"]["event"] for chunk in shown.seen if "chatstream" in chunk]
    assert events == [
        "opened", "started", "tool_call", "tool_result", "question", "answer", "progress", "artifact",
        "embedding", "agent_event", "error", "usage", "ended",
    ]  # fmt: skip
    assert shown.joined("reasoning") == shown.joined("reasoning_content") == "aloud"
    assert shown.text == plain.text == "Word"
    assert [list(chunk["choices"][0]["delta"]) for chunk in plain.seen] == [
        ["role", "content"],
        ["content"],
        [],
    ]
    assert "chatstream" not in str(plain.seen)


@asynchronous
async def test_what_is_said_reaches_the_agent(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    data = base64.b64encode(b"bytes").decode()
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
                {"type": "image_url", "image_url": {"url": "data:,a%20b"}},
                {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}},
                {"type": "file", "file": {"file_data": data, "filename": "a.bin"}},
                {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{data}"}},
            ],
        },
    ]
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        more: dict[str, Any] = {
            "messages": messages,
            "metadata": {"team": "a"},
            "user": "old",
            "safety_identifier": "ann",
            "max_completion_tokens": 9,
            "temperature": 0.5,
            "stop": ["x"],
            "response_format": {"type": "json_object"},
            "reasoning_effort": "low",
            "seed": 2**70,
            "n": 1,
            "tools": [],
            "tool_choice": "auto",
            "logprobs": False,
            "store": True,
            "some_new_field": {"of": "theirs"},
        }
        async with chatting(client, agent, **more) as stream:
            turn = await link.started()
            state = (await client.get(f"/v1/sessions/{turn.session_id}")).json()
            await turn.finish()
            await stream.rest()
    start = turn.start
    roles = [agent_pb2.Role.Name(message.role).removeprefix("ROLE_") for message in start.messages]
    assert roles == ["SYSTEM", "SYSTEM", "ASSISTANT", "TOOL", "ASSISTANT", "USER"]
    assert [message.parts[0].text for message in start.messages] == [
        "Be brief.",
        "Be kind.",
        "",
        "42",
        "No.",
        "",
    ]
    assert '"name": "f"' in start.messages[2].parts[0].json
    assert start.messages[3].parts[1].json == '{"tool_call_id": "c"}'
    blobs = [part.blob for part in start.messages[5].parts]
    assert [(blob.mime_type, blob.data, blob.uri, blob.name) for blob in blobs] == [
        ("image/png", b"bytes", "", ""),
        ("image/*", b"", "https://a.example/b.png", ""),
        ("text/plain", b"a b", "", ""),
        ("audio/mpeg", b"bytes", "", ""),
        ("application/octet-stream", b"bytes", "", "a.bin"),
        ("application/pdf", b"bytes", "", ""),
    ]
    assert dict(start.metadata) == {
        "max_completion_tokens": "9",
        "temperature": "0.5",
        "stop": '["x"]',
        "response_format": '{"type": "json_object"}',
        "reasoning_effort": '"low"',
        "seed": str(2**70),
    }
    assert (state["user_id"], state["labels"]) == ("ann", {"team": "a"})


# What is wrong, the body, the status, the code, the param, and words of the message.
WRONG: dict[str, tuple[Any, int, str, str | None, list[str]]] = {
    "no JSON": (b"{", 400, "invalid_request", None, ["no JSON"]),
    "no messages": ({}, 400, "invalid_request", "messages", ["required"]),
    "an empty conversation": ({"messages": []}, 400, "invalid_request", "messages", ["at least one"]),
    "an unknown role": (
        {"messages": [{"role": "function", "content": "x"}]}, 400, "invalid_request", "messages[0].role",
        ["'user'"],
    ),
    "no content": (
        {"messages": [{"role": "user"}]}, 400, "invalid_request", "messages[0].content", ["missing"],
    ),
    "an assistant that said nothing": (
        {"messages": [{"role": "assistant"}]}, 400, "invalid_request", "messages[0].content", ["missing"],
    ),
    "content of another kind": (
        {"messages": [{"role": "user", "content": 7}]}, 400, "invalid_request", "messages[0].content",
        ["list of parts"],
    ),
    "an unknown part": (
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, 400, "invalid_request",
        "messages[0].content[0].type", ["image_url"],
    ),
    "a part without its text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "invalid_request",
        "messages[0].content[0].text", ["missing"],
    ),
    "a stored file": (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, 400,
        "invalid_request", "messages[0].content[0].file.file_id", ["send the file itself"],
    ),
    "an image of nothing": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "invalid_request",
        "messages[0].content[0].image_url", ["missing"],
    ),
    "no data URL": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
        400, "invalid_request", "messages[0].content[0].image_url", ["no data URL"],
    ),
    "no base64": (
        {"messages": [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "%", "format": "wav"}}
        ]}]},
        400, "invalid_request", "messages[0].content[0].input_audio.data", ["no base64"],
    ),
    "another sound": (
        {"messages": [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "", "format": "ogg"}}
        ]}]},
        400, "invalid_request", "messages[0].content[0].input_audio.format", ["wav"],
    ),
    "several answers": ({"messages": said(), "n": 2}, 400, "invalid_request", "n", ["1 is right"]),
    "tools": (
        {"messages": said(), "tools": [{"type": "function", "function": {"name": "f"}}]}, 400,
        "invalid_request", "tools", ["run in the dispatcher"],
    ),
    "a tool to use": (
        {"messages": said(), "tool_choice": "required"}, 400, "invalid_request", "tool_choice", ["leave it out"],
    ),
    "probabilities": (
        {"messages": said(), "logprobs": True}, 400, "invalid_request", "logprobs", ["probabilities"],
    ),
    "sound out": (
        {"messages": said(), "modalities": ["text", "audio"]}, 400, "invalid_request", "modalities", ["text"],
    ),
    "no number": (
        b'{"messages": [{"role": "user", "content": "x"}], "seed": NaN}', 400, "invalid_request", "seed",
        ["no JSON"],
    ),
    "a limit of nothing": (
        {"messages": said(), "max_tokens": 0}, 400, "invalid_request", "max_tokens", ["greater than"],
    ),
    "a label too long": (
        {"messages": said(), "metadata": {"k": "v" * 300}}, 400, "invalid_request", "metadata['k']", ["256"],
    ),
    "a user too long": ({"messages": said(), "user": "u" * 300}, 400, "invalid_request", "user", ["256"]),
    "an agent that nobody serves": (
        {"model": "nobody", "messages": said()}, 404, "model_not_found", "model", ["'nobody'", "there are"],
    ),
    "a version that nobody serves": (
        {"model": "nobody@3", "messages": said()}, 404, "model_not_found", "model", ["'nobody'"],
    ),
    "too large": ({"messages": said("x" * 40_001)}, 413, "too_large", None, ["40000"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@asynchronous
async def test_what_is_wrong_is_told_in_their_form(dispatcher: DispatcherProcess, case: str) -> None:
    body, status, code, param, words = WRONG[case]
    async with linked(dispatcher.address, unique("agent")), browsing(dispatcher.url) as client:
        how: dict[str, Any] = (
            {"content": body, "headers": JSON} if isinstance(body, bytes) else {"json": body}
        )
        for stream in (False, True):
            if stream and isinstance(body, dict):
                how = {"json": {**body, "stream": True}}
            answer = await client.post(CHAT, **how)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-should-retry"] == "false"
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
            assert error["type"] == "invalid_request_error"
            for word in words:
                assert word in error["message"], error


@asynchronous
async def test_overload_says_when_to_come_back() -> None:
    flags = ("--http-address", "127.0.0.1:0", "--sessions-max", "1")
    agent = unique("agent")
    with running_dispatcher(*flags) as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            browsing(dispatcher.url) as client,
            chatting(client, agent) as stream,
        ):
            turn = await link.started()
            full = await _whole(client, agent)
            error = full.json()["error"]
            assert (full.status_code, error["type"], error["code"]) == (
                429,
                "rate_limit_error",
                "sessions_full",
            )
            assert full.headers["x-should-retry"] == "true"
            assert (full.headers["retry-after"], full.headers["retry-after-ms"]) == ("2", "2000")
            await turn.finish()
            await stream.rest()


@asynchronous
async def test_models_are_the_agents(dispatcher: DispatcherProcess) -> None:
    agent, other = unique("agent"), unique("org/agent")
    old = agent_pb2.AgentOffer(name=agent, version="1", description="old")
    new = agent_pb2.AgentOffer(name=agent, version="2", description="new")
    plain = agent_pb2.AgentOffer(name=other, description="plain")
    async with (
        linked(dispatcher.address, agents=[old, plain]) as first,
        linked(dispatcher.address, agents=[new]) as second,
        browsing(dispatcher.url) as client,
    ):
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list"
        ours = [each for each in listed["data"] if each["id"].startswith((agent, other))]
        assert [each["id"] for each in ours] == [agent, f"{agent}@1", f"{agent}@2", other]
        for each in ours:
            assert (each["object"], each["created"], each["owned_by"]) == ("model", 0, "chatstream")
            assert (await client.get(f"/v1/models/{each['id']}")).json() == each
        assert [each["description"] for each in ours][1:] == ["old", "new", "plain"]
        missing = await client.get(f"/v1/models/{agent}@3")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        for version, link in (("1", first), ("2", second)):
            async with chatting(client, f"{agent}@{version}") as stream:
                turn = await link.started()
                assert turn.start.agent_version == version
                await turn.finish()
                assert (await stream.rest())[0]["model"] == f"{agent}@{version}"


@asynchronous
async def test_a_model_tells_the_language_models_of_its_agent(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    old = agent_pb2.AgentOffer(name=agent, version="1")
    new = agent_pb2.AgentOffer(name=agent, version="2")
    fast = agent_pb2.ModelOffer(name="fast", model="openai-chat:qwen3", calls_tools=True)
    deep = agent_pb2.ModelOffer(name="deep", shows_reasoning=False)
    async with (
        linked(dispatcher.address, agents=[old], models=[fast]),
        linked(dispatcher.address, agents=[new], models=[deep, fast]),
        browsing(dispatcher.url) as client,
    ):
        ours = [each for each in (await client.get("/v1/models")).json()["data"] if agent in each["id"]]
        told = {each["id"]: [model["name"] for model in each["models"]] for each in ours}
        assert told == {agent: ["deep", "fast"], f"{agent}@1": ["fast"], f"{agent}@2": ["deep", "fast"]}
        assert ours[0]["models"][0]["shows_reasoning"] is False
        assert ours[0]["models"][0]["takes_files"] is None
        assert ours[0]["models"][1]["model"] == "openai-chat:qwen3"
        for each in ours:
            assert each["models_left_out"] == 0
            assert (await client.get(f"/v1/models/{each['id']}")).json() == each


@asynchronous
async def test_a_client_that_goes_stops_its_session(dispatcher: DispatcherProcess) -> None:
    """Whether it was told the answer in chunks, or waited for the whole of it."""
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with chatting(client, agent) as stream:
            turn = await link.started()
            await turn.say("Long ")
            await stream.until_text()
        assert (await turn.stopped()).code == agent_pb2.STOP_CODE_DETACHED
        asked = asyncio.ensure_future(_whole(client, agent))
        turn = await link.started()
        await turn.say("Long ")
        asked.cancel()
        assert (await turn.stopped()).code == agent_pb2.STOP_CODE_DETACHED
        state = (await client.get(f"/v1/sessions/{turn.session_id}")).json()
        assert state["ended"]["name"] == "detached"


@asynchronous
async def test_questions_are_declined_unless_somebody_may_answer(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with chatting(client, agent) as stream:
            turn = await link.started()
            for number in range(3):
                await turn.ask(f"q-{number}")
                assert (await turn.heard("answer")).answer.WhichOneof("result") == "cancelled"
            await turn.finish()
            await stream.rest()
        asked = asyncio.ensure_future(_whole(client, agent))
        turn = await link.started()
        await turn.ask("q-1")
        assert (await turn.heard("answer")).answer.WhichOneof("result") == "cancelled"
        await turn.finish()
        assert (await asked).status_code == 200
        async with chatting(client, agent, on_question="wait", include_events=True) as stream:
            turn = await link.started()
            await turn.ask("q-1")
            while (chunk := await stream.next()) is not None:
                if chunk.get("chatstream", {}).get("event") == "question":
                    break
            answers = f"{stream.response.headers['location']}/answers/q-1"
            assert (await client.post(answers, json={"value": "red"})).status_code == 200
            assert (await turn.heard("answer")).answer.value_json == '"red"'
            await turn.finish()
            await stream.rest()
            assert stream.reasons == ["stop"]


@asynchronous
async def test_a_repeated_key_joins_the_session(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    key = {"idempotency-key": unique("key")}
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with chatting(client, agent, headers=key) as stream:
            turn = await link.started()
            await turn.say("Once")
            await turn.finish()
            await stream.rest()
        again = await _whole(client, agent, headers=key)
        assert again.json()["choices"][0]["message"]["content"] == "Once"
        assert again.headers["session-id"] == turn.session_id
        assert link.started_nothing()
        other = await _whole(client, agent, headers=key, messages=said("else"))
        assert other.status_code == 409


@asynchronous
async def test_silence_is_broken_by_comments(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        chatting(client, agent) as stream,
    ):
        turn = await link.started()
        waiting = asyncio.ensure_future(stream.rest())

        async def heard() -> int:
            return len(stream.comments)

        await eventually(heard, lambda count: count >= 3)
        await turn.finish()
        await waiting
        assert stream.is_done


# --- endings ---------------------------------------------------------------------------------------------


async def _completed(link: Link, client: Any) -> None:
    turn = await link.started()
    await turn.say("Word")
    await turn.finish()


async def _stopped(link: Link, client: Any) -> None:
    turn = await link.started()
    await turn.say("Word")
    await turn.acknowledged(turn.sequence)
    await client.post(f"/v1/sessions/{turn.session_id}/stop", json={})


async def _blocked(link: Link, client: Any) -> None:
    turn = await link.started()
    await turn.say("Word")
    await turn.say("secret")


async def _too_much(link: Link, client: Any) -> None:
    turn = await link.started()
    await turn.say("Word")
    await turn.send(usage={"output_tokens": 100})


async def _too_many_calls(link: Link, client: Any) -> None:
    turn = await link.started()
    for number in range(3):
        await turn.call("nothing", "{}", f"c-{number}")


async def _failed(link: Link, client: Any, origin: int = agent_pb2.ERROR_ORIGIN_COMMANDER) -> None:
    turn = await link.started()
    error = ERROR(code="broken", message="it broke", origin=origin, scope=agent_pb2.ERROR_SCOPE_SESSION)  # type: ignore[arg-type]  # one of the enum's
    await turn.send(error=error)


async def _model_failed(link: Link, client: Any) -> None:
    await _failed(link, client, agent_pb2.ERROR_ORIGIN_LLM)


async def _lying(link: Link, client: Any) -> None:
    turn = await link.started()
    await turn.say("Word")
    await link.write(turn.finished(content_crc32=1))


# By ending: how it comes to it, the finish reason, or the status and whether to try again.
ENDED: dict[Ending, tuple[Any, str, int, bool]] = {
    Ending.COMPLETED: (_completed, "stop", 200, False),
    Ending.STOPPED: (_stopped, "stop", 200, False),
    Ending.POLICY_BLOCKED: (_blocked, "content_filter", 200, False),
    Ending.LIMIT_EXCEEDED: (_too_much, "length", 200, False),
    Ending.AGENT_FAILED: (_failed, "", 502, False),
    Ending.MODEL_FAILED: (_model_failed, "", 502, False),
    Ending.INCOMPLETE: (_lying, "", 502, True),
}


@pytest.mark.parametrize("ending", ENDED, ids=lambda ending: ending.value)
@asynchronous
async def test_every_ending_has_its_word(dispatcher: DispatcherProcess, ending: Ending) -> None:
    bring_about, reason, status, retryable = ENDED[ending]
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with chatting(client, agent, max_tokens=50) as stream:
            await bring_about(link, client)
            await stream.rest()
        assert stream.is_done
        asked = asyncio.ensure_future(_whole(client, agent, max_tokens=50))
        await bring_about(link, client)
        whole = await asked
    assert whole.status_code == status
    if reason:
        assert stream.reasons == [reason]
        assert stream.seen[-1]["ending"]["name"] == ending.value
        choice = whole.json()["choices"][0]
        assert choice["finish_reason"] == reason
        assert choice["message"]["content"] == stream.text == "Word"
        assert whole.json()["ending"]["name"] == ending.value
    else:
        _require_error(stream, whole, ending, retryable=retryable)


def _require_error(stream: ChunkReader, whole: Any, ending: Ending, *, retryable: bool) -> None:
    assert stream.reasons == []
    for error in (stream.seen[-1]["error"], whole.json()["error"]):
        own = "broken" if "error" in error["ending"] else ending.value
        assert (error["code"], error["type"]) == (own, "server_error")
        assert error["message"]
        assert (error["ending"]["name"], error["ending"]["retryable"]) == (ending.value, retryable)
    assert whole.headers["x-should-retry"] == ("true" if retryable else "false")
    assert ("retry-after" in whole.headers) == retryable


# A model's failure, as its commander tells it: the status, code and time to come back that their clients go by.
MODEL_FAILURES: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"code": "model_context_too_long", "upstream_status": 400}, 400, "context_length_exceeded", None),
    ({"code": "model_key_refused", "upstream_status": 401}, 502, "model_key_refused", None),
    ({"code": "model_unavailable", "upstream_status": 503, "retryable": True}, 502, "model_unavailable", "5"),
    (
        {"code": "model_rate_limited", "upstream_status": 429, "retryable": True, "retry_after_ms": 31_000},
        429,
        "rate_limit_exceeded",
        "31",
    ),
]


@pytest.mark.parametrize(("told", "status", "code", "after"), MODEL_FAILURES, ids=str)
@asynchronous
async def test_of_a_model_s_failure_they_are_told_whether_to_try_again(
    dispatcher: DispatcherProcess, told: dict[str, Any], status: int, code: str, after: str | None
) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        asked = asyncio.ensure_future(_whole(client, agent))
        turn = await link.started()
        model = agent_pb2.ERROR_ORIGIN_LLM
        error = ERROR(message="no", origin=model, scope=agent_pb2.ERROR_SCOPE_SESSION, **told)
        await turn.send(error=error)
        whole = await asked
    assert (whole.status_code, whole.json()["error"]["code"]) == (status, code)
    assert whole.headers["x-should-retry"] == ("false" if after is None else "true")
    assert whole.headers.get("retry-after") == after
    assert whole.json()["error"]["ending"]["error"]["upstream_status"] == told["upstream_status"]


@asynchronous
async def test_a_limit_on_what_is_not_said_is_a_failure(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        chatting(client, agent) as stream,
    ):
        await _too_many_calls(link, client)
        await stream.rest()
    error = stream.seen[-1]["error"]
    assert (error["code"], error["type"]) == ("limit_exceeded", "invalid_request_error")
    assert "tool calls" in error["message"]


@pytest.mark.parametrize("has_spoken", [False, True], ids=["silent", "spoken"])
@asynchronous
async def test_two_answers_are_never_spliced(dispatcher: DispatcherProcess, *, has_spoken: bool) -> None:
    """A worker is lost: what was said can't be taken back from this client, and a whole answer is whole."""
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as first,
        browsing(dispatcher.url) as client,
        chatting(client, agent) as stream,
    ):
        lost = await first.started()
        asked = asyncio.ensure_future(_whole(client, agent))
        lost_whole = await first.started()
        for turn in (lost, lost_whole):
            await turn.think("Plan", "aloud")
            if has_spoken:
                await turn.say("Lost ")
            await turn.acknowledged(turn.sequence)
        if has_spoken:
            await stream.until_text()
        async with linked(dispatcher.address, agent) as second:
            await first.leave()
            turns = [await second.started(), await second.started()]
            for turn in turns:
                await turn.say("Found")
            if has_spoken:
                # The stream ends with its error, and not with the session.
                await stream.rest()
            for turn in turns:
                await turn.finish()
            await stream.rest()
            whole = (await asked).json()
    assert stream.is_done
    assert whole["choices"][0]["message"]["content"] == "Found"
    if has_spoken:
        assert stream.text == "Lost "
        assert stream.seen[-1]["error"]["code"] == "commander_lost"
    else:
        assert stream.text == "Found"
        assert stream.reasons == ["stop"]


@asynchronous
async def test_a_dispatcher_that_leaves_says_so(tmp_path: Path) -> None:
    """With a journal that lasts the session goes on, and these clients are told that their answers do not."""
    agent = unique("agent")
    flags = ("--http-address", "127.0.0.1:0", "--journal", f"sqlite:{tmp_path / 'journal'}")
    with running_dispatcher(*flags) as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            browsing(dispatcher.url) as client,
            chatting(client, agent) as stream,
        ):
            turn = await link.started()
            asked = asyncio.ensure_future(_whole(client, agent))
            for each in (turn, await link.started()):
                await each.say("Half ")
                await each.acknowledged(each.sequence)
            await stream.until_text()
            dispatcher.signal(signal.SIGTERM)
            await stream.rest()
            whole = await asked
        assert await asyncio.to_thread(dispatcher.wait) == 0
    assert stream.is_done
    assert stream.seen[-1]["error"]["code"] == "goaway"
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "draining")
    assert whole.headers["x-should-retry"] == "true"
