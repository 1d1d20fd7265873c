"""Viewers over the real Chat who come back with their cursor, as often as it takes, and users who answer."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from asynchronous import PATIENCE_S
from chat_viewer import Event, Seen, asking
from dialling import Options
from grpc import aio
from southwest.ai.agent.v1 import chat_pb2, chat_pb2_grpc

from faults.script import Script, answer, message

# A connection is noticed to be dead, and made anew, soon.
IMPATIENT: Options = (
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
# How a stream ends for one who should come back; INTERNAL is a reset in the midst of a frame.
COMES_BACK = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
}
_BREATH_S = 0.02


class Watcher:
    """Watches one session to its end. Each event must come once, in its place, whatever becomes of the connection."""

    def __init__(
        self, chat: "chat_pb2_grpc.ChatAsyncStub", session_id: str, whims: random.Random | None = None
    ) -> None:
        self._chat = chat
        # One with whims leaves of its own accord now and then.
        self._whims = whims
        self.session_id = session_id
        # Called at each event.
        self.hears: Callable[[], None] = lambda: None
        self.seen = Seen()
        self.joins = 0

    def __repr__(self) -> str:
        return f"<Watcher of {self.session_id}, joined {self.joins} times: {self.seen}>"

    async def run(self) -> None:
        """Until it has seen the ending."""
        while not await self._join():  # noqa: ASYNC110 - it is the dispatcher that is waited for
            await asyncio.sleep(_BREATH_S)

    async def _join(self) -> bool:
        cursor = self.seen.events[-1].cursor if self.seen.events else None
        request = chat_pb2.SubscribeRequest(session_id=self.session_id, cursor=cursor, include_thoughts=True)
        call: Any = self._chat.Subscribe(request, wait_for_ready=True)
        self.joins += 1
        try:
            async for received in call:
                for event in received.events:
                    self.take(event)
                    if event.HasField("ended"):
                        return True
                if self._whims is not None and self._whims.random() < 0.2:
                    break
        except aio.AioRpcError as error:
            if error.code() not in COMES_BACK:
                raise
        finally:
            call.cancel()
        return False

    def take(self, event: Event) -> None:
        events = self.seen.events
        assert event.WhichOneof("event") != "gap", event
        assert event.cursor.offset == len(events) + 1, f"after {len(events)} events: {event}"
        assert not events or event.cursor.epoch == events[0].cursor.epoch
        self.seen.take(event)
        self.hears()


class User(Watcher):
    """One who asks, answers what it is asked and says what is listened for, as soon as it may."""

    def __init__(
        self,
        seeing: "chat_pb2_grpc.ChatAsyncStub",
        steady: "chat_pb2_grpc.ChatAsyncStub",
        agent: str,
        script: Script,
        early: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(seeing, "")
        # Steps at which it speaks though it may not yet.
        self._early = early
        self._said: set[int] = set()
        # What it says goes another way than what it sees.
        self._steady = steady
        self._saying: list[asyncio.Task[None]] = []
        # Asked again with the same key, it is the same session.
        self._asked = chat_pb2.ClientPacket(
            client_ref="1", ask=asking(agent, str(script), idempotency_key=secrets.token_hex(8))
        )
        self.script = script
        self.may_speak = asyncio.Event()

    async def ask(self) -> None:
        """Opens the session; asks again while every commander is away for longer than one may be, which it is told."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while (receipt := await self._say()).error.code == "no_such_agent":
            assert asyncio.get_running_loop().time() < deadline, receipt
            await asyncio.sleep(_BREATH_S)
        assert not receipt.HasField("error"), receipt
        self.session_id = receipt.session_id

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            for task in self._saying:
                task.cancel()
            if self._saying:
                await asyncio.wait(self._saying)
        for task in self._saying:
            if not task.cancelled():
                task.result()

    def take(self, event: Event) -> None:
        super().take(event)
        packet = chat_pb2.ClientPacket(client_ref="1")
        at_once = False
        if event.HasField("question"):
            packet.answer.question_id = event.question.question_id
            packet.answer.value_json = f'"{answer(int(event.question.text))}"'
        elif event.HasField("progress") and (at := int(event.progress.current)) not in self._said:
            # Said once: an attempt that begins anew is told of it by the dispatcher.
            self._said.add(at)
            packet.message.text = message(at)
            at_once = at in self._early
        else:
            return
        self._saying.append(asyncio.ensure_future(self._tell(packet, at_once=at_once)))

    async def _tell(self, packet: chat_pb2.ClientPacket, *, at_once: bool) -> None:
        if not at_once:
            await self.may_speak.wait()
        # A question of an attempt that was lost is no longer open, and that is right.
        await self._say(packet)

    async def _say(self, *packets: chat_pb2.ClientPacket) -> chat_pb2.Receipt:
        """Says it, and says it again until it was heard; the last one's receipt."""
        while True:
            with contextlib.suppress(ConnectionError):
                return await self._say_once(*packets)
            await asyncio.sleep(_BREATH_S)

    async def _say_once(self, *packets: chat_pb2.ClientPacket) -> chat_pb2.Receipt:
        """Says it on a stream of its own, and leaves."""
        call: Any = self._steady.Converse(wait_for_ready=True)
        received = aiter(call)
        try:
            for packet in (self._asked, *packets):
                await call.write(packet)
                receipt = await _receipt(received)
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            # The latter: it had ended before it was written to.
            if isinstance(error, aio.AioRpcError) and error.code() not in COMES_BACK:
                raise
            raise ConnectionError from error
        else:
            return receipt
        finally:
            call.cancel()
            # A call that had ended before it was written to, with messages unread, can't be cancelled: it lasts, and
            # its connection, until they are read.
            await asyncio.gather(_exhaust(received), return_exceptions=True)


async def _receipt(received: "AsyncIterator[chat_pb2.SessionEvents]") -> chat_pb2.Receipt:
    async for events in received:
        if events.receipts:
            return events.receipts[0]
    raise ConnectionError("it has ended")


async def _exhaust(received: "AsyncIterator[chat_pb2.SessionEvents]") -> None:
    async for _ in received:
        pass
