"""The HTTP server: uvicorn, in the dispatcher's own loop and on its own socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator

from uvicorn import Server


class EdgeServer(Server):
    """Leaves signals to the dispatcher, and lets it end streams first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Takes connections until the block ends; then what streams has `END_S` to end."""
        if not self.config.loaded:
            self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup([listener])
        ticking = asyncio.ensure_future(self.main_loop())
        try:
            yield
        finally:
            self.should_exit = True
            await ticking
            await self.shutdown([listener])
