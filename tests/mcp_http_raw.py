"""An MCP server of bad manners over HTTP, without an SDK: what a call is answered goes by the name of its tool."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

TOLD = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "x", "version": "1"},
}
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
NOTHING = b"HTTP/1.1 202 -\r\nContent-Length: 0\r\n\r\n"


def event(**message: Any) -> bytes:
    return f"data: {json.dumps({'jsonrpc': '2.0', **message})}\n\n".encode()


@dataclass
class PesteringServer:
    """Its tool `pesters` asks `method` without end and reads no answer; `answers` asks a thousand times and reads each.
    Its list of tools is as long as it is told to be, as a stream of events or not."""

    method: str = "ping"
    listing_bytes: int = 0
    is_streaming: bool = False
    url: str = ""
    asked: int = 0
    answers: int = 0
    # The client of the tool has left.
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _answered: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while message := await _read(reader):
                await self._answer(message, reader, writer)
                await writer.drain()
        writer.close()

    async def _answer(
        self, message: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number, method = message.get("id"), message.get("method")
        tool = message.get("params", {}).get("name", "")
        if method is None and self.answers < 0:
            # Nobody is told that it was read.
            await reader.read()
        elif method is None:
            self.answers += 1
            self._answered.release()
            writer.write(NOTHING)
        elif number is None:
            writer.write(NOTHING)
        elif method == "initialize":
            writer.write(_whole({"jsonrpc": "2.0", "id": number, "result": TOLD}))
        elif method == "tools/list":
            self._list(number, writer)
        elif tool in ("pesters", "answers"):
            await self._pester(number, tool, writer)
        else:
            writer.write(_whole({"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "no"}}))

    def _list(self, number: int, writer: asyncio.StreamWriter) -> None:
        names = ("pesters", "answers")
        tools = [{"name": each, "inputSchema": {"type": "object"}} for each in names]
        tools[0]["description"] = "x" * self.listing_bytes
        if self.is_streaming:
            writer.write(EVENTS + event(id=number, result={"tools": tools}))
            writer.close()
        else:
            writer.write(_whole({"jsonrpc": "2.0", "id": number, "result": {"tools": tools}}))

    async def _pester(self, number: int, tool: str, writer: asyncio.StreamWriter) -> None:
        self.answers = -1 if tool == "pesters" else 0
        writer.write(EVENTS)
        try:
            while tool == "pesters" or self.asked < 1_000:
                writer.write(event(id=f"q{self.asked}", method=self.method, params={}))
                await writer.drain()
                self.asked += 1
                if tool == "answers":
                    await self._answered.acquire()
            writer.write(event(id=number, result={"content": [{"type": "text", "text": "done"}]}))
        finally:
            self.left.set()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> dict[str, Any]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    message: dict[str, Any] = json.loads(body or b'{"method": "get"}')
    return message


def _whole(message: object) -> bytes:
    body = json.dumps(message).encode()
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


@contextlib.asynccontextmanager
async def pestering(**told: Any) -> AsyncIterator[PesteringServer]:
    server = PesteringServer(**told)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
        yield server
