"""What other programs already speak, field by field: it stays as it is for ever."""

from typing import Final

import pytest
from google.protobuf.descriptor import FieldDescriptor
from southwest.ai.agent.v1 import agent_pb2

from dispatcher.core import packets as core
from dispatcher.rpc import codec

FIXED = """
UpstreamPacket string session_id = 1
UpstreamPacket int64 timestamp = 2
UpstreamPacket ThoughtChain thought = 3 payload
UpstreamPacket ContentChunk content = 4 payload
UpstreamPacket ToolCallRequest tool_call = 5 payload
UpstreamPacket ErrorSignal error = 6 payload
ThoughtChain string step_name = 1
ThoughtChain string delta = 2
ContentChunk string text = 1
ContentChunk bool is_finish = 2
ToolCallRequest string tool_name = 1
ToolCallRequest string arguments_json = 2
DownstreamPacket Ack ack = 1 signal
DownstreamPacket StopSignal stop = 2 signal
DownstreamPacket ToolCallResult tool_result = 3 signal
StopSignal string reason = 1
ToolCallResult string tool_name = 1
ToolCallResult string result_json = 2
"""
SCALARS: Final = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_BOOL: "bool",
}


@pytest.mark.parametrize("row", FIXED.split("\n")[1:-1])
def test_what_other_programs_already_speak_stays_as_it_is(row: str) -> None:
    message, kind, name, _, number, *oneof = row.split()
    field = agent_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name[name]
    assert field.number == int(number)
    assert not field.is_repeated
    assert (field.message_type.name if field.message_type else SCALARS[field.type]) == kind
    assert [field.containing_oneof.name] == oneof if field.containing_oneof else not oneof


def test_the_method_that_other_programs_call() -> None:
    service = agent_pb2.DESCRIPTOR.services_by_name["AgentInteraction"]
    assert service.full_name == "southwest.ai.agent.v1.AgentInteraction"
    method = service.methods_by_name["ChatStream"]
    assert (method.input_type.name, method.output_type.name) == ("UpstreamPacket", "DownstreamPacket")
    assert method.client_streaming
    assert method.server_streaming


def test_bytes_of_a_program_that_knows_the_fixed_table_alone() -> None:
    """Written by hand, as any language's encoder writes them."""
    thought = b"\x1a\x0c" + b"\x0a\x04plan" + b"\x12\x04hmm."
    call = b"\x2a\x09" + b"\x0a\x03add" + b"\x12\x02{}"
    content = b"\x22\x06" + b"\x0a\x02hi" + b"\x10\x01"
    kinds = []
    for data in (thought, call, content):
        packets = codec.upstream(data)
        assert isinstance(packets, list)
        kinds.append((packets[0].kind, packets[0].text, packets[0].is_finish))
    assert kinds == [("thought", "hmm.", False), ("tool_call", "add\x1f{}", False), ("content", "hi", True)]
    result = codec.tool_call_result(core.ToolResult("call-1", "add", core.ToolOutcome("3")))
    assert result.SerializeToString().startswith(b"\x0a\x03add\x12\x013")
