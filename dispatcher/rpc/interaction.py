"""AgentInteraction.ChatStream: one commander's link.

One reader and one writer per stream. The reader always reads; bytes become packets and go to the hub at once.
The writer runs only while there is something to write: what gathers while one write is under way goes out as
one batch, urgent signals first. How a link ends is decided by the router alone (`CloseLink`); this shell turns
that into a gRPC status, in one place.
"""

# grpc's handler types take parameters in the stubs alone.
from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from grpc import aio
from southwest.ai.agent.v1 import agent_pb2

from dispatcher.auth import hear_first
from dispatcher.core.events import HelloReceived, LinkLost, LinkOpened, PacketsReceived, SignalDropped
from dispatcher.core.packets import Hello, Signal, Start, Stop, Welcome
from dispatcher.hub import Hub
from dispatcher.metrics import Metrics
from dispatcher.rpc import codec
from dispatcher.rpc.methods import STREAM_GONE, abort

log = logging.getLogger(__name__)

# Room for the envelope of a batch around the packets that are counted.
_BATCH_OVERHEAD_BYTES = 64
_PACKET_OVERHEAD_BYTES = 8
# The news that a call was cancelled comes so long after the end of what can be read, at most, on a busy machine.
_CANCELLED_BY_S = 0.5


# Stops of one link that are remembered.
_STOPPED_MAX = 1_024


class Closing(NamedTuple):
    status: str
    message: str


class StreamLimits(NamedTuple):
    """`unwritten_bytes_max`: what may wait for a commander that doesn't read; `flush_s`: how long a link that
    is being closed may take to write what waits."""

    max_message_bytes: int
    unwritten_bytes_max: int
    flush_s: float


class Stream:
    """The way down one link, and the news that it is to be closed.

    `overflowed` is told how many bytes wait when that is too many, `oversized` of a signal that is larger than a
    message may be, and so is not sent: its session, attempt and bytes.
    """

    def __init__(
        self,
        context: Any,
        down: codec.Downstream,
        limits: StreamLimits,
        overflowed: Callable[[int], None],
        oversized: Callable[[str, int, int], None],
    ) -> None:
        self.closing: asyncio.Future[Closing] = asyncio.get_running_loop().create_future()
        self._context = context
        self._down = down
        self._limits = limits
        self._overflowed = overflowed
        self._oversized = oversized
        self._urgent: deque[agent_pb2.DownstreamPacket] = deque()
        self._waiting: deque[agent_pb2.DownstreamPacket] = deque()
        self._waiting_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        # A program that knows the fixed table alone can't read a batch; whoever was welcomed can.
        self._may_batch = False
        # Between its Hello and its Welcome, a commander is told nothing.
        self._awaits_welcome = False
        # Stops that went ahead of all that waits elsewhere to be kept; their Start may still come. Oldest first.
        self._stopped: dict[tuple[str, int], None] = {}

    def await_welcome(self) -> None:
        """Its Hello has come: the Welcome goes out first, whatever else is told meanwhile."""
        self._awaits_welcome = True

    def send(self, signal: Signal, *, urgent: bool) -> None:
        who = (signal.session_id, signal.attempt)
        if isinstance(signal.body, Start) and who in self._stopped:
            return
        packet = self._down.packet(signal, int(time.time() * 1000))
        size = packet.ByteSize()
        if size > self._limits.max_message_bytes:
            # Written, it would end the stream: with all its sessions, and again as soon as the commander is back.
            self._oversized(*who, size)
            return
        if isinstance(signal.body, Welcome):
            # The contract: alone and first, though a stop or what is owed waits with it.
            self._urgent.appendleft(packet)
            self._awaits_welcome = False
        else:
            if isinstance(signal.body, Stop):
                self._unsay_start(packet)
                self._stopped[who] = None
                if len(self._stopped) > _STOPPED_MAX:
                    del self._stopped[next(iter(self._stopped))]
            (self._urgent if urgent else self._waiting).append(packet)
        self._waiting_bytes += size + _PACKET_OVERHEAD_BYTES
        if self._waiting_bytes > self._limits.unwritten_bytes_max:
            self._urgent.clear()
            self._waiting.clear()
            self._overflowed(self._waiting_bytes)
            self._waiting_bytes = 0
        elif self._writer is None and not self._awaits_welcome:
            self._writer = asyncio.ensure_future(self._write())

    def _unsay_start(self, stop: agent_pb2.DownstreamPacket) -> None:
        """What a stop would overtake is not started at all."""
        for packet in self._waiting:
            if (
                packet.HasField("start")
                and packet.session_id == stop.session_id
                and packet.attempt == stop.attempt
            ):
                self._waiting.remove(packet)
                self._waiting_bytes -= packet.ByteSize() + _PACKET_OVERHEAD_BYTES
                return

    def close(self, status: str, message: str) -> None:
        if not self.closing.done():
            self.closing.set_result(Closing(status, message))

    async def flush(self) -> None:
        """Waits until what is to be sent was written, for so long as the limits allow."""
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=self._limits.flush_s)

    def abandon(self) -> None:
        """Nothing more can be written: the stream is gone."""
        self._urgent.clear()
        self._waiting.clear()
        if self._writer is not None:
            self._writer.cancel()

    async def _write(self) -> None:
        try:
            while self._urgent or self._waiting:
                await self._context.write(self._next().SerializeToString())
        except STREAM_GONE as error:
            # The stream ended under the write; the reader sees the same and says so to the router.
            log.debug("a write ended with its stream: %s", error)
            self._urgent.clear()
            self._waiting.clear()
        finally:
            self._writer = None

    def _next(self) -> agent_pb2.DownstreamPacket:
        """What has gathered, as one packet: bare when it is alone, else a batch under the size limit."""
        packets: list[agent_pb2.DownstreamPacket] = []
        room = self._limits.max_message_bytes - _BATCH_OVERHEAD_BYTES
        while self._urgent or self._waiting:
            source = self._urgent or self._waiting
            size = source[0].ByteSize() + _PACKET_OVERHEAD_BYTES
            if packets and (size > room or not self._may_batch):
                break
            room -= size
            self._waiting_bytes -= size
            packets.append(source.popleft())
            if packets[-1].HasField("welcome"):
                self._may_batch = True
                break
        if len(packets) == 1:
            return packets[0]
        return agent_pb2.DownstreamPacket(batch=agent_pb2.DownstreamBatch(packets=packets))


class Interaction:
    """The service. `mint` makes ids; `links_max` bounds how many links there are at once."""

    def __init__(
        self,
        hub: Hub,
        down: codec.Downstream,
        metrics: Metrics,
        mint: Callable[[str], str],
        limits: StreamLimits,
        links_max: int,
    ) -> None:
        self._hub = hub
        self._down = down
        self._metrics = metrics
        self._mint = mint
        self._limits = limits
        self._links_max = links_max
        self._links = 0

    async def chat_stream(self, _: object, context: Any) -> None:
        """Carries one link from its first packet to its status."""
        await _send_headers(context)
        if self._links >= self._links_max:
            await hear_first(context)
            await abort(
                context,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"links_max is {self._links_max}, and so many links are open; try another dispatcher",
            )
        link_id = self._mint("link")
        stream = Stream(
            context,
            self._down,
            self._limits,
            lambda size: self._lost(
                link_id, f"it does not read: {size} bytes wait for it", "RESOURCE_EXHAUSTED"
            ),
            lambda session_id, attempt, size: self._too_large(link_id, session_id, attempt, size),
        )
        self._links += 1
        self._hub.attach(link_id, stream)
        self._hub.submit(LinkOpened(link_id, context.peer(), self._mint("s")))
        reader = asyncio.ensure_future(self._read(link_id, context, stream))
        try:
            closing = await self._ended(link_id, reader, stream)
            await stream.flush()
        except asyncio.CancelledError:
            self._lost(link_id, "the stream was cancelled or its connection lost")
            raise
        finally:
            self._links -= 1
            self._hub.detach(link_id)
            stream.abandon()
            reader.cancel()
        if closing.status != "OK":
            await abort(context, grpc.StatusCode[closing.status], closing.message)

    async def _ended(self, link_id: str, reader: asyncio.Task[None], stream: Stream) -> Closing:
        """Waits for the link's end: from here (`closing`), or from the other side (`reader`)."""
        ends: set[asyncio.Future[Any]] = {reader, stream.closing}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not stream.closing.done():
            error = reader.exception()
            if isinstance(error, codec.WireError):
                self._lost(link_id, str(error), "INVALID_ARGUMENT")
            elif error is not None and not isinstance(error, STREAM_GONE):
                log.error("a link's reader failed", exc_info=error, extra={"link": link_id})
                self._lost(link_id, "the dispatcher failed to read this stream; its log says why", "INTERNAL")
            else:
                if not self._may_half_close(link_id):
                    # A cancelled call and a half-close look alike to the reader; the former raises here soon.
                    await asyncio.wait([stream.closing], timeout=_CANCELLED_BY_S)
                self._hub.submit(LinkLost(link_id, half_closed=True, why="the commander half-closed"))
        return await stream.closing

    def _may_half_close(self, link_id: str) -> bool:
        """Whether this is where the link was to end."""
        router = self._hub.router
        link = router.fleet.links.get(link_id)
        if link is None or link.goodbye:
            return True
        session = router.sessions.get(link.session_id) if link.minimal else None
        return session is not None and (session.finishing or not session.live)

    def _too_large(self, link_id: str, session_id: str, attempt: int, size: int) -> None:
        limit = self._limits.max_message_bytes
        if session_id:
            self._hub.submit(SignalDropped(session_id, attempt, size, limit))
        else:
            # About the link itself, e.g. the Welcome for thousands of resumes: nothing goes on without it.
            told = f"a signal to it would have {size} bytes; max_message_bytes is {limit}"
            self._lost(link_id, told, "RESOURCE_EXHAUSTED")

    def _lost(self, link_id: str, why: str, status: str = "UNAVAILABLE") -> None:
        self._hub.submit(LinkLost(link_id, half_closed=False, why=why, status=status))

    async def _read(self, link_id: str, context: Any, stream: Stream) -> None:
        submit, metrics = self._hub.submit, self._metrics
        while (data := await context.read()) is not aio.EOF:
            received = codec.upstream(data)
            if isinstance(received, Hello):
                stream.await_welcome()
                submit(HelloReceived(link_id, received))
            else:
                with metrics.processing(len(received)):
                    submit(PacketsReceived(link_id, received))


async def _send_headers(context: Any) -> None:
    """By themselves: with a first write that is given up they would be half sent, and the status after it would fail
    for sending them again. Then its caller would wait for that for ever."""
    try:
        await context.send_initial_metadata(())
    except STREAM_GONE:
        raise asyncio.CancelledError from None


def handlers(interaction: Interaction) -> grpc.GenericRpcHandler:
    """The service with bytes on both sides, so that what is no packet gets an answer of ours."""
    service = agent_pb2.DESCRIPTOR.services_by_name["AgentInteraction"]
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ChatStream": grpc.stream_stream_rpc_method_handler(interaction.chat_stream)
    }
    return grpc.method_handlers_generic_handler(service.full_name, methods)
