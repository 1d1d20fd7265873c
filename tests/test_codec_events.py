"""What viewers see, on the wire: every event of the contract, and every word of its enums."""

from typing import Any, Final, get_args

import pytest
from filled import cases, filled, unset
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.core import packets as core
from dispatcher.core.endings import Ending
from dispatcher.journal import Entry
from dispatcher.rpc import codec

UP: Final = agent_pb2.UpstreamPacket.DESCRIPTOR.oneofs_by_name["payload"]
SEEN: Final = chat_pb2.SessionEvent.DESCRIPTOR.oneofs_by_name["event"]

FAILURE: Final = core.ToolFailure("too_large", "its output is over the limit", True, 500)


def received(packet: agent_pb2.UpstreamPacket) -> core.Packet:
    packets = codec.upstream(packet.SerializeToString())
    assert isinstance(packets, list)
    return packets[0]


# --- what viewers see ------------------------------------------------------------------------------------


def payload_bytes(case: str) -> bytes:
    event = chat_pb2.SessionEvent()
    filled(event, case)
    payload: Message = getattr(event, case)
    return payload.SerializeToString()


ENDED: Final = core.Ended(
    "model_failed",
    "the model is busy",
    4,
    7,
    core.Usage(1, 2, 3, "m"),
    core.Stop("stop-1", "admin", "AdminStop", 5_000, "bob", "deny"),
    core.ErrorReport("busy", "llm", "session", "the model is busy", "Busy", True, 500, 429, "call-1"),
    ("m1",),
)
BODIES: dict[str, tuple[str, object]] = {
    "opened": ("", core.Opened("echo", "alice", {"team": "a"}, "s0")),
    "started": ("", core.Started("c1")),
    "thought": ("a-delta", "plan"),
    "content": ("a-text", None),
    "tool_call": ("", core.ToolCall("call-1", "add", "{}", "key", 500, to_agent=True)),
    "tool_result": ("", core.ToolResult("call-1", "add", core.ToolOutcome('{"error": {}}', FAILURE))),
    "answer": ("", core.Answer("q1", '"yes"')),
    "user_message": ("", core.UserMessage("m1", "faster")),
    "reset": ("", core.Reset(1, "its commander did not return")),
    "ended": ("", ENDED),
}
UNOPENED: Final = sorted(set(cases(SEEN)) - set(BODIES) - {"gap"})


def seen(kind: str, text: str, body: object) -> chat_pb2.SessionEvent:
    event = core.SessionEvent(9, kind, 2, "team/insight", text, body)
    return codec.session_event("s1", "epoch-1", Entry(1_700_000_000_000, event))


@pytest.mark.parametrize("case", sorted(set(cases(SEEN)) - {"gap"}))
def test_every_event_is_told_whole(case: str) -> None:
    text, body = BODIES.get(case, ("", None))
    event = seen(case, text, payload_bytes(case) if case in UNOPENED else body)
    assert event.WhichOneof("event") == case
    assert (event.cursor.epoch, event.cursor.offset) == ("epoch-1", 9)
    assert (event.session_id, event.attempt, event.agent) == ("s1", 2, "team/insight")
    assert event.timestamp == 1_700_000_000_000
    payload: Message = getattr(event, case)
    # `is_finish` is a minimal commander's way to say Done; viewers are told by `ended`.
    assert set(unset(payload)) <= {"ContentChunk.is_finish"}


@pytest.mark.parametrize("case", UNOPENED)
def test_what_the_core_never_opens_arrives_as_it_was_sent(case: str) -> None:
    packet = received(filled(agent_pb2.UpstreamPacket(), case))
    event = seen(packet.kind, packet.text, packet.body)
    wire = agent_pb2.UpstreamPacket()
    filled(wire, case)
    # Ours to say; see test_codec.py.
    for kind, name in (("question", "approves_call_id"), ("progress", "call_id")):
        if case == kind:
            getattr(wire, kind).ClearField(name)
    assert getattr(event, case) == getattr(wire, case)


@pytest.mark.parametrize("case", sorted(core.SEQUENCED - {"unknown", "done", "withdrawal"}))
def test_all_content_of_a_session_can_be_told(case: str) -> None:
    """Done is told as `ended`; what is unknown is not told."""
    assert case in cases(SEEN)
    assert case in BODIES or case in UNOPENED


def test_a_content_that_is_empty_is_still_content() -> None:
    assert seen("content", "", None).WhichOneof("event") == "content"
    assert seen("usage", "", b"").WhichOneof("event") == "usage"


def test_a_gap_says_what_is_to_be_had() -> None:
    asked = chat_pb2.Cursor(epoch="other", offset=3)
    event = codec.gap("s1", "epoch-1", asked, 5, "other_epoch")
    assert event.WhichOneof("event") == "gap"
    assert not event.HasField("cursor")
    assert (event.gap.requested, event.gap.reason) == (asked, "other_epoch")
    assert (event.gap.available_from.epoch, event.gap.available_from.offset) == ("epoch-1", 5)


@pytest.mark.parametrize("ending", Ending)
def test_an_ending_is_told_by_number_and_name(ending: Ending) -> None:
    told = seen("ended", "", ENDED._replace(ending=ending.value)).ended
    assert (told.ending, told.name) == (ending.traits.number, ending.value)


# --- enums -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("literal", "names"),
    [
        (core.StopCode, codec.STOP_CODES),
        (core.Scope, codec.SCOPES),
        (core.Origin, codec.ORIGINS),
        (core.StopPhase, codec.STOP_PHASES),
    ],
)
def test_the_cores_words_are_the_contracts(literal: Any, names: dict[int, str]) -> None:
    assert set(get_args(literal)) == set(names.values())
    assert len(set(names.values())) == len(names)
    assert names[0] == ""


@pytest.mark.parametrize("number", [number for number in codec.STOP_CODES if number])
def test_every_stop_code_goes_out_as_it_is_called(number: int) -> None:
    code: Any = codec.STOP_CODES[number]
    wire = codec.stop_signal(core.Stop("stop-1", code, "Why", 0))
    assert wire.code == number
    assert agent_pb2.StopCode.Name(wire.code) == f"STOP_CODE_{code.upper()}"


@pytest.mark.parametrize("number", [number for number in codec.TOOL_ERROR_CODES if number])
def test_every_failure_of_a_tool_goes_out_as_it_is_called(number: int) -> None:
    code = codec.TOOL_ERROR_CODES[number]
    failure = core.ToolFailure(code, "why")
    wire = codec.tool_call_result(core.ToolResult("c", "add", core.ToolOutcome("{}", failure)))
    assert wire.error.code == number
    assert code in " ".join(str(core.ToolFailure.__doc__).split())


ERRORS = st.builds(
    core.ErrorReport,
    code=st.text("ab"),
    origin=st.sampled_from(get_args(core.Origin)),
    scope=st.sampled_from(get_args(core.Scope)),
    message=st.text("ab"),
    error_type=st.text("ab"),
    retryable=st.booleans(),
    retry_after_ms=st.none() | st.integers(0, 9),
    upstream_status=st.none() | st.integers(0, 9),
    call_id=st.text("ab"),
)


@given(ERRORS)
def test_an_error_survives_the_way_there_and_back(report: core.ErrorReport) -> None:
    assert codec.error_report(codec.error_signal(report)) == report


@given(st.floats(0, 1e9))
def test_a_duration_survives_to_the_nanosecond(seconds: float) -> None:
    assert abs(codec.seconds(codec.duration(seconds)) - seconds) < 1e-6
