"""A real gRPC client that plays a commander by script: the whole contract, and every way to break it.

It sends what it is told, right or wrong, and keeps what it receives by session and kind. Of its own accord it
does one thing: it answers each heartbeat, so that a test that takes its time is not taken for a lost link.

As a program it is a commander in a process of its own, to be killed or frozen:
    python tests/scripted_commander.py HOST:PORT COMMANDER_ID AGENT
"""

import asyncio
import contextlib
import secrets
import signal
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from asynchronous import PATIENCE_S, soon
from dialling import LINK_METHOD, Options, Status, bearing, dialled, status_of
from dispatcher_process import ROOT, clean_environment
from grpc import aio
from southwest.ai.agent.v1 import agent_pb2

Up = agent_pb2.UpstreamPacket
Down = agent_pb2.DownstreamPacket


def unique(word: str) -> str:
    """A name that no other test uses."""
    return f"{word}-{secrets.token_hex(4)}"


class Turn:
    """A commander's side of one session."""

    def __init__(self, link: "Link", started: Down) -> None:
        self._link = link
        self.session_id = started.session_id
        self.attempt = started.attempt
        self.start = started.start
        self.sequence = 0
        self.text = ""
        self._arrived = link.arrived[self.session_id]

    def packet(self, *, sequence: int | None = None, attempt: int | None = None, **fields: Any) -> Up:
        """The next packet, or one with a sequence or an attempt of the test's choice."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        if "content" in fields:
            self.text += fields["content"].text
        return Up(
            session_id=self.session_id,
            attempt=self.attempt if attempt is None else attempt,
            sequence=sequence,
            **fields,
        )

    async def send(self, **fields: Any) -> None:
        await self._link.write(self.packet(**fields))

    async def say(self, text: str, **fields: Any) -> None:
        await self.send(content=agent_pb2.ContentChunk(text=text), **fields)

    async def think(self, step: str, delta: str) -> None:
        await self.send(thought=agent_pb2.ThoughtChain(step_name=step, delta=delta))

    async def call(self, tool: str, arguments_json: str = "", call_id: str = "", **more: Any) -> None:
        request = agent_pb2.ToolCallRequest(
            tool_name=tool, arguments_json=arguments_json, call_id=call_id, **more
        )
        await self.send(tool_call=request)

    async def ask(self, question_id: str, text: str = "?") -> None:
        await self.send(question=agent_pb2.Question(question_id=question_id, text=text))

    def finished(self, **more: Any) -> Up:
        """The Done that fits what was said."""
        fields = {
            "outcome": agent_pb2.OUTCOME_COMPLETED,
            "content_chars": len(self.text),
            "content_crc32": zlib.crc32(self.text.encode()),
        }
        return self.packet(done=agent_pb2.Done(**{**fields, **more}))

    async def finish(self) -> None:
        await self._link.write(self.finished())

    async def acknowledge_stop(self, stop: agent_pb2.StopSignal) -> None:
        for phase in (agent_pb2.STOP_PHASE_RECEIVED, agent_pb2.STOP_PHASE_APPLIED):
            ack = agent_pb2.StopAck(stop_id=stop.stop_id, phase=phase, last_sequence=self.sequence)
            await self.send(sequence=0, stop_ack=ack)

    async def heard(self, kind: str) -> Down:
        """The next signal of this kind: "tool_result", "stop", "ack" …"""
        return await soon(self._arrived[kind].get())

    def heard_nothing(self, kind: str) -> bool:
        return self._arrived[kind].empty()

    async def result(self) -> agent_pb2.ToolCallResult:
        return (await self.heard("tool_result")).tool_result

    async def stopped(self) -> agent_pb2.StopSignal:
        return (await self.heard("stop")).stop

    async def acknowledged(self, sequence: int) -> agent_pb2.Ack:
        """The first Ack that reaches the sequence."""
        while (ack := (await self.heard("ack")).ack).sequence < sequence:
            pass
        return ack


class Link:
    """One ChatStream, with bytes on both sides so that anything can be sent."""

    def __init__(self, call: Any, *, beats: bool, reads: bool) -> None:
        self._call = call
        self._beats = beats
        self._writing = asyncio.Lock()
        self.commander_id = ""
        self.welcome = agent_pb2.Welcome()
        # By session (empty: about the link itself) and kind.
        self.arrived: defaultdict[str, defaultdict[str, asyncio.Queue[Down]]] = defaultdict(
            lambda: defaultdict(asyncio.Queue)
        )
        self._starts: asyncio.Queue[Turn] = asyncio.Queue()
        # The kinds of all that came, in their order.
        self.order: list[str] = []
        # Bytes received per gRPC message: how packets were gathered.
        self.messages = 0
        self._reader: asyncio.Task[None] | None = None
        if reads:
            self.begin_to_read()

    def begin_to_read(self) -> None:
        self._reader = asyncio.ensure_future(self._read())

    async def write(self, *packets: Up) -> None:
        """One gRPC message: the packet, or a batch of several."""
        packet = packets[0] if len(packets) == 1 else Up(batch=agent_pb2.UpstreamBatch(packets=packets))
        await self.write_bytes(packet.SerializeToString())

    async def write_bytes(self, data: bytes) -> None:
        async with self._writing:
            await self._call.write(data)

    async def greet(self, *agents: str, commander_id: str = "", slots: int = 4, **more: Any) -> None:
        """Says Hello and waits for the Welcome."""
        self.commander_id = commander_id or unique("commander")
        await self.write(Up(hello=hello(*agents, commander_id=self.commander_id, slots=slots, **more)))
        self.welcome = (await self.heard("welcome")).welcome

    async def started(self) -> Turn:
        """The next session that it is given."""
        return await soon(self._starts.get())

    def started_nothing(self) -> bool:
        return self._starts.empty()

    async def heard(self, kind: str, session_id: str = "") -> Down:
        """The next signal of this kind, about the link itself unless a session is named."""
        return await soon(self.arrived[session_id][kind].get())

    async def half_close(self) -> None:
        async with self._writing:
            await self._call.done_writing()

    async def leave(self, reason: str = "the script is over") -> Status:
        """The clean end of a managed link."""
        await self.write(Up(goodbye=agent_pb2.Goodbye(reason=reason)))
        await self.half_close()
        return await self.status()

    def cancel(self) -> None:
        self._call.cancel()

    async def status(self) -> Status:
        """How the stream ended; waits for it."""
        return await soon(status_of(self._call))

    async def close(self) -> None:
        self._call.cancel()
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def _read(self) -> None:
        with contextlib.suppress(aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError):
            while (data := await self._call.read()) is not aio.EOF:
                self.messages += 1
                packet = Down.FromString(data)
                batched = packet.WhichOneof("signal") == "batch"
                for one in packet.batch.packets if batched else [packet]:
                    await self._take(one)

    async def _take(self, packet: Down) -> None:
        kind = packet.WhichOneof("signal")
        assert kind is not None, packet
        self.order.append(kind)
        if kind == "start":
            self._starts.put_nowait(Turn(self, packet))
        elif kind == "heartbeat" and self._beats:
            await self.write(Up(heartbeat=agent_pb2.Heartbeat()))
        else:
            self.arrived[packet.session_id][kind].put_nowait(packet)


def hello(*agents: str, commander_id: str, slots: int = 4, **more: Any) -> agent_pb2.Hello:
    fields: dict[str, Any] = {
        "commander_id": commander_id,
        "instance": unique("instance"),
        "agents": [agent_pb2.AgentOffer(name=name) for name in agents],
        "slots": slots,
        "protocol_version": 1,
    }
    return agent_pb2.Hello(**{**fields, **more})


@contextlib.asynccontextmanager
async def opened_link(
    address: str, *, token: str = "", beats: bool = True, reads: bool = True, options: Options = ()
) -> AsyncIterator[Link]:
    """A stream on which nothing was said yet."""
    async with dialled(address, options=options) as channel:
        call: Any = channel.stream_stream(LINK_METHOD)(metadata=bearing(token))
        link = Link(call, beats=beats, reads=reads)
        try:
            yield link
        finally:
            await link.close()


@contextlib.asynccontextmanager
async def linked(
    address: str, *agents: str, token: str = "", beats: bool = True, **more: Any
) -> AsyncIterator[Link]:
    """A commander that was welcomed."""
    async with opened_link(address, token=token, beats=beats) as link:
        await link.greet(*agents, **more)
        yield link


# --- in a process of its own -----------------------------------------------------------------------------


class CommanderProcess:
    """A commander that answers each Start with one word and goes on running it, until somebody ends it."""

    def __init__(self, address: str, commander_id: str, agent: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, address, commander_id, agent],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "linked\n"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def commander_process(address: str, commander_id: str, agent: str) -> Iterator[CommanderProcess]:
    process = CommanderProcess(address, commander_id, agent)
    try:
        yield process
    finally:
        process.close()


async def _run_until_killed(address: str, commander_id: str, agent: str) -> None:
    async with linked(address, agent, commander_id=commander_id) as link:
        print("linked", flush=True)
        while True:
            await (await link.started()).say("token")


def _main(argv: Sequence[str]) -> None:
    address, commander_id, agent = argv
    asyncio.run(_run_until_killed(address, commander_id, agent))


if __name__ == "__main__":
    _main(sys.argv[1:])
