"""Through nginx and HAProxy, with the files of `deploy/`: nothing is held back, nothing is cut off, whoever leaves is
noticed. And what would be without a line that those files have."""

import asyncio
import contextlib
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc
import httpx
import pytest
from asynchronous import asynchronous, eventually, soon
from chat_viewer import conversing, viewing
from commander_process import running_commander
from dialling import chatting
from dispatcher_process import DispatcherProcess, running_dispatcher
from proxies import KINDS, Proxy, running_proxy, why_not
from scripted_commander import Turn, linked, unique
from southwest.ai.agent.v1 import chat_pb2
from web_viewer import EventReader, asking, browsing, opened, streaming
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

# A heartbeat so rare that nothing in these tests is owed to it.
DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0",
    "--http-hosts", "chat.example.com",
    "--viewer-heartbeat-s", "600",
)  # fmt: skip
# A proxy's patience, instead of 50 or 60 s; and heartbeats that a busy machine does not delay for so long.
_PATIENT = "2s"
_BEATING = ("--http-address", "127.0.0.1:0", "--viewer-heartbeat-s", "0.2")
_BEATS = 15


def _require(kind: str) -> None:
    if why := why_not(kind):
        pytest.skip(why)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    _require(name)
    return name


@pytest.fixture
def proxy(kind: str, dispatcher: DispatcherProcess, tmp_path: Path) -> Iterator[Proxy]:
    """As its file in `deploy/` has it."""
    with running_proxy(kind, tmp_path, dispatcher) as running:
        yield running


def _impatient(kind: str, patience: str = _PATIENT) -> dict[str, str]:
    """What is there by default is made short; what the files say themselves stays."""
    if kind == "nginx":
        return {"server_name": f"proxy_read_timeout {patience}; proxy_send_timeout {patience}; server_name"}
    return {"client 50s": f"client {patience}", "server 50s": f"server {patience}"}


@contextlib.contextmanager
def _behind(
    kind: str, folder: Path, flags: tuple[str, ...], changes: Mapping[str, str] | None = None
) -> Iterator[tuple[DispatcherProcess, Proxy]]:
    """A dispatcher with these flags, and a proxy before it."""
    with (
        running_dispatcher(*flags) as dispatcher,
        running_proxy(kind, folder, dispatcher, changes) as proxy,
    ):
        yield dispatcher, proxy


def _path(turn: Turn) -> str:
    return f"/v1/sessions/{turn.session_id}/events"


@contextlib.asynccontextmanager
async def _watched(
    dispatcher: DispatcherProcess, url: str, agent: str
) -> AsyncIterator[tuple[Turn, EventReader]]:
    """A session that is opened and watched by way of `url`."""
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(url) as client,
        asking(client, agent) as stream,
    ):
        yield await link.started(), stream


async def _say_and_see(turn: Turn, stream: EventReader, words: int) -> float:
    """One by one: nothing is said before the last word was seen. How long a word takes, in the middle of all."""
    took_s = []
    for number in range(words):
        said_at = time.monotonic()
        await turn.say(f"{number} ")
        assert (await stream.until("content")).fields["text"] == f"{number} "
        took_s.append(time.monotonic() - said_at)
    return statistics.median(took_s)


# --- server-sent events ----------------------------------------------------------------------------------


@asynchronous
async def test_events_come_one_by_one(dispatcher: DispatcherProcess, proxy: Proxy) -> None:
    async with _watched(dispatcher, proxy.url, unique("agent")) as (turn, stream):
        await _say_and_see(turn, stream, 20)
        await turn.finish()
        await stream.rest()
        assert stream.kinds[-1] == "ended"


@asynchronous
async def test_nginx_holds_nothing_back_with_no_line_but_where_to(
    dispatcher: DispatcherProcess, tmp_path: Path
) -> None:
    """Up to 1.29 it speaks HTTP/1.0 to whom it stands before, unless told."""
    _require("nginx")
    bare = {"proxy_http_version 1.1;": "", "proxy_set_header ": "# "}
    with running_proxy("nginx", tmp_path, dispatcher, bare) as proxy:
        async with _watched(dispatcher, proxy.url, unique("agent")) as (turn, stream):
            await _say_and_see(turn, stream, 5)
            await turn.finish()
            await stream.rest()


@asynchronous
async def test_haproxy_delays_each_event_unless_told(dispatcher: DispatcherProcess, tmp_path: Path) -> None:
    _require("haproxy")
    took_s = []
    for changes in ({}, {"option http-no-delay": ""}):
        with running_proxy("haproxy", tmp_path, dispatcher, changes) as proxy:
            async with _watched(dispatcher, proxy.url, unique("agent")) as (turn, stream):
                took_s.append(await _say_and_see(turn, stream, 9))
                await turn.finish()
                await stream.rest()
    assert took_s[0] < took_s[1] / 2, took_s


@asynchronous
async def test_heartbeats_keep_a_silent_stream_and_without_them_the_cursor_gets_the_rest(
    kind: str, tmp_path: Path
) -> None:
    with _behind(kind, tmp_path, _BEATING, _impatient(kind)) as (dispatcher, proxy):
        async with _watched(dispatcher, proxy.url, unique("agent")) as (turn, stream):
            await stream.until("started")
            waiting = asyncio.ensure_future(stream.until("content"))
            await eventually(lambda: _count(stream), lambda count: count >= _BEATS)
            await turn.say("42")
            assert (await waiting).fields["text"] == "42"
            await turn.finish()
            await stream.rest()
    with _behind(kind, tmp_path, DISPATCHER_FLAGS, _impatient(kind)) as (dispatcher, proxy):
        async with _watched(dispatcher, proxy.url, unique("agent")) as (turn, cut):
            await turn.say("4")
            await cut.until("content")
            with contextlib.suppress(httpx.RemoteProtocolError):
                await cut.rest()
            assert cut.kinds[-1] == "content"
            await turn.say("2")
            await turn.finish()
            headers = {"last-event-id": cut.last_id}
            async with (
                browsing(proxy.url) as client,
                streaming(client, "GET", _path(turn), headers=headers) as again,
            ):
                assert [told.event for told in await again.rest()] == ["content", "ended"]
                assert cut.text + again.text == "42"


async def _count(stream: EventReader) -> int:
    return len(stream.comments)


@asynchronous
async def test_who_leaves_is_noticed(dispatcher: DispatcherProcess, proxy: Proxy) -> None:
    """No heartbeat finds out that nobody is there: the proxy tells."""
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(proxy.url) as client:
        async with asking(client, agent, on_detach={"stop_after_s": 0}) as stream:
            turn = await link.started()
            await stream.until("started")
        await turn.stopped()

        await opened(client, agent, on_detach={"stop_after_s": 1})
        turn = await link.started()
        async with streaming(client, "GET", _path(turn)) as stream:
            await stream.until("started")
        await turn.stopped()


@asynchronous
async def test_a_dispatcher_that_goes_says_so(kind: str, tmp_path: Path) -> None:
    flags = (*DISPATCHER_FLAGS, "--journal", f"sqlite:{tmp_path / 'journal'}")
    with _behind(kind, tmp_path, flags) as (dispatcher, proxy):
        async with _watched(dispatcher, proxy.url, unique("agent")) as (turn, stream):
            await turn.say("Half ")
            await stream.until("content")
            dispatcher.signal(signal.SIGTERM)
            rest = await stream.rest()
        assert await asyncio.to_thread(dispatcher.wait) == 0
    assert [told.event for told in rest] == ["goaway"]
    assert rest[0].fields["cursor"] == stream.last_id


@asynchronous
async def test_one_that_does_not_read_is_felt_through_the_proxy(kind: str, tmp_path: Path) -> None:
    """Nothing on the way takes more than its sockets do; so it is closed, as without a proxy."""
    agent = unique("agent")
    limits = ("--content-chars-max", "100000000", "--ack-interval-s", "0.02", "--viewer-write-s", "1")
    with _behind(kind, tmp_path, (*DISPATCHER_FLAGS, *limits)) as (dispatcher, proxy):
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            session_id = await opened(client, agent)
            turn = await link.started()
            with socket.socket() as lazy:
                lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                lazy.connect((httpx.URL(proxy.url).host, httpx.URL(proxy.url).port))
                lazy.sendall(
                    f"GET /v1/sessions/{session_id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
                )
                while not any("closed a slow viewer" in line for line in dispatcher.log):
                    await turn.say("x" * 60_000)
                    if turn.sequence > 3:
                        await turn.acknowledged(turn.sequence - 3)
            await turn.finish()


# --- whole answers, pages, WebSockets --------------------------------------------------------------------


@asynchronous
async def test_who_waits_for_a_whole_answer_may_wait_longer(
    dispatcher: DispatcherProcess, kind: str, tmp_path: Path
) -> None:
    """Beside one that is cut off, as its path is another."""
    agent = unique("agent")
    body = {"model": agent, "messages": [{"role": "user", "content": "Hi"}]}
    with running_proxy(kind, tmp_path, dispatcher, _impatient(kind)) as proxy:
        async with linked(dispatcher.address, agent) as link, browsing(proxy.url) as client:
            whole = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            turn = await link.started()
            for _ in range(2):
                cut = await client.get(
                    f"/v1/sessions/{turn.session_id}/events?wait=60&cursor={await _end(client, turn)}"
                )
                assert cut.status_code == 504
            await turn.say("42")
            await turn.finish()
            answer = await whole
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "42"


async def _end(client: httpx.AsyncClient, turn: Turn) -> str:
    """The cursor of the last event that there is."""
    polled = await client.get(f"/v1/sessions/{turn.session_id}/events?wait=0")
    cursor: str = polled.json()["cursor"]
    return cursor


@asynchronous
async def test_a_page_is_no_strangers_where_the_host_is_passed_on(
    dispatcher: DispatcherProcess, kind: str, tmp_path: Path
) -> None:
    agent = unique("agent")
    page = {"host": "chat.example.com", "origin": "http://chat.example.com", "prefer": "respond-async"}
    body = {"agent": agent, "input": "Hi"}

    async def called(url: str, **headers: str) -> httpx.Response:
        async with browsing(url) as client:
            return await client.post("/v1/sessions", json=body, headers={**page, **headers})

    async with linked(dispatcher.address, agent):
        with running_proxy(kind, tmp_path, dispatcher) as proxy:
            assert (await called(proxy.url)).status_code == 202
            port = {"host": "chat.example.com:8443", "origin": "https://chat.example.com:8443"}
            assert (await called(proxy.url, **port)).status_code == 202
            for field, value in (("origin", "https://evil.example.com"), ("host", "evil.example.com")):
                assert (await called(proxy.url, **{field: value})).json()["field"] in ("origin", "host")
        if kind == "nginx":
            bare = {"proxy_set_header Host": "# "}
            with running_proxy(kind, tmp_path, dispatcher, bare) as proxy:
                assert (await called(proxy.url)).json()["code"] == "origin_not_allowed"


@asynchronous
async def test_websockets_go_through(kind: str, tmp_path: Path) -> None:
    """And stay while nothing is said: they are pinged as often as other viewers get their heartbeats."""
    agent = unique("agent")
    # A ping's answer has as long as there is between two.
    flags = ("--http-address", "127.0.0.1:0", "--viewer-heartbeat-s", "1.5")
    with _behind(kind, tmp_path, flags, _impatient(kind, "4s")) as (dispatcher, proxy):
        async with (
            linked(dispatcher.address, agent) as link,
            connect(_socket(proxy)) as web,
            _watched(dispatcher, proxy.url, unique("other")) as (_, clock),
        ):
            await web.send(f'{{"request": "ask", "request_id": "1", "agent": "{agent}", "input": "Hi"}}')
            turn = await link.started()
            listening = asyncio.ensure_future(clock.rest())
            await eventually(lambda: _count(clock), lambda count: count >= 4)
            await turn.say("42")
            await turn.finish()
            while '"ended"' not in (told := str(await soon(web.recv()))):
                pass
            assert "completed" in told
            listening.cancel()


@asynchronous
async def test_nginx_refuses_websockets_unless_told(dispatcher: DispatcherProcess, tmp_path: Path) -> None:
    _require("nginx")
    bare = {"proxy_set_header Upgrade": "# "}
    with running_proxy("nginx", tmp_path, dispatcher, bare) as proxy, pytest.raises(InvalidStatus):
        await connect(_socket(proxy))


def _socket(proxy: Proxy) -> str:
    return proxy.url.replace("http", "ws", 1) + "/v1/ws"


# --- gRPC ------------------------------------------------------------------------------------------------


@asynchronous
async def test_a_link_and_its_viewers_go_through_by_grpc(dispatcher: DispatcherProcess, proxy: Proxy) -> None:
    """More than a megabyte on one stream: by default nginx takes no more."""
    agent = unique("agent")
    async with linked(proxy.grpc, agent) as link, conversing(proxy.grpc) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        for _ in range(20):
            await turn.say("x" * 60_000)
            if turn.sequence > 3:
                await turn.acknowledged(turn.sequence - 3)
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == turn.text

        # Each way, at once.
        seen = await talk.ask(agent, client_ref="2")
        turn = await link.started()
        for number in range(5):
            await turn.ask(f"q-{number}")
            await seen.until("question", number + 1)
        receipt = await talk.request("2", stop=chat_pb2.StopAsked(reason="Enough"))
        assert not receipt.HasField("error")
        await turn.acknowledge_stop(await turn.stopped())
        assert (await seen.ended()).name == "stopped"
        assert (await link.leave()).code is grpc.StatusCode.OK


AGENTS = """
import asyncio
from commander import agent

@agent("silent")
async def silent(turn):
    yield "4"
    async for message in turn.messages():
        break
    yield "2"
"""


@asynchronous
async def test_heartbeats_keep_a_commanders_link_and_a_silent_viewers_stream(
    kind: str, tmp_path: Path
) -> None:
    """Behind a proxy that has no patience with gRPC either."""
    (tmp_path / "silent_agents.py").write_text(AGENTS)
    flags = (*_BEATING, "--heartbeat-interval-s", "0.2", "--heartbeats-missed", "20")
    with _behind(kind, tmp_path, flags, _impatient(kind)) as (dispatcher, proxy):
        told = ("silent_agents", "--dispatcher", proxy.grpc, "--heartbeats-missed", "20")
        with running_commander(tmp_path, *told) as commander:
            await asyncio.to_thread(commander.wait_for, "linked to")
            async with browsing(dispatcher.url) as client, chatting(proxy.grpc) as chat:
                session_id = await opened(client, "silent")
                request = chat_pb2.SubscribeRequest(session_id=session_id)
                async with viewing(chat.Subscribe(request), session_id) as (viewer, seen):
                    await seen.until("content")
                    for _ in range(_BEATS):
                        await viewer.heartbeat()
                    await client.post(f"/v1/sessions/{session_id}/messages", json={"text": "go on"})
                    assert (await seen.ended()).name == "completed"
                    assert seen.text == "42"
            assert not [line for line in commander.lines if "lost link" in line]


@asynchronous
async def test_a_client_that_says_nothing_is_cut_by_an_impatient_proxy_and_comes_back(
    kind: str, tmp_path: Path
) -> None:
    """Its own silence is what the long times of the files are for."""
    impatient = {" 1h": f" {_PATIENT}"}
    (tmp_path / "silent_agents.py").write_text(AGENTS)
    with (
        _behind(kind, tmp_path, DISPATCHER_FLAGS, {**_impatient(kind), **impatient}) as (dispatcher, proxy),
        running_commander(tmp_path, "silent_agents", "--dispatcher", dispatcher.address) as commander,
    ):
        await asyncio.to_thread(commander.wait_for, "linked to")
        async with conversing(proxy.grpc) as cut:
            seen = await cut.ask("silent")
            await seen.until("content")
            assert (await cut.status()).code is not grpc.StatusCode.OK
        last = seen.events[-1]
        request = chat_pb2.SubscribeRequest(session_id=last.session_id, cursor=last.cursor)
        async with (
            chatting(dispatcher.address) as chat,
            viewing(chat.Subscribe(request), last.session_id) as (_, rest),
            browsing(dispatcher.url) as client,
        ):
            await client.post(f"/v1/sessions/{last.session_id}/messages", json={"text": "go on"})
            assert (await rest.ended()).name == "completed"
            assert seen.text + rest.text == "42"
