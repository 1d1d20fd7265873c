"""HTTP answers of bounded length, for the SDK of MCP, which reads a JSON answer whole, however long it is.

A stream of events has no length of its own; the SDK bounds each of its events.
"""

from collections.abc import AsyncIterator

import httpx2


class BoundedTransport(httpx2.AsyncHTTPTransport):
    """As usual, but an answer that is no stream of events and longer than the limit breaks off."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__()
        self._bytes_max = bytes_max

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream, self._bytes_max)
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, bytes_max: int) -> None:
        self._stream = stream
        self._bytes_max = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._bytes_max
        async for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise httpx2.StreamError(f"the answer is over {self._bytes_max:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
