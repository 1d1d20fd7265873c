"""A real TCP proxy on a free port that does to connections what networks do: cut, stall, swallow, crumble, delay.

`there` is the way towards the target, `back` the way from it. What a connection has lost on a way it never makes up
for: nothing more goes that way, as with a middlebox that has forgotten it, and only a new connection helps.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

_CHUNK_BYTES = 65_536
# Reset by closing: nothing lingers.
_RESET = struct.pack("ii", 1, 0)
_TRICKLE_BYTES_MAX = 12
_TRICKLE_PAUSE_S = 0.001
_SPLIT_BYTES_MAX = 1_400

# pass: everything goes through; stall: nothing is read any more, so both ends feel back-pressure;
# blackhole: everything is read and nothing arrives, without a word to either end; trickle: a few bytes at a time,
# slowly; split: everything at once, in segments of odd sizes.
Mode = Literal["pass", "stall", "blackhole", "trickle", "split"]
Way = Literal["there", "back"]
WAYS: tuple[Way, Way] = ("there", "back")
Dial = Callable[[], Awaitable[socket.socket]]


class TcpProxy:
    """Between whoever connects to `address` and its target."""

    def __init__(self, dial: Dial, idle_drop_s: float | None) -> None:
        self._dial = dial
        self._idle_drop_s = idle_drop_s
        self._connections: set[_Connection] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._sizes = random.Random(1)
        self.modes: dict[Way, Mode] = dict.fromkeys(WAYS, "pass")
        self.passing: dict[Way, asyncio.Event] = {way: asyncio.Event() for way in WAYS}
        # What is read goes on so much later, each way.
        self.delay_s = 0.0
        self.dropped = 0  # connections that were idle for too long
        self.accepted = 0
        # Bound and never listening: nobody else gets the port while the listener is gone.
        self._port = _bound(0)
        self.address = f"127.0.0.1:{self._port.getsockname()[1]}"
        self.set("pass")

    def __repr__(self) -> str:
        listening = "listening" if self._listener is not None else "gone"
        return f"<TcpProxy {self.address} {listening}, {self.modes}, {len(self._connections)} connections>"

    @property
    def carried(self) -> list[tuple[tuple[int, int], int, str]]:
        """Of each connection: the ports of who came and of where it came to, the port by which it goes on to the
        target, and the ways that it has lost."""
        return [connection.ports for connection in self._connections]

    def set(self, mode: Mode, *ways: Way) -> None:
        """Changes what becomes of bytes from now on, on connections that exist and on new ones. Both ways unless one
        is named: `set("blackhole", "back")` makes connections half open."""
        for way in ways or WAYS:
            self.modes[way] = mode
            if mode == "blackhole":
                for connection in self._connections:
                    connection.lost.add(way)
            if mode == "stall":
                self.passing[way].clear()
            else:
                self.passing[way].set()

    def cut(self) -> None:
        """Resets every connection there is."""
        for connection in list(self._connections):
            connection.reset()

    def cut_one(self, choice: random.Random) -> None:
        """Resets one of the connections."""
        if self._connections:
            choice.choice(sorted(self._connections, key=lambda each: each.number)).reset()

    async def open_port(self) -> None:
        """Listens, on the same port as ever."""
        port = _bound(self._port.getsockname()[1])
        self._listener = await asyncio.start_server(self._carry, sock=port)

    def close_port(self) -> None:
        """Takes the port away, and every connection with it: who comes is refused."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.cut()

    async def close(self) -> None:
        self.close_port()
        self.set("pass")
        self._port.close()
        if self._carrying:
            await asyncio.wait(self._carrying)

    def segments(self, data: bytes, mode: Mode) -> list[bytes]:
        """What was read, as it is to be written."""
        most = {"trickle": _TRICKLE_BYTES_MAX, "split": _SPLIT_BYTES_MAX}.get(mode)
        if most is None:
            return [data]
        cut: list[bytes] = []
        at = 0
        while at < len(data):
            size = self._sizes.randint(1, most)
            cut.append(data[at : at + size])
            at += size
        return cut

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        try:
            there = await asyncio.open_connection(sock=await self._dial())
        except OSError:
            writer.transport.abort()
            return
        self.accepted += 1
        connection = _Connection(self.accepted, (reader, writer), there)
        connection.lost.update(way for way in WAYS if self.modes[way] == "blackhole")
        self._connections.add(connection)
        watch = asyncio.ensure_future(self._drop_when_idle(connection))
        try:
            await asyncio.gather(
                self._pump(connection, "there", reader, there[1]),
                self._pump(connection, "back", there[0], writer),
            )
        finally:
            watch.cancel()
            self._connections.discard(connection)
            connection.abort()

    async def _pump(
        self, connection: "_Connection", way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await self._read(connection, way, source):
                if way not in connection.lost:
                    await self._write(way, data, sink)
            if way not in connection.lost:
                sink.write_eof()
        except OSError:
            # A reset goes the way that bytes would have gone.
            if way not in connection.lost:
                connection.reset()

    async def _read(self, connection: "_Connection", way: Way, source: asyncio.StreamReader) -> bytes:
        await self.passing[way].wait()
        data = await source.read(_CHUNK_BYTES)
        connection.moved_at = asyncio.get_running_loop().time()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return data

    async def _write(self, way: Way, data: bytes, sink: asyncio.StreamWriter) -> None:
        for segment in self.segments(data, self.modes[way]):
            await self.passing[way].wait()
            sink.write(segment)
            await sink.drain()
            if self.modes[way] == "trickle":
                await asyncio.sleep(_TRICKLE_PAUSE_S)

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

    def __init__(self, number: int, *ends: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._ends = ends
        self.number = number
        # Ways on which nothing arrives any more.
        self.lost: set[Way] = set()
        self.moved_at = asyncio.get_running_loop().time()

    @property
    def ports(self) -> tuple[tuple[int, int], int, str]:
        (_, near), (_, far) = self._ends
        came, here = near.get_extra_info("peername")[1], near.get_extra_info("sockname")[1]
        return (came, here), far.get_extra_info("sockname")[1], ", ".join(sorted(self.lost))

    def abort(self) -> None:
        for _, writer in self._ends:
            writer.transport.abort()

    def reset(self) -> None:
        """As `abort`, and both ends hear of it as a reset."""
        for _, writer in self._ends:
            with contextlib.suppress(OSError):  # closed meanwhile
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort()


def _bound(port: int) -> socket.socket:
    """A socket on the port; several may be bound to it, and one of them listen."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    bound.setblocking(False)
    return bound


def dialling_tcp(target: str) -> Dial:
    """How to reach HOST:PORT from here."""
    host, port = target.rsplit(":", 1)

    async def dial() -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, (host, int(port)))
        except BaseException:
            made.close()
            raise
        return made

    return dial


@contextlib.asynccontextmanager
async def tcp_proxy(
    target: str, *, idle_drop_s: float | None = None, dial: Dial | None = None
) -> AsyncIterator[TcpProxy]:
    """A proxy to HOST:PORT. `idle_drop_s`: connections on which nothing moved for so long are dropped. `dial`: another
    way to reach the target."""
    proxy = TcpProxy(dial or dialling_tcp(target), idle_drop_s)
    await proxy.open_port()
    try:
        yield proxy
    finally:
        await proxy.close()
