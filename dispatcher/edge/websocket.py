"""WebSocket: any number of sessions on one connection, opened, watched, answered, added to and stopped.

Each message from the client is one JSON object that says what it wants in `request`; each is answered by a `receipt`.
Events come as in every way of watching. A request that is wrong has its receipt and the rest goes on; the connection
itself ends with a code that says why:

    1000  the client has closed it        1001  the dispatcher goes away; come back with the cursors of `goaway`
    1003  a message that is no text       1008  this host, page or caller may not
    1009  a message that is too large     1011  the dispatcher failed, or no answer to a ping
    4008  slow: the client took nothing for too long
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Annotated, Any, Final, Literal, NamedTuple

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from southwest.ai.agent.v1 import chat_pb2
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dispatcher.edge.bodies import AddMessageBody, AnswerBody, AskBody, Body, StopBody, problem_of
from dispatcher.edge.guard import Callers, Users
from dispatcher.edge.kept import kept
from dispatcher.edge.native import EventForm, notice_json
from dispatcher.edge.outlet import OUTLET
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.rendering import Notice
from dispatcher.edge.sockets import SocketOutlet
from dispatcher.edge.viewers import Viewers, parse_cursor
from dispatcher.hub import Hub
from dispatcher.identity import NOBODY, caller
from dispatcher.journal import Entry
from dispatcher.requests import Requests, WrongError

log = logging.getLogger(__name__)

# Sessions that one connection may watch.
SESSIONS_MAX: Final = 1_000
# Requests of one connection that wait until services have judged them; then no more are read.
WAITING_MAX: Final = 64
GOING_AWAY: Final = 1001
NO_TEXT: Final = 1003
NOT_ALLOWED: Final = 1008
FAILED: Final = 1011
SLOW: Final = 4008
_REF_CHARS_MAX: Final = 128

Ref = Annotated[str, Field(max_length=_REF_CHARS_MAX)]


class AskRequest(AskBody):
    """Opens a session and watches it."""

    request: Literal["ask"]
    request_id: Ref = ""


class AuthenticateRequest(Body):
    """Says who calls, where that could not be said by a header. The first request then; never needed twice."""

    request: Literal["authenticate"]
    request_id: Ref = ""
    token: str


class SubscribeRequest(Body):
    """Watches a session, after the cursor."""

    request: Literal["subscribe"]
    request_id: Ref = ""
    session_id: str
    cursor: str = ""
    include_thoughts: bool = False


class UnsubscribeRequest(Body):
    """Watches a session no more; the session goes on, unless it asked to be stopped then."""

    request: Literal["unsubscribe"]
    request_id: Ref = ""
    session_id: str


class AnswerRequest(AnswerBody):
    request: Literal["answer"]
    request_id: Ref = ""
    session_id: str
    question_id: str


class MessageRequest(AddMessageBody):
    request: Literal["message"]
    request_id: Ref = ""
    session_id: str


class StopRequest(StopBody):
    request: Literal["stop"]
    request_id: Ref = ""
    session_id: str


AnyRequest = Annotated[
    AuthenticateRequest
    | AskRequest
    | SubscribeRequest
    | UnsubscribeRequest
    | AnswerRequest
    | MessageRequest
    | StopRequest,
    Field(discriminator="request"),
]
_REQUESTS: Final[TypeAdapter[AnyRequest]] = TypeAdapter(AnyRequest)


class SocketLimits(NamedTuple):
    """`write_s`: how long a client may take nothing; `first_s`: how long it may take to say who it is."""

    write_s: float
    first_s: float


class Messages:
    """One session's events as messages of a WebSocket, a line each."""

    way = "websocket"
    key = "websocket"
    is_exact = False
    # The protocol's own pings do that.
    heartbeat = b""

    def __init__(self, session_id: str, epoch: str) -> None:
        self._session_id = session_id
        self._form = EventForm(session_id, epoch)

    def events(self, entries: Sequence[Entry]) -> bytes:
        return b"\n".join(map(self._form.json, entries))

    def notice(self, notice: Notice) -> bytes:
        return notice_json(self._session_id, notice)


class Sockets:
    """The endpoint /v1/ws."""

    def __init__(
        self,
        hub: Hub,
        requests: Requests,
        viewers: Viewers,
        callers: Callers,
        users: Users,
        limits: SocketLimits,
    ) -> None:
        self._hub = hub
        self._requests = requests
        self._viewers = viewers
        self._callers = callers
        self._users = users
        self._limits = limits
        self._open: set[_Socket] = set()

    def routes(self) -> list[WebSocketRoute]:
        return [WebSocketRoute("/v1/ws", self.serve)]

    def go_away(self) -> None:
        """Behind the viewers' own goaways: the connections end."""
        for socket in tuple(self._open):
            socket.close(GOING_AWAY, "the dispatcher goes away")

    async def serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        socket = _Socket(
            websocket, self._hub, self._requests, self._viewers, self._users, self._limits.write_s
        )
        self._open.add(socket)
        try:
            if caller.get() is NOBODY:
                async with asyncio.timeout(self._limits.first_s):
                    identity = await self._callers.identify(await socket.first_token())
                caller.set(identity)
                with self._users.admitted(identity):
                    await socket.converse()
            else:
                await socket.converse()
        except TimeoutError:
            socket.close(NOT_ALLOWED, "unauthenticated: it did not say who it is")
        except ProblemError as problem:
            socket.close(NOT_ALLOWED, problem.code)
        except Exception:
            log.exception("a WebSocket failed")
            socket.close(FAILED, "the dispatcher failed; its log says why")
        finally:
            self._open.discard(socket)
            socket.leave()


class _Socket:
    """One client's connection, and what it watches."""

    def __init__(
        self,
        websocket: WebSocket,
        hub: Hub,
        requests: Requests,
        viewers: Viewers,
        users: Users,
        write_s: float,
    ) -> None:
        self._websocket = websocket
        self._hub = hub
        self._requests = requests
        self._viewers = viewers
        self._users = users
        self._write_s = write_s
        self._outlet: SocketOutlet = websocket.scope["extensions"][OUTLET]
        # By session: what ends its watching.
        self._watched: dict[str, ExitStack] = {}
        self._room = asyncio.Event()
        self._outlet.on_room.add(self._room.set)
        # Requests that wait for services, one after the other, and the last of them.
        self._judged: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None

    async def first_token(self) -> str:
        """What its first request says. Raises ProblemError where that says something else."""
        message = await self._websocket.receive()
        told = None
        with suppress(ValidationError):
            told = _REQUESTS.validate_json(message.get("text") or "")
        if not isinstance(told, AuthenticateRequest):
            raise ProblemError("unauthenticated", "the first request has to be authenticate, with a token")
        receipt = {"event": "receipt", "request_id": told.request_id, "session_id": "", "fields": {}}
        self._outlet.write(self._outlet.framed(orjson.dumps(receipt)))
        return told.token

    async def converse(self) -> None:
        try:
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                if text is None:
                    self.close(NO_TEXT, "messages are JSON objects, as text")
                    return
                await self._receive(text)
                await self._require_room()
        except WebSocketDisconnect:
            return

    def close(self, code: int, reason: str) -> None:
        self._outlet.end(code, reason)

    def leave(self) -> None:
        self._outlet.on_room.discard(self._room.set)
        for task in self._judged:
            task.cancel()
        for stack in self._watched.values():
            stack.close()
        self._watched.clear()

    async def _require_room(self) -> None:
        """Who asks and does not read is heard no more until it does."""
        if not self._outlet.is_full:
            return
        self._room.clear()
        try:
            async with asyncio.timeout(self._write_s):
                await self._room.wait()
        except TimeoutError:
            self.close(SLOW, "slow: it took nothing for too long")

    async def _receive(self, text: str) -> None:
        """One request. Where services judge what users say, others go on meanwhile, a stop among them."""
        told: AnyRequest | None = None
        wrong: ProblemError | None = None
        try:
            told = _REQUESTS.validate_json(text)
        except ValidationError as error:
            wrong = problem_of(error, is_tagged=True)
        if self._requests.are_judged and isinstance(told, AskRequest | AnswerRequest | MessageRequest):
            self._last = asyncio.ensure_future(self._after(self._last, told))
            self._judged.add(self._last)
            self._last.add_done_callback(self._is_judged)
            if len(self._judged) >= WAITING_MAX:
                await asyncio.wait(self._judged, return_when=asyncio.FIRST_COMPLETED)
            return
        await self._answer(told, wrong, "" if told is not None else _request_id(text))

    async def _after(self, before: asyncio.Task[None] | None, told: AnyRequest) -> None:
        if before is not None:
            await asyncio.wait({before})
        await self._answer(told, None, "")

    def _is_judged(self, task: asyncio.Task[None]) -> None:
        self._judged.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a request could not be answered", exc_info=error)

    async def _answer(
        self, told: AnyRequest | None, wrong_form: ProblemError | None, request_id: str
    ) -> None:
        receipt: dict[str, Any] = {"event": "receipt", "request_id": "", "session_id": "", "fields": {}}
        try:
            receipt["request_id"] = told.request_id if told is not None else request_id
            self._users.require_rate(caller.get())
            if told is None:
                assert wrong_form is not None
                raise wrong_form
            watch = await self._do(told, receipt)
        except WrongError as wrong:
            receipt["fields"] = {"error": ProblemError.of(wrong).record()}
            watch = None
        except ProblemError as problem:
            receipt["fields"] = {"error": problem.record()}
            watch = None
        self._outlet.write(self._outlet.framed(orjson.dumps(receipt)))
        if watch is not None:
            watch()

    async def _do(self, told: AnyRequest, receipt: dict[str, Any]) -> Callable[[], None] | None:
        """What was asked for. What begins behind the receipt is returned."""
        match told:
            case AuthenticateRequest():
                raise ProblemError(
                    "invalid_request", "request: it is known already who this is", field="request"
                )
            case AskRequest():
                self._require_fewer()
                accepted = await self._requests.ask(told.ask())
                receipt["session_id"] = accepted.session_id
                await kept(self._hub)
                return self._watch(
                    accepted.session_id, "", thoughts=told.include_thoughts and caller.get().thoughts
                )
            case SubscribeRequest():
                receipt["session_id"] = told.session_id
                self._require_fewer()
                self._require_session(told.session_id, told.cursor)
                await kept(self._hub)
                return self._watch(
                    told.session_id, told.cursor, thoughts=told.include_thoughts and caller.get().thoughts
                )
            case UnsubscribeRequest():
                receipt["session_id"] = told.session_id
                stack = self._watched.pop(told.session_id, None)
                if stack is None:
                    raise ProblemError(
                        "unknown_session", "session_id: this connection does not watch it", field="session_id"
                    )
                stack.close()
                return None
        receipt["session_id"] = told.session_id
        match told:
            case AnswerRequest():
                await self._requests.answer(told.session_id, told.answer(told.question_id))
            case MessageRequest():
                added = await self._requests.message(told.session_id, _added(told))
                receipt["fields"] = {"message_id": added}
            case StopRequest():
                stopped = self._requests.stop(told.session_id, chat_pb2.StopAsked(reason=told.reason))
                result = "already_ended" if stopped.already_ended else "stopped"
                receipt["fields"] = {"result": result, "ending": stopped.ending, "stop_id": stopped.stop_id}
        await kept(self._hub)
        return None

    def _require_fewer(self) -> None:
        if len(self._watched) >= SESSIONS_MAX:
            raise ProblemError("too_many_viewers", f"one connection may watch {SESSIONS_MAX} sessions")

    def _require_session(self, session_id: str, cursor: str) -> None:
        try:
            self._requests.require_visible(session_id)
        except WrongError as wrong:
            problem = ProblemError.of(wrong)
            if cursor:
                problem.more["gap"] = self._viewers.lost(parse_cursor("cursor", cursor))._asdict()
            raise problem from None

    def _watch(self, session_id: str, cursor: str, *, thoughts: bool) -> Callable[[], None] | None:
        """Begins to watch, once that is called. Raises ProblemError."""
        at = parse_cursor("cursor", cursor) if cursor else None
        if session_id in self._watched:
            if at is not None:
                raise ProblemError(
                    "invalid_request", "session_id: this connection watches it already", field="session_id"
                )
            return None
        self._viewers.require_room(session_id)
        after, notices = self._viewers.place(session_id, at)
        rendering = Messages(session_id, self._hub.journal.epoch)
        stack = self._watched[session_id] = ExitStack()

        def begin() -> None:
            def over() -> None:
                # In the middle of a flush: it leaves when that is through.
                asyncio.get_running_loop().call_soon(self._ended, session_id, stack, show.is_slow)

            show = self._viewers.show(
                self._outlet, rendering, session_id, after, thoughts=thoughts, over=over
            )
            stack.enter_context(self._viewers.watching(show, notices))

        return begin

    def _ended(self, session_id: str, stack: ExitStack, is_slow: bool) -> None:
        if self._watched.get(session_id) is stack:
            del self._watched[session_id]
        stack.close()
        if is_slow:
            self.close(SLOW, "slow: it took nothing for too long")


def _added(told: MessageRequest) -> chat_pb2.AddMessage:
    return chat_pb2.AddMessage(text=told.text, idempotency_key=told.idempotency_key)


def _request_id(text: str) -> str:
    """Of a request that is wrong, so that its sender knows which one."""
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError:
        return ""
    named = told.get("request_id") if isinstance(told, dict) else None
    return named[:_REF_CHARS_MAX] if isinstance(named, str) else ""
