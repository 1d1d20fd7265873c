"""A packet that can't be sent fails its own session, and the message goes with the rest."""

import pytest
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import codec
from commander.core.outbox import Text
from commander.core.turn import Bounds, Credit, Numbered, Packet, Turn

HALF = Text("half a character: \ud800")


def said(session_id: str, payload: object, sequence: int = 1) -> Numbered:
    turn = Turn(session_id, 2, Bounds(8, 1_000, 1_000), Credit(8, 1_000))
    return Numbered(turn, Packet(sequence, payload, 10))


def test_what_cannot_be_sent_ends_its_session_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    message = codec.message([said("a", Text("one")), said("b", HALF, 7), said("c", Text("three"))])
    first, bad, last = message.batch.packets
    assert (first.session_id, first.content.text) == ("a", "one")
    assert (last.session_id, last.content.text) == ("c", "three")
    assert (bad.session_id, bad.attempt, bad.sequence, bad.timestamp) == ("b", 2, 7, message.timestamp)
    assert bad.done.outcome == pb.OUTCOME_FAILED
    assert bad.done.error.code == "unsendable"
    assert [record.message for record in caplog.records] == ["a packet can't be sent"]


def test_what_was_read_is_told_all_the_same() -> None:
    bad = said("b", HALF)
    bad.turn.receive(1)
    bad.turn.read(1)
    packet = codec.message([bad])
    assert packet.HasField("done")
    assert (packet.signals_received, packet.messages_read) == (1, 1)


def test_the_same_when_it_goes_alone() -> None:
    packet = codec.message([said("b", HALF)])
    assert packet.WhichOneof("payload") == "done"
    assert packet.session_id == "b"


def test_a_signal_that_cannot_be_sent_is_a_mistake_of_our_own() -> None:
    with pytest.raises(TypeError, match="nothing on the wire"):
        codec.message([object()])
