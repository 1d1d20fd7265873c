"""A real TCP proxy on a free port that does to connections what networks do: cut, stall, swallow, drop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

_CHUNK_BYTES = 65_536

# pass: everything goes through; stall: nothing is read any more, so both ends feel back-pressure;
# blackhole: everything is read and nothing arrives, without a word to either end.
Mode = Literal["pass", "stall", "blackhole"]


class TcpProxy:
    """Between whoever connects to `address` and its target."""

    def __init__(self, host: str, port: int, idle_drop_s: float | None) -> None:
        self._target = (host, port)
        self._idle_drop_s = idle_drop_s
        self._mode: Mode = "pass"
        self._passing = asyncio.Event()
        self._passing.set()
        self._connections: set[_Connection] = set()
        self.address = ""
        self.dropped = 0  # connections that were idle for too long

    def set(self, mode: Mode) -> None:
        """Changes what becomes of bytes from now on, on connections that exist and on new ones."""
        self._mode = mode
        if mode == "stall":
            self._passing.clear()
        else:
            self._passing.set()

    def cut(self) -> None:
        """Resets every connection there is."""
        for connection in list(self._connections):
            connection.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        try:
            there = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection((reader, writer), there)
        self._connections.add(connection)
        watch = asyncio.ensure_future(self._drop_when_idle(connection))
        try:
            await asyncio.gather(
                self._pump(connection, reader, there[1]), self._pump(connection, there[0], writer)
            )
        finally:
            watch.cancel()
            self._connections.discard(connection)
            connection.abort()

    async def _pump(
        self, connection: "_Connection", source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self._passing.wait()
                data = await source.read(_CHUNK_BYTES)
                connection.moved_at = asyncio.get_running_loop().time()
                if self._mode == "blackhole":
                    if data:
                        continue
                    return
                if not data:
                    sink.write_eof()
                    return
                sink.write(data)
                await sink.drain()

    async def _drop_when_idle(self, connection: "_Connection") -> None:
        if self._idle_drop_s is None:
            return
        loop = asyncio.get_running_loop()
        while (left_s := connection.moved_at + self._idle_drop_s - loop.time()) > 0:  # noqa: ASYNC110 - the time itself is waited for
            await asyncio.sleep(left_s)
        self.dropped += 1
        connection.abort()


class _Connection:
    """Two sockets, one on each side, and when bytes last moved between them."""

    def __init__(self, *ends: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._ends = ends
        self.moved_at = asyncio.get_running_loop().time()

    def abort(self) -> None:
        for _, writer in self._ends:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def tcp_proxy(target: str, *, idle_drop_s: float | None = None) -> AsyncIterator[TcpProxy]:
    """A proxy to HOST:PORT. `idle_drop_s`: connections on which nothing moved for so long are dropped."""
    host, port = target.rsplit(":", 1)
    proxy = TcpProxy(host, int(port), idle_drop_s)
    server = await asyncio.start_server(proxy.carry, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.set("pass")
        proxy.cut()
        await server.wait_closed()
