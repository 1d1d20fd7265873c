"""What the user says to a session: the question that opens it, then answers, messages and the stop.

While the stream that opened the session lives, all goes there. When it is lost, each packet goes over a
stream of its own that asks again under the same idempotency key, which joins the session instead of opening
another. Owns the packets under way: an answer or a stop whose receipt never came is said again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc.aio
from southwest.ai.agent.v1 import chat_pb2

from dispatcher.console.connection import Connection, reason_of
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


class _UnjoinedError(Exception):
    """The session can't be spoken to any more, and trying again would not help."""


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

    def confirmed(self, request_id: str) -> None:
        """A receipt has come."""
        self._unconfirmed.pop(request_id, None)

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
                    await self._say_by_rejoining(packet)
            self._wake.clear()
            await self._wake.wait()

    async def finish(self) -> None:
        """Takes leave after the ending, so that the stream ends with OK. Only after `run` was cancelled."""
        if self._lost or self.stream.done():
            return
        try:
            async with asyncio.timeout(FINISH_S):
                await self.stream.done_writing()
                while await read_batch(self.stream) is not None:
                    pass
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

    async def _say_by_rejoining(self, packet: chat_pb2.ClientPacket) -> None:
        why = ""
        for tries in range(1, RETRIES + 1):
            try:
                async with asyncio.timeout(self._connection.timeout_s):
                    self._receipt(await self._rejoin(packet))
                    return
            except grpc.aio.AioRpcError as error:
                why = reason_of(error) or error.code().name
            except TimeoutError:
                why = "no answer"
            except _UnjoinedError as unjoined:
                why = str(unjoined)
                break
            await asyncio.sleep(pause_s(tries))
        what = packet.WhichOneof("request")
        self._notice(f"the {what} could not be told to the dispatcher ({why})")

    async def _rejoin(self, packet: chat_pb2.ClientPacket) -> chat_pb2.Receipt:
        """One packet over a stream of its own. Returns its receipt, or the one that refused to join."""
        stream = self._open()
        try:
            await stream.write(self._ask)
            joined = await _receipt_of(stream, ASK_ID)
            if joined.HasField("error"):
                return joined
            if joined.session_id != self.session_id:
                # The dispatcher has forgotten the key, and so has begun anew what nobody asked for.
                asked = chat_pb2.StopAsked(reason="UserCancel")
                again = chat_pb2.ClientPacket(client_ref=CLIENT_REF, request_id=STOP_ID, stop=asked)
                await stream.write(again)
                await _receipt_of(stream, STOP_ID)
                raise _UnjoinedError("the session can't be joined again")
            await stream.write(packet)
            return await _receipt_of(stream, packet.request_id)
        finally:
            stream.cancel()


async def _receipt_of(
    stream: "StreamStreamCall[chat_pb2.ClientPacket, chat_pb2.SessionEvents]", request_id: str
) -> chat_pb2.Receipt:
    while (batch := await read_batch(stream)) is not None:
        for receipt in batch.receipts:
            if receipt.request_id == request_id:
                return receipt
    raise _UnjoinedError("the stream was closed without a receipt")
