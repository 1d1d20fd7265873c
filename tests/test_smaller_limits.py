"""A restart with smaller limits: what was kept when more was allowed is told of plainly, and harms nobody else."""

from pathlib import Path

import grpc
from asynchronous import asynchronous
from chat_viewer import conversing, viewing
from dialling import chatting
from dispatcher_process import running_dispatcher
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import chat_pb2

SMALLER = (
    "--max-message-bytes", "65536", "--request-bytes-max", "32768", "--tool-output-bytes", "32768",
    "--tool-arguments-bytes", "32768",
)  # fmt: skip


@asynchronous
async def test_an_event_that_is_too_large_by_now_ends_the_stream_with_its_name(tmp_path: Path) -> None:
    agent = unique("agent")
    journal = ("--journal", f"sqlite:{tmp_path / 'journal'}")
    with running_dispatcher(*journal) as larger:
        async with linked(larger.address, agent) as link, conversing(larger.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("small ")
            # More than is received by now, and less than is sent; then more than that.
            for size in (100_000, 200_000):
                await turn.say("x" * size)
                await turn.acknowledged(turn.sequence)
            await turn.say(" and the rest")
            await turn.finish()
            await seen.ended()
    with running_dispatcher(*journal, *SMALLER) as smaller:
        async with chatting(smaller.address) as chat:
            request = chat_pb2.SubscribeRequest(session_id=turn.session_id)
            async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, so_far):
                status = await viewer.status()
                assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert so_far.events == seen.events[:4]
            large = seen.events[4]
            assert f"event 5 of {turn.session_id} has " in status.details
            assert "max_message_bytes allows 131072 (2 × 65536)" in status.details
            assert f"{large.cursor.epoch}:5" in status.details
            request.cursor.CopyFrom(large.cursor)
            async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, rest):
                assert (await viewer.status()).code is grpc.StatusCode.OK
                assert rest.events == seen.events[5:]
