"""One HTTP connection: uvicorn's protocol, with the limits that it does not have, and a short way out for streams."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dispatcher.edge.outlet import END_S, OUTLET
from dispatcher.edge.sockets import SocketProtocol

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
)
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 2\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
)


class ConnectionLimits(NamedTuple):
    """`headers_s`: how long a request's head may take, from the connection's first moment or its own first byte;
    `idle_s`: how long a connection without a request stays; `message_bytes_max`: of a
    WebSocket; `ping_s`: how often it is pinged, and how long the answer may take."""

    connections_max: int
    header_bytes_max: int
    headers_s: float
    idle_s: int
    message_bytes_max: int
    ping_s: float


class EdgeConfig(Config):
    """uvicorn's settings, and ours."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            app,
            http=EdgeProtocol,
            ws=SocketProtocol,
            # A window for each connection would cost more memory than anything else of it.
            ws_per_message_deflate=False,
            ws_ping_interval=limits.ping_s,
            ws_ping_timeout=limits.ping_s,
            ws_max_size=limits.message_bytes_max,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=limits.idle_s,
            timeout_graceful_shutdown=END_S,
        )
        self.limits = limits
        self._tls = tls
        # It tells of each request that makes no sense, of each WebSocket with its query, and at the end of each stream
        # that it cuts. What fails is told by the app.
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)

    def load(self) -> None:
        super().load()
        self.ssl = self._tls


class ChunkOutlet:
    """The body of the response that a connection is sending, in chunks."""

    __slots__ = ("_protocol", "on_room")

    def __init__(self, protocol: "EdgeProtocol") -> None:
        self._protocol = protocol
        self.on_room: set[Callable[[], None]] = set()

    @property
    def is_full(self) -> bool:
        return self._protocol.flow.write_paused

    @property
    def waiting_bytes(self) -> int:
        return self._protocol.transport.get_write_buffer_size()

    @property
    def is_open(self) -> bool:
        return not self._protocol.transport.is_closing()

    def framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    def write(self, frame: bytes) -> None:
        self._protocol.transport.write(frame)

    def wake(self) -> None:
        """Lets the request's task look again: its `receive` returns."""
        self._protocol.cycle.message_event.set()

    def close(self) -> None:
        self._protocol.leave()

    def cut(self) -> None:
        self._protocol.transport.abort()


class EdgeProtocol(HttpToolsProtocol):
    """A connection. Too long or too slow a head ends it, so that nobody holds connections by saying nothing."""

    def __init__(
        self,
        config: EdgeConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._outlet = ChunkOutlet(self)
        self._in_head = True
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections_max:
            self._refuse(
                _FULL,
                b'{"type":"about:blank","status":503,"title":"Too many connections","code":"too_many_connections"}',
            )
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            end = data.find(b"\r\n\r\n")
            self._head_bytes += len(data) if end < 0 else end
            if self._head_bytes > self._limits.header_bytes_max:
                self._refuse_head()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {OUTLET: self._outlet}  # type: ignore[dict-item]  # ASGI's place for it
        if not self._in_head:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:
            self._disarm()

    def on_response_complete(self) -> None:
        if self.cycle is not None and self.cycle.more_body:
            # It was answered before it had said all. The rest is let go, but not for ever. Closed at once, the
            # connection would be reset, and its peer could not read the answer.
            self._disarm()
            self._timer = self.loop.call_later(END_S, self.leave)
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        self.leave()

    def resume_writing(self) -> None:
        super().resume_writing()
        for tell in tuple(self._outlet.on_room):
            tell()

    def _await_head(self) -> None:
        self._in_head = True
        self._disarm()
        self._timer = self.loop.call_later(self._limits.headers_s, self.leave)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        """Ends the connection. What its peer does not take soon is let go: it could stay as long as the peer likes."""
        self._disarm()
        if not self.transport.is_closing():
            self.transport.close()
            self.loop.call_later(END_S, self.transport.abort)

    def _refuse_head(self) -> None:
        told = b'{"type":"about:blank","status":431,"title":"Headers too large","code":"headers_too_large","detail":'
        told += b'"the request\'s head has more than %d bytes"}' % self._limits.header_bytes_max
        self._refuse(_TOO_LARGE, told)

    def _refuse(self, form: bytes, told: bytes) -> None:
        self.transport.write(form % (len(told), told))
        self.leave()
