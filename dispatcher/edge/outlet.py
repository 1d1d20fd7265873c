"""The way out of a connection, for whoever has something to say many times a second: written at once, without a task
and without waiting. One for chunks of an HTTP response, one for messages of a WebSocket."""

from collections.abc import Callable
from typing import Final, Protocol

# How long a connection that is to end may take for what it still has.
END_S: Final = 2
# Where a request's scope has its connection's outlet.
OUTLET: Final = "chatstream.outlet"


class Outlet(Protocol):
    """What a connection has for its streams."""

    # Called when there is room again after `is_full`.
    on_room: set[Callable[[], None]]

    @property
    def is_full(self) -> bool:
        """The peer takes less than it is given: what is written now waits here."""

    @property
    def waiting_bytes(self) -> int:
        """Written and not taken yet, by the peer or the kernel."""

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
