"""Program: an application that asks a dispatcher as fast as it is answered, and is refused. Takes orders, and the
dispatcher's address as its argument. A process of its own, so that it takes nothing of the viewer's time."""

import asyncio
import signal
import sys
import time
from typing import Any, Final

import uvloop
from grpc import aio
from southwest.ai.agent.v1 import agent_pb2, chat_pb2, chat_pb2_grpc

from bench import bare_options
from bench.orders import obey
from bench.tokens import until

# Beyond this, in seconds, something is broken.
_ORDER_S: Final = 30.0
# So many requests wait for their answers: the next is sent when one has come.
_UNDER_WAY: Final = 32


class Asker:
    def __init__(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = aio.insecure_channel(address, bare_options.client(address))
        self._loop = loop

    def flood(self, start_ns: int, stop_ns: int) -> dict[str, int]:
        """Asks between two moments. How often it was answered in which way: the code of each refusal, or `accepted`."""
        flooding = asyncio.run_coroutine_threadsafe(self._flood(start_ns, stop_ns), self._loop)
        return flooding.result(_ORDER_S)

    async def _flood(self, start_ns: int, stop_ns: int) -> dict[str, int]:
        call = chat_pb2_grpc.ChatStub(self._channel).Converse()
        text = agent_pb2.ContentPart(text="x")
        message = agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[text])
        packet = chat_pb2.ClientPacket(client_ref="r", ask=chat_pb2.Ask(agent="pace", messages=[message]))
        answers: dict[str, int] = {}
        await until(start_ns)
        under_way = 0
        while under_way or time.monotonic_ns() < stop_ns:
            while under_way < _UNDER_WAY and time.monotonic_ns() < stop_ns:
                await call.write(packet)
                under_way += 1
            answer: Any = await call.read()
            if answer is aio.EOF:
                raise RuntimeError(f"the dispatcher ended the stream: {await call.code()}")
            for receipt in answer.receipts:
                under_way -= 1
                code = receipt.error.code if receipt.HasField("error") else "accepted"
                answers[code] = answers.get(code, 0) + 1
        call.cancel()
        return answers


async def live(address: str) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    obey({"flood": Asker(address, loop).flood})
    print("asker: (ready)", flush=True)
    await over.wait()


def main() -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
