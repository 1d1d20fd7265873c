"""One WebSocket connection: uvicorn's protocol, and a short way out for streams."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.http11 import Request

from dispatcher.edge.outlet import END_S, OUTLET, waiting_bytes

if TYPE_CHECKING:
    from dispatcher.edge.protocol import EdgeConfig

# A whole message of text, and the lengths that need more than one byte, as RFC 6455 has them.
_TEXT: Final = 0x81
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127


class SocketOutlet:
    """Messages of a WebSocket."""

    __slots__ = ("_protocol", "on_room")

    def __init__(self, protocol: "SocketProtocol") -> None:
        self._protocol = protocol
        self.on_room: set[Callable[[], None]] = set()

    @property
    def is_full(self) -> bool:
        return not self._protocol.writable.is_set()

    @property
    def waiting_bytes(self) -> int:
        return waiting_bytes(self._protocol.transport)

    @property
    def is_open(self) -> bool:
        protocol = self._protocol
        return not (protocol.close_sent or protocol.disconnected or protocol.transport.is_closing())

    def framed(self, data: bytes) -> bytes:
        """A message of text for each line."""
        return b"".join([message(line) for line in data.splitlines()])

    def write(self, frame: bytes) -> None:
        # Behind the closing handshake nothing may follow.
        if self.is_open:
            self._protocol.transport.write(frame)

    def close(self) -> None:
        self.end(1000, "")

    def end(self, code: int, reason: str) -> None:
        """Ends the connection with a code that says why; its peer has a moment to take what waits, and that."""
        self._protocol.end(code, reason)

    def cut(self) -> None:
        self._protocol.transport.abort()


def message(text: bytes) -> bytes:
    """A message as a server sends it: not masked, and not compressed."""
    length = len(text)
    if length < _LENGTH_16:
        head = bytes((_TEXT, length))
    elif length < 1 << 16:
        head = bytes((_TEXT, _LENGTH_16)) + length.to_bytes(2, "big")
    else:
        head = bytes((_TEXT, _LENGTH_64)) + length.to_bytes(8, "big")
    return head + text


class SocketProtocol(WebSocketsSansIOProtocol):
    """A connection after its upgrade."""

    def __init__(
        self, config: "EdgeConfig", server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._outlet = SocketOutlet(self)
        self._context = config.context
        self._handshake_s = config.limits.headers_s
        self._handshake: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._handshake = self.loop.call_later(self._handshake_s, self.transport.abort)

    def handle_connect(self, event: Request) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
        self._context.copy().run(super().handle_connect, event)
        if hasattr(self, "scope"):
            self.scope["extensions"][OUTLET] = self._outlet  # type: ignore[assignment]  # ASGI's place for it

    def end(self, code: int, reason: str) -> None:
        """As ASGI's close, which waits until the peer reads: but who is closed for not reading is to be told too."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.read_paused:
            # For the peer's answer to the close.
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(END_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
        super().connection_lost(exc)
        self._tell()

    def pause_writing(self) -> None:
        super().pause_writing()
        # Whatever it sends is answered, and be it a ping by a pong: who does not read is heard no more.
        if not self.close_sent:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()
        self._tell()

    def _tell(self) -> None:
        """Those who wait for room look again."""
        for tell in tuple(self._outlet.on_room):
            tell()
