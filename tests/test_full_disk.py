"""While the journal can't be written: what is still answered, and what waits stays bounded."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
from asynchronous import asynchronous, soon
from chat_viewer import conversing, viewing
from dialling import administering, chatting
from dispatcher_process import DispatcherProcess, running_dispatcher
from google.protobuf.duration_pb2 import Duration
from scripted_commander import Turn, linked, unique
from southwest.ai.agent.v1 import admin_pb2, chat_pb2


def dispatcher_at(place: Path, *flags: str) -> AbstractContextManager[DispatcherProcess]:
    return running_dispatcher("--journal", f"sqlite:{place / 'journal'}", *flags)


@contextmanager
def full_disk(dispatcher: DispatcherProcess, place: Path) -> Iterator[None]:
    """Nothing more can be written, until the block ends."""
    unlimited = resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE)
    least = min(path.stat().st_size for path in place.glob("journal*"))
    resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE, (least, unlimited[1]))
    try:
        yield
    finally:
        resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE, unlimited)


@contextlib.asynccontextmanager
async def stalled(dispatcher: DispatcherProcess, place: Path, turn: Turn) -> AsyncIterator[None]:
    """As `full_disk`, once what the turn has said is known to wait."""
    with full_disk(dispatcher, place):
        await turn.say("meanwhile ")
        await asyncio.to_thread(dispatcher.wait_for_log, "can't be written")
        yield


@asynchronous
async def test_a_client_that_goes_on_while_nothing_is_kept_is_held_up(tmp_path: Path) -> None:
    """As many receipts wait to be kept as wait for a client that doesn't read; then its packets wait."""
    agent = unique("agent")
    with dispatcher_at(tmp_path) as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            conversing(dispatcher.address) as talk,
            administering(dispatcher.address) as admin,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            await seen.until("started")
            async with stalled(dispatcher, tmp_path, turn):
                stop = chat_pb2.ClientPacket(client_ref="1", stop=chat_pb2.StopAsked())
                for number in range(256):
                    stop.request_id = f"{number}"
                    await talk.send(stop)
                # Refused, and so answered at once even now: if it were read.
                await talk.send(chat_pb2.ClientPacket(client_ref="1", request_id="256"))
                for _ in range(50):
                    await admin.ListSessions(admin_pb2.ListSessionsRequest())
                assert talk.receipts.empty()
            order = [(await talk.receipt()).request_id for _ in range(257)]
            assert order == [f"{number}" for number in range(257)]
            assert (await seen.ended()).name == "stopped"


@asynchronous
async def test_a_drain_whose_caller_gives_up_takes_place_all_the_same(tmp_path: Path) -> None:
    agent = unique("agent")
    with dispatcher_at(tmp_path) as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            conversing(dispatcher.address) as talk,
            administering(dispatcher.address) as admin,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            await seen.until("started")
            async with stalled(dispatcher, tmp_path, turn):
                call = admin.Drain(admin_pb2.DrainRequest(deadline=Duration(seconds=600)))
                await asyncio.to_thread(dispatcher.wait_for_log, "draining: AdminDrain")
                call.cancel()
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            await talk.half_close()
        assert await asyncio.to_thread(dispatcher.wait) == 0


@asynchronous
async def test_what_was_kept_before_is_read_and_stopped_as_ever(tmp_path: Path) -> None:
    agent = unique("agent")
    with dispatcher_at(tmp_path, "--viewers-per-session-max", "3") as dispatcher:
        async with (
            linked(dispatcher.address, agent) as link,
            conversing(dispatcher.address) as talk,
            administering(dispatcher.address) as admin,
            chatting(dispatcher.address) as chat,
        ):
            over = await talk.ask(agent, client_ref="1")
            done = await link.started()
            await done.say("whole")
            await done.finish()
            await over.ended()
            seen = await talk.ask(agent, client_ref="2")
            turn = await link.started()
            await turn.say("before ")
            await seen.until_text("before ")
            async with stalled(dispatcher, tmp_path, turn):
                for call in (
                    chat.Subscribe(chat_pb2.SubscribeRequest(session_id=done.session_id)),
                    admin.WatchSession(admin_pb2.WatchSessionRequest(session_id=done.session_id)),
                ):
                    async with viewing(call, done.session_id) as (viewer, again):
                        assert (await viewer.status()).code is grpc.StatusCode.OK
                        assert again.events == over.events
                stopped = await soon(
                    admin.StopSession(admin_pb2.StopSessionRequest(session_id=done.session_id))
                )
                assert (stopped.result, stopped.ending) == (
                    admin_pb2.STOP_RESULT_ALREADY_ENDED,
                    "completed",
                )
                receipt = await talk.request("", session_id=done.session_id, stop=chat_pb2.StopAsked())
                assert not receipt.HasField("error")
                # One that runs is shown so far, to as many as may watch it.
                request = chat_pb2.SubscribeRequest(session_id=turn.session_id)
                async with contextlib.AsyncExitStack() as viewers:
                    for _ in range(2):
                        view = viewing(chat.Subscribe(request), turn.session_id)
                        _, so_far = await viewers.enter_async_context(view)
                        await so_far.until_text("before ")
                        assert so_far.text == "before "
                    async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, _):
                        assert (await viewer.status()).code is grpc.StatusCode.RESOURCE_EXHAUSTED
            await turn.finish()
            assert (await seen.ended()).name == "completed"
