"""A real HTTP service on loopback, with an OpenAPI document: it notes what comes and answers as its paths say."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Shop", "version": "1"},
    "servers": [{"url": "/v1"}],
    "paths": {
        "/customers/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "operationId": "getCustomer",
                "summary": "One customer",
                "parameters": [
                    {
                        "name": "fields",
                        "in": "query",
                        "schema": {"type": "array", "items": {"type": "string"}},
                    },
                    {
                        "name": "X-Trace",
                        "in": "header",
                        "schema": {"type": "string"},
                        "description": "A trace",
                    },
                ],
                "responses": {"200": {"description": "it"}},
            },
        },
        "/orders": {
            "post": {
                "operationId": "placeOrder",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
                },
                "responses": {"201": {"description": "placed"}},
            },
        },
        "/answers/{kind}": {
            "parameters": [{"name": "kind", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {"operationId": "answer", "responses": {}},
            "post": {"operationId": "attempt", "responses": {}},
            "put": {"operationId": "answers.put", "responses": {}},
        },
        "/odd": {"get": {"operationId": "odd", "parameters": [{"$ref": "#/components/nothing"}]}},
    },
    "components": {
        "schemas": {
            "Order": {
                "type": "object",
                "required": ["item"],
                "properties": {
                    "item": {"type": "string"},
                    "count": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                    "note": {"type": "string", "nullable": True},
                    "example": {"type": "string"},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Order"}},
                },
            }
        }
    },
}
PLAIN = "text/plain; charset=latin-1"
# By the last word of the path: status, headers, body. Those that wait for ever, or move, are made below.
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "text": (200, {"Content-Type": PLAIN}, "é".encode("latin-1")),
    # Another word by its own account, which is not taken.
    "odd": (200, {"Content-Type": 'text/plain; Charset="punycode"'}, b"fiancee-hta"),
    "wide": (200, {"Content-Type": "application/json"}, json.dumps(["x"] * 30_000).encode()),
    "nothing": (204, {}, b""),
    "picture": (200, {"Content-Type": "image/png"}, b"\x89PNG"),
    "liar": (200, {"Content-Type": "application/json"}, b"{"),
    "long": (200, {"Content-Type": PLAIN}, b"x" * 5_000),
    "missing": (404, {"Content-Type": PLAIN}, b"no such thing"),
    "forbidden": (403, {}, b""),
    "unfit": (422, {"Content-Type": PLAIN}, b"kind: is odd"),
    "busy": (429, {"Retry-After": "7"}, b""),
    "never": (429, {"Retry-After": "Mon, 01 Jan 2020 00:00:00 +99999999999999"}, b""),
    "someday": (429, {"Retry-After": "999999999"}, b""),
    "broken": (500, {}, b""),
}


@dataclass
class Received:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Service:
    port: int = 0
    document: bytes = json.dumps(DOCUMENT).encode()
    received: list[Received] = field(default_factory=list)
    moves_to: str = ""
    # A client of /answers/hang left.
    left: asyncio.Event = field(default_factory=asyncio.Event)
    hung: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        self.received.append(Received(method, parts.path, parse_qsl(parts.query), headers, body))
        word = parts.path.rpartition("/")[2]
        if word == "hang":
            self.hung.set()
            await reader.read()
            self.left.set()
            return False
        if word == "cut":
            return False
        status, told, answer = self._answer(word, parts.path)
        lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(answer)}"]
        lines += [f"{name}: {value}" for name, value in told.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + answer)
        await writer.drain()
        return True

    def _answer(self, word: str, path: str) -> tuple[int, dict[str, str], bytes]:
        if path == "/openapi.json" and self.document == b"302":
            return 302, {"Location": self.moves_to}, b""
        if path == "/openapi.json":
            return 200, {"Content-Type": "application/json"}, self.document
        if word in ("301", "302", "303", "307", "308"):
            return int(word), {"Location": self.moves_to}, b""
        if word in ANSWERS:
            return ANSWERS[word]
        return 200, {"Content-Type": "application/json"}, json.dumps({"path": path}).encode()


@contextlib.asynccontextmanager
async def http_service(tls: ssl.SSLContext | None = None) -> AsyncIterator[Service]:
    service = Service()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0, ssl=tls)
    service.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield service
        finally:
            server.close()
