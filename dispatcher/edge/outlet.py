"""The way out of a connection, for whoever has something to say many times a second: written at once, without a task
and without waiting. One for chunks of an HTTP response, one for messages of a WebSocket."""

import asyncio
import fcntl
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any, Final, Protocol

# How long a connection that is to end may take nothing of what it still has.
END_S: Final = 2
# Where a request's scope has its connection's outlet.
OUTLET: Final = "chatstream.outlet"


def waiting_bytes(transport: asyncio.Transport) -> int:
    """Written, and not taken by the peer: here, and in the kernel. One that reads a little at a time is seen to, though
    what waits here goes on in lumps."""
    waiting = transport.get_write_buffer_size()
    socket: Any = transport.get_extra_info("socket")
    if socket is None or sys.platform == "win32":
        return waiting
    try:
        (queued,) = struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):
        # It is closed.
        return waiting
    return waiting + int(queued)


def depart(transport: asyncio.Transport, patience_s: float) -> None:
    """Ends a connection. What waits is still taken, as long as its peer takes some of it every so often."""
    transport.close()
    before = waiting_bytes(transport)

    def look() -> None:
        nonlocal before
        if not transport.get_write_buffer_size():
            return
        now = waiting_bytes(transport)
        if now >= before:
            transport.abort()
            return
        before = now
        loop.call_later(patience_s, look)

    loop = asyncio.get_running_loop()
    loop.call_later(patience_s, look)


class Outlet(Protocol):
    """What a connection has for its streams."""

    # Called when there is room again after `is_full`.
    on_room: set[Callable[[], None]]

    @property
    def is_full(self) -> bool:
        """The peer takes less than it is given: what is written now waits here."""

    @property
    def waiting_bytes(self) -> int:
        """Written and not taken by the peer: see the function of this name."""

    @property
    def is_open(self) -> bool: ...

    def framed(self, data: bytes) -> bytes:
        """`data` as it goes out here; the same for all connections of this kind."""

    def write(self, frame: bytes) -> None:
        """Writes what `framed` has made."""

    def close(self) -> None:
        """Ends the connection; its peer has a moment to take what waits."""

    def cut(self) -> None:
        """Ends the connection without what still waits to be written."""
