"""Program: what teams write without the pair, to compare its HTTP edge with. Plain starlette on uvicorn, an
`EventSourceResponse` by hand, one write for each token. Takes orders.

    /alone/{agent}     the agent runs in this very process, and its tokens go straight to the viewer
    /pushed            frames that are made already, as fast as the viewer takes them
    /model             the same, of a model elsewhere
    /relayed/{session} what a worker sends for the session over /worker, a WebSocket with a JSON message for each token
"""

import asyncio
import gc
import json
import signal
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.model import spoken
from bench.orders import memory_bytes, obey
from bench.tokens import PLAIN, flood, paced, until

# What of a session may wait for its viewer, in tokens: as much as the pair's credit.
_WAITING_MAX = 64
ENDED = b"event: ended\ndata: {}\n\n"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def frame(text: str) -> bytes:
    return f"data: {json.dumps({'text': text}, separators=(',', ':'))}\n\n".encode()


async def _tokens(request: Request) -> AsyncIterator[bytes]:
    told = request.query_params
    start_ns, stop_ns = int(told["start_ns"]), int(told["stop_ns"])
    agent = request.path_params["agent"]
    tokens = (
        flood(start_ns, stop_ns)
        if agent == "flood"
        else paced(start_ns, stop_ns, float(told["per_second"]), int(told["index"]))
    )
    async for token in tokens:
        yield frame(token)
    yield ENDED


async def alone(request: Request) -> StreamingResponse:
    return StreamingResponse(_tokens(request), media_type="text/event-stream", headers=_HEADERS)


async def _spoken(request: Request) -> AsyncIterator[bytes]:
    async for token in spoken(request.query_params["model"]):
        yield frame(token)
    yield ENDED


async def model(request: Request) -> StreamingResponse:
    return StreamingResponse(_spoken(request), media_type="text/event-stream", headers=_HEADERS)


async def _frames(request: Request) -> AsyncIterator[bytes]:
    told = request.query_params
    made = frame(PLAIN)
    await until(int(told["start_ns"]))
    stop_ns = int(told["stop_ns"])
    async for _ in flood(int(told["start_ns"]), stop_ns):
        yield made
    yield ENDED


async def pushed(request: Request) -> StreamingResponse:
    return StreamingResponse(_frames(request), media_type="text/event-stream", headers=_HEADERS)


class Relay:
    """A queue for each session, between a worker's WebSocket and a viewer."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, asyncio.Queue[str | None]] = defaultdict(
            lambda: asyncio.Queue(_WAITING_MAX)
        )

    async def worker(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                told = json.loads(await websocket.receive_text())
                await self._queues[told["session"]].put(told.get("text"))
        except WebSocketDisconnect:
            return

    async def relayed(self, request: Request) -> StreamingResponse:
        return StreamingResponse(
            self._told(request.path_params["session"]), media_type="text/event-stream", headers=_HEADERS
        )

    async def _told(self, session: str) -> AsyncIterator[bytes]:
        queue = self._queues[session]
        yield b": open\n\n"
        while (text := await queue.get()) is not None:
            yield frame(text)
        del self._queues[session]
        yield ENDED


async def serve() -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    relay = Relay()
    app = Starlette(
        routes=[
            Route("/alone/{agent}", alone),
            Route("/model", model),
            Route("/pushed", pushed),
            Route("/relayed/{session}", relay.relayed),
            WebSocketRoute("/worker", relay.worker),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        app, http="httptools", ws="websockets-sansio", lifespan="off", access_log=False, log_config=None
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    ticking = asyncio.ensure_future(server.main_loop())

    def memory() -> int:
        gc.collect()
        return memory_bytes()

    obey({"memory": memory})
    print(f"bare web: ready at 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await over.wait()
    server.should_exit = True
    await ticking


def main() -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
