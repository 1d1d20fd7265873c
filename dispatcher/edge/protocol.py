"""One HTTP connection: uvicorn's protocol, with the limits that it does not have, and a short way out for streams."""

import asyncio
import contextvars
import logging
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from dispatcher.edge.outlet import END_S, OUTLET, depart, waiting_bytes
from dispatcher.edge.sockets import SocketProtocol

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
)
_PROBLEM: Final = b'{"type":"about:blank","status":%d,"code":"%b","title":"%b","detail":%b}'
_BODY: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
)
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 2\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
)


class ConnectionLimits(NamedTuple):
    """`headers_s`: how long a request's head may take, from the connection's first moment or its own first byte;
    `idle_s`: how long a connection without a request stays; `message_bytes_max`: of a WebSocket; `ping_s`: how often it
    is pinged; `write_s`: how long a peer may take nothing of what it is sent."""

    connections_max: int
    header_bytes_max: int
    headers_s: float
    idle_s: int
    message_bytes_max: int
    ping_s: float
    write_s: float


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
            # The answer of one that reads slowly waits behind what it reads first.
            ws_ping_timeout=max(limits.ping_s, limits.write_s),
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
        # In which every request begins. What wakes a connection may be another one's task, and say who calls there.
        self.context = contextvars.copy_context()
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
        return waiting_bytes(self._protocol.transport)

    @property
    def is_open(self) -> bool:
        return not self._protocol.transport.is_closing()

    def framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    def write(self, frame: bytes) -> None:
        if self.is_open:
            self._protocol.transport.write(frame)

    def wake(self) -> None:
        """Lets the request's task look again: its `receive` returns."""
        self._protocol.cycle.message_event.set()

    def close(self) -> None:
        self._protocol.leave()

    def cut(self) -> None:
        self._protocol.transport.abort()


class EdgeProtocol(HttpToolsProtocol):
    """A connection. Too long or too slow a head ends it, so that nobody holds connections by saying nothing.

    A request may not be sent before the answer to the one before it has ended: then the connection ends behind that
    answer. Its answer may be a stream without end, and whoever waits behind it could not be seen to leave.
    """

    def __init__(
        self,
        config: EdgeConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._context = config.context
        self._outlet = ChunkOutlet(self)
        # Between the first byte of a head and its last; what is no body counts against its limit, then too.
        self._in_head = True
        self._head_bytes = 0
        self._partial_bytes = 0
        # Since the parser last made something of what came: a line may be long, and it keeps the whole of it.
        self._unread_bytes = 0
        # Nothing more is heard of this peer.
        self._is_deaf = False
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
        if self._is_deaf:
            return
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            # Even if it is no more than an empty line.
            self._await_head()
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._in_head:
            # Part of it is in the parser, that much at most.
            self._partial_bytes += len(data)
        if max(self._unread_bytes, self._partial_bytes) > self._limits.header_bytes_max:
            self._refuse_head()

    # --- what the parser has read ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {OUTLET: self._outlet}  # type: ignore[dict-item]  # ASGI's place for it
        self._unread_bytes = self._head_bytes = self._partial_bytes = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)
        # Else it came behind a body: nobody has a use for it.
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._partial_bytes = 0
        self._disarm()
        if self._is_deaf:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._is_deaf = True
            self.cycle.keep_alive = False
            return
        if self.parser.should_upgrade() and self._should_upgrade() and self._has_body():
            told = b'"a request for a WebSocket is a GET without a body"'
            self._refuse(
                _BODY, _PROBLEM % (400, b"invalid_request", b"The request is not as it should be", told)
            )
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        if not self._is_deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        if self._is_deaf:
            return
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:
            self._disarm()

    def _has_body(self) -> bool:
        names = {name for name, _ in self.headers}
        return self.parser.get_method() != b"GET" or bool(names & {b"content-length", b"transfer-encoding"})

    def _count_head(self, size: int) -> None:
        self._unread_bytes = 0
        self._head_bytes += size
        if self._head_bytes > self._limits.header_bytes_max:
            self._refuse_head()

    # --- what becomes of it ------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._context.copy().run(super()._start_asgi_task, cycle, app)

    def handle_websocket_upgrade(self) -> None:
        if not self._is_deaf:
            super().handle_websocket_upgrade()

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            # Closed behind its answer, for as long as that is being read.
            depart(self.transport, self._limits.write_s)
        elif self.cycle is not None and self.cycle.more_body:
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
        self._disarm()
        self._timer = self.loop.call_later(self._limits.headers_s, self.leave)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        """Ends the connection. Who does not take what waits is let go: it could stay as long as it likes."""
        self._disarm()
        if not self.transport.is_closing():
            depart(self.transport, END_S)

    def _refuse_head(self) -> None:
        if self._is_deaf:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # Behind the body of a request that is being answered: there is no place for a word about it.
            self._is_deaf = True
            self.transport.abort()
            return
        told = b'"the request\'s head has more than %d bytes"' % self._limits.header_bytes_max
        self._refuse(_TOO_LARGE, _PROBLEM % (431, b"headers_too_large", b"Headers too large", told))

    def _refuse(self, form: bytes, told: bytes) -> None:
        self._is_deaf = True
        self.transport.write(form % (len(told), told))
        self.leave()
