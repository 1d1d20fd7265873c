"""Everybody who watches a session over HTTP: let in, shown, told when the dispatcher goes, and counted."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher.core.events import Count, ViewerCame, ViewerLeft
from dispatcher.edge.flusher import Flusher
from dispatcher.edge.kept import kept
from dispatcher.edge.outlet import END_S, OUTLET, Outlet
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.protocol import ChunkOutlet
from dispatcher.edge.rendering import Folding, Gap, GoAway, Notice, Rendering
from dispatcher.edge.showing import ENDED, Show, ShowLimits
from dispatcher.hub import Hub
from dispatcher.journal.position import missing, position
from dispatcher.metrics import Metrics

log = logging.getLogger(__name__)

# When a viewer of a dispatcher that goes away should be back.
COME_BACK_MS: Final = 2_000
# Events that a rendering is told at once of what a viewer has had.
_RECALLED_AT_ONCE: Final = 1_000
_CURSOR: Final = re.compile(r"([A-Za-z0-9-]{0,64}):([0-9]{1,19})")
# What keeps a stream a stream on its way through proxies and into browsers.
STREAM_HEADERS: Final = {
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
}


class Cursor(NamedTuple):
    """Where a viewer has been: `epoch:offset`."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"


def parse_cursor(field: str, text: str) -> Cursor:
    """Raises ProblemError."""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ProblemError(
            "invalid_request",
            f"{field}: {text[:80]!r} is no cursor; the id of the last event seen, like 1f2e3d4c:17, is right",
            field=field,
        )
    return Cursor(found[1], int(found[2]))


class Viewers:
    """One for all edges over HTTP. Every method is called in the loop's thread."""

    def __init__(
        self, hub: Hub, flusher: Flusher, metrics: Metrics, limits: ShowLimits, viewers_per_session_max: int
    ) -> None:
        self._hub = hub
        self._flusher = flusher
        self._metrics = metrics
        self._limits = limits
        self._viewers_per_session_max = viewers_per_session_max
        self._shows: set[Show] = set()
        # Those that wait without a stream, and what they are told when the dispatcher leaves.
        self._polls: set[Callable[[], None]] = set()
        self._leaving = ""

    def __repr__(self) -> str:
        return f"<Viewers, {len(self._shows)} streams>"

    @property
    def write_s(self) -> float:
        """How long one may take nothing."""
        return self._limits.write_s

    def require_room(self, session_id: str) -> None:
        """Raises ProblemError where no more may watch the session."""
        session = self._hub.router.sessions.get(session_id)
        if session is not None and session.viewers >= self._viewers_per_session_max:
            told = f"viewers_per_session_max is {self._viewers_per_session_max}, and so many watch already"
            raise ProblemError("too_many_viewers", told, retry_after_s=2.0)

    def place(self, session_id: str, cursor: Cursor | None) -> tuple[int, list[Notice]]:
        """After which offset a viewer goes on, and what it is to be told first. Of a session that is there."""
        if cursor is None:
            return 0, []
        journal = self._hub.journal
        found = position(journal, session_id, cursor.epoch, cursor.offset)
        if not found.gap:
            return found.after, []
        gap = Gap(str(cursor), f"{journal.epoch}:{found.available_from}", found.gap)
        return found.after, [gap]

    async def recall(self, session_id: str, after: int, rendering: Folding) -> None:
        """Tells `rendering` all events up to `after`; others have their turn in between."""
        at = 0
        while at < after:
            entries = self._hub.journal.read(session_id, at, min(_RECALLED_AT_ONCE, after - at)).entries
            if not entries:
                return
            rendering.recall(entries)
            at = entries[-1].event.offset
            await asyncio.sleep(0)

    def lost(self, cursor: Cursor) -> Gap:
        """What a viewer is told that comes back to a session which is not there."""
        journal = self._hub.journal
        return Gap(str(cursor), f"{journal.epoch}:0", missing(journal, cursor.epoch))

    def show(
        self,
        outlet: Outlet,
        rendering: Rendering,
        session_id: str,
        after: int,
        *,
        thoughts: bool,
        over: Callable[[], None],
        until: frozenset[str] = ENDED,
    ) -> Show:
        """What shows the session through `outlet`, once `watching` begins it; `over` is called at its end."""
        return Show(
            self._hub,
            self._flusher,
            outlet,
            rendering,
            session_id,
            after,
            self._limits,
            thoughts=thoughts,
            degraded=lambda stage: self._metrics.count(Count("viewers_degraded", (stage,))),
            over=over,
            until=until,
        )

    def go_away(self, reason: str) -> None:
        """The dispatcher leaves, and its sessions go on."""
        self._leaving = reason
        for show in list(self._shows):
            try:
                show.go_away(reason, COME_BACK_MS)
            except Exception:
                # Of one viewer alone: the others are told.
                log.exception("could not tell %r that the dispatcher leaves", show)
                show.fail()
        for news in list(self._polls):
            news()

    def farewell(self, after: int) -> GoAway | None:
        """What one without a stream is told, who has been so far, when the dispatcher leaves."""
        if not self._leaving:
            return None
        return GoAway(f"{self._hub.journal.epoch}:{after}", self._leaving, COME_BACK_MS)

    @contextlib.contextmanager
    def polling(self, session_id: str, news: Callable[[], None]) -> Iterator[None]:
        """Somebody watches for a while without a stream; `news` is called when there is more."""
        unsubscribe = self._hub.journal.subscribe(session_id, news)
        self._hub.submit(ViewerCame(session_id))
        self._polls.add(news)
        try:
            with self._metrics.viewing("poll"):
                yield
        finally:
            self._polls.discard(news)
            unsubscribe()
            self._hub.submit(ViewerLeft(session_id))

    @contextlib.contextmanager
    def watching(self, show: Show, notices: list[Notice]) -> Iterator[None]:
        self._shows.add(show)
        show.begin(notices)
        try:
            with self._metrics.viewing(show.way):
                yield
        finally:
            self._shows.discard(show)
            show.end()


class Presence:
    """Somebody is there for a session, until `end`; more than once does nothing."""

    def __init__(self, hub: Hub, session_id: str) -> None:
        self._hub = hub
        self._session_id = session_id
        self._is_there = True
        hub.submit(ViewerCame(session_id))

    def end(self) -> None:
        if self._is_there:
            self._is_there = False
            self._hub.submit(ViewerLeft(self._session_id))

    async def while_kept(self) -> None:
        """Until all that was decided is kept. Then somebody else is to take its place, or to end it."""
        try:
            await kept(self._hub)
        except BaseException:
            self.end()
            raise


class ShowResponse(Response):
    """Streams a session to whoever asked, until it has ended or they have left. `presence`: who asked was there until
    now."""

    def __init__(
        self,
        viewers: Viewers,
        rendering: Rendering,
        session_id: str,
        after: int,
        notices: list[Notice],
        *,
        thoughts: bool,
        media_type: str = "text/event-stream",
        headers: Mapping[str, str] | None = None,
        until: frozenset[str] = ENDED,
        presence: Presence | None = None,
    ) -> None:
        self.background = None
        self._presence = presence
        self.status_code = 200
        self.media_type = media_type
        self._viewers = viewers
        self._rendering = rendering
        self._session_id = session_id
        self._after = after
        self._notices = notices
        self._thoughts = thoughts
        self._until = until
        self.init_headers({**STREAM_HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._stream(scope, receive, send)
        finally:
            self._arrived()

    def _arrived(self) -> None:
        if self._presence is not None:
            self._presence.end()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        outlet: ChunkOutlet = scope["extensions"][OUTLET]
        show = self._viewers.show(
            outlet,
            self._rendering,
            self._session_id,
            self._after,
            thoughts=self._thoughts,
            over=outlet.wake,
            until=self._until,
        )
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        has_left = False
        with self._viewers.watching(show, self._notices):
            self._arrived()
            while not show.is_over and not has_left:
                has_left = (await receive())["type"] == "http.disconnect"
        if has_left:
            return
        await self._end(send, outlet, END_S if show.is_slow else self._viewers.write_s)
        if show.is_slow:
            outlet.close()

    async def _end(self, send: Send, outlet: ChunkOutlet, patience_s: float) -> None:
        """Says that this was all. What still waits is taken, as long as some of it is taken every so often."""
        ending = asyncio.ensure_future(send({"type": "http.response.body", "body": b"", "more_body": False}))
        try:
            waiting = outlet.waiting_bytes
            while not (await asyncio.wait([ending], timeout=patience_s))[0]:
                before, waiting = waiting, outlet.waiting_bytes
                if waiting >= before:
                    outlet.cut()
                    break
            await ending
        finally:
            ending.cancel()
