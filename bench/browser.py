"""Program: viewers over HTTP, each with a connection of its own, that read event streams and do nothing else. Takes
orders. A process of its own, so that it takes nothing of the bench's time; bare sockets, so that it takes little of the
machine's."""

import asyncio
import re
import signal
import sys
from typing import Final

import uvloop

from bench.keeping import Arrivals
from bench.orders import obey

# Beyond this, in seconds, something is broken.
_ORDER_S: Final = 30.0
# Content, and thoughts of agents that speak in packets of their own.
_TEXT: Final = re.compile(rb'"(?:text|delta)":"([^"]*)"')
_ENDED: Final = b"event: ended\n"


class _Stream(asyncio.Protocol):
    """One viewer. `session` is what it is told apart by."""

    def __init__(self, session: str, request: bytes, arrivals: Arrivals) -> None:
        self.session = session
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._arrivals = arrivals
        self._rest = b""
        self._is_over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as it is for TCP
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            if data.startswith(b"HTTP/1.1 200"):
                self.answered.set_result(None)
            else:
                self.answered.set_exception(RuntimeError(f"refused: {data[:300]!r}"))
        # Events are whole when their blank line has come.
        whole, blank, rest = (self._rest + data).rpartition(b"\n\n")
        self._rest = rest if blank else self._rest + data
        if texts := _TEXT.findall(whole):
            self._arrivals.came(self.session, b"".join(texts).decode())
        if _ENDED in whole:
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(error or RuntimeError("the connection ended"))
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._arrivals.ended(self.session)


class Browser:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrivals = Arrivals()
        self._loop = loop
        self._streams: list[_Stream] = []

    def watch(self, host: str, port: int, paths: list[str]) -> int:
        """Opens a stream of each path; answers when all of them have begun."""
        return asyncio.run_coroutine_threadsafe(self._watch(host, port, paths), self._loop).result(_ORDER_S)

    def leave(self) -> None:
        """Closes what is open."""
        for stream in self._streams:
            if stream.transport is not None:
                self._loop.call_soon_threadsafe(stream.transport.abort)
        self._streams.clear()

    async def _watch(self, host: str, port: int, paths: list[str]) -> int:
        for number, path in enumerate(paths):
            request = f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode()
            stream = _Stream(f"{number}", request, self.arrivals)
            await self._loop.create_connection(lambda stream=stream: stream, host, port)  # type: ignore[misc]
            self._streams.append(stream)
        await asyncio.gather(*(stream.answered for stream in self._streams))
        return len(self._streams)


async def live() -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    browser = Browser(loop)
    obey({**browser.arrivals.orders, "watch": browser.watch, "leave": browser.leave})
    print("browser: (ready)", flush=True)
    await over.wait()


def main() -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())
    return 0


if __name__ == "__main__":
    sys.exit(main())
