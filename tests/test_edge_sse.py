"""Server-sent events over real connections: every cursor gets exactly the rest, and no end goes unsaid."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from asynchronous import asynchronous, eventually, soon
from chat_viewer import conversing
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import Turn, linked, unique
from web_viewer import EventReader, asking, browsing, opened, streaming

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0",
    "--viewer-heartbeat-s", "0.2",
    "--viewers-per-session-max", "3",
)  # fmt: skip


async def _spoken(turn: Turn, words: int = 5) -> None:
    for number in range(words):
        await turn.think("Counting", f"{number}")
        await turn.say(f"{number} ")
    await turn.finish()


def _path(turn: Turn) -> str:
    return f"/v1/sessions/{turn.session_id}/events"


@asynchronous
async def test_a_session_is_opened_and_streamed_to_its_ending(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with asking(client, agent, "How far is it?", labels={"team": "a"}) as stream:
            turn = await link.started()
            await _spoken(turn)
            await stream.rest()
            headers = stream.response.headers
            assert headers["x-accel-buffering"] == "no"
            assert "no-store" in headers["cache-control"]
            assert headers["location"] == f"/v1/sessions/{turn.session_id}"
            assert headers["session-id"] == turn.session_id
        assert turn.start.messages[0].parts[0].text == "How far is it?"
        assert stream.kinds == ["opened", "started", *["content"] * 5, "ended"]
        assert stream.text == turn.text
        assert stream.seen[0].fields["labels"] == {"team": "a"}
        assert stream.seen[-1].fields["name"] == "completed"
        for told in stream.seen:
            assert told.id == told.record["cursor"]
            assert told.event == told.record["event"]


@asynchronous
async def test_it_tells_what_grpc_tells_with_the_same_cursors(dispatcher: DispatcherProcess) -> None:
    """Every kind of event that an agent can cause."""
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent, include_thoughts=True)
        turn = await link.started()
        await turn.call("nothing", '{"a": "\\u2028"}', "c-1")
        await turn.ask("q-1", "Which?")
        await turn.send(progress={"text": "½ done", "current": 1, "total": 2, "percent": 50.0})
        await turn.send(
            artifact={"name": "x.bin", "mime_type": "application/x", "data": b"\0\1", "is_last": True}
        )
        await turn.send(embedding={"name": "v", "values": [1.5, -2.0]})
        await turn.send(agent_event={"started": {"description": "sub"}}, agent="lead/sub")
        await turn.send(usage={"input_tokens": 2**40, "output_tokens": 5})
        await turn.think("Plan", 'line\none "quoted"\r\n\u2028')
        await turn.say('data: x\n\nevent: "ended"\r\n\r\n\u2029 é 🎈\0')
        await turn.finish()
        await seen.ended()
        async with streaming(client, "GET", f"{_path(turn)}?include_thoughts=true") as stream:
            await stream.rest()
    assert [told.id for told in stream.seen] == [
        f"{event.cursor.epoch}:{event.cursor.offset}" for event in seen.events
    ]
    # The console's own JSON of the same events.
    from dispatcher.record import event_record  # noqa: PLC0415 - beside its only use

    assert [told.record for told in stream.seen] == [
        orjson.loads(orjson.dumps(event_record(event))) for event in seen.events
    ]


@asynchronous
async def test_every_cursor_gets_exactly_the_rest(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with asking(client, agent) as first:
            turn = await link.started()
            await _spoken(turn)
            await first.rest()
        for position, told in enumerate(first.seen[:-1]):
            for how in ({"headers": {"last-event-id": told.id}}, {"params": {"cursor": told.id}}):
                async with streaming(client, "GET", _path(turn), **how) as again:
                    await again.rest()
                    assert again.seen == first.seen[position + 1 :]
        # A browser that has seen the ending is told not to come back.
        last = await client.get(_path(turn), headers={"last-event-id": first.seen[-1].id})
        assert (last.status_code, last.content) == (204, b"")


@asynchronous
async def test_a_viewer_that_is_cut_off_again_and_again_has_it_all_once(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        session_id = await opened(client, agent)
        turn = await link.started()
        assert turn.session_id == session_id

        async def speak() -> None:
            for number in range(300):
                await turn.say(f"{number} ")
                if number % 16 == 15:
                    await turn.acknowledged(turn.sequence - 15)
            await turn.finish()

        speaking = asyncio.ensure_future(speak())
        seen: list[str] = []
        text, last_id, joins = "", "", 0
        while not seen or seen[-1] != "ended":
            headers = {"last-event-id": last_id} if last_id else {}
            async with streaming(client, "GET", _path(turn), headers=headers) as stream:
                joins += 1
                for _ in range(1 + joins * 3):
                    if await stream.next() is None:
                        break
            seen += stream.kinds
            text += stream.text
            last_id = stream.last_id
        await speaking
    assert text == turn.text
    assert joins > 5
    assert sorted(set(seen)) == ["content", "ended", "opened", "started"]


@asynchronous
async def test_what_can_not_be_gone_on_from_is_a_gap_and_never_silence(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with asking(client, agent) as first:
            turn = await link.started()
            await _spoken(turn)
            await first.rest()
        epoch = first.seen[0].id.partition(":")[0]
        for cursor, reason in (("0000:3", "other_epoch"), (f"{epoch}:999", "ahead")):
            async with streaming(client, "GET", _path(turn), headers={"last-event-id": cursor}) as again:
                gap = await again.next()
                await again.rest()
            assert gap is not None
            assert (gap.event, gap.id) == ("gap", "")
            assert gap.fields == {"requested": cursor, "available_from": f"{epoch}:1", "reason": reason}
            assert again.seen[1:] == first.seen
        for cursor, reason in (("0000:3", "other_epoch"), (f"{epoch}:3", "forgotten")):
            lost = "/v1/sessions/s-none/events"
            async with streaming(client, "GET", lost, headers={"last-event-id": cursor}) as gone:
                gap = await gone.next()
                assert gap is not None
                assert gap.fields["reason"] == reason
                assert await gone.next() is None
            # With the id that came with it, a browser is told that there is nothing, once and for all.
            answer = await client.get(lost, headers={"last-event-id": gone.last_id})
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown_session")


@asynchronous
async def test_silence_is_broken_by_comments(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        asking(client, agent) as stream,
    ):
        turn = await link.started()
        await stream.until("started")
        waiting = asyncio.ensure_future(stream.next())
        await eventually(lambda: _count(stream), lambda count: count >= 3)
        await turn.finish()
        told = await waiting
        assert told is not None
        assert told.event == "ended"


async def _count(stream: EventReader) -> int:
    return len(stream.comments)


@asynchronous
async def test_thoughts_are_shown_on_request(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with asking(client, agent, include_thoughts=True) as stream:
            await _spoken(await link.started(), 2)
            await stream.rest()
        assert stream.kinds.count("thought") == 2
        assert [told.fields for told in stream.seen if told.event == "thought"] == [
            {"step_name": "Counting", "delta": "0"},
            {"step_name": "Counting", "delta": "1"},
        ]


@asynchronous
async def test_more_viewers_than_may_watch_are_refused_and_leaving_makes_room(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        asking(client, agent) as first,
    ):
        turn = await link.started()
        await first.until("started")
        async with streaming(client, "GET", _path(turn)) as second, streaming(client, "GET", _path(turn)):
            await second.next()
            full = await client.get(_path(turn))
            assert (full.status_code, full.json()["code"]) == (429, "too_many_viewers")
            assert int(full.headers["retry-after"]) >= 1

        async def fits() -> bool:
            async with client.stream("GET", _path(turn)) as response:
                return response.status_code == 200

        await eventually(fits)
        await turn.finish()
        await first.rest()


@asynchronous
async def test_leaving_is_noticed_at_once_and_stops_what_asked_for_it(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with asking(client, agent, on_detach={"stop_after_s": 0}) as stream:
            turn = await link.started()
            await stream.until("started")
        stop = await turn.stopped()
        assert stop.reason
        state = (await client.get(f"/v1/sessions/{turn.session_id}")).json()
        assert state["ended"]["name"] == "detached"


@asynchronous
async def test_a_repeated_key_joins_the_session(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        key = {"idempotency-key": "k-1"}
        async with asking(client, agent, headers=key) as one, asking(client, agent, headers=key) as other:
            turn = await link.started()
            await _spoken(turn)
            assert [told.id for told in await one.rest()] == [told.id for told in await other.rest()]
            assert link.started_nothing()
        other_words = await client.post("/v1/sessions", json={"agent": agent, "input": "else"}, headers=key)
        assert (other_words.status_code, other_words.json()["code"]) == (409, "key_taken")
        both = {"agent": agent, "input": "Hi", "idempotency_key": "k-2"}
        told_twice = await client.post("/v1/sessions", json=both, headers=key)
        assert (told_twice.status_code, told_twice.json()["field"]) == (409, "idempotency_key")


@asynchronous
async def test_one_that_lags_is_told_each_step_and_gets_all_content(tmp_path: Path) -> None:
    """A viewer that doesn't read: denser text, then no thoughts, then `slow`; and with its cursor all the rest."""
    agent = unique("agent")
    flags = (
        "--http-address", "127.0.0.1:0", "--viewer-coalesce-after-s", "0.05", "--viewer-thin-after-s", "0.2",
        "--viewer-write-s", "3", "--content-chars-max", "1000000000", "--thought-chars-max", "1000000000",
    )  # fmt: skip
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link:
            reader, writer = await _unread(dispatcher.url, agent)
            turn = await link.started()

            data = b""
            # It takes some, and always less than half of what is said to it, so that its lag grows until it is told.
            while b"thinned" not in data:
                await _bulk(turn)
                data += await soon(reader.readexactly(16_000))
            # And from here on nothing.
            await _bulk(turn)
            await _bulk(turn)
            await asyncio.to_thread(dispatcher.wait_for_log, "closed a slow viewer")
            data += await soon(reader.read(-1))
            await turn.finish()
            writer.close()
            metrics = await asyncio.to_thread(dispatcher.scrape)
            async with browsing(dispatcher.url) as client:
                seen = _records(data)
                lags = [each["fields"]["stage"] for each in seen if each["event"] == "lag"]
                # On a busy machine a step may be taken at once, or again.
                assert "thinned" in lags
                assert set(lags) <= {"coalesced", "thinned", "none"}
                assert seen[-1]["event"] == "slow"
                cursor = seen[-1]["fields"]["cursor"]
                async with streaming(client, "GET", _path(turn), headers={"last-event-id": cursor}) as again:
                    await again.rest()
                text = "".join(each["fields"]["text"] for each in seen if each["event"] == "content")
                assert text + again.text == turn.text
    for stage in {"coalesced", "thinned"} & set(lags):
        assert metrics[f'dispatcher_viewers_degraded_total{{stage="{stage}"}}'] == lags.count(stage)
    assert metrics['dispatcher_viewers_degraded_total{stage="slow"}'] == 1


async def _bulk(turn: Turn) -> None:
    """Far more text than a viewer's buffers take: 260 kB, half of it thoughts."""
    for _ in range(32):
        await turn.think("Counting", f"{turn.sequence:05} " * 680)
        await turn.say(f"{turn.sequence:05} " * 680)
    await turn.acknowledged(turn.sequence)


async def _unread(url: str, agent: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream whose client reads nothing beyond what its own small buffers take."""
    host, port = httpx.URL(url).host, httpx.URL(url).port
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
    body = orjson.dumps({"agent": agent, "input": "Hi", "include_thoughts": True})
    head = f"POST /v1/sessions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


def _records(data: bytes) -> list[dict[str, Any]]:
    """Of a chunked response's event stream."""
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not (length := int(size, 16)):
            break
        body, rest = body + rest[:length], rest[length + 2 :]
    return [
        orjson.loads(line.removeprefix(b"data: ")) for line in body.split(b"\n") if line.startswith(b"data: ")
    ]


@pytest.mark.parametrize("journal", ["memory", "file"])
@asynchronous
async def test_a_dispatcher_that_goes_says_where_to_come_back(journal: str, tmp_path: Path) -> None:
    """With a file the session goes on: `goaway` with a cursor; with memory it ends, and the ending says so."""
    agent = unique("agent")
    kept = ("--journal", f"sqlite:{tmp_path / 'journal'}") if journal == "file" else ()
    flags = ("--http-address", "127.0.0.1:0", "--heartbeat-interval-s", "1", "--detach-grace-s", "3.1", *kept)
    with running_dispatcher(*flags) as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            browsing(dispatcher.url) as client,
            asking(client, agent) as stream,
        ):
            turn = await link.started()
            await turn.say("Half ")
            await stream.until("content")
            dispatcher.signal(signal.SIGTERM)
            rest = await stream.rest()
        assert await asyncio.to_thread(dispatcher.wait) == 0
    if journal == "memory":
        assert [(told.event, told.fields["name"]) for told in rest] == [("ended", "shutdown")]
        return
    assert [told.event for told in rest] == ["goaway"]
    assert rest[0].fields["cursor"] == stream.last_id
    assert stream.retry_ms == rest[0].fields["retry_after_ms"]
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            headers = {"last-event-id": stream.last_id}
            async with streaming(client, "GET", _path(turn), headers=headers) as again:
                assert (await link.started()).attempt == 2
                assert await again.until("reset")


@asynchronous
async def test_the_head_of_a_stream_is_answered_without_one(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        session_id = await opened(client, agent)
        turn = await link.started()
        for _ in range(2):
            head = await soon(client.head(f"/v1/sessions/{session_id}/events"))
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"].startswith("text/event-stream")
        await turn.finish()
