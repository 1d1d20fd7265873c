"""How a stream ends while its writer waits for a dispatcher that does not read: told in words that help."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from asynchronous import PATIENCE_S, eventually
from southwest.ai.agent.v1 import agent_pb2 as pb
from southwest.ai.agent.v1 import agent_pb2_grpc
from tcp_proxy import tcp_proxy

from commander import dialing
from commander import stream as stream_module
from commander.settings import Settings
from commander.stream import Stream, StreamEnded

# More than a stream takes in that is not read.
PIECE = pb.UpstreamPacket(content=pb.ContentChunk(text="x" * 10_000))
PIECES = 100

Behaviour = Callable[[Any], Awaitable[None]]


class Deaf(agent_pb2_grpc.AgentInteractionServicer):
    """Reads the first packet and no more, and then does as it is told."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def ChatStream(  # type: ignore[override]  # noqa: N802 - the contract's name, and grpc.aio's shape
        self, _: Any, context: Any
    ) -> None:
        await context.read()
        await self._behaviour(context)


@contextlib.asynccontextmanager
async def stream_by(address: str) -> AsyncIterator[Stream]:
    channel = dialing.dial(Settings(dispatcher=address))
    stream = Stream(channel, None, asyncio.get_running_loop().time)
    try:
        yield stream
    finally:
        await stream.close()
        await channel.close()


@contextlib.asynccontextmanager
async def dispatching(behaviour: Behaviour) -> AsyncIterator[str]:
    # As a dispatcher does, it does not mind a commander's pings.
    pings = (
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0), *pings])
    agent_pb2_grpc.add_AgentInteractionServicer_to_server(Deaf(behaviour), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def stream_to(behaviour: Behaviour) -> AsyncIterator[Stream]:
    async with dispatching(behaviour) as address, stream_by(address) as stream:
        yield stream


async def write(stream: Stream) -> None:
    for _ in range(PIECES):
        await stream.write(PIECE)
    await asyncio.get_running_loop().create_future()


async def read(stream: Stream) -> None:
    while True:
        packet = await stream.read()
        if packet.HasField("goodbye"):
            raise StreamEnded(grpc.StatusCode.UNAVAILABLE, packet.goodbye.reason)


async def refuse(context: Any) -> None:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much of it")


async def end(_: Any) -> None:
    pass


async def say_goodbye(context: Any) -> None:
    await context.write(pb.DownstreamPacket(goodbye=pb.Goodbye(reason="an upgrade")))
    await refuse(context)


async def say_much(context: Any) -> None:
    for _ in range(3):
        await context.write(pb.DownstreamPacket(ack=pb.Ack(sequence=1)))
    await refuse(context)


@pytest.mark.parametrize("behaviour", [refuse, end])
def test_the_end_of_the_call_is_told_in_words_of_its_own(behaviour: Behaviour) -> None:
    async def converse() -> BaseException:
        async with stream_to(behaviour) as stream:
            return await stream.converse(read(stream), write(stream))

    ended = asyncio.run(converse())
    assert isinstance(ended, StreamEnded)
    assert (ended.code, ended.why) in (
        (
            grpc.StatusCode.UNAVAILABLE,
            "the dispatcher ended the stream while this side was writing; its log says why",
        ),
        # When the status is faster than the failure of the write.
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much of it"),
        (grpc.StatusCode.OK, ""),
    )


def test_the_last_word_of_the_other_side_is_heard() -> None:
    async def converse() -> BaseException:
        async with stream_to(say_goodbye) as stream:
            return await stream.converse(read(stream), write(stream))

    ended = asyncio.run(converse())
    assert isinstance(ended, StreamEnded)
    assert (ended.code, ended.why) == (grpc.StatusCode.UNAVAILABLE, "an upgrade")


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, who hides what is forgotten only by and by."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def hang(_: Any) -> None:
    await asyncio.get_running_loop().create_future()


async def converse(stream: Stream) -> None:
    raise await stream.converse(read(stream), write(stream))


async def converse_until_it_is_too_silent(stream: Stream) -> None:
    async def listen() -> None:
        raise StreamEnded(grpc.StatusCode.UNAVAILABLE, "nothing heard of it")

    raise await stream.converse(read(stream), write(stream), listen())


async def greet(stream: Stream) -> None:
    await stream.greet(pb.UpstreamPacket(), PATIENCE_S, asyncio.Event())


async def greet_in_vain(stream: Stream) -> None:
    assert await stream.greet(pb.UpstreamPacket(), 0.1, asyncio.Event()) is None


@pytest.mark.parametrize(
    ("behaviour", "use"),
    [
        (refuse, converse),
        (end, converse),
        (say_goodbye, converse),
        (hang, converse_until_it_is_too_silent),
        (refuse, greet),
        (end, greet),
        (hang, greet_in_vain),
    ],
)
def test_nothing_remembers_a_stream_that_is_over(
    behaviour: Behaviour, use: Callable[[Stream], Awaitable[None]]
) -> None:
    """Its connection is open for as long as anything does."""

    async def begin_to_end() -> "weakref.ref[Stream]":
        async with stream_to(behaviour) as stream:
            with contextlib.suppress(StreamEnded):
                await use(stream)
            return weakref.ref(stream)

    with uncollected():
        over = asyncio.run(begin_to_end())
        assert over() is None


def test_what_nobody_has_read_holds_no_connection() -> None:
    """Once a write has failed gRPC takes the call for over, and yet keeps it until all that came is read."""

    async def write_in_vain(address: str) -> None:
        async with stream_by(address) as stream:
            with pytest.raises(StreamEnded):
                await write(stream)

    async def begin_to_end() -> None:
        async with dispatching(say_much) as address, tcp_proxy(address) as proxy:
            await write_in_vain(proxy.address)

            async def look() -> int:
                gc.collect()
                return len(proxy.carried)

            await eventually(look, (0).__eq__)

    asyncio.run(begin_to_end())


def test_a_writer_beside_whom_nobody_reads_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than the patience below.
    monkeypatch.setattr(stream_module, "COME_BACK_S", PATIENCE_S + 5)

    async def greet() -> None:
        channel = dialing.dial(Settings(dispatcher="127.0.0.1:1"))
        stream = Stream(channel, None, asyncio.get_running_loop().time)
        with pytest.raises(StreamEnded, match="UNAVAILABLE"):
            await stream.greet(pb.UpstreamPacket(), PATIENCE_S, asyncio.Event())
        await channel.close()

    asyncio.run(greet())
