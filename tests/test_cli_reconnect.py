"""`dispatcher chat` and `watch` when the stream breaks: nothing is lost, and nothing is asked twice."""

import asyncio
import signal

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


def test_an_answer_after_a_broken_stream_joins_the_session_again() -> None:
    async def scene() -> None:
        tale = Tale()
        answered = asyncio.Event()
        keys = []

        async def breaks(stage: Stage) -> None:
            keys.append((await stage.accept()).idempotency_key)
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, "going away")

        async def joined(stage: Stage) -> None:
            keys.append((await stage.accept()).idempotency_key)
            packet = await stage.heard()
            assert packet.answer.value_json == '"yes"'
            answered.set()  # first, as the client leaves with the receipt
            await stage.receipt(packet)

        async def subscribed(stage: Stage) -> None:
            await stage.tell(tale.question("Sure?"))
            await answered.wait()
            await stage.tell(tale.answer('"yes"'), tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(breaks, joined)
            server.scripts["Subscribe"].append(subscribed)
            status, _, err = await run_cli("chat", "Hi", stdin=b"yes\n", address=server.address)
        assert keys[0] == keys[1] != ""
        assert (status, err.splitlines()[-1]) == (0, "completed: session s-1, 0 characters")

    play(scene())


def test_a_dispatcher_that_forgot_the_question_is_not_asked_it_anew() -> None:
    async def scene() -> None:
        unsaid = asyncio.Event()

        async def breaks(stage: Stage) -> None:
            await stage.accept()
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, "going away")

        async def begins_anew(stage: Stage) -> None:
            await stage.receipt(await stage.heard(), "s-2")
            packet = await stage.heard()
            assert packet.HasField("stop")
            unsaid.set()  # first, as the client leaves with the receipt
            await stage.receipt(packet, "s-2")

        async def subscribed(stage: Stage) -> None:
            tale = Tale()
            await stage.tell(tale.question("Sure?"))
            await unsaid.wait()
            await stage.tell(tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(breaks, begins_anew)
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
            "dispatcher: session s-1 is gone: the dispatcher was started again, or keeps it no longer"
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

        async def joined(stage: Stage) -> None:
            await stage.accept()
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
            server.converse(breaks, joined)
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
