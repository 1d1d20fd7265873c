"""The UI message stream of Vercel's AI SDK by raw HTTP: each kind of event, each ending, resets, and every way back.

That the SDK itself reads it so is shown by `tests/interop/`.
"""

import asyncio
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from asynchronous import asynchronous, eventually
from dispatcher_process import DispatcherProcess, running_dispatcher
from frame_reader import FrameReader, framing
from scripted_commander import Turn, linked, unique
from southwest.ai.agent.v1 import agent_pb2
from ui_message import Message
from web_viewer import browsing

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0",
    "--viewer-heartbeat-s", "0.2",
    "--http-left-stop-s", "60",
    "--tools", "tests.scene_tools:TOOLS",
)  # fmt: skip


def _asked(chat: str, agent: str, text: str = "Hi", **more: Any) -> dict[str, Any]:
    message = {"id": "u-1", "role": "user", "parts": [{"type": "text", "text": text}]}
    return {"json": {"id": chat, "messages": [message], "trigger": "submit-message", "agent": agent, **more}}


def _bare(part: dict[str, Any], *left_out: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in left_out}


@asynchronous
async def test_an_answer_is_streamed_as_one_message(dispatcher: DispatcherProcess) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", "/api/chat", **_asked(chat, agent, "How far?")) as stream,
    ):
        turn = await link.started()
        await turn.think("Plan", "Hidden")
        await turn.say("Two ")
        await turn.say("miles\u2028.\n\n")
        await turn.send(usage={"input_tokens": 2**63, "output_tokens": 3, "model": "m"})
        await turn.finish()
        await stream.rest()
    headers = stream.response.headers
    assert headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert headers["x-accel-buffering"] == "no"
    assert headers["session-id"] == turn.session_id
    assert turn.start.messages[0].parts[0].text == "How far?"
    assert stream.is_done
    session_id = turn.session_id
    assert _bare(stream.parts[0], "messageMetadata") == {"type": "start", "messageId": session_id}
    assert stream.parts[0]["messageMetadata"] == {"sessionId": session_id, "agent": agent}
    deltas = [part for part in stream.parts if part["type"] == "text-delta"]
    assert "".join(part["delta"] for part in deltas) == turn.text
    assert [kind for kind in stream.kinds if kind != "text-delta"] == [
        "start", "start-step", "text-start", "text-end", "finish-step", "finish",
    ]  # fmt: skip
    finish = stream.parts[-1]
    assert finish["finishReason"] == "stop"
    assert finish["messageMetadata"] == {
        "ending": "completed",
        "usage": {
            "inputTokens": 2**53 - 1,
            "outputTokens": 3,
            "reasoningTokens": 0,
            "totalTokens": 2**53 - 1,
            "model": "m",
        },
    }


async def _all_kinds(turn: Turn) -> None:
    """What an agent and its helpers can say, up to an open question."""
    await turn.think("Plan", "First")
    await turn.think("Plan", " this")
    await turn.think("Do", "Then that")
    await turn.say("Root ")
    await turn.send(agent_event={"started": {"description": "looks"}}, agent="sub")
    await turn.say("Sub ", agent="sub")
    await turn.say("again")
    await turn.say("sub", agent="sub")
    await turn.call("add", '{\n"a": 40,\r\n"b": 2}', "c-1")
    await turn.call("nothing", "{}", "c-2")
    for _ in range(2):
        await turn.result()
    await turn.say("Behind the calls")
    for done in (1, 2):
        await turn.send(progress={"text": "½", "current": done, "total": 2})
    await turn.send(artifact={"name": "a.png", "mime_type": "image/png", "data": b"\0\1", "is_last": True})
    for piece in (1, 2):
        await turn.send(
            artifact={"name": "b", "data": b"x" * piece, "artifact_id": "b", "is_last": piece == 2}
        )
    await turn.send(embedding={"name": "v", "values": [1.5]})
    await turn.send(error={"code": "odd", "message": "Oh", "scope": agent_pb2.ERROR_SCOPE_AGENT}, agent="sub")
    await turn.send(agent_event={"completed": {"summary": "seen"}}, agent="sub")
    await turn.ask("q/1", "Which?")


@asynchronous
async def test_every_kind_of_event_has_its_part(dispatcher: DispatcherProcess) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        body = _asked(chat, agent, includeThoughts=True)
        async with framing(client, "POST", "/api/chat", **body) as stream:
            turn = await link.started()
            await _all_kinds(turn)
            asked = await stream.until("data-question")
            session_id = turn.session_id
            added = await client.post(f"/v1/sessions/{session_id}/messages", json={"text": "Also"})
            await stream.until("steering-message")
            answered = await client.post(asked["data"]["links"]["answer"], json={"value": {"n": 1}})
            assert answered.status_code == 200, answered.text
            await turn.heard("answer")
            await turn.say("End")
            await turn.finish()
            await stream.rest()
    message = Message(stream.parts)
    assert message.id == session_id

    thoughts = message.of("reasoning")
    assert [part["text"] for part in thoughts] == ["First this", "Then that"]
    assert thoughts[0]["providerMetadata"] == {"chatstream": {"step": "Plan"}}
    texts = [(part.get("providerMetadata"), part["text"]) for part in message.of("text")]
    # Each speaker goes on where it was; the root's call parts its own text alone.
    assert texts == [
        (None, "Root again"),
        ({"chatstream": {"agent": "sub"}}, "Sub sub"),
        (None, "Behind the calls"),
        (None, "End"),
    ]
    first, other = message.of("tool-input-available")
    assert first["dynamic"] is first["providerExecuted"] is True
    assert (first["toolName"], first["input"]) == ("add", {"a": 40, "b": 2})
    assert first["toolCallId"] == f"{session_id}:1:c-1"
    assert first["output"] == 42
    assert other["errorText"].startswith("not_found: ")
    (progress,) = message.of("data-progress")
    assert (progress["data"]["current"], progress["data"]["text"]) == (2, "½")
    (file,) = message.of("file")
    assert (file["url"], file["mediaType"]) == ("data:image/png;base64,AAE=", "image/png")
    pieces = [part["data"] for part in message.of("data-artifact")]
    assert [(each["piece"], each["data"], each["is_last"]) for each in pieces] == [
        (0, "eA==", False), (1, "eHg=", True),
    ]  # fmt: skip
    assert next(part for part in stream.parts if part["type"] == "data-embedding")["data"]["values"] == [1.5]
    (error,) = message.of("data-error")
    assert (error["data"]["agent"], error["data"]["code"]) == ("sub", "odd")
    (sub,) = message.of("data-agent")
    assert sub["data"] == {"agent": "sub", "attempt": 1, "completed": {"summary": "seen"}}
    (question,) = message.of("data-question")
    assert question["data"]["text"] == "Which?"
    assert (question["data"]["state"], question["data"]["value"]) == ("answered", {"n": 1})
    (steering,) = message.of("steering-message")
    assert (steering["id"], steering["parts"]) == (
        added.json()["message_id"],
        [{"type": "text", "text": "Also"}],
    )


@asynchronous
async def test_a_resume_shows_the_same_again_from_its_start_and_from_every_cursor(
    dispatcher: DispatcherProcess,
) -> None:
    agent, chat = unique("agent"), f"{unique('chat')}/a b"
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        path = f"/api/chat/{quote(chat, safe='')}/stream"
        body = _asked(chat, agent, includeThoughts=True)
        async with framing(client, "POST", "/api/chat", **body) as first:
            turn = await link.started()
            await _all_kinds(turn)
            await first.until("data-question")
            # A page that is loaded anew, in the middle.
            async with framing(client, "GET", path) as again:
                await again.until("data-question")
                assert again.data == first.data
            await client.post(f"/v1/sessions/{turn.session_id}/answers/q%2F1", json={"decline": True})
            await turn.say("End")
            await turn.finish()
            await first.rest()
        assert (await client.get(path)).status_code == 204
        ended = {"ended": "true"}
        async with framing(client, "GET", path, params=ended) as again:
            await again.rest()
            assert (again.data, again.is_done) == (first.data, True)
        for frame in [frame for frame in first.seen if frame.id]:
            at = first.seen.index(frame)
            for how in (
                {"headers": {"last-event-id": frame.id}, "params": ended},
                {"params": {**ended, "cursor": frame.id}},
            ):
                async with framing(client, "GET", path, **how) as rest:
                    await rest.rest()
                    assert rest.seen == first.seen[at + 1 :], frame
        # What can't be gone on from is said, and then all of it is shown.
        async with framing(client, "GET", path, params={**ended, "cursor": "0000:3"}) as anew:
            gap = await anew.until("data-gap")
            await anew.rest()
        assert (gap["data"]["reason"], gap["transient"]) == ("other_epoch", True)
        assert anew.seen[1:] == first.seen
    assert Message(first.parts).of("data-question")[0]["data"]["why"] == "declined"


@asynchronous
async def test_what_a_lost_attempt_said_is_taken_back_and_what_the_user_said_stays(
    dispatcher: DispatcherProcess,
) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with (
        browsing(dispatcher.url) as client,
        linked(dispatcher.address, agent) as lost,
        framing(client, "POST", "/api/chat", **_asked(chat, agent)) as stream,
    ):
        turn = await lost.started()
        await turn.call("add", '{"a": 1, "b": 1}', "c-1")
        await turn.result()
        await turn.call("hang", "", "c-2")
        await turn.say("Half an ans")
        await stream.until("text-delta")
        await client.post(f"/v1/sessions/{turn.session_id}/messages", json={"text": "Also"})
        await stream.until("steering-message")
        async with linked(dispatcher.address, agent) as link:
            await lost.leave()
            other = await link.started()
            await other.say("Whole")
            await other.finish()
            await stream.rest()
    message = Message(stream.parts)
    assert [_bare(part, "id") for part in message.parts] == [
        {"type": "start-step"},
        {"type": "steering-message", "parts": [{"type": "text", "text": "Also"}]},
        {"type": "text", "text": "Whole"},
    ]
    assert stream.parts[-1]["finishReason"] == "stop"


@asynchronous
async def test_a_failure_is_an_error_with_its_metadata_before_it(dispatcher: DispatcherProcess) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", "/api/chat", **_asked(chat, agent)) as stream,
    ):
        turn = await link.started()
        await turn.say("Some")
        broke = {"code": "x", "message": "It broke", "scope": agent_pb2.ERROR_SCOPE_SESSION}
        await turn.send(error=broke)
        await stream.rest()
    kinds = [kind for kind in stream.kinds if kind != "text-delta"]
    assert kinds[-5:] == ["text-end", "message-metadata", "error", "finish-step", "finish"]
    assert stream.parts[-3]["errorText"] == "It broke"
    assert "data-error" not in kinds


@asynchronous
async def test_a_stop_is_an_abort_and_closes_calls_that_are_open(dispatcher: DispatcherProcess) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        nothing = await client.post(f"/api/chat/{chat}/stop")
        assert (nothing.status_code, nothing.json()["result"]) == (200, "nothing_to_stop")
        async with framing(client, "POST", "/api/chat", **_asked(chat, agent)) as stream:
            turn = await link.started()
            await turn.call("hang", "", "c-1")
            await stream.until("tool-input-available")
            # As the SDK's guide has it: what the client saw running, and its message so far.
            stale = {"activeStreamId": "s-other", "assistantMessage": {"id": "x"}}
            assert (await client.post(f"/api/chat/{chat}/stop", json=stale)).json()["session_id"] is None
            meant = {"activeStreamId": turn.session_id}
            stopped = await client.post(f"/api/chat/{chat}/stop", json=meant)
            assert stopped.json() == {"success": True, "session_id": turn.session_id, "result": "stopped"}
            await turn.stopped()
            await stream.rest()
        again = await client.post(f"/api/chat/{chat}/stop")
        assert again.json()["result"] == "already_ended"
    assert stream.kinds[-3:] == ["tool-output-error", "message-metadata", "abort"]
    assert stream.parts[-2]["messageMetadata"]["ending"] == "stopped"
    assert stream.is_done


@asynchronous
async def test_a_chat_that_is_left_is_stopped_after_its_grace_and_one_that_comes_back_is_not() -> None:
    flags = (
        "--http-address", "127.0.0.1:0", "--http-left-stop-s", "0.5", "--viewer-heartbeat-s", "0.25",
    )  # fmt: skip
    with running_dispatcher(*flags) as dispatcher:
        agent, chat = unique("agent"), unique("chat")
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            async with framing(client, "POST", "/api/chat", **_asked(chat, agent)) as stream:
                turn = await link.started()
                await stream.until("start")
            async with framing(client, "GET", f"/api/chat/{chat}/stream") as again:
                await again.until("start-step")
                # Longer than the grace, by the dispatcher's own clock.
                await asyncio.wait_for(_beats(again, 3), 60)
                assert turn.heard_nothing("stop")
            assert await turn.stopped()
            state = (await client.get(f"/v1/sessions/{turn.session_id}")).json()
            assert state["ended"]["name"] == "detached"


async def _beats(stream: FrameReader, count: int) -> None:
    waiting = asyncio.ensure_future(stream.next())
    await eventually(lambda: _comments(stream), lambda seen: seen >= count)
    waiting.cancel()
    await asyncio.wait([waiting])


async def _comments(stream: FrameReader) -> int:
    return stream.comments


@asynchronous
async def test_a_message_that_answers_goes_on_with_the_chats_session(dispatcher: DispatcherProcess) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        told = {"question_id": "q-1", "value": "yes", "attempt": 1}
        body = _asked(chat, agent)["json"]
        body["messages"][0]["parts"] = [{"type": "data-answer", "data": told}]
        early = await client.post("/api/chat", json=body)
        assert (early.status_code, early.json()["field"]) == (404, "id")
        async with framing(client, "POST", "/api/chat", **_asked(chat, agent)) as first:
            turn = await link.started()
            await turn.say("Well. ")
            await turn.ask("q-1", "Sure?")
            await first.until("data-question")
        told["question_id"] = "q-2"
        other = await client.post("/api/chat", json=body)
        assert (other.status_code, other.json()["field"]) == (404, "messages[0].parts[0].data")
        told["question_id"] = "q-1"
        async with framing(client, "POST", "/api/chat", json=body) as stream:
            assert (await turn.heard("answer")).answer.value_json == '"yes"'
            await turn.say("Then so.")
            await turn.finish()
            await stream.rest()
        assert link.started_nothing()
    message = Message(stream.parts)
    assert message.text == "Well. Then so."
    assert message.of("data-question")[0]["data"]["value"] == "yes"


@asynchronous
async def test_an_agent_that_is_not_there_and_a_cursor_that_is_none_are_refused(
    dispatcher: DispatcherProcess,
) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with browsing(dispatcher.url) as client:
        gone = await client.post("/api/chat", **_asked(chat, agent))
        assert (gone.status_code, gone.json()["code"]) == (404, "no_such_agent")
        wrong = await client.get(f"/api/chat/{chat}/stream", params={"cursor": "here"})
        assert (wrong.status_code, wrong.json()["field"]) == (400, "cursor")
        assert (await client.get(f"/api/chat/{chat}/stream")).status_code == 204


@asynchronous
async def test_a_dispatcher_that_goes_ends_the_stream_with_an_error_and_it_goes_on_after(
    tmp_path: Path,
) -> None:
    agent, chat = unique("agent"), unique("chat")
    journal = f"sqlite:{tmp_path / 'journal'}"
    flags = (
        "--http-address",
        "127.0.0.1:0",
        "--journal",
        journal,
        "--heartbeat-interval-s",
        "1",
        "--detach-grace-s",
        "3.1",
    )
    with running_dispatcher(*flags) as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            browsing(dispatcher.url) as client,
            framing(client, "POST", "/api/chat", **_asked(chat, agent)) as stream,
        ):
            await (await link.started()).say("Half ")
            await stream.until("text-delta")
            dispatcher.signal(signal.SIGTERM)
            rest = await stream.rest()
        assert [frame.part["type"] for frame in rest] == ["data-goaway", "error"]
        # To the SDK a stream that just ends would be an answer that is whole.
        assert "resume" in rest[-1].part["errorText"]
        assert await asyncio.to_thread(dispatcher.wait) == 0
    with running_dispatcher(*flags) as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            browsing(dispatcher.url) as client,
            framing(client, "GET", f"/api/chat/{chat}/stream") as again,
        ):
            await again.until("reset-step")
            other = await link.started()
            await other.say("Whole")
            await other.finish()
            await again.rest()
    assert Message(again.parts).text == "Whole"


@asynchronous
async def test_a_chat_whose_agent_asks_another_is_still_that_chat(dispatcher: DispatcherProcess) -> None:
    """What was asked for bears the chat's labels as well, and is newer."""
    chat, upper, lower = unique("chat"), unique("upper"), unique("lower")
    async with (
        linked(dispatcher.address, upper, lower) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", "/api/chat", **_asked(chat, upper)),
    ):
        above = await link.started()
        call = agent_pb2.ToolCallRequest(
            tool_name=lower, arguments_json='{"text": "Go"}', call_id="c1", to_agent=True
        )
        await above.send(tool_call=call)
        below = await link.started()
        listed = (await client.get("/v1/sessions", params={"live": "true"})).json()["sessions"]
        assert above.session_id in [each["session_id"] for each in listed]
        assert below.session_id not in [each["session_id"] for each in listed]
        stopped = (await client.post(f"/api/chat/{chat}/stop", json={})).json()
        assert stopped == {"success": True, "session_id": above.session_id, "result": "stopped"}
        await above.stopped()
        await below.stopped()
