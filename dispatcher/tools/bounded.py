"""HTTP answers of bounded length, for the SDK of MCP, which reads a JSON answer whole, however long it is.

A stream of events has no length of its own; the SDK bounds each of its events. An answer that is compressed is refused:
a few kilobytes of it are gigabytes to whoever unpacks them, and none was asked for. And an answer that breaks is the
failure of its own request: the SDK would end all that are under way.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx2

# The code of an error that stands for an answer which broke; none of the protocol's.
BROKEN: Final = -32050
LISTING: Final = "tools/list"
# A request for tools is shorter.
_HEAD_BYTES: Final = 4_096


class BoundedTransport(httpx2.AsyncHTTPTransport):
    """As usual, but an answer that is no stream of events and longer than the limit breaks off; and so does a listing,
    stream or not, that is longer than its own, of which is told: reading it would hold up everybody."""

    def __init__(self, bytes_max: int, listing_bytes_max: int, on_long_listing: Callable[[], None]) -> None:
        super().__init__()
        self._bytes_max = bytes_max
        self._listing_bytes_max = min(bytes_max, listing_bytes_max)
        self._on_long_listing = on_long_listing

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "identity"
        try:
            response = await super().handle_async_request(request)
            await _require_plain(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise  # nobody is there: all that are under way learn of it
        except (httpx2.TransportError, httpx2.StreamError) as error:
            if request.method != "POST":
                raise
            return _failed(await request.aread(), str(error) or type(error).__name__)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        if await _lists(request):
            response.stream = _Bounded(response.stream, self._listing_bytes_max, self._on_long_listing)
        elif not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = _Bounded(response.stream, self._bytes_max)
        return response


async def _lists(request: httpx2.Request) -> bool:
    """Whether it asks for tools."""
    body = await request.aread()
    return LISTING.encode() in body[:_HEAD_BYTES] and json.loads(body).get("method") == LISTING


async def _require_plain(response: httpx2.Response) -> None:
    """Raises StreamError."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        await response.aclose()
        raise httpx2.StreamError(f"the answer is compressed ({encoding[:50]!r}), which was not asked for")


def _failed(request: bytes, why: str) -> httpx2.Response:
    """What a server would answer that knew of it."""
    number = json.loads(request).get("id")
    if number is None:
        return httpx2.Response(202)
    error = {"code": BROKEN, "message": " ".join(why.split())[:300]}
    return httpx2.Response(200, json={"jsonrpc": "2.0", "id": number, "error": error})


class _Bounded(httpx2.AsyncByteStream):
    def __init__(
        self, stream: httpx2.AsyncByteStream, bytes_max: int, on_long: Callable[[], None] = lambda: None
    ) -> None:
        self._stream = stream
        self._bytes_max = bytes_max
        self._on_long = on_long

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._bytes_max
        try:
            async for chunk in self._stream:
                left -= len(chunk)
                if left < 0:
                    self._on_long()
                    raise httpx2.StreamError(f"the answer is over {self._bytes_max:,} bytes")
                yield chunk
        except httpx2.TransportError as error:
            raise httpx2.StreamError(f"the answer broke off: {error}") from None

    async def aclose(self) -> None:
        await self._stream.aclose()
