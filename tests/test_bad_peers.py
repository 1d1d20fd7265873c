"""Commanders that vanish, never read, never speak, take all they can or ignore their credit."""

import asyncio
import contextlib
import signal
from typing import Any

import grpc
from asynchronous import asynchronous, eventually, soon
from bystander import undisturbed_neighbour
from chat_viewer import conversing
from dialling import LINK_METHOD, administering, dialled
from dispatcher_process import DispatcherProcess, running_dispatcher
from grpc import aio
from scripted_commander import Up, commander_process, hello, linked, opened_link, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_killed_commander_is_noticed_and_its_sessions_are_lost() -> None:
    flags = ("--heartbeat-interval-s", "1", "--detach-grace-s", "3.1", "--attempts-max", "1")

    @asynchronous
    async def scene() -> None:
        agent, name = unique("agent"), unique("commander")
        with (
            running_dispatcher(*flags) as dispatcher,
            commander_process(dispatcher.address, name, agent) as process,
        ):
            async with (
                undisturbed_neighbour(dispatcher.address),
                conversing(dispatcher.address) as talk,
                administering(dispatcher.address) as admin,
            ):
                seen = await talk.ask(agent)
                await seen.until_text("token")
                process.signal(signal.SIGKILL)
                ended = await seen.ended()
                assert (ended.name, ended.retryable) == ("commander_lost", True)
                assert ended.retry_after_ms > 0
                views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
                assert name not in [view.commander_id for view in views]

    scene()


@asynchronous
async def test_a_commander_that_floods_and_never_reads_its_acks(dispatcher: DispatcherProcess) -> None:
    agent, rounds = unique("agent"), 100
    async with (
        undisturbed_neighbour(dispatcher.address),
        opened_link(dispatcher.address, reads=False) as link,
        conversing(dispatcher.address) as talk,
        administering(dispatcher.address) as admin,
    ):
        await link.write(Up(hello=hello(agent, commander_id=agent)))
        await eventually(lambda: _present(admin, agent))
        seen = await talk.ask(agent)
        session_id = (await seen.until("started")).session_id
        for number in range(rounds):
            packets = [
                Up(
                    session_id=session_id,
                    attempt=1,
                    sequence=number * 50 + each + 1,
                    content=agent_pb2.ContentChunk(text="x"),
                )
                for each in range(50)
            ]
            await link.write(*packets)
        await seen.when(lambda: len(seen.text) == rounds * 50, "all of the text")
        # All that it was told is there when it reads after all.
        link.begin_to_read()
        turn = await link.started()
        assert (await turn.acknowledged(rounds * 50)).credit == 64


@asynchronous
async def test_a_commander_that_never_reads_is_cut_off_when_too_much_waits_for_it() -> None:
    """What waits are Starts with long conversations: 34 MB of them."""
    agent, text = unique("agent"), "x" * 500_000
    with running_dispatcher("--detach-grace-s", "600") as dispatcher:
        async with (
            undisturbed_neighbour(dispatcher.address),
            opened_link(dispatcher.address, reads=False) as link,
            conversing(dispatcher.address) as talk,
            administering(dispatcher.address) as admin,
        ):
            await link.write(Up(hello=hello(agent, commander_id=agent, slots=100)))
            await eventually(lambda: _present(admin, agent))
            for number in range(75):
                await talk.ask(agent, text, client_ref=f"{number}")
            await asyncio.to_thread(dispatcher.wait_for_log, "it does not read")
            views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
            assert [view.state for view in views if view.commander_id == agent] == ["detached"]
            link.begin_to_read()
            status = await link.status()
            assert status.code is EXHAUSTED
            assert "it does not read" in status.details


async def _present(admin: Any, commander_id: str) -> bool:
    views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
    return commander_id in [view.commander_id for view in views]


@asynchronous
async def test_more_links_than_may_be_are_refused_and_harm_nobody() -> None:
    with running_dispatcher("--links-max", "3") as dispatcher:
        async with (
            undisturbed_neighbour(dispatcher.address),
            linked(dispatcher.address, unique("agent")),
            contextlib.AsyncExitStack() as last,
        ):
            link = await last.enter_async_context(linked(dispatcher.address, unique("agent")))
            async with dialled(dispatcher.address) as channel:
                calls: list[Any] = [channel.stream_stream(LINK_METHOD)() for _ in range(100)]
                for call in calls:
                    assert await soon(call.code()) is EXHAUSTED
                    assert await call.details() == (
                        "links_max is 3, and so many links are open; try another dispatcher"
                    )
            # One leaves, one may come.
            await link.leave()
            async with linked(dispatcher.address, unique("agent")):
                pass


@asynchronous
async def test_streams_opened_and_cancelled_in_a_hurry_harm_nobody(dispatcher: DispatcherProcess) -> None:
    async with undisturbed_neighbour(dispatcher.address), dialled(dispatcher.address) as channel:
        for _ in range(20):
            calls: list[Any] = [channel.stream_stream(LINK_METHOD)() for _ in range(50)]
            for call in calls[::2]:
                # Some are refused by then: so many at once are too many.
                with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(Up(hello=hello("a", commander_id=unique("hasty"))).SerializeToString())
            for call in calls:
                call.cancel()
        metrics = await eventually(
            lambda: asyncio.to_thread(dispatcher.scrape), lambda got: got["dispatcher_links"] == 1
        )
        assert metrics["dispatcher_links"] == 1, "the neighbour's"


@asynchronous
async def test_a_commander_that_ignores_its_credit_does_not_fill_the_journal() -> None:
    flags = ("--journal-session-bytes", "100000", "--credit-bytes", "20000")
    with running_dispatcher(*flags) as dispatcher:
        agent = unique("agent")
        async with (
            undisturbed_neighbour(dispatcher.address),
            linked(dispatcher.address, agent) as link,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            for _ in range(500):
                await turn.send(artifact=agent_pb2.Artifact(artifact_id="1", data=b"x" * 20_000))
            ended = await seen.ended()
            assert ended.name in ("protocol_error", "journal_full")
            metrics = await asyncio.to_thread(dispatcher.scrape)
            assert metrics["dispatcher_journal_bytes"] < 1_000_000


def _resumes(number: int, session_id: str) -> list[agent_pb2.Resume]:
    """Of sessions that nobody knows, each a row in the Welcome."""
    return [agent_pb2.Resume(session_id=f"{session_id}{each}", attempt=1) for each in range(number)]


@asynchronous
async def test_a_link_is_told_how_it_ends_though_its_welcome_was_never_read() -> None:
    """The Welcome is larger than what a connection holds unread: the stream ends while it is still being written."""
    agent = unique("agent")
    # Longer than the last bytes of a link are waited for.
    with running_dispatcher("--heartbeat-interval-s", "1", "--detach-grace-s", "4") as dispatcher:
        async with (
            undisturbed_neighbour(dispatcher.address),
            opened_link(dispatcher.address, reads=False) as link,
            administering(dispatcher.address) as admin,
        ):
            many = _resumes(5_000, "s" * 100)
            await link.write(Up(hello=hello(agent, commander_id=agent, resumes=many)))
            await eventually(lambda: _present(admin, agent))
            await link.write_bytes(b"\xff")
            await eventually(lambda: _present(admin, agent), lambda present: not present)
            link.begin_to_read()
            status = await link.status()
            assert status.code is grpc.StatusCode.INVALID_ARGUMENT
            assert "is not a protobuf" in status.details


@asynchronous
async def test_a_welcome_that_is_larger_than_a_message_may_be_is_refused() -> None:
    flags = (
        "--max-message-bytes", "65536", "--request-bytes-max", "32768", "--tool-output-bytes", "32768",
        "--tool-arguments-bytes", "32768",
    )  # fmt: skip
    with running_dispatcher(*flags) as dispatcher:
        async with undisturbed_neighbour(dispatcher.address), opened_link(dispatcher.address) as link:
            many = _resumes(6_000, "")
            await link.write(Up(hello=hello("agent", commander_id="c", resumes=many)))
            status = await link.status()
            assert status.code is EXHAUSTED
            assert "a signal to it would have " in status.details
            assert "max_message_bytes is 65536" in status.details
