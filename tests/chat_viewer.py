"""Real gRPC clients of Chat: a stream of conversations, and a viewer of one session."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

from asynchronous import PATIENCE_S, soon
from dialling import CONVERSE_METHOD, Status, bearing, dialled, status_of
from grpc import aio
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

Event = chat_pb2.SessionEvent


def asking(agent: str, text: str = "Hi", **more: Any) -> chat_pb2.Ask:
    message = agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[agent_pb2.ContentPart(text=text)])
    return chat_pb2.Ask(agent=agent, **{"messages": [message], **more})


class Seen:
    """What a viewer was told of one session so far."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Seen {self.kinds}>"

    @property
    def kinds(self) -> list[str]:
        return [event.WhichOneof("event") or "" for event in self.events]

    @property
    def text(self) -> str:
        """The content, for a viewer who does as each reset tells it."""
        kept: list[Event] = []
        for event in self.events:
            if event.WhichOneof("event") == "reset":
                kept = [each for each in kept if each.cursor.offset <= event.reset.discard_after.offset]
            kept.append(event)
        return "".join(event.content.text for event in kept)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.WhichOneof("event") == kind]

    def take(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, kind: str, count: int = 1) -> Event:
        """The count-th event of this kind."""
        await self.when(lambda: len(self.of(kind)) >= count, f"{count} × {kind}")
        return self.of(kind)[count - 1]

    async def until_text(self, text: str) -> None:
        await self.when(lambda: text in self.text, repr(text))

    async def ended(self) -> chat_pb2.SessionEnded:
        """How it ended, with the order of events checked."""
        event = await self.until("ended")
        assert self.events[-1] is event, f"told something after the ending: {self.kinds}"
        offsets = [each.cursor.offset for each in self.events if each.HasField("cursor")]
        assert offsets == sorted(set(offsets)), offsets
        return event.ended

    async def when(self, right: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not right():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {what} in {self.kinds}") from None


class Viewer:
    """Reads a stream of SessionEvents to its end."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.messages = 0
        self.heartbeats: asyncio.Queue[None] = asyncio.Queue()
        self.receipts: asyncio.Queue[chat_pb2.Receipt] = asyncio.Queue()
        self.goaways: list[chat_pb2.GoAway] = []
        self.sessions: defaultdict[str, Seen] = defaultdict(Seen)
        self._reader = asyncio.ensure_future(self._read())

    async def heartbeat(self) -> None:
        """Until the next message with nothing in it."""
        await soon(self.heartbeats.get())

    async def status(self) -> Status:
        """How the stream ended; waits for it."""
        await soon(asyncio.wait([self._reader]))
        return await soon(status_of(self.call))

    async def close(self) -> None:
        self.call.cancel()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        with contextlib.suppress(aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError):
            while (message := await self.call.read()) is not aio.EOF:
                if isinstance(message, bytes):
                    message = chat_pb2.SessionEvents.FromString(message)
                self.messages += 1
                if message == chat_pb2.SessionEvents():
                    self.heartbeats.put_nowait(None)
                for receipt in message.receipts:
                    self.receipts.put_nowait(receipt)
                self.goaways.extend(message.goaways)
                for event in message.events:
                    self.sessions[event.session_id].take(event)


class Conversation(Viewer):
    """One Converse stream."""

    async def send(self, packet: chat_pb2.ClientPacket) -> None:
        await self.send_bytes(packet.SerializeToString())

    async def send_bytes(self, data: bytes) -> None:
        await self.call.write(data)

    async def receipt(self) -> chat_pb2.Receipt:
        return await soon(self.receipts.get())

    async def request(self, client_ref: str, **request: Any) -> chat_pb2.Receipt:
        """Sends a packet and waits for its receipt, which must be the next."""
        packet = chat_pb2.ClientPacket(client_ref=client_ref, **request)
        await self.send(packet)
        receipt = await self.receipt()
        assert receipt.client_ref == packet.client_ref
        assert receipt.request_id == packet.request_id
        return receipt

    async def ask(self, agent: str, text: str = "Hi", client_ref: str = "1", **more: Any) -> Seen:
        """Opens a session; fails when it is refused."""
        receipt = await self.request(client_ref, ask=asking(agent, text, **more))
        assert not receipt.HasField("error"), receipt
        assert receipt.session_id
        return self.sessions[receipt.session_id]

    async def half_close(self) -> None:
        await self.call.done_writing()


@contextlib.asynccontextmanager
async def conversing(address: str, *, token: str = "") -> AsyncIterator[Conversation]:
    async with dialled(address) as channel:
        conversation = Conversation(channel.stream_stream(CONVERSE_METHOD)(metadata=bearing(token)))
        try:
            yield conversation
        finally:
            await conversation.close()


@contextlib.asynccontextmanager
async def viewing(call: Any, session_id: str) -> AsyncIterator[tuple[Viewer, Seen]]:
    """A viewer of one session, by the call that watches it: Chat.Subscribe or Admin.WatchSession."""
    viewer = Viewer(call)
    try:
        yield viewer, viewer.sessions[session_id]
    finally:
        await viewer.close()
