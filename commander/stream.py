"""One ChatStream as the commander holds it: bytes out, packets in, and an ear for silence.

One task reads and one writes, because grpc.aio allows no more, and neither is cancelled inside gRPC: that would
cancel the whole RPC, and what comes back from it later would find its loop gone. It is the call that is
cancelled, and they come back by themselves.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander.racing import at_most

# What is inside gRPC has this long to come back from a call that was cancelled. It takes about a millisecond.
COME_BACK_S = 1.0

METHOD = "/southwest.ai.agent.v1.AgentInteraction/ChatStream"

# What grpc.aio says when a write fails because the call is over. It then takes this for the call's status too, and the
# true one, which is on its way, is lost.
CORE_WORDS = "Internal error from Core"

Tasks = tuple["asyncio.Future[Any]", ...]


class StreamEnded(Exception):  # noqa: N818 - named for what happened
    """The stream is over. `code` is its gRPC status; OK only when the other side ended it so."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(f"{code.name}: {why}" if why else code.name)
        self.code = code
        self.why = why


class StreamCut(StreamEnded):
    """It ended while this side was writing, and the true status is lost inside gRPC."""

    def __init__(self) -> None:
        why = "the dispatcher ended the stream while this side was writing; its log says why"
        super().__init__(grpc.StatusCode.UNAVAILABLE, why)


class Stream:
    """One call of ChatStream. Used by one task for reading and one for writing."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None, now: Callable[[], float]) -> None:
        metadata = (("authorization", f"Bearer {token}"),) if token else None
        self._call: Any = channel.stream_stream(METHOD)(metadata=metadata)
        # Read by this and never by `call.read`, which reads nothing more once a write has failed. A call that has ended
        # with messages unread stays for ever, and holds its connection, whatever is cancelled, closed or collected.
        self._messages: AsyncIterator[bytes] = aiter(self._call)
        self._now = now
        self._is_writing = False
        self._is_reading = False
        self._has_read_all = asyncio.Event()
        # When something was last received.
        self.heard_at = now()

    async def read(self) -> pb.DownstreamPacket:
        """The next packet; StreamEnded when there is none."""
        self._is_reading = True
        try:
            raw = await anext(self._messages, None)
        except grpc.aio.AioRpcError as error:
            self._has_read_all.set()
            raise _ended(error.code(), error.details()) from None
        finally:
            self._is_reading = False
        if raw is None:
            self._has_read_all.set()
            raise await self.ending()
        self.heard_at = self._now()
        try:
            return pb.DownstreamPacket.FromString(raw)
        except DecodeError:
            raise StreamEnded(
                grpc.StatusCode.INTERNAL, "the dispatcher sent bytes that are no packet"
            ) from None

    async def write(self, packet: pb.UpstreamPacket) -> int:
        """Sends one message; how many bytes it had. Waits while the other side does not read."""
        raw = packet.SerializeToString()
        self._is_writing = True
        try:
            await self._call.write(raw)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except asyncio.InvalidStateError:  # so says grpc.aio when the call is over
            code, details = await self._status()
        else:
            return len(raw)
        finally:
            self._is_writing = False
        # The last thing that the other side said may tell more: whoever reads has the first word.
        if self._is_reading:
            await at_most(COME_BACK_S, self._has_read_all.wait())
        # Raised without a name, see `greet`.
        raise _ended(code, details)

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def ending(self) -> StreamEnded:
        """How the call ended; waits until it has."""
        return _ended(*await self._status())

    async def greet(
        self, hello: pb.UpstreamPacket, patience_s: float, given_up: asyncio.Event
    ) -> pb.DownstreamPacket | None:
        """Says Hello: the answer, or None when it took too long or was given up; the call is over then."""

        async def greet() -> pb.DownstreamPacket:
            await self.write(hello)
            return await self.read()

        greeting, giving_up = asyncio.ensure_future(greet()), asyncio.ensure_future(given_up.wait())
        both: Tasks = (greeting, giving_up)
        try:
            await asyncio.wait(both, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            giving_up.cancel()
            if greeting.done():
                return greeting.result()
            self._call.cancel()
            return None
        finally:
            await self._come_back(both)
            # An exception knows this frame; were the frame to know the exception, the call's connection would
            # stay open until the garbage collector comes by.
            del greeting, both

    async def converse(
        self,
        reading: Coroutine[Any, Any, None],
        writing: Coroutine[Any, Any, None],
        *others: Coroutine[Any, Any, None],
    ) -> BaseException:
        """Runs all until the first ends; then ends the call and the rest, and returns what that first one raised."""
        reader, writer = asyncio.ensure_future(reading), asyncio.ensure_future(writing)
        tasks: Tasks = (reader, writer, *map(asyncio.ensure_future, others))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._call.cancel()
            for task in tasks:
                if task is not reader and not (task is writer and self._is_writing):
                    task.cancel()
            await self._come_back(tasks)
        ended = [task.exception() for task in tasks if task in done and not task.cancelled()]
        raised = [error for error in ended if error is not None]
        return raised[0] if raised else StreamEnded(grpc.StatusCode.OK, "")

    def cancel(self) -> None:
        self._call.cancel()

    async def close(self) -> None:
        """Ends the call, and reads what nobody has read of it. Not while somebody reads."""
        self._call.cancel()
        await self._come_back((asyncio.ensure_future(self._read_rest()),))

    async def _read_rest(self) -> None:
        async for _ in self._messages:
            pass

    async def _status(self) -> tuple[grpc.StatusCode, str | None]:
        return await self._call.code(), await self._call.details()

    async def _come_back(self, tasks: Tasks) -> None:
        _, late = await asyncio.wait(tasks, timeout=COME_BACK_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ended(code: grpc.StatusCode, details: str | None) -> StreamEnded:
    is_cut = code is grpc.StatusCode.INTERNAL and details == CORE_WORDS
    return StreamCut() if is_cut else StreamEnded(code, details or "")
