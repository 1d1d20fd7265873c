"""A language model as agents see one: a server that streams tokens at its pace until the answer is long enough, or
until nobody reads it, which is what stops the bill."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from bench.tokens import PLAIN

TOKENS_PER_S: Final = 50.0
_TOKENS_MAX: Final = 3_000


class Model:
    """`address` is its HOST:PORT."""

    def __init__(self) -> None:
        self.address = ""
        self._left: asyncio.Queue[int] = asyncio.Queue()

    async def left(self, within_s: float) -> int:
        """When the next connection was closed by who read it, nanoseconds."""
        async with asyncio.timeout(within_s):
            return await self._left.get()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speaking = asyncio.ensure_future(_speak(writer))
        try:
            # Nothing is asked of it: a word from there is the end.
            await reader.read(1)
            # Not the loop's clock, which knows whole milliseconds alone.
            self._left.put_nowait(time.monotonic_ns())
        finally:
            speaking.cancel()
            writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Model]:
    model = Model()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    model.address = f"{host}:{port}"
    async with server:
        yield model


async def spoken(address: str) -> AsyncIterator[str]:
    """What the model there says. Whoever leaves this closes the connection."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        while token := await reader.read(1_024):
            yield token.decode()
    finally:
        writer.close()


async def _speak(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        for _ in range(_TOKENS_MAX):
            writer.write(PLAIN.encode())
            await writer.drain()
            await asyncio.sleep(1 / TOKENS_PER_S)
