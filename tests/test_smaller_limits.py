"""A restart with smaller limits: what was kept when more was allowed is told of plainly, and harms nobody else."""

import signal
from pathlib import Path
from typing import Any

import grpc
from asynchronous import asynchronous
from chat_viewer import conversing, viewing
from dialling import chatting
from dispatcher_process import running_dispatcher
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

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


@asynchronous
async def test_a_request_that_is_too_large_by_now_ends_its_session_alone(tmp_path: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    journal = ("--journal", f"sqlite:{tmp_path / 'journal'}")
    with running_dispatcher(*journal) as larger:
        async with linked(larger.address, agent, slots=1, **me) as link, conversing(larger.address) as talk:
            seen = await talk.ask(agent, client_ref="1")
            turn = await link.started()
            await turn.say("before ")
            await seen.until_text("before ")
            queued = await talk.ask(agent, "x" * 400_000, client_ref="2")
            large_id = (await queued.until("opened")).session_id
            larger.signal(signal.SIGKILL)
            larger.wait()
    resumed = agent_pb2.Resume(
        session_id=turn.session_id, attempt=1, last_sequence_sent=1, last_signal_received=0
    )
    with running_dispatcher(*journal, *SMALLER) as smaller:
        async with (
            linked(smaller.address, agent, slots=2, resumes=[resumed], **me) as link,
            chatting(smaller.address) as chat,
            conversing(smaller.address) as talk,
        ):
            request = chat_pb2.SubscribeRequest(session_id=large_id)
            async with viewing(chat.Subscribe(request), large_id) as (_, large):
                ended = await large.ended()
                assert ended.name == "limit_exceeded"
                assert "max_message_bytes is 65536" in ended.message
            # Its link is still there, and so are the others on it.
            request = chat_pb2.SubscribeRequest(session_id=turn.session_id)
            async with viewing(chat.Subscribe(request), turn.session_id) as (_, small):
                await link.write(
                    turn.packet(content=agent_pb2.ContentChunk(text="and after")), turn.finished()
                )
                assert (await small.ended()).name == "completed"
                assert small.text == "before and after"
            after = await talk.ask(agent)
            other = await link.started()
            assert other.session_id == (await after.until("opened")).session_id
            await other.finish()
            assert (await after.ended()).name == "completed"
            assert "lost its link" not in "\n".join(smaller.log)
