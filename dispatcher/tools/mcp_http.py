"""An MCP server at an address: the SDK's transport, within the bounds that a process of ours has too."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

import anyio
import httpx2
from mcp.client import Transport
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from dispatcher.tools.bounded import BoundedTransport
from dispatcher.tools.mcp_asked import Asked, LeaveError, listing_is_long

# A server that takes longer to answer anything is waited for by its calls' own timeouts.
CONNECT_HTTP_S: Final = 10.0


@dataclass(frozen=True)
class Told:
    """Where the server is, and how much may come from it."""

    name: str
    url: str
    headers: Mapping[str, str]
    message_bytes_max: int
    listing_bytes_max: int


def transport(told: Told, gone: Callable[[str], None]) -> Transport:
    """For the SDK's Client. `gone` is told why the server is not to be talked to any more."""
    bounded = BoundedTransport(
        told.message_bytes_max,
        told.listing_bytes_max,
        lambda: gone(listing_is_long(told.listing_bytes_max, told.name)),
    )
    # Reading is bounded by each call's own timeout. No proxy or password of the environment: the settings say it all.
    client = httpx2.AsyncClient(
        headers=dict(told.headers),
        timeout=httpx2.Timeout(CONNECT_HTTP_S, read=None),
        transport=bounded,
        trust_env=False,
    )
    return _talking(told, client, gone)


@contextlib.asynccontextmanager
async def _talking(
    told: Told, client: httpx2.AsyncClient, gone: Callable[[str], None]
) -> AsyncIterator[tuple["_FromServer", "_ToServer"]]:
    async with (
        client,
        streamable_http_client(told.url, http_client=client, max_sse_event_size=told.message_bytes_max) as (
            from_server,
            to_server,
        ),
    ):
        asked = Asked()
        yield _FromServer(from_server, asked, gone), _ToServer(to_server, asked)


class _Reads(Protocol):
    async def receive(self) -> SessionMessage | Exception: ...
    async def aclose(self) -> None: ...


class _Writes(Protocol):
    async def send(self, item: SessionMessage, /) -> None: ...
    async def aclose(self) -> None: ...


class _FromServer:
    """What the server says, as the SDK reads it, until it asks too much: then there is nothing more."""

    def __init__(self, stream: _Reads, asked: Asked, gone: Callable[[str], None]) -> None:
        self._stream = stream
        self._asked = asked
        self._gone = gone

    @property
    def last_context(self) -> Context | None:
        """Whose doing the last message was; the SDK asks for it."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        message = await self._stream.receive()
        try:
            if isinstance(message, SessionMessage):
                self._asked.heard(message.message)
        except LeaveError as error:
            self._gone(str(error))
            raise anyio.EndOfStream from None
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()


class _ToServer:
    """What it is told. One thing is taken only when the server has read the one before, its answers included."""

    def __init__(self, stream: _Writes, asked: Asked) -> None:
        self._stream = stream
        self._asked = asked

    async def send(self, item: SessionMessage, /) -> None:
        await self._stream.send(item)
        self._asked.told(item.message)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()
