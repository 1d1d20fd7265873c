"""What Vercel's AI SDK sends, as the agent is told of it, and what of it is refused."""

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

_HISTORY: list[dict[str, Any]] = [
    {"role": "system", "parts": [{"type": "text", "text": "Be brief"}], "id": "1", "metadata": {"a": 1}},
    {
        "role": "user",
        "parts": [
            {"type": "text", "text": "See"},
            {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAE=", "filename": "a"},
            {"type": "file", "mediaType": "text/plain", "url": "data:text/plain;charset=utf-8,a%20b"},
            {"type": "file", "mediaType": "image/gif", "url": "https://example.test/x.gif"},
            {"type": "data-place", "data": {"x": 1}},
        ],
    },
    {
        "role": "assistant",
        "parts": [
            {"type": "step-start"},
            {"type": "reasoning", "text": "Hm"},
            {"type": "text", "text": "One "},
            {"type": "data-progress", "data": {}},
            {"type": "text", "text": "two", "state": "done"},
            {"type": "dynamic-tool", "toolName": "add", "toolCallId": "c", "state": "output-available",
             "input": {"a": 1}, "output": 3},
            {"type": "tool-clock", "toolCallId": "d", "state": "output-error", "input": {}, "errorText": "no"},
            {"type": "tool-late", "toolCallId": "e", "state": "input-available", "input": {}},
            {"type": "text", "text": "Done"},
            {"type": "steering-message", "id": "m", "parts": [{"type": "text", "text": "And?"}]},
            {"type": "source-url", "url": "https://example.test", "sourceId": "s"},
            {"type": "text", "text": ""},
        ],
    },
    {"role": "user", "parts": [{"type": "text", "text": "Go on"}]},
]  # fmt: skip


@asynchronous
async def test_a_conversation_reaches_the_agent_whole(dispatcher: DispatcherProcess) -> None:
    agent, chat = unique("agent"), unique("chat")
    body = {
        "id": chat,
        "messages": _HISTORY,
        "agent": agent,
        "userId": "ann",
        "model": "m-1",
        "deep": {"a": [1]},
    }
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        framing(client, "POST", "/api/chat", json=body) as stream,
    ):
        turn = await link.started()
        await turn.finish()
        await stream.rest()
    start = turn.start
    assert start.user_id == "ann"
    assert dict(start.metadata) == {"model": "m-1", "deep": '{"a": [1]}'}
    said = [(agent_pb2.Role.Name(each.role)[5:].lower(), *map(_told, each.parts)) for each in start.messages]
    assert said == [
        ("system", "Be brief"),
        ("user", "See", ("image/png", b"\0\1", "", "a"), ("text/plain", b"a b", "", ""),
         ("image/gif", b"", "https://example.test/x.gif", ""), {"type": "data-place", "data": {"x": 1}}),
        ("assistant", "One ", "two"),
        ("tool", {"tool_name": "add", "call_id": "c", "arguments": {"a": 1}, "result": 3}),
        ("tool", {"tool_name": "clock", "call_id": "d", "arguments": {}, "error": "no"}),
        ("assistant", "Done"),
        ("user", "And?"),
        ("user", "Go on"),
    ]  # fmt: skip


def _told(part: agent_pb2.ContentPart) -> object:
    blob = part.blob
    told = {"text": part.text, "blob": (blob.mime_type, blob.data, blob.uri, blob.name)}
    kind = part.WhichOneof("part")
    assert kind is not None
    return json.loads(part.json) if kind == "json" else told[kind]


def _user(**part: Any) -> dict[str, Any]:
    return {"id": "c", "messages": [{"role": "user", "parts": [part]}]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": [{"role": "user", "parts": []}]}, "id"),
        ({"id": "x" * 257, "messages": [{"role": "user", "parts": []}]}, "id"),
        ({"id": "c", "messages": []}, "messages"),
        ({"id": "c", "messages": [{"role": "user", "parts": []}]}, "messages"),
        ({"id": "c", "messages": [{"role": "tool", "parts": []}]}, "messages[0].role"),
        ({"id": "c", "messages": [{"role": "user", "content": "Hi"}]}, "messages[0].parts"),
        (_user(text="Hi"), "messages[0].parts[0].type"),
        (_user(type="text", text=5), "messages[0].parts[0].text"),
        (_user(type="video", text="Hi"), "messages[0].parts[0].type"),
        (_user(type="file", url="data:text/plain;base64,?"), "messages[0].parts[0].url"),
        (_user(type="file", url="data:text/plain"), "messages[0].parts[0].url"),
        (_user(type="file"), "messages[0].parts[0].url"),
        (_user(type="data-answer"), "messages[0].parts[0].data.question_id"),
        (_user(type="data-answer", data={"question_id": "q"}), "messages[0].parts[0].data"),
        (_user(type="data-answer", data={"question_id": "q", "decline": 3}), "messages[0].parts[0].data.decline"),
        ({**_user(type="text", text="Hi"), "includeThoughts": "often"}, "includeThoughts"),
        (
            {"id": "c", "messages": [{"role": "user", "parts": [
                {"type": "text", "text": "Hi"}, {"type": "data-answer", "data": {"question_id": "q", "value": 1}},
            ]}]},
            "messages[0].parts",
        ),
    ],
)  # fmt: skip
@asynchronous
async def test_what_is_wrong_is_named(
    body: dict[str, Any], field: str, dispatcher: DispatcherProcess
) -> None:
    async with browsing(dispatcher.url) as client:
        answer = await client.post("/api/chat", json=body)
        assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
        assert field in answer.json()["detail"]
