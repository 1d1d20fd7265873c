"""An agent that blocks the agents' loop delays its neighbours there, and silences nothing."""

import asyncio
import threading
from typing import Any

import pytest
from commander_here import Told, serving
from scripted_dispatcher import ScriptedDispatcher, ScriptedLink, ScriptedSession, Welcoming
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import BlockingTurn, Turn, agent

MAY_END = threading.Event()


@agent("blocker")
async def blocker(_: Turn) -> Any:
    yield "begin "
    await asyncio.sleep(0)
    MAY_END.wait()
    yield "end"


@agent("sync")
def sync(_: BlockingTurn) -> Any:
    yield "from a thread of my own"


@agent("neighbour")
async def neighbour(_: Turn) -> Any:
    yield "from the same loop"


def expect_blocked(link: ScriptedLink, is_blocked: bool) -> pb.Heartbeat:
    def is_right(packet: pb.UpstreamPacket) -> bool:
        return (
            packet.HasField("heartbeat")
            and not packet.session_id
            and packet.heartbeat.HasField("blocked_for") is is_blocked
        )

    return link.expect(is_right).heartbeat


def test_a_blocked_loop_is_told_and_the_link_lives(caplog: pytest.LogCaptureFixture) -> None:
    MAY_END.clear()
    told = Told(caplog)
    welcoming = Welcoming(heartbeat_s=0.05)
    agents = (blocker, sync, neighbour)
    with (
        ScriptedDispatcher(welcoming) as dispatcher,
        serving(dispatcher.address, *agents, blocked_after_s=0.1, heartbeats_missed=20),
    ):
        link = dispatcher.accept()
        expect_blocked(link, is_blocked=False)
        session = ScriptedSession(link, "s", agent="blocker")
        session.next()
        first = expect_blocked(link, is_blocked=True).blocked_for
        later = expect_blocked(link, is_blocked=True).blocked_for
        assert 0.1 <= first.seconds + first.nanos / 1e9 < later.seconds + later.nanos / 1e9
        # Sync agents have threads of their own; those in the loop are delayed, not lost.
        ScriptedSession(link, "sync", agent="sync").done()
        delayed = ScriptedSession(link, "delayed", agent="neighbour")
        link.send(pb.DownstreamPacket(heartbeat=pb.Heartbeat()))
        MAY_END.set()
        session.done()
        delayed.done()
        expect_blocked(link, is_blocked=False)
        told.wait_for("turns again")
    warnings = [record for record in caplog.records if "has blocked the agents' loop" in record.getMessage()]
    assert len(warnings) == 1
    assert "blocker s/1" in warnings[0].getMessage()
    assert "MAY_END.wait()" in warnings[0].stack  # type: ignore[attr-defined]
