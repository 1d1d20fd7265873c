"""`dispatcher chat` and `watch` when the stream breaks: nothing is lost, and nothing is asked twice."""

import asyncio
import signal
from typing import Any

import grpc
import pytest
from console_server import (
    PATIENCE_S,
    RefusalError,
    Stage,
    Tale,
    play,
    run_cli,
    scripted_dispatcher,
    start_cli,
)
from southwest.ai.agent.v1 import agent_pb2, chat_pb2


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "going away"),
        (grpc.StatusCode.CANCELLED, "enough"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow: come back with the last cursor"),
    ],
)
def test_a_broken_stream_goes_on_after_the_last_event(code: grpc.StatusCode, details: str) -> None:
    async def scene() -> None:
        tale = Tale()
        asked: list[chat_pb2.SubscribeRequest] = []

        async def breaks(stage: Stage) -> None:
            await stage.accept()
            await stage.tell(tale.opened(), tale.content("one "))
            raise RefusalError(code, details)

        async def closes(stage: Stage) -> None:
            asked.append(await stage.heard())
            await stage.tell(tale.content("two "))

        async def ends(stage: Stage) -> None:
            asked.append(await stage.heard())
            await stage.tell(tale.content("three"), tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(breaks)
            server.scripts["Subscribe"] += [closes, ends]
            status, out, err = await run_cli("chat", "Hi", address=server.address)
        assert out.endswith("one two three\n")
        assert [request.cursor.offset for request in asked] == [2, 3]
        assert all(request.include_thoughts for request in asked)
        assert err.splitlines() == [
            f"the stream broke ({details}): coming back, try 1 of 8",
            "the stream is back",
            "the stream broke (it was closed before the session's end): coming back, try 1 of 8",
            "the stream is back",
            "completed: session s-1, 13 characters",
        ]
        assert status == 0

    play(scene())


def test_an_answer_after_a_broken_stream_names_the_session() -> None:
    async def scene() -> None:
        tale = Tale()
        answered = asyncio.Event()

        async def breaks(stage: Stage) -> None:
            await stage.accept()
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, "going away")

        async def elsewhere(stage: Stage) -> None:
            packet = await stage.heard()
            assert (packet.session_id, packet.client_ref) == ("s-1", "")
            assert packet.answer.value_json == '"yes"'
            answered.set()  # first, as the client leaves with the receipt
            await stage.receipt(packet)

        async def subscribed(stage: Stage) -> None:
            await stage.tell(tale.question("Sure?"))
            await answered.wait()
            await stage.tell(tale.answer('"yes"'), tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(breaks, elsewhere)
            server.scripts["Subscribe"].append(subscribed)
            status, _, err = await run_cli("chat", "Hi", stdin=b"yes\n", address=server.address)
        assert (status, err.splitlines()[-1]) == (0, "completed: session s-1, 0 characters")

    play(scene())


def test_a_dispatcher_that_does_not_know_the_session_says_so_and_begins_none() -> None:
    async def scene() -> None:
        refused = asyncio.Event()

        async def breaks(stage: Stage) -> None:
            await stage.accept()
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, "going away")

        async def forgetful(stage: Stage) -> None:
            packet = await stage.heard()
            assert packet.WhichOneof("request") == "answer"
            refused.set()  # first, as the client leaves with the receipt
            await stage.receipt(packet, error=agent_pb2.ErrorSignal(code="unknown_session", message="no s-1"))

        async def subscribed(stage: Stage) -> None:
            tale = Tale()
            await stage.tell(tale.question("Sure?"))
            await refused.wait()
            await stage.tell(tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(breaks, forgetful)
            server.scripts["Subscribe"].append(subscribed)
            status, _, err = await run_cli("chat", "Hi", stdin=b"yes\n", address=server.address)
        assert (status, err.splitlines()[-1]) == (0, "completed: session s-1, 0 characters")

    play(scene())


def test_a_forgotten_session_is_neither_begun_again_nor_waited_for() -> None:
    async def scene() -> None:
        async def breaks(stage: Stage) -> None:
            await stage.accept()
            raise RefusalError(grpc.StatusCode.UNAVAILABLE)

        async def forgotten(stage: Stage) -> None:
            raise RefusalError(grpc.StatusCode.NOT_FOUND, "no session s-1")

        async with scripted_dispatcher() as server:
            server.converse(breaks)
            server.scripts["Subscribe"].append(forgotten)
            status, _, err = await run_cli("chat", "Hi", address=server.address)
        assert err.splitlines()[-1] == (
            "dispatcher: session s-1 is gone: the dispatcher was started again, or keeps it no longer; "
            "ask again with `dispatcher chat`"
        )
        assert status == 4

    play(scene())


def test_a_stop_after_a_broken_stream_arrives_too() -> None:
    async def scene() -> None:
        tale = Tale()
        stopped = asyncio.Event()

        async def breaks(stage: Stage) -> None:
            await stage.accept()
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, "going away")

        async def elsewhere(stage: Stage) -> None:
            packet = await stage.heard()
            assert packet.stop.reason == "UserCancel"
            stopped.set()  # first, as the client leaves with the receipt
            await stage.receipt(packet)

        async def subscribed(stage: Stage) -> None:
            await stage.tell(tale.content("back\n"))
            await stopped.wait()
            stop = agent_pb2.StopSignal(reason="UserCancel")
            await stage.tell(tale.ended(chat_pb2.SESSION_ENDING_STOPPED, stop=stop))

        async with scripted_dispatcher() as server:
            server.converse(breaks, elsewhere)
            server.scripts["Subscribe"].append(subscribed)
            process = await start_cli("chat", "Hi", address=server.address)
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE_S):
                assert await process.stdout.readline() == b"back\n"
                process.send_signal(signal.SIGINT)
                _, err = await process.communicate()
        assert err.decode().splitlines()[-1] == "stopped: session s-1, 5 characters; UserCancel"
        assert process.returncode == 3

    play(scene())


def test_watch_comes_back_too() -> None:
    async def scene() -> None:
        tale = Tale()
        cursors = []

        async def breaks(stage: Stage) -> None:
            await stage.tell(tale.content("one "), tale.content("two "))
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, "going away")

        async def ends(stage: Stage) -> None:
            cursors.append((await stage.heard()).cursor.offset)
            await stage.tell(tale.content("three"), tale.ended())

        async with scripted_dispatcher() as server:
            server.scripts["WatchSession"] += [breaks, ends]
            status, out, _ = await run_cli("watch", "s-1", address=server.address)
        assert cursors == [2]
        assert (status, out) == (0, "one two three\n")

    play(scene())


def farewell(tale: Tale, **more: Any) -> chat_pb2.SessionEvents:
    goaway = chat_pb2.GoAway(
        session_id=tale.session_id,
        cursor=chat_pb2.Cursor(epoch="e1", offset=tale.offset),
        reason="the dispatcher goes away",
        **more,
    )
    other = chat_pb2.GoAway(session_id="s-2", cursor=chat_pb2.Cursor(epoch="e1", offset=99))
    return chat_pb2.SessionEvents(goaways=[other, goaway])


@pytest.mark.parametrize("command", ["chat", "watch"])
def test_a_dispatcher_that_goes_away_is_waited_for_and_each_further_try_is_told(command: str) -> None:
    async def scene() -> None:
        tale = Tale()
        cursors = []

        async def leaves(stage: Stage) -> None:
            if command == "chat":
                await stage.accept()
            await stage.tell(tale.opened(), tale.content("one "))
            tale.thought("Planning", "for others")  # the viewer need not ask for it again
            await stage.send(farewell(tale, retry_after_ms=10))
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, "come back with the cursor")

        async def not_yet(stage: Stage) -> None:
            cursors.append((await stage.heard()).cursor.offset)
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, "not yet")

        async def ends(stage: Stage) -> None:
            cursors.append((await stage.heard()).cursor.offset)
            await stage.tell(tale.content("two"), tale.ended())

        async with scripted_dispatcher() as server:
            if command == "chat":
                server.converse(leaves)
                server.scripts["Subscribe"] += [not_yet, not_yet, ends]
                words = ("chat", "Hi")
            else:
                server.scripts["WatchSession"] += [leaves, not_yet, not_yet, ends]
                words = ("watch", "s-1")
            status, out, err = await run_cli(*words, address=server.address)
        assert cursors == [3, 3, 3]
        assert out == "session s-1, agent demo\none two\n"
        assert err.splitlines() == [
            "the dispatcher goes away, and the session goes on: coming back in 0.01 s, behind e1:3, try 1 of 8",
            "it is not back yet (not yet): coming back, try 2 of 8",
            "it is not back yet (not yet): coming back, try 3 of 8",
            "the stream is back",
            "completed: session s-1, 7 characters",
        ]
        assert status == 0

    play(scene())


def test_a_session_that_was_shown_and_is_forgotten_has_failed() -> None:
    async def scene() -> None:
        tale = Tale()

        async def breaks(stage: Stage) -> None:
            await stage.tell(tale.opened(), tale.content("half"))
            raise RefusalError(grpc.StatusCode.UNAVAILABLE)

        async def forgotten(stage: Stage) -> None:
            cursor = chat_pb2.Cursor(epoch="e1")
            gap = chat_pb2.Gap(reason="forgotten", requested=cursor, available_from=cursor)
            await stage.tell(chat_pb2.SessionEvent(session_id="s-1", gap=gap))

        async with scripted_dispatcher() as server:
            server.scripts["WatchSession"] += [breaks, forgotten]
            status, _, err = await run_cli("watch", "s-1", address=server.address)
        assert err.splitlines()[-1].startswith(
            "dispatcher: session s-1 is gone: the dispatcher keeps it no longer"
        )
        assert status == 4

    play(scene())


def test_a_session_that_is_not_to_be_had_any_more_is_not_asked_for_again() -> None:
    async def scene() -> None:
        async def breaks(stage: Stage) -> None:
            await stage.accept()
            await stage.tell(Tale().content("half"))
            raise RefusalError(grpc.StatusCode.UNAVAILABLE)

        async def forgotten(stage: Stage) -> None:
            cursor = chat_pb2.Cursor(epoch="e1")
            gap = chat_pb2.Gap(reason="forgotten", requested=cursor, available_from=cursor)
            await stage.tell(chat_pb2.SessionEvent(session_id="s-1", gap=gap))

        async with scripted_dispatcher() as server:
            server.converse(breaks)
            server.scripts["Subscribe"].append(forgotten)
            status, out, err = await run_cli("chat", "Hi", address=server.address)
        assert out.splitlines()[-1] == "! the session is not kept; nothing of it is to be had"
        assert err.splitlines()[-1] == (
            "dispatcher: session s-1 is gone: the dispatcher keeps it no longer; ask again with `dispatcher chat`"
        )
        assert status == 4

    play(scene())
