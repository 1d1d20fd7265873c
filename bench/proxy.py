"""A TCP proxy in the process of the bench, which can reset the connections through it."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Final

_CHUNK_BYTES: Final = 65_536
# To linger for no time at all: closing such a socket sends a reset, not a farewell.
_RESETS: Final = struct.pack("ii", 1, 0)


class Proxy:
    """Between whoever connects to `address` and one server."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._ends: set[asyncio.StreamWriter] = set()
        self.address = ""

    def cut(self) -> int:
        """Resets every connection there is. When that was, nanoseconds."""
        cut_ns = time.monotonic_ns()
        for end in tuple(self._ends):
            end.transport.abort()
        return cut_ns

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        host, port = self._target.rsplit(":", 1)
        there_reader, there = await asyncio.open_connection(host, int(port))
        ends = {writer, there}
        for end in ends:
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
        self._ends |= ends
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, there))
                tasks.create_task(_pump(there_reader, writer))
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """One direction. Its end is the other's too: nobody here closes but half a connection."""
    with contextlib.suppress(OSError):
        while data := await source.read(_CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
    sink.transport.abort()


@contextlib.asynccontextmanager
async def proxy(target: str) -> AsyncIterator[Proxy]:
    """A proxy to HOST:PORT on a free port."""
    made = Proxy(target)
    server = await asyncio.start_server(made.carry, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        made.cut()
        await server.wait_closed()
