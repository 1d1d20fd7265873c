"""MCP servers over HTTP whose answers break: each costs its own call, and no other call anything."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from asynchronous import asynchronous
from mcp_scene import QUICK, using
from tool_scene import ask, code_of, message_of

from dispatcher.tables import McpTable

TOLD = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "x", "version": "1"},
}


def head(body: bytes, *more: str, length: int = 0) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", *more]
    return "\r\n".join([*lines, f"Content-Length: {length or len(body)}", "", ""]).encode() + body


@dataclass
class Server:
    """Answers JSON to each POST. What a call is answered goes by the name of its tool."""

    url: str = ""
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    encodings: set[str] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while answer := await self.answer(reader):
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    break
        writer.close()

    async def answer(self, reader: asyncio.StreamReader) -> bytes:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        self.encodings.add(headers.get("accept-encoding", ""))
        message = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or "{}")
        if "id" not in message:
            return b"HTTP/1.1 405 -\r\nContent-Length: 0\r\n\r\n"

        def result(value: Any) -> bytes:
            return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": value}).encode()

        if message["method"] == "initialize":
            return head(result(TOLD))
        if message["method"] == "tools/list":
            names = ("fine", "packed", "garbage", "cut", "gone", "slow")
            return head(
                result({"tools": [{"name": each, "inputSchema": {"type": "object"}} for each in names]})
            )
        done = result({"content": [{"type": "text", "text": "done"}]})
        match message["params"]["name"]:
            case "packed":
                return head(gzip.compress(done), "Content-Encoding: gzip")
            case "garbage":
                return b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"
            case "cut":
                return head(done, "Connection: close", length=len(done) + 100)
            case "gone":
                return b""
            case "slow":
                self.waiting.set()
                await self.let_go.wait()
        return head(done)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
        yield server


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("packed", "the answer is compressed ('gzip'), which was not asked for"),
        ("garbage", "may have done part"),
        ("cut", "the answer broke off"),
        ("gone", "may have done part"),
    ],
)
@pytest.mark.parametrize("idempotent", [True, False])
def test_an_answer_that_breaks_is_its_own_calls_failure(tool: str, words: str, idempotent: bool) -> None:
    @asynchronous
    async def scene() -> None:
        async with serving() as server:
            told = {"url": server.url, **QUICK, "idempotent": [tool] if idempotent else []}
            async with using(McpTable.model_validate(told)) as scene:
                slow = asyncio.create_task(scene.runner.run(ask("box_slow")))
                await server.waiting.wait()
                broken = await scene.runner.run(ask(f"box_{tool}"))
                assert words in message_of(broken)
                assert broken.error is not None
                assert broken.error.retryable == idempotent
                server.let_go.set()
                assert code_of(await slow) == "ok"
                assert code_of(await scene.runner.run(ask("box_fine"))) == "ok"
                assert scene.sources.states()[0].losses == 0
                assert server.encodings == {"identity"}

    scene()
