"""What the user says to a session: the question that opens it, then answers, messages and the stop.

While the stream that opened the session lives, all goes there. When it is lost, each packet goes over a
stream of its own that names the session (`errand`). Owns the packets under way: an answer or a stop whose receipt
never came is said again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc.aio
from southwest.ai.agent.v1 import chat_pb2

from dispatcher.console.connection import Connection
from dispatcher.console.errand import UnsaidError, tell
from dispatcher.console.following import RETRIES, pause_s, read_batch

if TYPE_CHECKING:
    from grpc.aio import StreamStreamCall

CLIENT_REF = "chat"
ASK_ID = "ask"
STOP_ID = "stop"
FINISH_S = 2.0  # what a polite end of the stream may take, when all has been said
UNSENT_PACKETS = (
    16  # typed lines that may wait while there is no stream; a person is told when there are more
)


class Speech:
    """One writer for one session. `run` is its task; all other methods return at once.

    `receipt` is called with the receipts of streams that nobody else reads, `notice` with what the user
    should know.
    """

    def __init__(
        self,
        connection: Connection,
        ask: chat_pb2.Ask,
        receipt: Callable[[chat_pb2.Receipt], None],
        notice: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._ask = chat_pb2.ClientPacket(client_ref=CLIENT_REF, request_id=ASK_ID, ask=ask)
        self._receipt = receipt
        self._notice = notice
        self._unsent: deque[chat_pb2.ClientPacket] = deque()
        self._unconfirmed: dict[str, chat_pb2.ClientPacket] = {}
        self._wake = asyncio.Event()
        self._said = 0
        self._lost = False
        self.session_id = ""
        self.stream = self._open()

    def __repr__(self) -> str:
        state = "lost" if self._lost else "live"
        return f"<Speech {state}, {len(self._unsent)} unsent, {len(self._unconfirmed)} unconfirmed>"

    def answer(self, answer: chat_pb2.AnswerQuestion) -> str:
        """Returns the request id that the receipt will bear. There are no more of these than questions."""
        return self._say(chat_pb2.ClientPacket(client_ref=CLIENT_REF, answer=answer))

    def message(self, text: str) -> bool:
        """False: too much waits to be sent already; this does not."""
        if len(self._unsent) >= UNSENT_PACKETS:
            return False
        self._say(chat_pb2.ClientPacket(client_ref=CLIENT_REF, message=chat_pb2.AddMessage(text=text)))
        return True

    def stop(self, reason: str) -> None:
        """Goes before everything that waits."""
        asked = chat_pb2.StopAsked(reason=reason)
        self._unsent.appendleft(chat_pb2.ClientPacket(client_ref=CLIENT_REF, request_id=STOP_ID, stop=asked))
        self._wake.set()

    def confirmed(self, request_id: str) -> str:
        """A receipt has come. Returns the text it is about, where that is a message."""
        packet = self._unconfirmed.pop(request_id, None)
        return packet.message.text if packet is not None else ""

    def unsaid(self) -> list[str]:
        """The messages that no receipt has come for, oldest first. Only after `finish`."""
        waiting = [*self._unconfirmed.values(), *self._unsent]
        return [packet.message.text for packet in waiting if packet.HasField("message")]

    def lost(self) -> None:
        """The stream broke. What has no receipt is said again; a message is not, as it might count twice."""
        self._lost = True
        for packet in self._unconfirmed.values():
            kind = packet.WhichOneof("request")
            if kind == "message":
                self._notice(f"it is not known whether this arrived: {packet.message.text}")
            elif kind != "ask":
                self._unsent.append(packet)
        self._unconfirmed.clear()
        self._wake.set()

    async def run(self) -> None:
        """Asks, then sends what is said, in order, until cancelled; cancelling it may cancel the stream."""
        await self._write(self._ask)
        while True:
            while self._unsent:
                packet = self._unsent.popleft()
                if self._lost or not await self._write(packet):
                    await self._say_elsewhere(packet)
            self._wake.clear()
            await self._wake.wait()

    async def finish(self) -> None:
        """Takes leave after the ending, so that the stream ends with OK. Only after `run` was cancelled."""
        if self._lost or self.stream.done():
            return
        try:
            async with asyncio.timeout(FINISH_S):
                await self.stream.done_writing()
                while (batch := await read_batch(self.stream)) is not None:
                    for receipt in batch.receipts:
                        self._receipt(receipt)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            pass  # the session has ended; how the stream does is of no interest any more

    def _open(self) -> "StreamStreamCall[chat_pb2.ClientPacket, chat_pb2.SessionEvents]":
        return self._connection.chat.Converse(metadata=self._connection.metadata)

    def _say(self, packet: chat_pb2.ClientPacket) -> str:
        self._said += 1
        packet.request_id = f"{packet.WhichOneof('request')}-{self._said}"
        self._unsent.append(packet)
        self._wake.set()
        return packet.request_id

    async def _write(self, packet: chat_pb2.ClientPacket) -> bool:
        """False: it is still to be said, in another way."""
        # Before the write, as its receipt may be here before the write returns.
        self._unconfirmed[packet.request_id] = packet
        try:
            await self.stream.write(packet)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._lost = True  # the reader notices too, and says why
            # Where it is not there any more, `lost` has taken it back already.
            return self._unconfirmed.pop(packet.request_id, None) is None
        return True

    async def _say_elsewhere(self, packet: chat_pb2.ClientPacket) -> None:
        packet.client_ref = ""
        packet.session_id = self.session_id
        self._unconfirmed[packet.request_id] = packet
        why = ""
        for tries in range(1, RETRIES + 1):
            try:
                receipt = await tell(self._connection, packet)
            except UnsaidError as unsaid:
                why = str(unsaid)
                if packet.HasField("message") and unsaid.arrived is None:
                    break  # said again it might count twice
            else:
                self._receipt(receipt)
                return
            await asyncio.sleep(pause_s(tries))
        self._unconfirmed.pop(packet.request_id, None)
        text = f": {packet.message.text}" if packet.HasField("message") else ""
        what = packet.WhichOneof("request")
        self._notice(f"the {what} could not be told to the dispatcher ({why}){text}")
