"""A dispatcher that knows nothing but the fixed table of the contract, compiled here from that table alone.

Its messages live in a pool of their own, so nothing of the full contract can help it by accident.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

FIXED = """
syntax = "proto3";
package southwest.ai.agent.v1;
service AgentInteraction {
  rpc ChatStream(stream UpstreamPacket) returns (stream DownstreamPacket);
}
message UpstreamPacket {
  string session_id = 1;
  int64 timestamp = 2;
  oneof payload {
    ThoughtChain thought = 3;
    ContentChunk content = 4;
    ToolCallRequest tool_call = 5;
    ErrorSignal error = 6;
  }
}
message ThoughtChain { string step_name = 1; string delta = 2; }
message ContentChunk { string text = 1; bool is_finish = 2; }
message ToolCallRequest { string tool_name = 1; string arguments_json = 2; }
message ErrorSignal {}
message DownstreamPacket {
  oneof signal {
    Ack ack = 1;
    StopSignal stop = 2;
    ToolCallResult tool_result = 3;
  }
}
message Ack {}
message StopSignal { string reason = 1; }
message ToolCallResult { string tool_name = 1; string result_json = 2; }
"""

# What it does with one packet: the JSON of a tool's result, a reason to stop, or nothing.
Reaction = Callable[[Any], "str | Stop | None"]


class Stop(str):
    """A reason to stop."""

    __slots__ = ()


class MinimalDispatcher:
    """Reads packets to the end, and reacts. `packets` is all that came; `ending` how it ends the call."""

    def __init__(self, folder: Path, react: Reaction = lambda _: None) -> None:
        self.packets: list[Any] = []
        self.ending: grpc.StatusCode | None = None
        self._react = react
        self._up, self._down = _messages(folder)
        self._threads = ThreadPoolExecutor(4)
        self._server = grpc.server(self._threads, options=[("grpc.so_reuseport", 0)])
        method: Any = grpc.stream_stream_rpc_method_handler(
            self._chat,
            request_deserializer=self._up.FromString,
            response_serializer=lambda packet: packet.SerializeToString(),
        )
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "southwest.ai.agent.v1.AgentInteraction", {"ChatStream": method}
                )
            ]
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._threads.shutdown()

    def _chat(self, packets: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for packet in packets:
            self.packets.append(packet)
            reaction = self._react(packet)
            if isinstance(reaction, Stop):
                yield self._down(stop={"reason": str(reaction)})
            elif reaction is not None:
                yield self._down(tool_result={"result_json": reaction})
        if self.ending is not None:
            context.abort(self.ending, "because")


def _messages(folder: Path) -> tuple[Any, Any]:
    source, compiled = folder / "fixed.proto", folder / "fixed.binpb"
    source.write_text(FIXED)
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={compiled}", str(source)]) == 0
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file:
        pool.Add(file)
    package = "southwest.ai.agent.v1"
    up, down = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in ("UpstreamPacket", "DownstreamPacket")
    )
    return up, down
