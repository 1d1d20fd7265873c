"""Program: the peer to compare with, a plain grpc.aio server with a stream per session and a packet per token.

It does what a relay can't do without, and no more: it reads packets and keeps their texts with the time. It
answers a tool call at once, and sends a signal when it is told to. Takes orders.
"""

import asyncio
import gc
import signal
import sys
import time
from typing import Any

import grpc
import uvloop
from grpc import aio
from southwest.ai.agent.v1 import agent_pb2 as pb
from southwest.ai.agent.v1 import agent_pb2_grpc

from bench import bare_options
from bench.keeping import Arrivals
from bench.orders import memory_bytes, obey
from bench.tokens import NS
from bench.vector import decoded, encoded

ECHO_SERVICE = "bench.Echo"
SIGNAL_S = 5.0


class Bare(agent_pb2_grpc.AgentInteractionServicer):
    """The service."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._signalled: Any = None
        self._acknowledged: asyncio.Event = asyncio.Event()
        self.arrivals = Arrivals()

    async def ChatStream(self, _: object, context: Any) -> None:  # type: ignore[override]  # noqa: N802 - the contract's name; the stubs know it as a generator
        came, session_id = self.arrivals.came, ""
        try:
            while (packet := await context.read()) is not aio.EOF:
                kind = packet.WhichOneof("payload")
                session_id = packet.session_id
                if kind == "content":
                    came(session_id, packet.content.text)
                elif kind == "tool_call":
                    await context.write(answer(packet))
                elif kind == "hello":
                    self._signalled = context
                    await context.write(pb.DownstreamPacket(welcome=pb.Welcome(protocol_version=1)))
                elif kind == "stop_ack":
                    self._acknowledged.set()
        finally:
            self.arrivals.ended(session_id)

    def signal(self, times: int, gap_ns: int) -> list[int]:
        """How long each signal took down the stream that said hello and back up, nanoseconds."""
        future = asyncio.run_coroutine_threadsafe(self._signal(times, gap_ns / NS), self._loop)
        return future.result(times * (gap_ns / NS + SIGNAL_S))

    async def _signal(self, times: int, gap_s: float) -> list[int]:
        took = []
        for number in range(times):
            await asyncio.sleep(gap_s)
            self._acknowledged.clear()
            began_ns = time.monotonic_ns()
            stop = pb.StopSignal(reason="UserCancel", stop_id=f"stop-{number}", code=pb.STOP_CODE_USER_CANCEL)
            await self._signalled.write(pb.DownstreamPacket(stop=stop, session_id="signalled", attempt=1))
            async with asyncio.timeout(SIGNAL_S):
                await self._acknowledged.wait()
            took.append(time.monotonic_ns() - began_ns)
        return took


def answer(packet: pb.UpstreamPacket) -> pb.DownstreamPacket:
    call = packet.tool_call
    result = pb.ToolCallResult(tool_name=call.tool_name, result_json='"x"', call_id=call.call_id)
    return pb.DownstreamPacket(tool_result=result, session_id=packet.session_id, attempt=packet.attempt)


def echo_handler() -> grpc.GenericRpcHandler:
    """Gives each packet back, made anew of what was in it."""

    async def echo(_: object, context: Any) -> None:
        while (data := await context.read()) is not aio.EOF:
            await context.write(encoded(*decoded(data)))

    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Echo": grpc.stream_stream_rpc_method_handler(echo)
    }
    return grpc.method_handlers_generic_handler(ECHO_SERVICE, methods)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    bare = Bare(loop)
    server = aio.server(options=bare_options.server())
    agent_pb2_grpc.add_AgentInteractionServicer_to_server(bare, server)
    server.add_generic_rpc_handlers((echo_handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def memory() -> int:
        gc.collect()
        return memory_bytes()

    obey({**bare.arrivals.orders, "signal": bare.signal, "memory": memory})
    print(f"bare: ready at 127.0.0.1:{port}", flush=True)
    await over.wait()
    await server.stop(None)


def main() -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
