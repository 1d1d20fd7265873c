"""AG-UI by raw HTTP: each kind of event, resets, questions that interrupt a run and the runs that answer them.

That AG-UI's own client reads it so is shown by `tests/interop/`.
"""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from agui_run import Run
from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess, running_dispatcher
from frame_reader import framing
from scripted_commander import Turn, linked, unique
from southwest.ai.agent.v1 import agent_pb2
from web_viewer import browsing, streaming

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0",
    "--http-left-stop-s", "0",
    "--viewers-per-session-max", "1",
    "--tools", "tests.scene_tools:TOOLS",
)  # fmt: skip

HI = {"id": "u-1", "role": "user", "content": "Hi"}


def _input(thread: str, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    told = {"threadId": thread, "runId": unique("run"), "protocolVersion": "1.0", "state": {}, "tools": []}
    return {"json": {**told, "context": [], "messages": list(messages) or [HI], **more}}


def _resumed(
    thread: str, messages: list[dict[str, Any]], interrupt: dict[str, Any], **how: Any
) -> dict[str, Any]:
    entry = {"interruptId": interrupt["id"], "status": "resolved", **how}
    return _input(thread, *messages, resume=[entry])


@asynchronous
async def test_a_run_is_streamed_to_its_end(dispatcher: DispatcherProcess) -> None:
    agent, thread = unique("agent"), unique("thread")
    body = _input(thread)
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", f"/ag-ui/{agent}", **body) as stream,
    ):
        turn = await link.started()
        await turn.think("Plan", "Hidden")
        await turn.say("Two ")
        await turn.say("miles\u2028.\n\n")
        await turn.send(usage={"input_tokens": 2**63, "output_tokens": 3, "model": "m"})
        await turn.finish()
        await stream.rest()
    assert stream.response.headers["session-id"] == turn.session_id
    assert turn.start.messages[0].parts[0].text == "Hi"
    ids = {"threadId": thread, "runId": body["json"]["runId"]}
    assert stream.parts[0] == {
        "type": "RUN_STARTED",
        **ids,
        "protocolVersion": "1.0",
        "metadata": {"chatstream": {"session_id": turn.session_id}},
    }
    run = Run(stream.parts)
    assert run.text == turn.text
    most = 2**53 - 1
    used = {"inputTokens": most, "outputTokens": 3, "reasoningTokens": 0, "totalTokens": most, "model": "m"}
    assert run.last == {"type": "RUN_FINISHED", **ids, "outcome": {"type": "success"}, "usage": [used]}


async def _all_kinds(turn: Turn) -> None:
    """What an agent and its helpers can say."""
    await turn.think("Plan", "First")
    await turn.think("Plan", " this")
    await turn.think("Do", "Then that")
    await turn.say("Root ")
    await turn.send(agent_event={"started": {"description": "looks"}}, agent="sub")
    await turn.say("Sub ", agent="sub")
    await turn.say("Deep", agent="sub/deep")
    await turn.say("again")
    await turn.say("sub", agent="sub")
    await turn.call("add", '{"a": 40, "b": 2}', "c-1")
    await turn.call("nothing", "", "c-2")
    for _ in range(2):
        await turn.result()
    await turn.send(progress={"text": "½", "current": 1, "total": 2}, agent="sub")
    await turn.send(artifact={"name": "a", "data": b"\0\1", "is_last": True})
    await turn.send(embedding={"name": "v", "values": [1.5]})
    await turn.send(error={"code": "odd", "message": "Oh", "scope": agent_pb2.ERROR_SCOPE_AGENT})
    await turn.send(agent_event={"failed": {"error": {"code": "x", "message": "No"}}}, agent="sub/deep")
    await turn.send(agent_event={"completed": {"summary": "seen"}}, agent="sub")
    await turn.say("Back", agent="sub")
    await turn.send(usage={"input_tokens": 5, "output_tokens": 2})


@asynchronous
async def test_every_kind_of_event_is_told(dispatcher: DispatcherProcess) -> None:
    agent, thread = unique("agent"), unique("thread")
    body = _input(thread, forwardedProps={"includeThoughts": True})
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", f"/ag-ui/{agent}", **body) as stream,
    ):
        turn = await link.started()
        await _all_kinds(turn)
        added = await client.post(f"/v1/sessions/{turn.session_id}/messages", json={"text": "Also"})
        await stream.until("CUSTOM")
        while not Run(stream.parts).of("user"):
            await stream.next()
        await turn.say("End")
        await turn.finish()
        await stream.rest()
    run = Run(stream.parts)
    assert [each["content"] for each in run.of("reasoning")] == ["First this", "Then that"]
    spans = [event for event in stream.parts if event["type"] == "REASONING_START"]
    assert [event["metadata"] for event in spans] == [
        {"chatstream": {"step": "Plan"}}, {"chatstream": {"step": "Do"}},
    ]  # fmt: skip
    said = [(each.get("name"), each["content"]) for each in run.of("assistant") if "content" in each]
    assert said == [
        (None, "Root again"), ("sub", "Sub sub"), ("sub/deep", "Deep"), ("sub", "Back"), (None, "End"),
    ]  # fmt: skip
    calls = [each["toolCalls"][0]["function"] for each in run.of("assistant") if "toolCalls" in each]
    assert calls == [
        {"name": "add", "arguments": '{"a": 40, "b": 2}'}, {"name": "nothing", "arguments": "{}"},
    ]  # fmt: skip
    results = [json.loads(each["content"]) for each in run.of("tool")]
    assert results[0] == 42
    assert results[1]["error"]["code"] == "not_found"
    assert [name for name, _ in run.customs] == ["progress", "artifact", "embedding", "error"]
    assert run.customs[0][1]["agent"] == "sub"
    assert run.customs[1][1]["data"] == "AAE="
    assert run.subagents == [
        ("SUBAGENT_STARTED", "sub"), ("SUBAGENT_STARTED", "sub/deep"), ("SUBAGENT_ERROR", "sub/deep"),
        ("SUBAGENT_FINISHED", "sub"), ("SUBAGENT_STARTED", "sub"), ("SUBAGENT_FINISHED", "sub"),
    ]  # fmt: skip
    assert run.of("user") == [{"id": added.json()["message_id"], "role": "user", "content": "Also"}]
    assert run.last["usage"][0]["totalTokens"] == 7


@asynchronous
async def test_an_older_client_is_shown_steps_and_nothing_it_does_not_know(
    dispatcher: DispatcherProcess,
) -> None:
    agent, thread = unique("agent"), unique("thread")
    body = _input(thread, forwardedProps={"includeThoughts": True})
    del body["json"]["protocolVersion"]
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", f"/ag-ui/{agent}", **body) as stream,
    ):
        turn = await link.started()
        await _all_kinds(turn)
        await turn.finish()
        await stream.rest()
    run = Run(stream.parts)
    assert run.subagents[0] == ("STEP_STARTED", "sub")
    newer = {"subagentRunId", "metadata", "protocolVersion", "usage"}
    assert not [event for event in stream.parts if newer & set(event)]


@asynchronous
async def test_a_question_interrupts_the_run_and_its_answer_goes_on_with_the_session(
    dispatcher: DispatcherProcess,
) -> None:
    """Though a session that is left is stopped at once here: nobody leaves who is asked."""
    agent, thread = unique("agent"), unique("thread")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with framing(client, "POST", f"/ag-ui/{agent}", **_input(thread)) as stream:
            turn = await link.started()
            await turn.call("hang", "", "c-1")
            await turn.say("Well. ")
            await turn.say("Which", agent="sub")
            question = agent_pb2.Question(question_id="q:1", text="Sure?", options=["yes", "no"])
            question.expires_in.FromSeconds(600)
            await turn.send(question=question, agent="sub")
            await turn.send(usage={"input_tokens": 5})
            await stream.rest()
        first = Run(stream.parts, [HI])
        interrupt = first.interrupt
        assert (interrupt["message"], interrupt["reason"]) == ("Sure?", "question")
        assert interrupt["responseSchema"] == {"enum": ["yes", "no"]}
        assert interrupt["expiresAt"].endswith("+00:00")
        assert interrupt["metadata"]["chatstream"]["question_id"] == "q:1"
        assert "usage" not in first.last
        assert turn.heard_nothing("stop")

        wrong = _resumed(thread, first.messages, interrupt, payload="perhaps")
        refused = await client.post(f"/ag-ui/{agent}", **wrong)
        assert (refused.status_code, refused.json()["field"]) == (400, "resume[0].payload")

        answer = _resumed(thread, first.messages, interrupt, payload="yes")
        async with framing(client, "POST", f"/ag-ui/{agent}", **answer) as stream:
            assert (await turn.heard("answer")).answer.value_json == '"yes"'
            await turn.say("So be it.")
            await turn.ask("q-2", "Really?")
            await stream.rest()
        other = Run(stream.parts, first.messages)
        assert stream.response.headers["session-id"] == turn.session_id
        assert other.text == "Well. WhichSo be it."
        assert other.last["usage"][0]["totalTokens"] == 5
        assert [name for name, _ in other.customs] == ["answer"]

        # An answer that is given again goes on as well: a client may have lost the stream of the first time.
        async with framing(client, "POST", f"/ag-ui/{agent}", **answer) as stream:
            await stream.rest()
        assert Run(stream.parts, first.messages).messages == other.messages

        decline = _resumed(thread, other.messages, other.interrupt, status="cancelled")
        async with framing(client, "POST", f"/ag-ui/{agent}", **decline) as stream:
            assert (await turn.heard("answer")).answer.cancelled.why == "declined"
            await turn.say("Then not.")
            await turn.finish()
            await stream.rest()
        last = Run(stream.parts, other.messages)
        assert last.last["outcome"] == {"type": "success"}
        assert last.of("tool")[0]["toolCallId"] == f"{turn.session_id}:1:c-1"
        assert link.started_nothing()


@asynchronous
async def test_a_thread_that_goes_on_without_an_answer_gives_it_up(dispatcher: DispatcherProcess) -> None:
    agent, thread = unique("agent"), unique("thread")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with framing(client, "POST", f"/ag-ui/{agent}", **_input(thread)) as stream:
            turn = await link.started()
            await turn.ask("q-1")
            await stream.rest()
        async with framing(client, "POST", f"/ag-ui/{agent}", **_input(thread)) as stream:
            assert "without an answer" in (await turn.stopped()).reason
            other = await link.started()
            await other.finish()
            await stream.rest()


@asynchronous
async def test_what_a_lost_attempt_said_is_taken_back_over_runs(dispatcher: DispatcherProcess) -> None:
    agent, thread = unique("agent"), unique("thread")
    body = _input(thread, {"id": "s", "role": "system", "content": "Be"}, HI)
    async with linked(dispatcher.address, agent) as lost, browsing(dispatcher.url) as client:
        async with framing(client, "POST", f"/ag-ui/{agent}", **body) as stream:
            turn = await lost.started()
            await turn.say("Half an ans")
            await turn.say("Help", agent="sub")
            await turn.ask("q-1")
            await stream.rest()
        first = Run(stream.parts, body["json"]["messages"])
        answer = _resumed(thread, first.messages, first.interrupt, payload=1)
        async with framing(client, "POST", f"/ag-ui/{agent}", **answer) as stream:
            await turn.heard("answer")
            await client.post(f"/v1/sessions/{turn.session_id}/messages", json={"text": "Also"})
            await turn.call("hang", "", "c-1")
            await stream.until("TOOL_CALL_END")
            async with linked(dispatcher.address, agent) as link:
                await lost.leave()
                other = await link.started()
                await other.say("Whole")
                await other.finish()
                await stream.rest()
    run = Run(stream.parts, first.messages)
    assert [(each["role"], each["content"]) for each in run.messages] == [
        ("system", "Be"), ("user", "Hi"), ("user", "Also"), ("assistant", "Whole"),
    ]  # fmt: skip


@asynchronous
async def test_leaving_stops_the_session(dispatcher: DispatcherProcess) -> None:
    agent, thread = unique("agent"), unique("thread")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with framing(client, "POST", f"/ag-ui/{agent}", **_input(thread)) as stream:
            turn = await link.started()
            await turn.say("Half")
            await stream.until("TEXT_MESSAGE_CONTENT")
        assert await turn.stopped()


@asynchronous
async def test_a_stop_cancels_the_run_and_a_failure_ends_it_as_one(dispatcher: DispatcherProcess) -> None:
    agent, thread = unique("agent"), unique("thread")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with framing(client, "POST", f"/ag-ui/{agent}", **_input(thread)) as stream:
            turn = await link.started()
            await turn.call("hang", "", "c-1")
            await turn.say("Half", agent="sub")
            await stream.until("TEXT_MESSAGE_CONTENT")
            await client.post(f"/v1/sessions/{turn.session_id}/stop")
            await stream.rest()
            run = Run(stream.parts)
            assert run.last["outcome"] == {"type": "cancelled"}
            # No call is left for the client to run.
            assert len(run.of("tool")) == 1
        async with framing(client, "POST", f"/ag-ui/{agent}", **_input(thread)) as stream:
            turn = await link.started()
            await turn.send(error={"code": "x", "message": "It broke", "scope": 3})
            await stream.rest()
            assert stream.parts[-1] == {
                "type": "RUN_ERROR",
                "message": "It broke",
                "code": "agent_failed",
            }
            Run(stream.parts)


@asynchronous
async def test_a_dispatcher_that_goes_says_so(tmp_path: Path) -> None:
    agent, thread = unique("agent"), unique("thread")
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
            framing(client, "POST", "/ag-ui", **_input(thread)) as stream,
        ):
            turn = await link.started()
            await turn.say("Half ")
            await turn.ask("q-1")
            await stream.rest()
            dispatcher.signal(signal.SIGTERM)
        assert await asyncio.to_thread(dispatcher.wait) == 0
    first = Run(stream.parts, [HI])
    # The answer reaches the life after, in which another attempt runs: it is told that the question is over.
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            other = await link.started()
            answer = _resumed(thread, first.messages, first.interrupt, payload=1)
            async with framing(client, "POST", "/ag-ui", **answer) as stream:
                await other.say("Whole")
                await stream.until("TEXT_MESSAGE_CONTENT")
                dispatcher.signal(signal.SIGTERM)
                await stream.rest()
            assert await asyncio.to_thread(dispatcher.wait) == 0
    run = Run(stream.parts, first.messages)
    assert run.text == "Whole"
    assert (run.last["type"], run.last["code"]) == ("RUN_ERROR", "goaway")


@asynchronous
async def test_an_interrupt_that_was_none_is_refused(dispatcher: DispatcherProcess) -> None:
    agent, thread = unique("agent"), unique("thread")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with framing(client, "POST", f"/ag-ui/{agent}", **_input(thread)) as stream:
            turn = await link.started()
            await turn.ask("q-1")
            await stream.rest()
        right = Run(stream.parts).interrupt["id"]
        session_id, offset, _, _ = right.split(":")
        for thread_id, interrupt_id in (
            (thread, "nonsense"),
            (thread, f"s-none:{offset}:1:q-1"),
            (thread, f"{session_id}:{offset}:1:q-2"),
            (thread, f"{session_id}:1:1:q-1"),
            (thread, f"{session_id}:0:1:q-1"),
            (thread, f"{session_id}:{'9' * 40}:1:q-1"),
            (thread, f"{session_id}:{offset}:²:q-1"),
            (thread, f"{session_id}:{offset}:{2**32}:q-1"),
            ("another", right),
        ):
            resume = [{"interruptId": interrupt_id, "status": "resolved", "payload": 1}]
            answer = await client.post(f"/ag-ui/{agent}", **_input(thread_id, resume=resume))
            assert (answer.status_code, answer.json()["field"]) == (404, "resume[0].interruptId"), (
                interrupt_id
            )
        assert turn.heard_nothing("answer")
        none = await client.post(f"/ag-ui/{agent}-none", **_input(thread))
        assert (none.status_code, none.json()["code"]) == (404, "no_such_agent")


@asynchronous
async def test_a_run_that_is_asked_for_again_with_its_key_is_joined_and_not_given_up(
    dispatcher: DispatcherProcess,
) -> None:
    agent, thread = unique("agent"), unique("thread")
    asked = {**_input(thread), "headers": {"idempotency-key": unique("key")}}
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with framing(client, "POST", f"/ag-ui/{agent}", **asked) as stream:
            turn = await link.started()
            await turn.say("Well")
            await turn.ask("q-1")
            await stream.rest()
        async with framing(client, "POST", f"/ag-ui/{agent}", **asked) as again:
            await again.rest()
        assert again.parts == stream.parts
        interrupt = Run(again.parts).interrupt
        answer = _resumed(thread, [HI], interrupt, payload=1)
        async with framing(client, "POST", f"/ag-ui/{agent}", **answer) as stream:
            assert (await turn.heard("answer")).answer.value_json == "1"
            await turn.finish()
            await stream.rest()
        assert turn.heard_nothing("stop")
        assert Run(stream.parts).last["outcome"] == {"type": "success"}


@asynchronous
async def test_a_question_outlives_its_commander_and_its_dispatcher(tmp_path: Path) -> None:
    """Though a session that is left is stopped at once here."""
    agent, thread = unique("agent"), unique("thread")
    flags = (
        "--http-address", "127.0.0.1:0",
        "--http-left-stop-s", "0",
        "--journal", f"sqlite:{tmp_path / 'journal'}",
        "--heartbeat-interval-s", "1",
        "--detach-grace-s", "3.1",
    )  # fmt: skip
    with running_dispatcher(*flags) as dispatcher:
        async with browsing(dispatcher.url) as client:
            async with (
                linked(dispatcher.address, agent) as link,
                framing(client, "POST", "/ag-ui", **_input(thread)) as stream,
            ):
                turn = await link.started()
                await turn.ask("q-1")
                await stream.rest()
            # Another commander takes over, and asks again when it is ready to.
            async with linked(dispatcher.address, agent) as link:
                turn = await link.started()
                await turn.say("Again ")
                await turn.ask("q-1")
                async with streaming(client, "GET", f"/v1/sessions/{turn.session_id}/events") as events:
                    await events.until("reset")
                    await events.until("question")
        dispatcher.signal(signal.SIGKILL)
        await asyncio.to_thread(dispatcher.wait)
    first = Run(stream.parts, [HI])
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            other = await link.started()
            assert other.session_id == turn.session_id
            await other.ask("q-1")
            # Without an open question it would be left, and stopped, between two runs.
            await other.acknowledged(other.sequence)
            # Each run ends with a question: that of the second attempt, then that of the third, which is open.
            run = first
            for _ in range(2):
                answer = _resumed(thread, run.messages, run.interrupt, payload=1)
                async with framing(client, "POST", "/ag-ui", **answer) as stream:
                    await stream.rest()
                run = Run(stream.parts, run.messages)
            answer = _resumed(thread, run.messages, run.interrupt, payload=2)
            async with framing(client, "POST", "/ag-ui", **answer) as stream:
                assert (await other.heard("answer")).answer.value_json == "2"
                await other.say("Whole")
                await other.finish()
                await stream.rest()
    last = Run(stream.parts, run.messages)
    assert last.text.endswith("Whole")
    assert last.last["outcome"] == {"type": "success"}


@asynchronous
async def test_halves_of_surrogate_pairs_within_json_are_text(dispatcher: DispatcherProcess) -> None:
    agent, thread = unique("agent"), unique("thread")
    half = json.dumps("\ud800")
    call = {"id": "c-1", "type": "function", "function": {"name": "f", "arguments": half}}
    messages: list[dict[str, Any]] = [
        HI,
        {"id": "a-1", "role": "assistant", "toolCalls": [call]},
        {"id": "t-1", "role": "tool", "toolCallId": "c-1", "content": half},
        {"id": "t-2", "role": "tool", "toolCallId": "c-2", "content": "[NaN]"},
        {"id": "t-3", "role": "tool", "toolCallId": "c-3", "content": '{"a": [1.5, "\\ud83d\\ude00"]}'},
    ]
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", f"/ag-ui/{agent}", **_input(thread, *messages)) as stream,
    ):
        turn = await link.started()
        await turn.finish()
        await stream.rest()
    told = [json.loads(message.parts[0].json) for message in turn.start.messages[1:]]
    assert (told[0]["arguments"], told[0]["result"]) == (half, half)
    assert [each["result"] for each in told[1:]] == ["[NaN]", {"a": [1.5, "\U0001f600"]}]
