"""Chat: what an application calls. Reads its packets, hands them to the hub, answers each with a receipt."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import grpc
from grpc import aio
from southwest.ai.agent.v1 import chat_pb2

from dispatcher.hub import Hub
from dispatcher.identity import caller
from dispatcher.journal.position import ending_is_kept, missing
from dispatcher.requests import Requests, WrongError
from dispatcher.rpc import codec
from dispatcher.rpc.feed import Feed
from dispatcher.rpc.methods import Answered, conversed, page, unary, watched
from dispatcher.rpc.views import agent_listings

log = logging.getLogger(__name__)

# Sessions that one Converse stream may have open.
STREAM_SESSIONS_MAX: Final = 1_000
# Packets of one stream that wait until services have judged them; then no more are read.
UNDER_WAY_MAX: Final = 256
_JUDGED: Final = frozenset({"ask", "answer", "message"})
# When a viewer of a dispatcher that goes away should be back, seconds.
COME_BACK_S: Final = 2.0
# Between name and version in a page's token.
_KEY_SEPARATOR: Final = "\0"


class ViewLimits(NamedTuple):
    """`request_bytes_max`: the largest ClientPacket; `write_s`: how long a viewer may take nothing; `heartbeat_s`: the
    longest silence towards one; `viewers_per_session_max`: viewers of one session."""

    request_bytes_max: int
    max_message_bytes: int
    write_s: float
    heartbeat_s: float
    viewers_per_session_max: int


class ChatService:
    """The service."""

    def __init__(self, hub: Hub, requests: Requests, limits: ViewLimits) -> None:
        self._hub = hub
        self._requests = requests
        self._limits = limits
        self._feeds: set[Feed] = set()
        # Those of Converse: the streams that could wait for a client's half-close for ever.
        self._conversing: set[Feed] = set()

    def feed(self, context: Any) -> Feed:
        return Feed(
            self._hub,
            context,
            write_s=self._limits.write_s,
            heartbeat_s=self._limits.heartbeat_s,
            max_message_bytes=self._limits.max_message_bytes,
        )

    def leave(self) -> None:
        """The dispatcher goes away: streams end when what they watch has ended, whatever their clients say."""
        for feed in self._conversing:
            feed.finish()

    def go_away(self, reason: str) -> None:
        """The dispatcher goes away and its sessions go on: their viewers are told where to come back."""
        for feed in self._feeds:
            feed.go_away(reason, COME_BACK_S)

    async def converse(self, context: Any) -> None:
        feed = self.feed(context)
        await feed.begin()
        conversation = _Conversation(self._hub, self._requests, self._limits, feed)
        reader = asyncio.ensure_future(self._read(context, conversation, feed))
        writer = asyncio.ensure_future(feed.run())
        self._conversing.add(feed)
        self._feeds.add(feed)
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():
                reader.result()
                await asyncio.wait({writer})
            writer.result()
            if not reader.done():
                raise Answered("UNAVAILABLE", "the dispatcher goes away; ask another, or later")
            reader.result()
        finally:
            self._feeds.discard(feed)
            self._conversing.discard(feed)
            reader.cancel()
            writer.cancel()
            conversation.leave()
            await asyncio.wait({reader, writer})

    async def _read(self, context: Any, conversation: "_Conversation", feed: Feed) -> None:
        while (data := await context.read()) is not aio.EOF:
            await conversation.receive(data)
            await feed.room()
        await conversation.settled()
        feed.finish()

    async def subscribe(self, request: chat_pb2.SubscribeRequest, context: Any) -> None:
        await self.show(
            context,
            request.session_id,
            request.cursor if request.HasField("cursor") else None,
            thoughts=request.include_thoughts,
        )

    async def show(
        self, context: Any, session_id: str, cursor: chat_pb2.Cursor | None, *, thoughts: bool
    ) -> None:
        """Streams one session to `context`, from the cursor to its ending; thoughts where the caller may have them."""
        try:
            self._requests.require_visible(session_id)
            if not self._hub.journal.read(session_id, 0, 0).head:
                # Nothing is shown that a restart could undo, that there is this session included.
                await self._hub.kept()
                self._requests.require_visible(session_id)
        except WrongError as wrong:
            told = await self._tell_missing(context, session_id, cursor, str(wrong))
            raise Answered("NOT_FOUND", told) from None
        # From here to the watching nothing waits, or more would watch than may.
        if told := too_many_viewers(self._hub, self._limits, session_id):
            raise Answered("RESOURCE_EXHAUSTED", told)
        feed = self.feed(context)
        feed.watch(session_id, cursor, thoughts=thoughts and caller.get().thoughts)
        feed.finish()
        self._feeds.add(feed)
        try:
            await feed.run()
        finally:
            self._feeds.discard(feed)

    async def _tell_missing(
        self, context: Any, session_id: str, cursor: chat_pb2.Cursor | None, told: str
    ) -> str:
        """Tells a viewer that comes back with a cursor that there is nothing more to be had; and what the status says
        of it besides `told`."""
        epoch = self._hub.journal.epoch
        if cursor is None:
            return told
        reason = missing(self._hub.journal, cursor.epoch)
        gap = codec.gap(session_id[: codec.SESSION_ID_CHARS_MAX], epoch, cursor, 0, reason)
        await context.write(chat_pb2.SessionEvents(events=[gap]).SerializeToString())
        if reason == "forgotten":
            return told
        return f"{told}: its cursor is of epoch {cursor.epoch!r}, and the journal began anew as {epoch!r}"

    async def list_agents(
        self, request: chat_pb2.ListAgentsRequest, context: Any
    ) -> chat_pb2.ListAgentsResponse:
        listings = agent_listings(self._hub.router.fleet.commanders.values())
        after = tuple(request.page_token.split(_KEY_SEPARATOR, 1)) if request.page_token else ()
        keys = [key for key in listings if key > after]
        views, more = page((listings[key] for key in keys), self._limits.max_message_bytes)
        last = keys[len(views) - 1] if more else ()
        return chat_pb2.ListAgentsResponse(agents=views, next_page_token=_KEY_SEPARATOR.join(last))


def too_many_viewers(hub: Hub, limits: ViewLimits, session_id: str) -> str:
    """Why one more may not watch the session; empty where one may."""
    session = hub.router.sessions.get(session_id)
    if session is None or session.viewers < limits.viewers_per_session_max:
        return ""
    return f"viewers_per_session_max is {limits.viewers_per_session_max}, and so many watch already"


class _Conversation:
    """What one Converse stream has asked for: its references, and the receipts for its packets."""

    def __init__(self, hub: Hub, requests: Requests, limits: ViewLimits, feed: Feed) -> None:
        self._hub = hub
        self._requests = requests
        self._limits = limits
        self._feed = feed
        self._sessions: dict[str, str] = {}
        # What services judge, by whose it is.
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._kinds: dict[str, Callable[[chat_pb2.ClientPacket, chat_pb2.Receipt], Awaitable[None]]] = {
            "ask": self._ask,
            "answer": self._answer,
            "message": self._message,
            "stop": self._stop,
        }

    async def receive(self, data: bytes) -> None:
        """One packet from the application. Whatever is wrong with it is said in its receipt. Where services judge what
        it says, those of other sessions need not wait for that, nor does a stop."""
        packet = codec.parse(chat_pb2.ClientPacket, data)
        whose = packet.session_id or f"ref {packet.client_ref}"
        before = self._under_way.get(whose)
        is_judged = self._requests.are_judged and packet.WhichOneof("request") in _JUDGED
        is_known = bool(packet.session_id) or packet.client_ref in self._sessions
        if (packet.HasField("stop") and is_known) or (before is None and not is_judged):
            await self._settle(packet, len(data))
            return
        task = asyncio.ensure_future(self._settle_after(before, packet, len(data)))
        self._under_way[whose] = task
        task.add_done_callback(lambda done: self._settled(whose, done))
        if len(self._under_way) >= UNDER_WAY_MAX:
            await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)

    async def settled(self) -> None:
        """Until all that was received has its receipt."""
        while self._under_way:
            await asyncio.wait(self._under_way.values())

    def leave(self) -> None:
        """Its client is gone: what was not accepted yet is not."""
        for task in self._under_way.values():
            task.cancel()

    def _settled(self, whose: str, task: asyncio.Task[None]) -> None:
        if self._under_way.get(whose) is task:
            del self._under_way[whose]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a packet could not be answered", exc_info=error)

    async def _settle_after(
        self, before: asyncio.Task[None] | None, packet: chat_pb2.ClientPacket, size: int
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        await self._settle(packet, size)

    async def _settle(self, packet: chat_pb2.ClientPacket, size: int) -> None:
        kind = packet.WhichOneof("request")
        # Cut: receipts wait for a client that doesn't read, and what is too long is refused below.
        receipt = chat_pb2.Receipt(
            client_ref=packet.client_ref[: codec.ID_CHARS_MAX],
            request_id=packet.request_id[: codec.ID_CHARS_MAX],
            session_id=packet.session_id[: codec.SESSION_ID_CHARS_MAX],
        )
        if not packet.session_id:
            receipt.session_id = self._sessions.get(packet.client_ref, "")
        opened, thoughts = "", packet.ask.include_thoughts and caller.get().thoughts
        try:
            if size > self._limits.request_bytes_max:
                raise WrongError(
                    "too_large",
                    f"the packet has {size} bytes; request_bytes_max is {self._limits.request_bytes_max}",
                )
            self._require_address(packet, kind)
            if kind is None:
                names = ", ".join(self._kinds)
                raise WrongError(
                    "unknown_request", f"request: is not set, or unknown here; one of {names} is right"
                )
            if kind != "ask" and not receipt.session_id:
                told = f"client_ref: {packet.client_ref!r} was never asked for on this stream; name its session_id"
                raise WrongError("unknown_session", told)
            await self._kinds[kind](packet, receipt)
            opened = receipt.session_id if kind == "ask" else ""
        except WrongError as wrong:
            receipt.error.CopyFrom(wrong.signal())

        def tell() -> None:
            self._tell(receipt, opened, thoughts=thoughts)

        is_settled = kind == "stop" and ending_is_kept(self._hub.journal, receipt.session_id)
        if self._hub.router.stalled and (is_settled or receipt.HasField("error")):
            # While nothing can be kept, only what changes nothing is told.
            tell()
        else:
            # Nobody is told of anything that a restart could undo; and each is told in turn.
            self._feed.tell_when_kept(tell)

    def _tell(self, receipt: chat_pb2.Receipt, opened: str, *, thoughts: bool) -> None:
        """Gives the client its receipt, and shows it the session that it opened or joined."""
        try:
            if opened:
                # Once more: others may have joined while this waited to be kept.
                self._require_room_to_watch(opened)
        except WrongError as wrong:
            self._sessions.pop(receipt.client_ref, None)
            receipt.session_id, opened = "", ""
            receipt.error.CopyFrom(wrong.signal())
        self._feed.receipt(receipt)
        if opened:
            self._feed.watch(opened, None, thoughts=thoughts)

    def _require_address(self, packet: chat_pb2.ClientPacket, kind: str | None) -> None:
        if packet.session_id and kind == "ask":
            raise WrongError("invalid_request", "session_id: an ask opens a session of its own; leave it out")
        if packet.session_id and packet.client_ref in self._sessions:
            told = "session_id: this stream knows the session by its client_ref already; set one of the two"
            raise WrongError("invalid_request", told)
        if len(packet.request_id) > codec.ID_CHARS_MAX:
            raise WrongError(
                "invalid_request", f"request_id: at most {codec.ID_CHARS_MAX} characters are right"
            )
        if len(packet.session_id) > codec.SESSION_ID_CHARS_MAX:
            raise WrongError(
                "invalid_request", f"session_id: at most {codec.SESSION_ID_CHARS_MAX} characters are right"
            )
        least = 0 if packet.session_id else 1
        if not least <= len(packet.client_ref) <= codec.ID_CHARS_MAX:
            told = f"client_ref: {least} to {codec.ID_CHARS_MAX} characters are right"
            raise WrongError("invalid_request", told + ("" if least == 0 else ", or a session_id instead"))

    def _forget_ended(self) -> None:
        sessions = self._hub.router.sessions
        live = {ref: each for ref, each in self._sessions.items() if each in sessions and sessions[each].live}
        self._sessions = live

    async def _ask(self, packet: chat_pb2.ClientPacket, receipt: chat_pb2.Receipt) -> None:
        if packet.client_ref in self._sessions:
            raise WrongError("invalid_request", f"client_ref: {packet.client_ref!r} names a session already")
        if len(self._sessions) >= STREAM_SESSIONS_MAX:
            self._forget_ended()
        if len(self._sessions) >= STREAM_SESSIONS_MAX:
            raise WrongError("too_many_sessions", f"one stream may ask for {STREAM_SESSIONS_MAX} sessions")
        reply = await self._requests.ask(packet.ask)
        if reply.joined:
            self._require_room_to_watch(reply.session_id)
        self._sessions[packet.client_ref] = receipt.session_id = reply.session_id

    def _require_room_to_watch(self, session_id: str) -> None:
        if told := too_many_viewers(self._hub, self._limits, session_id):
            raise WrongError("too_many_viewers", told)

    async def _answer(self, packet: chat_pb2.ClientPacket, receipt: chat_pb2.Receipt) -> None:
        await self._requests.answer(receipt.session_id, packet.answer)

    async def _message(self, packet: chat_pb2.ClientPacket, receipt: chat_pb2.Receipt) -> None:
        receipt.message_id = await self._requests.message(receipt.session_id, packet.message)

    async def _stop(self, packet: chat_pb2.ClientPacket, receipt: chat_pb2.Receipt) -> None:
        self._requests.stop(receipt.session_id, packet.stop)


def handlers(service: ChatService) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        chat_pb2.DESCRIPTOR.services_by_name["Chat"].full_name,
        {
            "Converse": conversed(service.converse),
            "Subscribe": watched(chat_pb2.SubscribeRequest, service.subscribe),
            "ListAgents": unary(chat_pb2.ListAgentsRequest, service.list_agents),
        },
    )
