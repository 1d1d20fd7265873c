"""Chat: what an application calls. Reads its packets, hands them to the hub, answers each with a receipt."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from zlib import crc32

import grpc
from grpc import aio
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.auth import caller
from dispatcher.core.events import (
    Accepted,
    AnswerGiven,
    Declined,
    Event,
    MessageGiven,
    SessionRequested,
    Stopped,
    StopRequested,
)
from dispatcher.core.fleet import CommanderState
from dispatcher.core.policy import Budgets
from dispatcher.hub import Hub
from dispatcher.rpc import answers, codec
from dispatcher.rpc.feed import Feed, ending_is_kept
from dispatcher.rpc.methods import REASON_CHARS_MAX, Answered, conversed, page, unary, watched

LABELS_MAX: Final = 64
LABEL_CHARS_MAX: Final = 256
# Sessions that one Converse stream may have open.
STREAM_SESSIONS_MAX: Final = 1_000
# When a viewer of a dispatcher that goes away should be back, seconds.
COME_BACK_S: Final = 2.0
# Between name and version in a page's token.
_KEY_SEPARATOR: Final = "\0"


class ViewLimits(NamedTuple):
    """`request_bytes_max`: the largest ClientPacket; `viewers_per_session_max`: viewers of one session."""

    request_bytes_max: int
    max_message_bytes: int
    write_s: float
    viewers_per_session_max: int


class ChatService:
    """The service. `mint` makes ids."""

    def __init__(self, hub: Hub, mint: Callable[[str], str], limits: ViewLimits) -> None:
        self._hub = hub
        self._mint = mint
        self._limits = limits
        self._feeds: set[Feed] = set()
        # Those of Converse: the streams that could wait for a client's half-close for ever.
        self._conversing: set[Feed] = set()

    def feed(self, context: Any) -> Feed:
        return Feed(
            self._hub,
            context,
            write_s=self._limits.write_s,
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
        conversation = _Conversation(self._hub, self._mint, self._limits, feed)
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
            await asyncio.wait({reader, writer})

    async def _read(self, context: Any, conversation: "_Conversation", feed: Feed) -> None:
        while (data := await context.read()) is not aio.EOF:
            conversation.receive(data)
            await feed.room()
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
        """Streams one session to `context`, from the cursor to its ending."""
        sessions, journal = self._hub.router.sessions, self._hub.journal
        if session_id in sessions and not journal.read(session_id, 0, 0).head:
            # Nothing is shown that a restart could undo, that there is this session included.
            await self._hub.kept()
        # From here to the watching nothing waits, or more would watch than may.
        if session_id not in sessions:
            raise Answered("NOT_FOUND", await self._tell_missing(context, session_id, cursor))
        if told := too_many_viewers(self._hub, self._limits, session_id):
            raise Answered("RESOURCE_EXHAUSTED", told)
        feed = self.feed(context)
        feed.watch(session_id, cursor, thoughts=thoughts)
        feed.finish()
        self._feeds.add(feed)
        try:
            await feed.run()
        finally:
            self._feeds.discard(feed)

    async def _tell_missing(self, context: Any, session_id: str, cursor: chat_pb2.Cursor | None) -> str:
        """Tells a viewer that comes back with a cursor that there is nothing more to be had; and what the status says
        of it."""
        epoch = self._hub.journal.epoch
        missing = f"session_id: there is no session {session_id!r}, or it is no longer kept"
        if cursor is None:
            return missing
        # A cursor without an epoch is of this one, as everywhere.
        reason = "other_epoch" if cursor.epoch and cursor.epoch != epoch else "forgotten"
        gap = codec.gap(session_id[: codec.SESSION_ID_CHARS_MAX], epoch, cursor, 0, reason)
        await context.write(chat_pb2.SessionEvents(events=[gap]).SerializeToString())
        if reason == "forgotten":
            return missing
        return f"{missing}: its cursor is of epoch {cursor.epoch!r}, and the journal began anew as {epoch!r}"

    async def list_agents(
        self, request: chat_pb2.ListAgentsRequest, context: Any
    ) -> chat_pb2.ListAgentsResponse:
        listings: dict[tuple[str, str], chat_pb2.AgentListing] = {}
        for commander in self._hub.router.fleet.commanders.values():
            for offer in commander.hello.agents:
                listing = listings.get((offer.name, offer.version))
                if listing is None:
                    listing = listings[offer.name, offer.version] = chat_pb2.AgentListing(
                        offer=agent_offer(offer)
                    )
                listing.commanders += 1
                if commander.state is CommanderState.READY:
                    listing.slots += commander.hello.slots
                    listing.slots_free += commander.free
        after = tuple(request.page_token.split(_KEY_SEPARATOR, 1)) if request.page_token else ()
        keys = [key for key in sorted(listings) if key > after]
        views, more = page((listings[key] for key in keys), self._limits.max_message_bytes)
        last = keys[len(views) - 1] if more else ()
        return chat_pb2.ListAgentsResponse(agents=views, next_page_token=_KEY_SEPARATOR.join(last))


def too_many_viewers(hub: Hub, limits: ViewLimits, session_id: str) -> str:
    """Why one more may not watch the session; empty where one may."""
    session = hub.router.sessions.get(session_id)
    if session is None or session.viewers < limits.viewers_per_session_max:
        return ""
    return f"viewers_per_session_max is {limits.viewers_per_session_max}, and so many watch already"


def agent_offer(offer: Any) -> agent_pb2.AgentOffer:
    return agent_pb2.AgentOffer(
        name=offer.name,
        version=offer.version,
        description=offer.description,
        accepted_input=offer.accepted_input,
        on_restart=codec.ON_RESTART_NUMBERS[offer.on_restart],
    )


class _Conversation:
    """What one Converse stream has asked for: its references, and the receipts for its packets."""

    def __init__(self, hub: Hub, mint: Callable[[str], str], limits: ViewLimits, feed: Feed) -> None:
        self._hub = hub
        self._mint = mint
        self._limits = limits
        self._feed = feed
        self._sessions: dict[str, str] = {}
        self._requests: dict[str, Callable[[chat_pb2.ClientPacket, chat_pb2.Receipt], None]] = {
            "ask": self._ask,
            "answer": self._answer,
            "message": self._message,
            "stop": self._stop,
        }

    def receive(self, data: bytes) -> None:
        """One packet from the application. Whatever is wrong with it is said in its receipt."""
        packet = codec.parse(chat_pb2.ClientPacket, data)
        kind = packet.WhichOneof("request")
        # Cut: receipts wait for a client that doesn't read, and what is too long is refused below.
        receipt = chat_pb2.Receipt(
            client_ref=packet.client_ref[: codec.ID_CHARS_MAX],
            request_id=packet.request_id[: codec.ID_CHARS_MAX],
            session_id=packet.session_id[: codec.SESSION_ID_CHARS_MAX],
        )
        if not packet.session_id:
            receipt.session_id = self._sessions.get(packet.client_ref, "")
        opened, thoughts = "", packet.ask.include_thoughts
        try:
            if len(data) > self._limits.request_bytes_max:
                raise _Wrong(
                    "too_large",
                    f"the packet has {len(data)} bytes; request_bytes_max is {self._limits.request_bytes_max}",
                )
            self._require_address(packet, kind)
            if kind is None:
                names = ", ".join(self._requests)
                raise _Wrong(
                    "unknown_request", f"request: is not set, or unknown here; one of {names} is right"
                )
            if kind != "ask" and not receipt.session_id:
                told = f"client_ref: {packet.client_ref!r} was never asked for on this stream; name its session_id"
                raise _Wrong("unknown_session", told)
            self._requests[kind](packet, receipt)
            opened = receipt.session_id if kind == "ask" else ""
        except _Wrong as wrong:
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
        except _Wrong as wrong:
            self._sessions.pop(receipt.client_ref, None)
            receipt.session_id, opened = "", ""
            receipt.error.CopyFrom(wrong.signal())
        self._feed.receipt(receipt)
        if opened:
            self._feed.watch(opened, None, thoughts=thoughts)

    def _require_address(self, packet: chat_pb2.ClientPacket, kind: str | None) -> None:
        if packet.session_id and kind == "ask":
            raise _Wrong("invalid_request", "session_id: an ask opens a session of its own; leave it out")
        if packet.session_id and packet.client_ref in self._sessions:
            told = "session_id: this stream knows the session by its client_ref already; set one of the two"
            raise _Wrong("invalid_request", told)
        if len(packet.request_id) > codec.ID_CHARS_MAX:
            raise _Wrong("invalid_request", f"request_id: at most {codec.ID_CHARS_MAX} characters are right")
        if len(packet.session_id) > codec.SESSION_ID_CHARS_MAX:
            raise _Wrong(
                "invalid_request", f"session_id: at most {codec.SESSION_ID_CHARS_MAX} characters are right"
            )
        least = 0 if packet.session_id else 1
        if not least <= len(packet.client_ref) <= codec.ID_CHARS_MAX:
            told = f"client_ref: {least} to {codec.ID_CHARS_MAX} characters are right"
            raise _Wrong("invalid_request", told + ("" if least == 0 else ", or a session_id instead"))

    def _forget_ended(self) -> None:
        sessions = self._hub.router.sessions
        live = {ref: each for ref, each in self._sessions.items() if each in sessions and sessions[each].live}
        self._sessions = live

    def _submit(self, event: Event) -> Any:
        reply = self._hub.submit(event)
        if isinstance(reply, Declined):
            raise _Wrong(reply.code, reply.message, reply)
        return reply

    def _ask(self, packet: chat_pb2.ClientPacket, receipt: chat_pb2.Receipt) -> None:
        if packet.client_ref in self._sessions:
            raise _Wrong("invalid_request", f"client_ref: {packet.client_ref!r} names a session already")
        if len(self._sessions) >= STREAM_SESSIONS_MAX:
            self._forget_ended()
        if len(self._sessions) >= STREAM_SESSIONS_MAX:
            raise _Wrong("too_many_sessions", f"one stream may ask for {STREAM_SESSIONS_MAX} sessions")
        asked = requested(packet.ask, self._mint("s"))
        reply = self._submit(asked)
        assert isinstance(reply, Accepted)
        if reply.joined:
            self._require_room_to_watch(reply.session_id)
        self._sessions[packet.client_ref] = receipt.session_id = reply.session_id

    def _require_room_to_watch(self, session_id: str) -> None:
        if told := too_many_viewers(self._hub, self._limits, session_id):
            raise _Wrong("too_many_viewers", told)

    def _answer(self, packet: chat_pb2.ClientPacket, receipt: chat_pb2.Receipt) -> None:
        answer = packet.answer
        value_json: str | None = None
        if answer.WhichOneof("result") == "value_json":
            value_json = answer.value_json
            _require_json("answer.value_json", value_json)
            self._require_fitting(receipt.session_id, answer.question_id, value_json)
        elif not answer.decline:
            raise _Wrong("invalid_request", "answer: neither value_json nor decline is set; set one")
        attempt = answer.attempt if answer.HasField("attempt") else None
        self._submit(AnswerGiven(receipt.session_id, answer.question_id, value_json, attempt))

    def _require_fitting(self, session_id: str, question_id: str, value_json: str) -> None:
        """Raises _Wrong for an answer that its question does not allow; the question stays open."""
        session = self._hub.router.sessions.get(session_id)
        question = session.questions.get(question_id) if session else None
        if question is not None:
            misfit = answers.misfit(codec.question(question.body), value_json)
            if misfit:
                raise _Wrong("invalid_request", f"answer.value_json: {misfit}")

    def _message(self, packet: chat_pb2.ClientPacket, receipt: chat_pb2.Receipt) -> None:
        if not packet.message.text:
            raise _Wrong("invalid_request", "message.text: is empty")
        message_id = self._mint("m")
        self._submit(MessageGiven(receipt.session_id, message_id, packet.message.text))
        receipt.message_id = message_id

    def _stop(self, packet: chat_pb2.ClientPacket, receipt: chat_pb2.Receipt) -> None:
        reason = packet.stop.reason or "UserCancel"
        if len(reason) > REASON_CHARS_MAX:
            raise _Wrong("invalid_request", f"stop.reason: at most {REASON_CHARS_MAX} characters are right")
        stop_id = self._mint("stop")
        reply = self._submit(StopRequested(receipt.session_id, stop_id, "user_cancel", reason, caller.get()))
        assert isinstance(reply, Stopped)


def requested(ask: chat_pb2.Ask, session_id: str) -> SessionRequested:
    """An Ask in the core's words. Raises _Wrong, which names the field."""
    if not ask.messages:
        raise _Wrong("invalid_request", "ask.messages: is empty; at least one message is right")
    for number, message in enumerate(ask.messages):
        _require_message(f"ask.messages[{number}]", message)
    for name, labels in (("labels", ask.labels), ("commander_labels", ask.commander_labels)):
        if len(labels) > LABELS_MAX:
            raise _Wrong("invalid_request", f"ask.{name}: has {len(labels)}; at most {LABELS_MAX} are right")
        for key, value in labels.items():
            if not key or len(key) > LABEL_CHARS_MAX or len(value) > LABEL_CHARS_MAX:
                raise _Wrong(
                    "invalid_request",
                    f"ask.{name}[{key[:32]!r}]: keys and values have up to {LABEL_CHARS_MAX}",
                )
    for name in ("agent", "agent_version", "user_id", "affinity_key", "idempotency_key"):
        if len(getattr(ask, name)) > LABEL_CHARS_MAX:
            raise _Wrong("invalid_request", f"ask.{name}: at most {LABEL_CHARS_MAX} characters are right")
    unwatched = ask.on_detach.HasField("stop_after")
    if unwatched and codec.seconds(ask.on_detach.stop_after) < 0:
        raise _Wrong("invalid_request", "ask.on_detach.stop_after: is below zero; 0 s or more is right")
    return SessionRequested(
        session_id=session_id,
        agent=ask.agent,
        request=ask.SerializeToString(),
        agent_version=ask.agent_version,
        user_id=ask.user_id,
        labels=dict(ask.labels),
        commander_labels=dict(ask.commander_labels),
        affinity_key=ask.affinity_key,
        idempotency_key=ask.idempotency_key,
        budgets=_budgets(ask.budgets) if ask.HasField("budgets") else None,
        stop_when_unwatched_s=codec.seconds(ask.on_detach.stop_after) if unwatched else None,
        application=caller.get(),
        request_crc32=_asked_crc32(ask),
    )


def _asked_crc32(ask: chat_pb2.Ask) -> int:
    """Of what is asked under a key. How it is watched and traced may be another when it is asked again."""
    if not ask.idempotency_key:
        return 0
    asked = chat_pb2.Ask()
    asked.CopyFrom(ask)
    for apart in ("include_thoughts", "on_detach", "trace_context"):
        asked.ClearField(apart)
    return crc32(asked.SerializeToString(deterministic=True))


def _require_message(where: str, message: agent_pb2.Message) -> None:
    if not message.parts:
        raise _Wrong("invalid_request", f"{where}.parts: is empty; at least one part is right")
    if message.role not in agent_pb2.Role.values() or message.role == agent_pb2.ROLE_UNSPECIFIED:
        raise _Wrong("invalid_request", f"{where}.role: is not set or unknown")
    for number, part in enumerate(message.parts):
        kind = part.WhichOneof("part")
        if kind is None:
            raise _Wrong(
                "invalid_request",
                f"{where}.parts[{number}]: is not set, or unknown here; one of text, blob, json is right",
            )
        if kind == "json":
            _require_json(f"{where}.parts[{number}].json", part.json)


def _require_json(where: str, text: str) -> None:
    """Raises _Wrong. Stricter than `json`: NaN and the infinities are no JSON."""
    try:
        json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise _Wrong(
            "invalid_request", f"{where}: is no JSON: {error.msg} at character {error.pos + 1}"
        ) from None
    except _NoConstantError as error:
        raise _Wrong("invalid_request", f"{where}: is no JSON: {error}") from None
    except ValueError:  # the only one left: an integer of thousands of digits
        raise _Wrong(
            "invalid_request", f"{where}: is no JSON that readers agree on: a number has too many digits"
        ) from None
    except RecursionError:
        raise _Wrong("invalid_request", f"{where}: is nested too deeply") from None


class _NoConstantError(ValueError):
    pass


def _no_constant(name: str) -> object:
    raise _NoConstantError(f"{name} is no value of it")


def _budgets(wire: agent_pb2.Budgets) -> Budgets:
    for name in ("total_time", "first_token_time"):
        if wire.HasField(name) and codec.seconds(getattr(wire, name)) <= 0:
            raise _Wrong("invalid_request", f"ask.budgets.{name}: is not above zero")
    return Budgets(
        content_chars=wire.content_chars if wire.HasField("content_chars") else None,
        thought_chars=wire.thought_chars if wire.HasField("thought_chars") else None,
        tool_calls=wire.tool_calls if wire.HasField("tool_calls") else None,
        output_tokens=wire.output_tokens if wire.HasField("output_tokens") else None,
        total_time_s=codec.seconds(wire.total_time) if wire.HasField("total_time") else None,
        first_token_s=codec.seconds(wire.first_token_time) if wire.HasField("first_token_time") else None,
    )


class _Wrong(Exception):  # noqa: N818 - said in a receipt, not an error of ours
    """A packet that is not accepted: which field, what was wrong, what would be right."""

    def __init__(self, code: str, message: str, declined: Declined | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.declined = declined

    def signal(self) -> agent_pb2.ErrorSignal:
        signal = agent_pb2.ErrorSignal(
            code=self.code,
            origin=agent_pb2.ERROR_ORIGIN_CLIENT,
            scope=agent_pb2.ERROR_SCOPE_SESSION,
            message=codec.shortened(str(self)),
        )
        refusal = self.declined.refusal if self.declined else None
        if refusal is not None:
            signal.origin = agent_pb2.ERROR_ORIGIN_DISPATCHER
            signal.retryable = refusal.traits.retryable
            assert self.declined is not None
            retry_after_s = self.declined.retry_after_s or refusal.traits.retry_after_s
            if retry_after_s is not None:
                signal.retry_after_ms = max(1, round(retry_after_s * 1000))
        return signal


def handlers(service: ChatService) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        chat_pb2.DESCRIPTOR.services_by_name["Chat"].full_name,
        {
            "Converse": conversed(service.converse),
            "Subscribe": watched(chat_pb2.SubscribeRequest, service.subscribe),
            "ListAgents": unary(chat_pb2.ListAgentsRequest, service.list_agents),
        },
    )
