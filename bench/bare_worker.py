"""Program: the worker of the bare relay. One WebSocket for all its sessions, a JSON message for each token. Takes
orders, and the relay's address as its argument."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from bench.orders import obey
from bench.tokens import flood, paced

# Beyond this, in seconds, something is broken.
_ORDER_S = 90.0


class Worker:
    def __init__(self, socket: ClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = socket
        self._loop = loop

    def speak(self, sessions: int, start_ns: int, stop_ns: int, per_second: float = 0, first: int = 0) -> int:
        """Speaks for so many sessions between two moments: at a rate, or, without one, as fast as may be."""
        speaking = self._speak(sessions, start_ns, stop_ns, per_second, first)
        return asyncio.run_coroutine_threadsafe(speaking, self._loop).result(_ORDER_S)

    async def _speak(self, sessions: int, start_ns: int, stop_ns: int, per_second: float, first: int) -> int:
        async with asyncio.TaskGroup() as tasks:
            for index in range(first, first + sessions):
                tokens = (
                    paced(start_ns, stop_ns, per_second, index) if per_second else flood(start_ns, stop_ns)
                )
                tasks.create_task(self._session(f"{index}", tokens))
        return sessions

    async def _session(self, session: str, tokens: AsyncIterator[str]) -> None:
        send: Any = self._socket.send
        async for token in tokens:
            await send(json.dumps({"session": session, "text": token}, separators=(",", ":")))
        await send(json.dumps({"session": session}))


async def live(address: str) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    async with connect(f"ws://{address}/worker", compression=None) as socket:
        obey({"speak": Worker(socket, loop).speak})
        print("bare worker: (ready)", flush=True)
        await over.wait()


def main() -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
