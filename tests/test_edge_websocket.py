"""WebSocket over a real client: several sessions on one connection, each with its receipts, and ends that say why."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asynchronous import asynchronous, soon
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import linked, unique
from web_viewer import asking, browsing, opened
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

DISPATCHER_FLAGS = (
    "--http-address",
    "127.0.0.1:0",
    "--request-bytes-max",
    "20000",
    "--viewers-per-session-max",
    "3",
)


class Client:
    """One connection; what came is kept by session."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []
        self._requests = 0

    async def send(self, request: str, **fields: Any) -> str:
        self._requests += 1
        request_id = f"r{self._requests}"
        await self.socket.send(json.dumps({"request": request, "request_id": request_id, **fields}))
        return request_id

    async def next(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(await soon(self.socket.recv()))
        self.seen.append(told)
        return told

    async def until(self, kind: str, session_id: str = "") -> dict[str, Any]:
        while True:
            told = await self.next()
            if told["event"] == kind and session_id in ("", told["session_id"]):
                return told

    async def told(self, request: str, **fields: Any) -> dict[str, Any]:
        """The receipt of a request."""
        request_id = await self.send(request, **fields)
        while (receipt := await self.until("receipt"))["request_id"] != request_id:
            pass
        return receipt

    async def refused(self, request: str, **fields: Any) -> dict[str, Any]:
        error: dict[str, Any] = (await self.told(request, **fields))["fields"]["error"]
        return error

    def of(self, session_id: str) -> list[dict[str, Any]]:
        return [each for each in self.seen if each["session_id"] == session_id and each["event"] != "receipt"]

    def text(self, session_id: str) -> str:
        return "".join(each["fields"]["text"] for each in self.of(session_id) if each["event"] == "content")

    async def closed(self) -> tuple[int, str]:
        """How the connection ends."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        return self.socket.close_code or 0, self.socket.close_reason or ""


def _narrow(url: str) -> socket.socket:
    """A connection whose kernel takes little for a client that does not read."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, _, port = url.rpartition("/")[2].partition(":")
    narrow.connect((host, int(port)))
    narrow.setblocking(False)
    return narrow


# It takes one message and no more, and does not notice what becomes of it.
_LAZY: dict[str, Any] = {"max_queue": 1, "ping_interval": None, "close_timeout": 1}


@contextlib.asynccontextmanager
async def talking(url: str, **more: Any) -> AsyncIterator[Client]:
    async with connect(url.replace("http", "ws", 1) + "/v1/ws", **more) as socket:
        yield Client(socket)


@asynchronous
async def test_several_sessions_on_one_connection(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, talking(dispatcher.url) as client:
        turns = []
        for number in range(3):
            receipt = await client.told("ask", agent=agent, input=f"number {number}", include_thoughts=True)
            turn = await link.started()
            assert receipt["session_id"] == turn.session_id
            assert turn.start.messages[0].parts[0].text == f"number {number}"
            turns.append(turn)
        for word in ("one ", "two ", "é\u2028\n "):
            for turn in turns:
                await turn.think("Plan", word)
                await turn.say(word + turn.session_id)
        for turn in turns:
            await turn.finish()
        for turn in turns:
            if not any(each["event"] == "ended" for each in client.of(turn.session_id)):
                await client.until("ended", turn.session_id)
        async with browsing(dispatcher.url) as web:
            for turn in turns:
                assert client.text(turn.session_id) == turn.text
                kinds = [each["event"] for each in client.of(turn.session_id)]
                assert kinds == ["opened", "started", *["thought", "content"] * 3, "ended"]
                page = await web.get(
                    f"/v1/sessions/{turn.session_id}/events", params={"wait": 1, "include_thoughts": "true"}
                )
                assert page.json()["events"] == client.of(turn.session_id)


@asynchronous
async def test_a_receipt_comes_before_the_events_of_what_it_opens(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, talking(dispatcher.url) as client:
        await client.send("ask", agent=agent, input="x")
        assert (await client.next())["event"] == "receipt"
        assert (await client.next())["event"] == "opened"
        await (await link.started()).finish()


@asynchronous
async def test_whoever_subscribes_with_a_cursor_gets_exactly_the_rest(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, talking(dispatcher.url) as client:
        await client.told("ask", agent=agent, input="x")
        turn = await link.started()
        for word in ("one ", "two ", "three "):
            await turn.say(word)
        await turn.finish()
        await client.until("ended")
        events = client.of(turn.session_id)
        for position, event in enumerate(events):
            async with talking(dispatcher.url) as again:
                await again.told("subscribe", session_id=turn.session_id, cursor=event["cursor"])
                if position + 1 < len(events):
                    await again.until("ended")
                assert again.of(turn.session_id) == events[position + 1 :]
        async with talking(dispatcher.url) as again:
            await again.told("subscribe", session_id=turn.session_id, cursor="0000:2")
            gap = await again.next()
            assert (gap["event"], gap["fields"]["reason"]) == ("gap", "other_epoch")
            await again.until("ended")
            assert again.of(turn.session_id)[1:] == events


@asynchronous
async def test_a_session_is_answered_added_to_left_and_stopped(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, talking(dispatcher.url) as client:
        session_id = (await client.told("ask", agent=agent, input="x"))["session_id"]
        turn = await link.started()
        await turn.ask("q-1")
        await client.until("question")
        assert (
            "error"
            not in (await client.told("answer", session_id=session_id, question_id="q-1", value=3))["fields"]
        )
        assert (await turn.heard("answer")).answer.value_json == "3"
        added = await client.told("message", session_id=session_id, text="And?")
        assert (await turn.heard("user_message")).user_message.message_id == added["fields"]["message_id"]
        await client.told("unsubscribe", session_id=session_id)
        await turn.say("unheard ")
        stopped = await client.told("stop", session_id=session_id, reason="Enough")
        assert stopped["fields"]["result"] == "stopped"
        assert (await turn.stopped()).reason == "Enough"
        assert (await client.told("stop", session_id=session_id))["fields"]["result"] == "already_ended"
        assert not {"content", "ended"} & {each["event"] for each in client.of(session_id)}


WRONG: dict[str, tuple[str, str, str]] = {
    "no JSON": ("{", "invalid_request", ""),
    "no object": ("[]", "invalid_request", ""),
    "no request": ('{"agent": "x"}', "invalid_request", ""),
    "an unknown request": ('{"request": "sing"}', "invalid_request", ""),
    "no words": ('{"request": "ask"}', "invalid_request", ""),
    "an unknown field": ('{"request": "ask", "input": "x", "inptu": 1}', "invalid_request", "inptu"),
    "a long id": (
        '{"request": "stop", "session_id": "s", "request_id": "%s"}' % ("x" * 129),
        "invalid_request",
        "request_id",
    ),
    "no such agent": ('{"request": "ask", "input": "x", "agent": "nobody"}', "no_such_agent", "agent"),
    "no such session": ('{"request": "subscribe", "session_id": "s-none"}', "unknown_session", "session_id"),
    "a session that it doesn't watch": (
        '{"request": "unsubscribe", "session_id": "s-none"}',
        "unknown_session",
        "session_id",
    ),
    "no such session to stop": (
        '{"request": "stop", "session_id": "s-none"}',
        "unknown_session",
        "session_id",
    ),
    "no cursor": (
        '{"request": "subscribe", "session_id": "s-none", "cursor": "x"}',
        "invalid_request",
        "cursor",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@asynchronous
async def test_what_is_wrong_has_its_receipt_and_the_rest_goes_on(
    dispatcher: DispatcherProcess, case: str
) -> None:
    text, code, field = WRONG[case]
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, talking(dispatcher.url) as client:
        await client.told("ask", agent=agent, input="x")
        turn = await link.started()
        await client.socket.send(text)
        error = (await client.until("receipt"))["fields"]["error"]
        assert (error["code"], error.get("field", "")) == (code, field), error
        await turn.say("still here")
        await client.until("content")
        await turn.finish()


@asynchronous
async def test_leaving_stops_what_asked_for_it(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link:
        async with talking(dispatcher.url) as client:
            await client.told("ask", agent=agent, input="x", on_detach={"stop_after_s": 0})
            turn = await link.started()
        await turn.stopped()


@asynchronous
async def test_a_full_house_is_said_in_the_receipt(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as web:
        session_id = await opened(web, agent)
        turn = await link.started()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                client = await stack.enter_async_context(talking(dispatcher.url))
                await client.told("subscribe", session_id=session_id)
                await client.until("started")
            last = await stack.enter_async_context(talking(dispatcher.url))
            assert (await last.refused("subscribe", session_id=session_id))["code"] == "too_many_viewers"
        await turn.finish()


@asynchronous
async def test_the_connection_ends_with_a_code_that_says_why(dispatcher: DispatcherProcess) -> None:
    async with talking(dispatcher.url) as client:
        await client.socket.send(b"\0")
        assert (await client.closed())[0] == 1003
    async with talking(dispatcher.url) as client:
        await client.socket.send(json.dumps({"request": "ask", "input": "x" * 50_000}))
        assert (await client.closed())[0] == 1009
    with pytest.raises(InvalidStatus) as refused:
        async with talking(dispatcher.url, origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    async with talking(dispatcher.url, origin=dispatcher.url) as client:
        assert (await client.refused("stop", session_id="x"))["code"] == "unknown_session"


@asynchronous
async def test_a_dispatcher_that_goes_says_so(tmp_path: Any) -> None:
    agent = unique("agent")
    flags = ("--http-address", "127.0.0.1:0", "--journal", f"sqlite:{tmp_path / 'journal'}")
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link, talking(dispatcher.url) as client:
            await client.told("ask", agent=agent, input="x")
            turn = await link.started()
            await turn.say("Half ")
            content = await client.until("content")
            dispatcher.signal(signal.SIGTERM)
            goaway = await client.until("goaway")
            assert goaway["fields"]["cursor"] == content["cursor"]
            assert (await client.closed())[0] == 1001
        assert await asyncio.to_thread(dispatcher.wait) == 0


@asynchronous
async def test_one_that_takes_nothing_is_closed_as_slow() -> None:
    agent = unique("agent")
    flags = (
        "--http-address", "127.0.0.1:0", "--viewer-write-s", "0.5", "--viewer-heartbeat-s", "30",
        # However quick the machine is, the viewer is slow before the session has said too much.
        "--content-chars-max", "1000000000",
    )  # fmt: skip
    with running_dispatcher(*flags) as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            talking(
                dispatcher.url, max_queue=1, ping_interval=None, sock=_narrow(dispatcher.url), close_timeout=1
            ) as client,
            browsing(dispatcher.url) as web,
            asking(web, agent) as other,
        ):
            witness = await link.started()
            await client.told("ask", agent=agent, input="x")
            turn = await link.started()
            # Nothing is read from here on.
            while not any("closed a slow viewer" in line for line in dispatcher.log):
                await turn.say("word " * 400)
                if turn.sequence % 32 == 0:
                    await turn.acknowledged(turn.sequence - 16)
            code, _ = await client.closed()
            assert code == 4008
            await turn.finish()
            # Nobody else notices.
            await witness.say("Hello")
            await other.until("content")
            slow = client.seen[-1]
            assert slow["event"] == "slow"
            async with talking(dispatcher.url) as again:
                await again.told("subscribe", session_id=turn.session_id, cursor=slow["fields"]["cursor"])
                await again.until("ended")
                assert client.text(turn.session_id) + again.text(turn.session_id) == turn.text
            await witness.finish()


@asynchronous
async def test_one_that_asks_and_does_not_read_is_heard_no_more_and_closed() -> None:
    flags = ("--http-address", "127.0.0.1:0", "--viewer-write-s", "0.5")
    with running_dispatcher(*flags) as dispatcher:
        async with talking(dispatcher.url, sock=_narrow(dispatcher.url), **_LAZY) as client:
            request = json.dumps({"request": "stop", "session_id": "s" * 15_000})

            async def ask_on() -> None:
                while True:
                    await client.socket.send(request)

            with pytest.raises(ConnectionClosed):
                await soon(ask_on())
        async with browsing(dispatcher.url) as web:
            assert (await web.get("/readyz")).status_code == 200
