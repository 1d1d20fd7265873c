"""Viewers: they come back with a cursor and get exactly the rest, and a slow one disturbs nobody."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous
from chat_viewer import Seen, asking, conversing, viewing
from dialling import CONVERSE_METHOD, administering, chatting, dialled
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import Link, Turn, linked, unique
from southwest.ai.agent.v1 import admin_pb2, chat_pb2

DISPATCHER_FLAGS = ("--viewer-write-s", "1.5", "--viewers-per-session-max", "3")
OK = grpc.StatusCode.OK


async def _told(address: str, agent: str, link: Link) -> tuple[Turn, Seen]:
    """A session that is over, as its first viewer saw it, thoughts included."""
    async with conversing(address) as talk:
        seen = await talk.ask(agent, include_thoughts=True)
        turn = await link.started()
        for word in ("one ", "two ", "three "):
            await turn.think("Planning", word)
            await turn.say(word)
        await turn.finish()
        await seen.ended()
        return turn, seen


def _request(turn: Turn, cursor: chat_pb2.Cursor | None = None, **more: Any) -> chat_pb2.SubscribeRequest:
    return chat_pb2.SubscribeRequest(session_id=turn.session_id, cursor=cursor, **more)


@asynchronous
async def test_every_cursor_gets_exactly_the_rest(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, chatting(dispatcher.address) as chat:
        turn, seen = await _told(dispatcher.address, agent, link)
        for position, event in enumerate(seen.events):
            request = _request(turn, event.cursor, include_thoughts=True)
            async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, rest):
                assert await viewer.status() == (OK, "")
                assert rest.events == seen.events[position + 1 :]


@asynchronous
async def test_with_any_cursor_of_a_session_that_is_not_kept_there_is_a_gap(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, chatting(dispatcher.address) as chat:
        _, seen = await _told(dispatcher.address, agent, link)
        epoch = seen.events[0].cursor.epoch
        for cursor, reason in (
            (chat_pb2.Cursor(epoch=epoch, offset=3), "forgotten"),
            (chat_pb2.Cursor(offset=3), "forgotten"),
            (chat_pb2.Cursor(), "forgotten"),
            (chat_pb2.Cursor(epoch="deadbeef", offset=3), "other_epoch"),
            (None, None),
        ):
            request = chat_pb2.SubscribeRequest(session_id="s-none", cursor=cursor)
            async with viewing(chat.Subscribe(request), "s-none") as (viewer, again):
                status = await viewer.status()
                assert status.code is grpc.StatusCode.NOT_FOUND
                assert "there is no session 's-none'" in status.details
                assert [event.gap.reason for event in again.of("gap")] == ([reason] if reason else [])


@asynchronous
async def test_one_without_thoughts_gets_past_however_many_there_are(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        chatting(dispatcher.address) as chat,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await link.started()
        for number in range(600):
            await turn.think("Counting", f"{number} ")
            if number % 32 == 31:
                await turn.acknowledged(number)
        await turn.say("600")
        await turn.finish()
        await seen.ended()
        async with viewing(chat.Subscribe(_request(turn)), turn.session_id) as (viewer, again):
            assert await viewer.status() == (OK, "")
            assert again.kinds == ["opened", "started", "content", "ended"]


@asynchronous
async def test_no_cursor_and_the_cursor_before_the_first_event_get_all(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, chatting(dispatcher.address) as chat:
        turn, seen = await _told(dispatcher.address, agent, link)
        start = chat_pb2.Cursor(epoch=seen.events[0].cursor.epoch, offset=0)
        for cursor in (None, start):
            request = _request(turn, cursor, include_thoughts=True)
            async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, again):
                assert await viewer.status() == (OK, "")
                assert again.events == seen.events


@asynchronous
async def test_rejoining_while_it_runs_loses_and_doubles_nothing(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        chatting(dispatcher.address) as chat,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await link.started()

        async def speak() -> None:
            for number in range(200):
                await turn.say(f"{number} ")
            await turn.finish()

        speaking = asyncio.ensure_future(speak())
        offsets: list[int] = []
        cursor = None
        while True:
            async with viewing(chat.Subscribe(_request(turn, cursor)), turn.session_id) as (_, part):
                await part.when(lambda part=part: len(part.events) > 0, "event")  # type: ignore[misc]
                offsets += [event.cursor.offset for event in part.events]
                cursor = part.events[-1].cursor
                if part.kinds[-1] == "ended":
                    break
        await speaking
        await seen.ended()
        assert offsets == [event.cursor.offset for event in seen.events]


# The reason, the epoch where it is another, the offset, and whether that counts from the last event on.
GAPS = {
    "another epoch": ("other_epoch", "deadbeef", 1, False),
    "far ahead": ("ahead", "", 1_000_000, False),
    "one ahead": ("ahead", "", 1, True),
}


@pytest.mark.parametrize("where", GAPS)
def test_a_cursor_that_leads_nowhere_leads_to_a_gap(dispatcher: DispatcherProcess, where: str) -> None:
    reason, epoch, number, is_behind = GAPS[where]

    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, chatting(dispatcher.address) as chat:
            turn, seen = await _told(dispatcher.address, agent, link)
            offset = number + is_behind * seen.events[-1].cursor.offset
            cursor = chat_pb2.Cursor(epoch=epoch or seen.events[0].cursor.epoch, offset=offset)
            request = _request(turn, cursor, include_thoughts=True)
            async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, again):
                assert await viewer.status() == (OK, "")
                gap = again.events[0].gap
                assert (gap.reason, gap.requested) == (reason, cursor)
                assert gap.available_from == seen.events[0].cursor
                assert not again.events[0].HasField("cursor")
                assert again.events[1:] == seen.events

    scene()


@asynchronous
async def test_a_session_that_never_was(dispatcher: DispatcherProcess) -> None:
    async with chatting(dispatcher.address) as chat, administering(dispatcher.address) as admin:
        for call in (
            chat.Subscribe(chat_pb2.SubscribeRequest(session_id="s-never")),
            chat.Subscribe(chat_pb2.SubscribeRequest()),
            admin.WatchSession(admin_pb2.WatchSessionRequest(session_id="s-never")),
        ):
            async with viewing(call, "") as (viewer, _):
                status = await viewer.status()
                assert status.code is grpc.StatusCode.NOT_FOUND
                assert "session_id" in status.details


@asynchronous
async def test_thoughts_only_for_who_asks(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        chatting(dispatcher.address) as chat,
        administering(dispatcher.address) as admin,
    ):
        turn, seen = await _told(dispatcher.address, agent, link)
        assert "thought" in seen.kinds
        async with viewing(chat.Subscribe(_request(turn)), turn.session_id) as (viewer, plain):
            await viewer.status()
            assert plain.events == [event for event in seen.events if not event.HasField("thought")]
        watch = admin_pb2.WatchSessionRequest(session_id=turn.session_id, cursor=seen.events[2].cursor)
        async with viewing(admin.WatchSession(watch), turn.session_id) as (viewer, all_of_it):
            await viewer.status()
            assert all_of_it.events == seen.events[3:]


@asynchronous
async def test_viewers_of_one_session_are_bounded(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        chatting(dispatcher.address) as chat,
        conversing(dispatcher.address) as talk,
        contextlib.AsyncExitStack() as viewers,
    ):
        await talk.ask(agent, idempotency_key=agent)
        turn = await link.started()
        for _ in range(2):
            call = chat.Subscribe(_request(turn))
            _, seen = await viewers.enter_async_context(viewing(call, turn.session_id))
            await seen.until("opened")
        async with viewing(chat.Subscribe(_request(turn)), "") as (viewer, _):
            status = await viewer.status()
            assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "viewers_per_session_max is 3" in status.details
        async with conversing(dispatcher.address) as other:
            joined = await other.request("1", ask=asking(agent, idempotency_key=agent))
            assert joined.error.code == "too_many_viewers"
            assert "viewers_per_session_max is 3" in joined.error.message
        # One leaves, one may come.
        await viewers.aclose()
        async with viewing(chat.Subscribe(_request(turn)), turn.session_id) as (_, seen):
            await seen.until("opened")


@asynchronous
async def test_who_joins_while_it_waits_to_be_kept_counts_too(tmp_path: Path) -> None:
    """All of them ask before the session is known to be kept, and so before anybody watches it."""
    agent = unique("agent")
    journal = ("--journal", f"sqlite:{tmp_path / 'journal'}", "--journal-sync", "power")
    with running_dispatcher(*journal, "--viewers-per-session-max", "3") as dispatcher:
        async with linked(dispatcher.address, agent), contextlib.AsyncExitStack() as streams:
            talks = [await streams.enter_async_context(conversing(dispatcher.address)) for _ in range(30)]
            for talk in talks:
                # The first packet opens the connection.
                assert (await talk.request("0")).error.code == "unknown_request"
            key = unique("key")
            asked = [talk.request("1", ask=asking(agent, idempotency_key=key)) for talk in talks]
            receipts = await asyncio.gather(*asked)
            codes = sorted(receipt.error.code for receipt in receipts)
            assert codes == [""] * 3 + ["too_many_viewers"] * 27
            watching = [talk for talk, receipt in zip(talks, receipts, strict=True) if receipt.session_id]
            assert len(watching) == 3
            for talk, receipt in zip(talks, receipts, strict=True):
                if receipt.HasField("error"):
                    # The reference is free again.
                    assert (
                        await talk.request("1", stop=chat_pb2.StopAsked())
                    ).error.code == "unknown_session"


async def _say_two_megabytes(turn: Turn) -> None:
    """More than any buffer on the way to a viewer holds."""
    for _ in range(10):
        for _ in range(10):
            await turn.say("x" * 20_000)
        await turn.acknowledged(turn.sequence)


@asynchronous
async def test_a_viewer_that_never_reads_is_closed_and_disturbs_nobody(dispatcher: DispatcherProcess) -> None:
    await asyncio.gather(
        *[_slow_viewer(dispatcher, how) for how in ("Subscribe", "Converse", "WatchSession")]
    )


async def _slow_viewer(dispatcher: DispatcherProcess, how: str) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        conversing(dispatcher.address) as talk,
        dialled(dispatcher.address) as channel,
        chatting(dispatcher.address) as chat,
    ):
        seen = await talk.ask(agent, idempotency_key=agent)
        turn = await link.started()
        # Nothing is read from this call until it is over.
        slow: Any
        if how == "Converse":
            slow = channel.stream_stream(CONVERSE_METHOD)()
            ask = asking(agent, idempotency_key=agent)
            await slow.write(chat_pb2.ClientPacket(client_ref="1", ask=ask).SerializeToString())
        else:
            service = "Chat" if how == "Subscribe" else "Admin"
            method: Any = channel.unary_stream(f"/southwest.ai.agent.v1.{service}/{how}")
            slow = method(_request(turn).SerializeToString())  # the first field is the same in both
        await _say_two_megabytes(turn)
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert len(seen.text) == 2_000_000
        await asyncio.to_thread(dispatcher.wait_for_log, f"slow viewer, which watched {turn.session_id}:")
        # When it reads after all, it is told why, and gets the rest with its last cursor.
        async with viewing(slow, turn.session_id) as (viewer, first):
            status = await viewer.status()
        assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert status.details == "slow: the viewer took nothing for 1.5 s; come back with the last cursor"
        request = _request(turn, first.events[-1].cursor)
        async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, rest):
            assert (await viewer.status()).code is OK
        assert first.events + rest.events == seen.events


@asynchronous
async def test_a_viewer_that_never_reads_and_leaves_is_no_trouble(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        await talk.ask(agent)
        turn = await link.started()
        async with chatting(dispatcher.address) as chat:
            call = chat.Subscribe(_request(turn))
            await _say_two_megabytes(turn)
            await asyncio.to_thread(dispatcher.wait_for_log, f"slow viewer, which watched {turn.session_id}:")
            call.cancel()
        await turn.finish()


@asynchronous
async def test_what_is_forgotten_before_a_slow_viewer_read_it_is_a_gap() -> None:
    """The bound in bytes is stronger than whoever reads, and that is told."""
    bounds = ("--journal-bytes", "1000000", "--journal-session-bytes", "1000000")
    agent = unique("agent")
    with running_dispatcher(*bounds) as dispatcher:
        async with (
            linked(dispatcher.address, agent, slots=2) as link,
            conversing(dispatcher.address) as talk,
            chatting(dispatcher.address) as chat,
        ):
            first = await talk.ask(agent, client_ref="1")
            turn = await link.started()
            # Nothing is read from this call for now.
            slow: Any = chat.Subscribe(_request(turn))
            await slow.initial_metadata()
            await _say_much(turn)
            await turn.finish()
            assert (await first.ended()).name == "completed"
            second = await talk.ask(agent, client_ref="2")
            other = await link.started()
            await _say_much(other)
            await other.finish()
            assert (await second.ended()).name == "completed"
            async with viewing(slow, turn.session_id) as (viewer, seen):
                assert await viewer.status() == (OK, "")
                assert seen.kinds[-1] == "gap"
                assert seen.events[-1].gap.reason == "forgotten"
                assert first.text.startswith(seen.text)


async def _say_much(turn: Turn) -> None:
    for _ in range(4):
        for _ in range(10):
            await turn.say("x" * 20_000)
        await turn.acknowledged(turn.sequence)


@asynchronous
async def test_a_viewer_never_hears_nothing_for_long() -> None:
    """Whether it watches one session or only holds its stream open: proxies cut what is silent."""
    agent = unique("agent")
    with running_dispatcher("--viewer-heartbeat-s", "0.1") as dispatcher:
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            await talk.heartbeat()
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("Hello ")
            await seen.until("content")
            await talk.heartbeat()
            await talk.heartbeat()
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            await talk.half_close()
            assert (await talk.status()).code is grpc.StatusCode.OK
