"""Connections by the byte: what is sent too early, too much, too slowly or not at all, and what becomes of it."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from asynchronous import asynchronous, eventually, soon
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import linked, unique
from test_identity import SECRETS, knowing
from web_viewer import asking, browsing, opened, sent, streaming

HTTP = ("--http-address", "127.0.0.1:0")
DISPATCHER_FLAGS = (*HTTP, "--http-header-s", "0.5", "--http-idle-s", "2")
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
UPGRADE = (
    b" /v1/ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
# More than any buffer on the way takes, and less than a machine has.
FLOOD_BYTES = 64_000_000


def _where(dispatcher: DispatcherProcess) -> tuple[str, int]:
    url = httpx.URL(dispatcher.url)
    assert url.port is not None
    return url.host, url.port


@contextlib.asynccontextmanager
async def _connection(
    dispatcher: DispatcherProcess, *, receive_bytes: int = 0
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    made = socket.socket()
    if receive_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, _where(dispatcher))
    reader, writer = await asyncio.open_connection(sock=made, limit=receive_bytes or 65_536)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _viewers(dispatcher: DispatcherProcess) -> float:
    metrics = await asyncio.to_thread(dispatcher.scrape)
    return sum(value for name, value in metrics.items() if name.startswith("dispatcher_http_viewers"))


@asynchronous
async def test_a_request_behind_a_stream_is_not_answered_and_hides_nobody(
    dispatcher: DispatcherProcess,
) -> None:
    """Its viewer is seen to leave, and its stream ends as it should."""
    agent = unique("agent")
    watch = b"GET /v1/sessions/%b/events HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        for leaves in (True, False):
            session_id = await opened(client, agent, on_detach={"stop_after_s": 0.2} if leaves else {})
            turn = await link.started()
            async with _connection(dispatcher) as (reader, writer):
                writer.write(watch % session_id.encode() + GET + b"\r\n")
                await soon(reader.readuntil(b"event: started"))
                assert await _viewers(dispatcher) == 1
                if not leaves:
                    await turn.finish()
                    assert (await soon(reader.read())).endswith(b"\r\n0\r\n\r\n")
            if leaves:
                await turn.stopped()
            await eventually(lambda: _viewers(dispatcher), lambda viewers: viewers == 0)


@asynchronous
async def test_one_that_can_not_be_told_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    agent = unique("agent")
    with running_dispatcher(*HTTP, "--journal", f"sqlite:{tmp_path / 'journal'}") as dispatcher:
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            session_id = await opened(client, agent)
            await link.started()
            path = f"/v1/sessions/{session_id}/events"
            async with (
                _connection(dispatcher) as (reader, writer),
                streaming(client, "GET", path) as one,
                streaming(client, "GET", path) as other,
            ):
                writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode() + GET + b"\r\n")
                await soon(reader.readuntil(b"event: started"))
                await one.until("started")
                await other.until("started")
                poll = asyncio.ensure_future(client.get(path, params={"wait": 30, "cursor": one.last_id}))
                await eventually(lambda: _viewers(dispatcher), lambda viewers: viewers == 4)
                dispatcher.signal(signal.SIGTERM)
                assert (await one.rest())[-1].event == (await other.rest())[-1].event == "goaway"
                answer = (await soon(poll)).json()
                assert [told["event"] for told in answer["events"]] == ["goaway"]
                assert answer["cursor"] == one.last_id == answer["events"][0]["fields"]["cursor"]
        assert await asyncio.to_thread(dispatcher.wait) == 0
        assert not [line for line in dispatcher.log if "Traceback" in line]


@asynchronous
async def test_an_empty_line_behind_an_answer_holds_no_connection(dispatcher: DispatcherProcess) -> None:
    async with _connection(dispatcher) as (reader, writer):
        writer.write(GET + b"\r\n")
        await soon(reader.readuntil(b"\r\n\r\n"))
        writer.write(b"\r")
        await soon(reader.read())


@pytest.mark.parametrize(
    ("request_line", "more", "answer"),
    [
        (b"GET", b"content-length: 5\r\n", b"HTTP/1.1 400"),
        (b"GET", b"transfer-encoding: chunked\r\n", b"HTTP/1.1 400"),
        (b"POST", b"content-length: 0\r\n", b"HTTP/1.1 400"),
        (b"POST", b"", b"HTTP/1.1 400"),
    ],
)
@asynchronous
async def test_a_handshake_that_is_none_ends(
    dispatcher: DispatcherProcess, request_line: bytes, more: bytes, answer: bytes
) -> None:
    assert (await sent(*_where(dispatcher), request_line + UPGRADE + more + b"\r\n")).startswith(answer)


@asynchronous
async def test_a_second_head_is_as_bounded_as_the_first(dispatcher: DispatcherProcess) -> None:
    async with _connection(dispatcher) as (reader, writer):
        writer.write(GET + b"\r\n")
        await soon(reader.readuntil(b"\r\n\r\n"))
        writer.write(GET + b"big: " + b"x" * 60_000 + b"\r\n\r\n")
        assert b" 431 " in await soon(reader.read())


async def _flood(writer: asyncio.StreamWriter, piece: bytes) -> None:
    for _ in range(FLOOD_BYTES // len(piece)):
        writer.write(piece)
        await soon(writer.drain())


@pytest.mark.parametrize("line", [b"a: b\r\n" * 1_000, b"x" * 6_000])
@asynchronous
async def test_what_comes_behind_a_body_is_bounded(dispatcher: DispatcherProcess, line: bytes) -> None:
    """Trailers without end, and one without its end."""
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        session_id = await opened(client, agent)
        turn = await link.started()
        async with _connection(dispatcher) as (reader, writer):
            head = f"GET /v1/sessions/{session_id}/events HTTP/1.1\r\nhost: localhost\r\n"
            writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n0\r\n" + line)
            await soon(reader.readuntil(b"event: started"))
            with pytest.raises(ConnectionError):
                await _flood(writer, line)
        await turn.finish()


@asynchronous
async def test_one_that_pings_and_does_not_read_is_heard_no_more(dispatcher: DispatcherProcess) -> None:
    """Its pongs would be kept for it."""
    pings = bytes((0x89, 0xFD)) + bytes(4) + bytes(125)
    async with _connection(dispatcher, receive_bytes=4_096) as (reader, writer):
        writer.write(b"GET" + UPGRADE + b"\r\n")
        await soon(reader.readuntil(b"\r\n\r\n"))
        written = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while written < FLOOD_BYTES:
                writer.write(pings * 500)
                written += len(pings) * 500
                async with asyncio.timeout(2):
                    await writer.drain()
        assert written < FLOOD_BYTES / 2


@asynchronous
async def test_a_poll_that_has_left_counts_no_more() -> None:
    agent = unique("agent")
    with running_dispatcher(*HTTP, "--http-poll-s-max", "120") as dispatcher:
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            session_id = await opened(client, agent, on_detach={"stop_after_s": 0.3})
            turn = await link.started()
            async with _connection(dispatcher) as (_, writer):
                page = (await client.get(f"/v1/sessions/{session_id}/events?wait=0")).json()
                path = f"/v1/sessions/{session_id}/events?wait=110&cursor={page['cursor']}"
                writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
                await eventually(lambda: _viewers(dispatcher), lambda viewers: viewers == 1)
            await eventually(lambda: _viewers(dispatcher), lambda viewers: viewers == 0)
            await turn.stopped()


@asynchronous
async def test_who_asks_is_there_before_it_can_watch(tmp_path: Path) -> None:
    """Though what is asked has to be kept first, and nobody at all may be away."""
    agent = unique("agent")
    flags = (*HTTP, "--journal", f"sqlite:{tmp_path / 'journal'}", "--http-left-stop-s", "0")
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            for _ in range(5):
                async with asking(client, agent, on_detach={"stop_after_s": 0}) as stream:
                    turn = await link.started()
                    await turn.finish()
                    assert (await stream.rest())[-1].fields["name"] == "completed"
                said = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}
                body = {"id": unique("chat"), "agent": agent, "messages": [said]}
                async with client.stream("POST", "/api/chat", json=body) as answer:
                    turn = await link.started()
                    await turn.say("Hello")
                    await turn.finish()
                    assert b'"text-end"' in await soon(answer.aread())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@asynchronous
async def test_nobody_is_taken_for_who_called_before_on_the_connection(loop: str, tmp_path: Path) -> None:
    """A proxy gives a connection to one caller after the other."""
    with knowing(tmp_path, *HTTP, "--event-loop", loop) as dispatcher:
        async with _connection(dispatcher) as (reader, writer):
            body = json.dumps({"agent": "nobody", "input": "x" * 210_000}).encode()
            head = f"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {SECRETS['root']}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode())
            for start in range(0, len(body), 20_000):
                writer.write(body[start : start + 20_000])
                await soon(writer.drain())
            refused = await soon(reader.readuntil(b"\r\n\r\n"))
            await soon(
                reader.readexactly(int(refused.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
            )
            writer.write(b"GET" + UPGRADE + b"\r\n")
            assert b" 101 " in await soon(reader.readuntil(b"\r\n\r\n"))
            told = json.dumps({"request": "subscribe", "session_id": "s"}).encode()
            writer.write(bytes((0x81, 0x80 | len(told))) + bytes(4) + told)
            # Nobody who has not said who it is gets as far as an answer.
            closed = await soon(reader.read())
            assert b"unauthenticated" in closed
            assert b"receipt" not in closed
