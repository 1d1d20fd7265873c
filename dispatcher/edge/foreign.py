"""What dialects of other people's protocols have alike: a session is asked for, watched to its ending, and not left
running when its client goes. Their clients know one request and its answer, and no session that goes on without them.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from southwest.ai.agent.v1 import chat_pb2
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from dispatcher.core.endings import Refusal
from dispatcher.core.events import Declined
from dispatcher.edge.operations import Parameter
from dispatcher.edge.outlet import OUTLET
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.reading import BodyLimits, leaving
from dispatcher.edge.rendering import Rendering
from dispatcher.edge.viewers import Presence, ShowResponse, Viewers
from dispatcher.hub import Hub
from dispatcher.identity import caller
from dispatcher.journal import Entry
from dispatcher.requests import Requests, WrongError
from dispatcher.rpc import codec

# Events that are folded at once, so that others have their turn.
_PAGE_EVENTS: Final = 256
# What whoever asks may be told, and may tell.
ASKING: Final = ("unknown_session", "too_many_viewers", "conflict", *(refusal.value for refusal in Refusal))
KEY: Final = Parameter(
    "idempotency-key",
    "header",
    "Asked again with the same key, it joins the session.",
    {"type": "string", "maxLength": 256},
)


class ForeignLimits(NamedTuple):
    """`left_stop_s`: what nobody has watched for so long is stopped; a page that is loaded anew comes back in time."""

    body: BodyLimits
    left_stop_s: float


class EndingRendering(Rendering, Protocol):
    """One that may have said its last word before the session's ending: then it calls `when_over`."""

    when_over: Callable[[], None]

    @property
    def is_over(self) -> bool: ...


class Gathering(Protocol):
    """What makes one answer of a session's events."""

    def take(self, entries: Sequence[Entry]) -> None: ...

    @property
    def is_over(self) -> bool:
        """It has the ending."""


def may_think(wanted: bool) -> bool:
    """Whether who asks is shown thoughts: where it wants them, and may have them."""
    return wanted and caller.get().thoughts


class Foreign:
    """Asks and watches for the dialects."""

    def __init__(self, hub: Hub, requests: Requests, viewers: Viewers, limits: ForeignLimits) -> None:
        self.hub = hub
        self.requests = requests
        self.viewers = viewers
        self.limits = limits
        # Those that wait for a whole answer, to be woken when there will be none.
        self._waiting: set[asyncio.Event] = set()
        self._leaving = ""

    def __repr__(self) -> str:
        return f"<Foreign, {len(self._waiting)} wait for whole answers>"

    def go_away(self, reason: str) -> None:
        """The dispatcher leaves, and its sessions go on: nobody who waits here gets an answer."""
        self._leaving = reason
        for news in self._waiting:
            news.set()

    async def ask(self, ask: chat_pb2.Ask, *, goes_on: bool = False) -> tuple[str, Presence]:
        """Opens a session; it is stopped soon after its client has left, unless it `goes_on`. Its id, and the presence
        of who asks, who has to end it. Raises WrongError and ProblemError."""
        if not goes_on:
            ask.on_detach.stop_after.CopyFrom(codec.duration(self.limits.left_stop_s))
        session_id = (await self.requests.ask(ask)).session_id
        self.viewers.require_room(session_id)
        presence = Presence(self.hub, session_id)
        await presence.while_kept()
        return session_id, presence

    async def gathered(
        self, request: Request, session_id: str, gathering: Gathering, *, declines: bool
    ) -> bool:
        """Whether its client was there until it had the ending. Raises ProblemError for a session that is gone, and
        WrongError when the dispatcher goes."""
        journal = self.hub.journal
        news = asyncio.Event()
        after = 0
        async with contextlib.AsyncExitStack() as stack:
            left = await stack.enter_async_context(leaving(request, news.set))
            stack.enter_context(self.viewers.polling(session_id, news.set))
            stack.enter_context(self.declining(session_id, really=declines))
            self._waiting.add(news)
            stack.callback(self._waiting.discard, news)
            while not left.done():
                news.clear()
                page = journal.read(session_id, after, _PAGE_EVENTS)
                if page.head == 0:
                    raise ProblemError("unknown_session", "the session is no longer kept")
                if page.entries:
                    gathering.take(page.entries)
                    after = page.entries[-1].event.offset
                    await asyncio.sleep(0)
                if gathering.is_over:
                    return True
                if self._leaving:
                    raise _left_behind(self._leaving)
                if after >= page.head:
                    await news.wait()
        return False

    @contextlib.contextmanager
    def declining(self, session_id: str, *, really: bool) -> Iterator[None]:
        """The agent's questions are declined as they come: nobody who watches could answer."""
        if not really:
            yield
            return
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()

        def decline() -> None:
            session = self.hub.router.sessions.get(session_id)
            for question_id in list(session.open_questions) if session is not None else ():
                assert session is not None
                with contextlib.suppress(WrongError):
                    self.requests.decline(session_id, question_id, session.attempt)

        def look() -> None:
            session = self.hub.router.sessions.get(session_id)
            if session is not None and session.open_questions:
                loop.call_soon(decline, context=context)

        unsubscribe = self.hub.journal.subscribe(session_id, look)
        try:
            look()
            yield
        finally:
            unsubscribe()


def _left_behind(reason: str) -> WrongError:
    refusal = Refusal.DRAINING
    return WrongError(refusal.value, reason, Declined(refusal.value, reason, refusal))


class ForeignStream(ShowResponse):
    """Ends the stream where the dialect has nothing more to say, too. `first` is said before all else; questions are
    declined where it `declines`."""

    def __init__(
        self,
        foreign: Foreign,
        rendering: EndingRendering,
        session_id: str,
        after: int = 0,
        *,
        thoughts: bool,
        declines: bool = False,
        presence: Presence | None = None,
        first: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            foreign.viewers,
            rendering,
            session_id,
            after,
            [],
            thoughts=thoughts,
            headers=headers,
            presence=presence,
        )
        self._dialect = rendering
        self._questions = foreign.declining(session_id, really=declines)
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._dialect.when_over = scope["extensions"][OUTLET].wake
        is_whole = False

        async def heard() -> Message:
            """The show ends as if nobody were there when the dialect has said all."""
            return {"type": "http.disconnect"} if self._dialect.is_over else await receive()

        async def said(message: Message) -> None:
            nonlocal is_whole
            is_whole = message["type"] == "http.response.body"
            await send(message)
            if not is_whole and self._first:
                await send({"type": "http.response.body", "body": self._first, "more_body": True})

        with self._questions:
            await super().__call__(scope, heard, said)
        if not is_whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
