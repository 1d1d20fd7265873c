"""What AG-UI's clients send, as the agent is told of it, and what of it is refused."""

import json
from typing import Any

import pytest
from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess
from frame_reader import framing
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2
from web_viewer import browsing

DISPATCHER_FLAGS = ("--http-address", "127.0.0.1:0")

HI = {"id": "u-1", "role": "user", "content": "Hi"}


def _input(thread: str, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    told = {"threadId": thread, "runId": unique("run"), "protocolVersion": "1.0", "state": {}, "tools": []}
    return {"json": {**told, "context": [], "messages": list(messages) or [HI], **more}}


_Q = {"interruptId": "s-1:1:1:q", "status": "resolved"}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"threadId": ""}, "threadId"),
        ({"runId": "x" * 257}, "runId"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "reasoning", "id": "r", "content": "Hm"}]}, "messages"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "value": "f"}}]}]},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "data", "value": "?"}}]}]},
            "messages[0].content[0].source.value",
        ),
        ({"messages": [{"role": "assistant", "toolCalls": [{"id": "c"}]}]}, "messages[0].toolCalls[0].function"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "messages[0].toolCallId"),
        ({"tools": [{"name": "draw", "description": "", "parameters": {}}]}, "tools"),
        ({"forwardedProps": {"includeThoughts": "yes"}}, "forwardedProps.includeThoughts"),
        ({"resume": [{"interruptId": "x", "status": "maybe"}]}, "resume[0].status"),
        ({"resume": [_Q, {**_Q, "interruptId": "s-2:1:1:q"}]}, "resume[1].interruptId"),
        ({"resume": [_Q], "tools": [{}]}, "tools"),
    ],
)  # fmt: skip
@asynchronous
async def test_what_is_wrong_is_named(
    more: dict[str, Any], field: str, dispatcher: DispatcherProcess
) -> None:
    async with browsing(dispatcher.url) as client:
        answer = await client.post("/ag-ui", **_input("t", **more))
        assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
        assert field in answer.json()["detail"]


@asynchronous
async def test_a_conversation_reaches_the_agent_whole(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")

    def part(kind: str, **source: str) -> dict[str, Any]:
        return {"type": kind, "source": source}

    def call(call_id: str, name: str) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}}

    messages: list[dict[str, Any]] = [
        {"id": "0", "role": "developer", "content": "Be brief"},
        {"id": "1", "role": "user", "content": [
            {"type": "text", "text": "See"},
            part("image", type="data", value="AAE=", mimeType="image/png"),
            part("document", type="url", value="https://example.test/x"),
            {"type": "binary", "mimeType": "text/plain", "data": "YQ==", "filename": "a.txt"},
        ]},
        {"id": "2", "role": "reasoning", "content": "Hm"},
        {"id": "3", "role": "assistant", "content": "", "toolCalls": [call("c", "add"), call("d", "late")]},
        {"id": "4", "role": "tool", "toolCallId": "c", "content": "3"},
        {"id": "5", "role": "tool", "toolCallId": "x", "content": "three", "error": "odd"},
        {"id": "6", "role": "assistant", "content": "Done"},
        {"id": "7", "role": "user", "content": "Go on"},
    ]  # fmt: skip
    body = _input(
        unique("thread"),
        *messages,
        state={"n": 1},
        context=[{"description": "d", "value": "v"}],
        forwardedProps={"model": "m-1", "includeThoughts": False},
    )
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", f"/ag-ui/{agent}", **body) as stream,
    ):
        turn = await link.started()
        await turn.finish()
        await stream.rest()
    assert dict(turn.start.metadata) == {
        "model": "m-1",
        "state": '{"n": 1}',
        "context": '[{"description": "d", "value": "v"}]',
    }
    said = [
        (agent_pb2.Role.Name(each.role)[5:].lower(), *map(_told, each.parts)) for each in turn.start.messages
    ]
    assert said == [
        ("system", "Be brief"),
        ("user", "See", ("image/png", b"\0\1", "", ""), ("", b"", "https://example.test/x", ""),
         ("text/plain", b"a", "", "a.txt")),
        ("tool", {"tool_name": "add", "call_id": "c", "arguments": {"a": 1}, "result": 3}),
        ("tool", {"call_id": "x", "error": "odd"}),
        ("assistant", "Done"),
        ("user", "Go on"),
    ]  # fmt: skip


def _told(part: agent_pb2.ContentPart) -> object:
    kind = part.WhichOneof("part")
    if kind == "json":
        return json.loads(part.json)
    blob = part.blob
    return part.text if kind == "text" else (blob.mime_type, blob.data, blob.uri, blob.name)
