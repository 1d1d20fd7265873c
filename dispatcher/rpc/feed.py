"""One viewer's stream of SessionEvents: any number of sessions, each read from the journal at the viewer's own
pace. What gathers while one write is under way goes out as one message. A viewer that takes nothing for too
long is closed; it never makes anybody else wait."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from southwest.ai.agent.v1 import chat_pb2

from dispatcher.core.events import ViewerCame, ViewerLeft
from dispatcher.hub import Hub
from dispatcher.journal.position import ending_is_kept, position
from dispatcher.rpc import codec
from dispatcher.rpc.methods import STREAM_GONE, Answered

log = logging.getLogger(__name__)

# How many events of one session are taken at once, so that sessions on one stream take turns.
_PAGE_EVENTS = 256
# Receipts that may wait for a viewer which doesn't read, or to be kept.
_RECEIPTS_WAITING_MAX: Final = 256
# So much larger than what is received a message may be that is sent: an event is a packet, and its cursor besides.
SENT_RATIO: Final = 2
# Event loops round the time of timers, some of them down.
_GRAIN_S: Final = 0.001
# Around an event in its message: its tag and its length.
_EVENT_OVERHEAD_BYTES: Final = 16


@dataclass(slots=True)
class _Watched:
    session_id: str
    after: int
    thoughts: bool
    unsubscribe: Callable[[], None]


class Feed:
    """Writes to `context` what the sessions it watches have to tell.

    `write_s`: how long one write may take; `heartbeat_s`: the longest silence; `max_message_bytes`: a message is closed
    when it has half of it, but an event may have `SENT_RATIO` times as much.
    """

    def __init__(
        self, hub: Hub, context: Any, *, write_s: float, heartbeat_s: float, max_message_bytes: int
    ) -> None:
        self._hub = hub
        self._context = context
        self._write_s = write_s
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._written_at = self._loop.time()
        # Nothing was written for `heartbeat_s`.
        self._is_silent = False
        self._listening: asyncio.TimerHandle | None = None
        self._max_message_bytes = max_message_bytes
        self._watched: dict[str, _Watched] = {}
        self._fresh: dict[str, None] = {}
        self._first: deque[chat_pb2.SessionEvents] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._leaving: tuple[str, int] | None = None
        # What it is to be told once that is kept, oldest first, and whether there is still anybody to tell.
        self._untold: deque[Callable[[], None]] = deque()
        self._is_over = False
        self._begun = False

    def __repr__(self) -> str:
        return f"<Feed of {', '.join(self._watched)}>"

    def watch(self, session_id: str, cursor: chat_pb2.Cursor | None, *, thoughts: bool) -> None:
        """Begins to watch a session, after the cursor. A cursor that leads nowhere leads to a gap."""
        if session_id in self._watched:
            return
        after = self._after(session_id, cursor) if cursor is not None else 0
        unsubscribe = self._hub.journal.subscribe(session_id, lambda: self._news(session_id))
        self._watched[session_id] = _Watched(session_id, after, thoughts, unsubscribe)
        self._hub.submit(ViewerCame(session_id))
        self._news(session_id)

    def tell_when_kept(self, tell: Callable[[], None]) -> None:
        """Calls `tell`, which gives this feed one receipt, once all that was decided is kept; the stream does not end
        before."""
        if not self._is_over:
            self._untold.append(tell)
            self._hub.journal.when_kept(self._kept)
            self._measure_room()

    def _kept(self) -> None:
        if self._untold:
            self._untold.popleft()()
            self._measure_room()
            self._wake.set()

    def receipt(self, receipt: chat_pb2.Receipt) -> None:
        self._first.append(chat_pb2.SessionEvents(receipts=[receipt]))
        self._measure_room()
        self._wake.set()

    def _measure_room(self) -> None:
        if len(self._first) + len(self._untold) < _RECEIPTS_WAITING_MAX:
            self._room.set()
        else:
            self._room.clear()

    async def room(self) -> None:
        """Waits while as many receipts wait as may, for the viewer or to be kept."""
        await self._room.wait()

    def go_away(self, reason: str, retry_after_s: float) -> None:
        """The dispatcher leaves and the sessions go on: the viewer is told where to go on from, and the stream ends."""
        self._leaving = reason, int(retry_after_s * 1000)
        self._wake.set()

    def finish(self) -> None:
        """No more will be watched: the stream ends with the last session."""
        self._closed = True
        self._wake.set()

    async def begin(self) -> None:
        """Sends the headers, once. With a first write that is given up they would be half sent, and the status
        after it would fail for sending them again."""
        if not self._begun:
            self._begun = True
            await self._context.send_initial_metadata(())

    async def run(self) -> None:
        """Writes until it is finished and every session has ended, or the viewer has left."""
        self._listen()
        try:
            await self.begin()
            while True:
                message = self._next()
                if message is not None:
                    await self._write(message)
                elif self._closed and not self._watched and not self._untold:
                    return
                elif self._fresh:
                    # A page of nothing but what this viewer may not see: there is more behind it.
                    await asyncio.sleep(0)
                elif self._leaving is not None:
                    reason, retry_after_ms = self._leaving
                    await self._write(self._farewell(reason, retry_after_ms))
                    raise Answered("UNAVAILABLE", f"{reason}; come back with the cursor")
                elif self._is_silent:
                    # With nothing in it. Proxies count what a stream says, and no ping of HTTP/2.
                    await self._write(chat_pb2.SessionEvents())
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except STREAM_GONE:
            # The viewer left under a write, which is its right.
            return
        finally:
            self._is_over = True
            if self._listening is not None:
                self._listening.cancel()
            self._untold.clear()
            for session_id in list(self._watched):
                self._leave(session_id)

    def _listen(self) -> None:
        """Looks again when it will have been silent for too long, unless it says something until then."""
        left_s = self._written_at + self._heartbeat_s - self._loop.time()
        if left_s <= 0:
            self._is_silent = True
            self._wake.set()
            left_s = self._heartbeat_s
        self._listening = self._loop.call_later(max(left_s, _GRAIN_S), self._listen)

    def _farewell(self, reason: str, retry_after_ms: int) -> chat_pb2.SessionEvents:
        message = chat_pb2.SessionEvents()
        for watched in self._watched.values():
            goaway = message.goaways.add(
                session_id=watched.session_id, reason=reason, retry_after_ms=retry_after_ms
            )
            goaway.cursor.epoch, goaway.cursor.offset = self._hub.journal.epoch, watched.after
        return message

    def _news(self, session_id: str) -> None:
        self._fresh[session_id] = None
        self._wake.set()

    def _after(self, session_id: str, cursor: chat_pb2.Cursor) -> int:
        journal = self._hub.journal
        found = position(journal, session_id, cursor.epoch, cursor.offset)
        if found.gap:
            gap = codec.gap(session_id, journal.epoch, cursor, found.available_from, found.gap)
            self._first.append(chat_pb2.SessionEvents(events=[gap]))
        return found.after

    def _next(self) -> chat_pb2.SessionEvents | None:
        """What has gathered, up to the size of a message; None when there is nothing."""
        if self._first:
            first = self._first.popleft()
            self._measure_room()
            return first
        message = chat_pb2.SessionEvents()
        room = self._max_message_bytes // 2
        for session_id in list(self._fresh):
            if room <= 0:
                break
            del self._fresh[session_id]
            watched = self._watched.get(session_id)
            if watched is not None:
                room -= self._take(watched, message, room)
        return message if message.events else None

    def _take(self, watched: _Watched, message: chat_pb2.SessionEvents, room: int) -> int:
        """Adds a session's next events to the message. Returns the bytes they take."""
        journal = self._hub.journal
        session_id = watched.session_id
        page = journal.read(session_id, watched.after, _PAGE_EVENTS)
        if page.head == 0:
            asked = chat_pb2.Cursor(epoch=journal.epoch, offset=watched.after)
            message.events.append(codec.gap(session_id, journal.epoch, asked, 0, "forgotten"))
            self._leave(session_id)
            return message.events[-1].ByteSize()
        if not page.entries and ending_is_kept(journal, session_id):
            # It came back with the cursor of the very last event: there is nothing more to come.
            self._leave(session_id)
            return 0
        taken = 0
        for entry in page.entries:
            event = entry.event
            if event.kind == "thought" and not watched.thoughts:
                watched.after = event.offset
                continue
            wire = codec.session_event(session_id, journal.epoch, entry)
            size = wire.ByteSize()
            if taken + size > room and (taken or message.events):
                break
            if size + _EVENT_OVERHEAD_BYTES > self._max_message_bytes * SENT_RATIO:
                raise self._too_large(wire, size)
            message.events.append(wire)
            watched.after = event.offset
            taken += size
            if event.kind == "ended":
                self._leave(session_id)
                return taken
        if watched.after < page.head:
            self._fresh[session_id] = None
        return taken

    def _too_large(self, event: chat_pb2.SessionEvent, size: int) -> Answered:
        """It was kept when more was allowed; grpc would only say that some message is too large."""
        at, largest = event.cursor, self._max_message_bytes * SENT_RATIO
        return Answered(
            "RESOURCE_EXHAUSTED",
            f"event {at.offset} of {event.session_id} has {size} bytes, and max_message_bytes allows {largest} "
            f"({SENT_RATIO} × {self._max_message_bytes}): raise it, or go on behind it with the cursor "
            f"{at.epoch}:{at.offset}",
        )

    async def _write(self, message: chat_pb2.SessionEvents) -> None:
        write = asyncio.ensure_future(self._context.write(message.SerializeToString()))
        # Whoever cancels this doesn't wait for the write, which then fails by itself.
        write.add_done_callback(_looked_at)
        try:
            done, _ = await asyncio.wait([write], timeout=self._write_s)
        finally:
            write.cancel()
        if not done:
            watching = ", ".join(sorted(self._watched)[:10]) or "nothing"
            log.warning(
                "closed a slow viewer, which watched %s: it took nothing for %g s", watching, self._write_s
            )
            raise Answered(
                "RESOURCE_EXHAUSTED",
                f"slow: the viewer took nothing for {self._write_s:g} s; come back with the last cursor",
            )
        write.result()
        self._written_at = self._loop.time()
        self._is_silent = False

    def _leave(self, session_id: str) -> None:
        watched = self._watched.pop(session_id)
        watched.unsubscribe()
        self._hub.submit(ViewerLeft(session_id))


def _looked_at(write: "asyncio.Future[None]") -> None:
    """Keeps the loop from reporting a failure that nobody is there to hear of."""
    if not write.cancelled():
        write.exception()
