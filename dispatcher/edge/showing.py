"""One viewer's stream of one session over HTTP: read from the journal at the viewer's own pace, written through its
connection's outlet. It never makes anybody else wait, and a viewer that lags is told what becomes of it, step by step.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dispatcher.core.events import ViewerCame, ViewerLeft
from dispatcher.core.packets import texts_bytes
from dispatcher.edge.flusher import Flusher
from dispatcher.edge.outlet import Outlet
from dispatcher.edge.rendering import Gap, GoAway, Lag, Notice, Rendering, Slow, coalesced, thinned
from dispatcher.hub import Hub
from dispatcher.journal import Entry
from dispatcher.journal.position import ending_is_kept

log = logging.getLogger(__name__)

# Events that are taken at once, so that viewers take turns.
_PAGE_EVENTS: Final = 256
# And bytes, more or less: a connection has as much besides what its peer has taken.
_PAGE_BYTES: Final = 65_536
# Pages for one viewer before the loop turns.
_PAGES_AT_ONCE: Final = 8
# The kinds of events behind which there is nothing more to show.
ENDED: Final = frozenset({"ended"})
# Event loops round the time of timers, some of them down.
_GRAIN_S: Final = 0.001


class ShowLimits(NamedTuple):
    """`coalesce_after_s`, `thin_after_s`: how long a viewer may lag before what it is shown is less dense; `write_s`:
    how long it may take nothing; `heartbeat_s`: the longest silence towards it."""

    coalesce_after_s: float
    thin_after_s: float
    write_s: float
    heartbeat_s: float


class _Written(NamedTuple):
    """A page as it goes out, and where it leads."""

    chunk: bytes
    after: int
    head: int
    taken: int
    left_out: int
    ended: bool


class Show:
    """`after`: the offset behind which it begins; `degraded`: told of each step down, by its name; `over`: called when
    there is nothing more to show. `until`: that is with the first event of such a kind; other than the usual ones only
    for renderings that share nothing."""

    def __init__(
        self,
        hub: Hub,
        flusher: Flusher,
        outlet: Outlet,
        rendering: Rendering,
        session_id: str,
        after: int,
        limits: ShowLimits,
        *,
        thoughts: bool,
        degraded: Callable[[str], None],
        over: Callable[[], None],
        until: frozenset[str] = ENDED,
    ) -> None:
        self._hub = hub
        self._flusher = flusher
        self._outlet = outlet
        self._rendering = rendering
        self._session_id = session_id
        self._after = after
        self._limits = limits
        self._thoughts = thoughts
        self._degraded = degraded
        self._over = over
        self._until = until
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._written_at = self._loop.time()
        # Since when it has not been told all there is, and since when it has taken nothing at all.
        self._behind_since: float | None = None
        self._full_since: float | None = None
        self._waiting_bytes = 0
        self._stage = "none"
        self._left_out = 0
        self._unsubscribe: Callable[[], None] = lambda: None
        self.is_over = False
        # It took nothing: its connection ends too, and would only wait for it again.
        self.is_slow = False

    def __repr__(self) -> str:
        return f"<Show of {self._session_id} after {self._after}, lag {self._stage}>"

    @property
    def way(self) -> str:
        """How it is watched, for the metrics."""
        return self._rendering.way

    def begin(self, notices: list[Notice]) -> None:
        """Watches from here on, until `end`. Nothing waits between the judgement that it may and this."""
        for notice in notices:
            self._say(notice)
        self._unsubscribe = self._hub.journal.subscribe(self._session_id, self._news)
        self._hub.submit(ViewerCame(self._session_id))
        self._outlet.on_room.add(self._room)
        self._timer = self._loop.call_later(self._limits.heartbeat_s, self._beat)
        self._news()

    def end(self) -> None:
        """The viewer has left, or has been told all."""
        self._outlet.on_room.discard(self._room)
        self._unsubscribe()
        self._flusher.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        self._hub.submit(ViewerLeft(self._session_id))

    def go_away(self, reason: str, retry_after_ms: int) -> None:
        """The dispatcher leaves. Unless the session has ended by now, it goes on, and the viewer may come back."""
        self._flusher.forget(self)
        self.flush({})
        if not self.is_over:
            self._say(GoAway(self._cursor, reason, retry_after_ms))
            self._finish()

    @property
    def _cursor(self) -> str:
        return f"{self._hub.journal.epoch}:{self._after}"

    def _news(self) -> None:
        if self._behind_since is None:
            self._behind_since = self._loop.time()
        if self._outlet.is_full:
            self._is_full()
        else:
            self._flusher.news(self)

    def _room(self) -> None:
        self._full_since = None
        self._flusher.news(self)

    def flush(self, shared: dict[Any, Any]) -> None:
        """As `Writing`: writes what is new, as much as the connection takes."""
        if self.is_over or not self._outlet.is_open:
            return
        for _ in range(_PAGES_AT_ONCE):
            if self._outlet.is_full:
                self._is_full()
                return
            self._follow_lag()
            page = self._page(shared)
            if page.chunk:
                self._outlet.write(page.chunk)
                self._written_at = self._loop.time()
            self._after = page.after
            self._left_out += page.left_out
            if page.ended:
                self._finish()
                return
            if page.after >= page.head:
                self._caught_up()
                break
        else:
            self._flusher.news(self)
        if self._outlet.is_full:
            self._is_full()

    def fail(self) -> None:
        """As `Writing`: the connection ends, so that its viewer comes back with its cursor."""
        self.is_over = True
        self._outlet.cut()

    def _page(self, shared: dict[Any, Any]) -> _Written:
        key = self._rendering.key
        if key is None:
            return self._made()
        at = (self._session_id, key, self._thoughts, self._stage, self._after)
        page: _Written | None = shared.get(at)
        if page is None:
            page = shared[at] = self._made()
        return page

    def _made(self) -> _Written:
        journal = self._hub.journal
        page = journal.read(self._session_id, self._after, _PAGE_EVENTS)
        if page.head == 0:
            gap = Gap(self._cursor, f"{journal.epoch}:0", "forgotten")
            return self._written([], self._after, 0, ended=True, more=self._rendering.notice(gap))
        if not page.entries:
            return self._written([], self._after, page.head, ended=ending_is_kept(journal, self._session_id))
        entries = _fitting(page.entries)
        if self._until is not ENDED:
            entries = _up_to(entries, self._until)
        last = entries[-1].event
        shown = [entry for entry in entries if self._thoughts or entry.event.kind != "thought"]
        return self._written(shown, last.offset, page.head, ended=last.kind in self._until)

    def _written(
        self, entries: list[Entry], after: int, head: int, *, ended: bool, more: bytes = b""
    ) -> _Written:
        taken = len(entries)
        left_out = 0
        if not self._rendering.is_exact:
            if self._stage == "thinned":
                entries = thinned(entries)
                left_out = taken - len(entries)
            if self._stage != "none":
                entries = coalesced(entries)
        data = (self._rendering.events(entries) if entries else b"") + more
        return _Written(self._outlet.framed(data) if data else b"", after, head, taken, left_out, ended)

    # --- lag ---------------------------------------------------------------------------------------------

    def _is_full(self) -> None:
        """It takes less than there is; when it takes nothing for too long, it is closed."""
        if self._full_since is None:
            self._full_since = self._loop.time()
            self._waiting_bytes = self._outlet.waiting_bytes
            self._arm(self._limits.write_s)

    def _follow_lag(self) -> None:
        """How dense what it is shown may be, by how long it has not been told all there is."""
        lag_s = 0.0 if self._behind_since is None else self._loop.time() - self._behind_since
        stage = self._stage
        if lag_s >= self._limits.thin_after_s:
            stage = "thinned"
        elif lag_s >= self._limits.coalesce_after_s and stage == "none":
            stage = "coalesced"
        self._enter(stage)

    def _caught_up(self) -> None:
        self._behind_since = None
        self._enter("none")

    def _enter(self, stage: str) -> None:
        if stage == self._stage:
            return
        head = self._hub.journal.read(self._session_id, 0, 0).head
        left_out, self._left_out = self._left_out, 0
        self._stage = stage
        if stage != "none":
            self._degraded(stage)
        self._say(Lag(stage, max(0, head - self._after), left_out))

    # --- time and the end --------------------------------------------------------------------------------

    def _arm(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._beat)

    def _beat(self) -> None:
        if self.is_over:
            return
        now = self._loop.time()
        if self._full_since is not None:
            waiting_bytes = self._outlet.waiting_bytes
            if waiting_bytes < self._waiting_bytes:
                # Little, but something.
                self._full_since, self._waiting_bytes = now, waiting_bytes
            if now - self._full_since + _GRAIN_S >= self._limits.write_s:
                self._close_slow()
                return
            self._arm(self._full_since + self._limits.write_s - now)
            return
        silent_s = now - self._written_at
        if silent_s + _GRAIN_S >= self._limits.heartbeat_s:
            if self._rendering.heartbeat and self._outlet.is_open:
                self._outlet.write(self._outlet.framed(self._rendering.heartbeat))
            self._written_at = now
            silent_s = 0.0
            if self._outlet.is_full:
                self._is_full()
                return
        self._arm(self._limits.heartbeat_s - silent_s)

    def _close_slow(self) -> None:
        self._degraded("slow")
        log.warning(
            "closed a slow viewer, which watched %s: it took nothing for %g s",
            self._session_id,
            self._limits.write_s,
        )
        # It has a moment to take this, with what waits for it.
        self._say(Slow(self._cursor, self._limits.write_s))
        self.is_slow = True
        self._finish()

    def _say(self, notice: Notice) -> None:
        if data := self._rendering.notice(notice):
            self._outlet.write(self._outlet.framed(data))
            self._written_at = self._loop.time()

    def _finish(self) -> None:
        self.is_over = True
        self._over()


def _fitting(entries: Sequence[Entry]) -> Sequence[Entry]:
    """The first of them, one at least, that together are no more than a page."""
    if len(entries) == 1:
        return entries
    room = _PAGE_BYTES
    for number, entry in enumerate(entries):
        event = entry.event
        room -= len(event.text) + (
            len(event.body) if isinstance(event.body, bytes) else texts_bytes(event.body)
        )
        if room < 0 and number:
            return entries[:number]
    return entries


def _up_to(entries: Sequence[Entry], kinds: frozenset[str]) -> Sequence[Entry]:
    """Those before the first of such a kind, and it."""
    for number, entry in enumerate(entries, 1):
        if entry.event.kind in kinds:
            return entries[:number]
    return entries
