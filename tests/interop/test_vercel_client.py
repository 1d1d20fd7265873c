"""The SDK's own chat, which is all of `useChat` but React, against a real dispatcher."""

from typing import Any

import pytest
from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess
from node_client import NodeClient, Programs
from scripted_commander import linked, unique
from web_viewer import browsing

pytestmark = pytest.mark.interop

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0", "--http-left-stop-s", "0.5", "--tools", "tests.scene_tools:TOOLS",
)  # fmt: skip


def _text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


async def _shown(client: NodeClient, text: str) -> dict[str, Any]:
    """The assistant's message, once it says so."""
    seen = await client.until(
        lambda said: bool(said.get("messages")) and _text(said["messages"][-1]).endswith(text)
    )
    message: dict[str, Any] = seen["messages"][-1]
    return message


@asynchronous
async def test_a_chat_is_answered_with_tools_thoughts_and_helpers(
    dispatcher: DispatcherProcess, programs: Programs
) -> None:
    agent, chat = unique("agent"), unique("chat")
    body = {"agent": agent, "includeThoughts": True}
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("vercel", url=dispatcher.url, chat=chat, body=body) as client,
    ):
        await client.do("send", text="How far?")
        turn = await link.started()
        assert turn.start.messages[0].parts[0].text == "How far?"
        await turn.think("Plan", "Hm")
        await turn.say("One ")
        await turn.send(agent_event={"started": {}}, agent="sub")
        await turn.say("Sub", agent="sub")
        await turn.call("add", '{"a": 40, "b": 2}', "c-1")
        await turn.call("shout", '{"text": "é\\u2028"}', "c-2")
        for _ in range(2):
            await turn.result()
        await turn.send(progress={"text": "half", "current": 1, "total": 2})
        await turn.send(artifact={"name": "a", "mime_type": "image/png", "data": b"\0", "is_last": True})
        await turn.send(embedding={"name": "v", "values": [1.5]})
        await turn.send(usage={"input_tokens": 7, "output_tokens": 2})
        await turn.say("two\u2028")
        await turn.finish()
        finish = (await client.until("finish"))["finish"]
        message = finish["message"]
        assert (finish["finishReason"], finish["isError"]) == ("stop", False)
        assert message["metadata"]["usage"]["inputTokens"] == 7
        # Nothing that a client would think it has to run.
        assert not [said for said in client.said if "toolCall" in said]
        kinds = [part["type"] for part in message["parts"]]
        assert kinds == [
            "step-start", "reasoning", "text", "data-agent", "text", "dynamic-tool", "dynamic-tool",
            "data-progress", "file", "text",
        ]  # fmt: skip
        tools = [part for part in message["parts"] if part["type"] == "dynamic-tool"]
        assert [(each["state"], each["output"]) for each in tools] == [
            ("output-available", 42), ("output-available", "é\u2028!\u2028\n"),
        ]  # fmt: skip
        assert {part.get("state") for part in message["parts"] if part["type"] == "text"} == {"done"}

        # The conversation goes back whole with the next message.
        await client.do("send", text="And back?")
        turn = await link.started()
        roles = [each.role for each in turn.start.messages]
        assert roles == [2, 3, 4, 4, 3, 2]
        await turn.finish()
        await client.until("finish")


@asynchronous
async def test_a_page_that_is_loaded_anew_goes_on_in_mid_stream(
    dispatcher: DispatcherProcess, programs: Programs
) -> None:
    agent, chat = unique("agent"), f"{unique('chat')}/é 1"
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("vercel", url=dispatcher.url, chat=chat, body={"agent": agent}) as client,
    ):
        await client.do("reload")
        assert (await client.until("resumed"))["resumed"] == []
        await client.do("send", text="Hi")
        turn = await link.started()
        for number in range(5):
            await turn.say(f"{number} ")
        first = await _shown(client, "4 ")
        await client.do("reload")
        again = await _shown(client, "4 ")
        assert again["id"] == first["id"] == turn.session_id
        for number in range(5, 10):
            await turn.say(f"{number} ")
        await turn.finish()
        # The old page still watches too; both have it all.
        finishes: list[dict[str, Any]] = []
        resumed: list[dict[str, Any]] = []
        while len(finishes) < 2 or not resumed:
            said = await client.next()
            finishes += [said["finish"]["message"]] if "finish" in said else []
            resumed += said.get("resumed", [])
        assert {_text(message) for message in [*finishes, *resumed]} == {turn.text}
        assert len(resumed) == 1


@asynchronous
async def test_stopping_a_chat_stops_the_agent(dispatcher: DispatcherProcess, programs: Programs) -> None:
    """`stop()` only leaves, and what nobody comes back to is stopped after its grace."""
    agent, chat = unique("agent"), unique("chat")
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("vercel", url=dispatcher.url, chat=chat, body={"agent": agent}) as client,
        browsing(dispatcher.url) as other,
    ):
        await client.do("send", text="Hi")
        turn = await link.started()
        await turn.say("Half")
        await _shown(client, "Half")
        await client.do("stop")
        assert (await client.until("finish"))["finish"]["isAbort"] is True
        await turn.acknowledge_stop(await turn.stopped())

        # By the endpoint it is an abort to whoever watches.
        await client.do("send", text="Again")
        turn = await link.started()
        await turn.say("More")
        await _shown(client, "More")
        stopped = await other.post(f"/api/chat/{chat}/stop", json={"activeStreamId": turn.session_id})
        assert stopped.json()["result"] == "stopped"
        await turn.acknowledge_stop(await turn.stopped())
        finish = (await client.until("finish"))["finish"]
        assert finish["message"]["metadata"]["ending"] == "stopped"
        assert _text(finish["message"]) == "More"


@asynchronous
async def test_a_question_is_answered_in_the_chat(dispatcher: DispatcherProcess, programs: Programs) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("vercel", url=dispatcher.url, chat=chat, body={"agent": agent}) as client,
    ):
        await client.do("send", text="Hi")
        turn = await link.started()
        await turn.say("Well. ")
        await turn.ask("q-1", "Sure?")
        asked = (await client.until("data"))["data"]
        assert (asked["type"], asked["data"]["state"]) == ("data-question", "open")
        await client.do("stop")
        answer = {"question_id": "q-1", "attempt": asked["data"]["attempt"], "value": "yes"}
        await client.do("send", parts=[{"type": "data-answer", "data": answer}])
        assert (await turn.heard("answer")).answer.value_json == '"yes"'
        await turn.say("So be it.")
        await turn.finish()
        said = await client.until(lambda said: said.get("finish", {}).get("finishReason") == "stop")
        message = said["finish"]["message"]
        assert _text(message) == "Well. So be it."
        # It stands where it stood: before the answer.
        messages = next(said for said in reversed(client.said) if "messages" in said)["messages"]
        assert [each["role"] for each in messages] == ["user", "assistant", "user"]
        assert messages[1]["id"] == message["id"] == turn.session_id


@asynchronous
async def test_a_lost_attempt_is_taken_back_in_the_chat(
    dispatcher: DispatcherProcess, programs: Programs
) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with (
        linked(dispatcher.address, agent) as lost,
        programs.running("vercel", url=dispatcher.url, chat=chat, body={"agent": agent}) as client,
        browsing(dispatcher.url) as other,
    ):
        await client.do("send", text="Hi")
        turn = await lost.started()
        await turn.say("Half an ans")
        await _shown(client, "Half an ans")
        await other.post(f"/v1/sessions/{turn.session_id}/messages", json={"text": "Shorter"})
        async with linked(dispatcher.address, agent) as link:
            await lost.leave()
            whole = await link.started()
            await whole.say("Whole")
            await whole.finish()
            message = (await client.until("finish"))["finish"]["message"]
    assert [part["type"] for part in message["parts"]] == ["step-start", "steering-message", "text"]
    assert _text(message) == "Whole"


@asynchronous
async def test_failures_and_refusals_are_the_chats_errors(
    dispatcher: DispatcherProcess, programs: Programs
) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("vercel", url=dispatcher.url, chat=chat, body={"agent": agent}) as client,
        programs.running("vercel", url=dispatcher.url, chat=chat, body={"agent": "none"}) as refused,
    ):
        await client.do("send", text="Hi")
        turn = await link.started()
        await turn.send(error={"code": "x", "message": "It broke", "scope": 3})
        assert (await client.until("error"))["error"] == "It broke"
        finish = (await client.until("finish"))["finish"]
        assert finish["isError"] is True
        assert finish["message"]["metadata"]["ending"] == "agent_failed"
        await refused.do("send", text="Hi")
        assert "no_such_agent" in (await refused.until("error"))["error"]


@asynchronous
async def test_the_sdks_own_reader_takes_the_stream(
    dispatcher: DispatcherProcess, programs: Programs
) -> None:
    agent, chat = unique("agent"), unique("chat")
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("vercel", url=dispatcher.url, chat=chat, body={"agent": agent}) as client,
    ):
        await client.do("read", text="Hi")
        turn = await link.started()
        for number in range(100):
            await turn.say(f"{number} ")
        await turn.finish()
        message = (await client.until("read"))["read"]
    assert _text(message) == turn.text
    assert message["id"] == turn.session_id
