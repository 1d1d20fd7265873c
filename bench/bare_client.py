"""Program: the peer's client, with a stream per session and a packet per token. Takes orders, and the server's
address as its argument."""

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import uvloop
from grpc import aio
from southwest.ai.agent.v1 import agent_pb2 as pb
from southwest.ai.agent.v1 import agent_pb2_grpc

from bench import bare_options
from bench.orders import obey
from bench.tokens import PLAIN, call_times, finish_ns, flood, p50_p99, paced

# Beyond this, in seconds, something is broken.
ORDER_S = 30.0
# As many streams as one connection may have.
STREAMS_PER_CHANNEL = 250

T = TypeVar("T")


class Sender:
    """One stream: one session's packets, numbered."""

    def __init__(self, call: Any, session_id: str) -> None:
        self._call = call
        self._session_id = session_id
        self._sequence = 0

    async def send(self, **payload: Any) -> None:
        self._sequence += 1
        packet = pb.UpstreamPacket(
            session_id=self._session_id,
            timestamp=time.time_ns() // 1_000_000,
            sequence=self._sequence,
            attempt=1,
            **payload,
        )
        await self._call.write(packet)

    async def say(self, text: str) -> None:
        await self.send(content=pb.ContentChunk(text=text))

    async def finish(self) -> None:
        await self._call.done_writing()
        await self._call.code()


class Client:
    def __init__(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        self._address = address
        self._loop = loop
        self._channels: list[aio.Channel] = []
        self._held: list[Any] = []
        self._reading: asyncio.Task[None] | None = None

    # -- orders ----------------------------------------------------------------------------------------------

    def flood(self, sessions: int, start_ns: int, stop_ns: int) -> None:
        """Plain tokens on so many streams, until all has been read."""
        self._run(self._all([flood(start_ns, stop_ns) for _ in range(sessions)], 0))

    def pace(self, sessions: int, first: int, start_ns: int, stop_ns: int, per_second: float) -> None:
        """Stamped tokens on so many streams, until all has been read. `first`: the number of the first one."""
        numbers = range(first, first + sessions)
        self._run(self._all([paced(start_ns, stop_ns, per_second, number) for number in numbers], first))

    def busy(self, sessions: int, start_ns: int, stop_ns: int) -> dict[str, Any]:
        """Floods with tool calls in between: how long they took, and when each stream finished."""
        return self._run(self._busy(sessions, start_ns, stop_ns))

    def calls(self, calls: int) -> tuple[float, float]:
        """One tool call after the other: p50 and p99, nanoseconds."""
        return self._run(self._calls(calls))

    def listen(self) -> None:
        """Opens the stream that is signalled, and acknowledges what comes down."""
        self._run(self._listen())

    def hold(self, streams: int, tokens: int) -> None:
        """Opens streams that have said so many tokens, and keeps them."""
        self._run(self._hold(streams, tokens))

    def let_go(self) -> None:
        """Ends what is kept."""
        self._run(self._let_go())

    def finish(self, streams: int, tokens: int) -> None:
        """Streams that say so many tokens and end, a hundred at a time."""
        self._run(self._finish(streams, tokens))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(ORDER_S)

    # -- in the loop -----------------------------------------------------------------------------------------

    def _open(self, number: int) -> Any:
        index = number // STREAMS_PER_CHANNEL
        while len(self._channels) <= index:
            self._channels.append(aio.insecure_channel(self._address, bare_options.client(self._address)))
        return agent_pb2_grpc.AgentInteractionStub(self._channels[index]).ChatStream()

    async def _all(self, generators: list[AsyncIterator[str]], first: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number, tokens in enumerate(generators):
                sender = Sender(self._open(number), f"bare-{first + number}")
                tasks.create_task(_stream(sender, tokens))

    async def _busy(self, sessions: int, start_ns: int, stop_ns: int) -> dict[str, Any]:
        took: list[int] = []
        ended: dict[str, int] = {}
        async with asyncio.TaskGroup() as tasks:
            for number in range(sessions):
                finish = finish_ns(stop_ns, number)
                due = call_times(start_ns, finish, number, sessions)
                each = _Busy(self._open(number), f"bare-{number}", took)
                tasks.create_task(each.run(start_ns, finish, due, ended))
        return {"calls": took, "ended": ended}

    async def _calls(self, calls: int) -> tuple[float, float]:
        call = self._open(0)
        sender = Sender(call, "bare-calls")
        took = []
        for number in range(calls):
            began_ns = time.monotonic_ns()
            await sender.send(tool_call=_tool_call(number))
            await call.read()
            took.append(time.monotonic_ns() - began_ns)
        await sender.finish()
        return p50_p99(took)

    async def _listen(self) -> None:
        # A channel of its own would spare it the queue of the others; the pair's signals share their link too.
        call = self._open(0)
        sender = Sender(call, "signalled")
        await sender.send(hello=pb.Hello(commander_id="bare", instance="bare", slots=1))
        await call.read()
        self._held.append(call)
        self._reading = asyncio.ensure_future(self._acknowledge(call, sender))

    async def _acknowledge(self, call: Any, sender: Sender) -> None:
        with suppress(asyncio.CancelledError):
            while (packet := await call.read()) is not aio.EOF:
                await sender.send(
                    stop_ack=pb.StopAck(stop_id=packet.stop.stop_id, phase=pb.STOP_PHASE_RECEIVED)
                )

    async def _hold(self, streams: int, tokens: int) -> None:
        for number in range(streams):
            call = self._open(number)
            sender = Sender(call, f"bare-{number}")
            for _ in range(tokens):
                await sender.say(PLAIN)
            self._held.append(call)

    async def _let_go(self) -> None:
        for call in self._held:
            call.cancel()
        self._held.clear()
        if self._reading is not None:
            await asyncio.wait([self._reading])
            self._reading = None

    async def _finish(self, streams: int, tokens: int) -> None:
        for first in range(0, streams, 100):
            generators = [_count(tokens) for _ in range(min(100, streams - first))]
            await self._all(generators, first)


class _Busy:
    """One stream that floods and calls; its results are read beside it, in the order asked."""

    def __init__(self, call: Any, session_id: str, took: list[int]) -> None:
        self._call = call
        self._session_id = session_id
        self._sender = Sender(call, session_id)
        self._took = took
        self._asked: deque[int] = deque()

    async def run(self, start_ns: int, stop_ns: int, due: Iterator[int], ended: dict[str, int]) -> None:
        reading = asyncio.ensure_future(self._read())
        due_ns = next(due, stop_ns)
        number = 0
        async for text in flood(start_ns, stop_ns):
            await self._sender.say(text)
            now_ns = time.monotonic_ns()
            if not self._asked and now_ns >= due_ns:
                # One writer: the call goes where the tokens go.
                self._asked.append(now_ns)
                number += 1
                await self._sender.send(tool_call=_tool_call(number))
                due_ns = next(due, stop_ns)
        ended[self._session_id] = time.monotonic_ns()
        await self._sender.finish()
        await reading

    async def _read(self) -> None:
        while await self._call.read() is not aio.EOF:
            self._took.append(time.monotonic_ns() - self._asked.popleft())


def _tool_call(number: int) -> pb.ToolCallRequest:
    return pb.ToolCallRequest(tool_name="nothing", arguments_json='{"text": "x"}', call_id=f"call-{number}")


async def _count(tokens: int) -> AsyncIterator[str]:
    for _ in range(tokens):
        yield PLAIN


async def _stream(sender: Sender, tokens: AsyncIterator[str]) -> None:
    # A server that is far behind answers pings too late, and loses its connections: what it got until then counts.
    with suppress(asyncio.InvalidStateError, aio.AioRpcError):
        async for text in tokens:
            await sender.say(text)
        await sender.finish()


async def live(address: str) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    client = Client(address, loop)
    names = ("flood", "pace", "busy", "calls", "listen", "hold", "let_go", "finish")
    obey({name: getattr(client, name) for name in names})
    print("bare client: ready", flush=True)
    await over.wait()


def main() -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
