"""The embedded journal with a file: what it has told survives the process, however that ends.

Everything kept is in memory too, as in `memory.py`, so reading never waits for a disk; the core's limits bound both.
The file is written by one thread of its own (`writer.py`), a batch at a time: what gathers while one is under way is
the next, and an idle one begins in the same turn of the loop. Only then are events shown, viewers woken, and whoever
asked `when_kept` called. While nothing can be written, because the disk is full, nobody is told anything, so nobody
gets credit and what waits stays bounded.

A process that is killed loses nothing that it told. What a machine without power keeps depends on `power_safe`: with
it, each commit waits for the disk (fsync); without, the last commits may be missing, some seconds' worth, and a new
epoch begins: viewers are told of a gap, and commanders begin anew.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, overload

from dispatcher.core.events import Kept, SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Hello, SessionEvent
from dispatcher.journal import Entry, Page, Restored, records
from dispatcher.journal.file import JournalFile
from dispatcher.journal.records import EntryRow, Record
from dispatcher.journal.writer import Batch, Writer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Log:
    """A session. `head` is the last offset appended, kept or not; `pending` what waits for the next commit."""

    number: int
    head: int = 0
    entries: list[EntryRow] = field(default_factory=list)
    wakes: list[Callable[[], None]] = field(default_factory=list)
    asked: SessionRequested | None = None
    pending: list[SessionEvent] = field(default_factory=list)
    mark: Callable[[], Mark] | None = None
    # Where its records lie in the file, and the place of what is pending.
    places: list[int] = field(default_factory=list)
    chunk: int = 0
    forgotten: bool = False


class _Grown(NamedTuple):
    """What a session gets by the commit that is under way."""

    log: _Log
    entries: list[EntryRow]


class SqliteJournal:
    """Implements `Journal`. Made by `at`, in the event loop."""

    def __init__(
        self, file: JournalFile, unix_s: Callable[[], float], stalled: Callable[[bool], None]
    ) -> None:
        contents = file.read()
        self._path = file.path
        self._epoch = contents.epoch
        self._unix_s = unix_s
        self._tell_stalled = stalled
        self._loop = asyncio.get_running_loop()
        self._logs = {
            stored.requested.session_id: _Log(
                number, len(stored.rows), stored.rows, places=_places(number, stored.chunks)
            )
            for number, stored in contents.sessions.items()
        }
        self._sessions_counted = max(contents.sessions, default=0)
        self._last_chunk = max(
            (stored.chunks[-1] for stored in contents.sessions.values() if stored.chunks),
            default=records.place(records.CHUNKS, 0),
        )
        self._commanders = {hello.commander_id: number for number, hello in contents.commanders.items()}
        self._commanders_counted = max(contents.commanders, default=0)
        self._restored = Restored(
            [
                Kept(stored.requested, stored.mark or Mark(), _Entries(stored.rows, len(stored.rows)))
                for stored in contents.sessions.values()
            ],
            list(contents.commanders.values()),
        )
        # What waits for the next commit: sessions by number, what commanders said, places to empty, who asked.
        self._changed: dict[int, _Log] = {}
        self._said: dict[str, Hello | None] = {}
        self._gone: list[int] = []
        self._acts: list[Callable[[], None]] = []
        # The commit under way, and who waits for it.
        self._under_way: list[_Grown] | None = None
        self._acts_under_way: deque[Callable[[], None]] = deque()
        self._acting: deque[Callable[[], None]] | None = None
        self._is_called = False
        self._is_stalled = False
        self._writer = Writer(file, self._loop, self._on_written, self._on_stalled)

    def __repr__(self) -> str:
        stalled = ", stalled" if self._is_stalled else ""
        return f"<SqliteJournal {self._epoch} of {len(self._logs)} sessions in {self._path}{stalled}>"

    @classmethod
    def at(
        cls,
        path: Path,
        *,
        power_safe: bool = False,
        boot: str | None = None,
        unix_s: Callable[[], float] = time.time,
        stalled: Callable[[bool], None] = lambda _: None,
    ) -> "SqliteJournal":
        """Takes the file for this process alone and reads it: blocks. `stalled` is told when nothing can be kept, and
        when it can again. Raises JournalError, for the user."""
        file = JournalFile(path, power_safe=power_safe, boot=boot)
        try:
            return cls(file, unix_s, stalled)
        except BaseException:
            file.close()
            raise

    def restored(self) -> Restored:
        """What the file brought from the life before. Once: nothing of it is held for a second time."""
        restored, self._restored = self._restored, Restored((), ())
        return restored

    async def close(self) -> None:
        """Keeps what waits, or tries once more and says that it is lost, then lets go of the file."""
        self._writer.hurry()
        flushed: asyncio.Future[None] = self._loop.create_future()
        self.when_kept(lambda: flushed.set_result(None))
        await asyncio.wait({flushed, self._writer.over}, return_when=asyncio.FIRST_COMPLETED)
        if not flushed.done():
            log.error("journal: %s: what could not be kept is lost; nobody was told of it", self._path)
        await self._writer.close()

    # --- the journal -------------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        return self._epoch

    @property
    def is_lasting(self) -> bool:
        return True

    def open(self, requested: SessionRequested) -> None:
        session_id = requested.session_id
        if session_id in self._logs:
            raise AssertionError(f"{session_id} was opened before")
        self._sessions_counted += 1
        session = self._logs[session_id] = _Log(self._sessions_counted, asked=requested)
        self._changed[session.number] = session
        self._call()

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        session = self._logs.get(session_id)
        if session is None:
            raise AssertionError(f"{session_id} was not opened")
        if events and events[0].offset != session.head + 1:
            raise AssertionError(f"{session_id}: offset {events[0].offset} where {session.head + 1} is due")
        session.head += len(events)
        session.pending += events
        session.mark = mark
        self._changed[session.number] = session
        self._call()

    def remember(self, commander_id: str, hello: Hello | None) -> None:
        self._said[commander_id] = hello
        self._call()

    def when_kept(self, act: Callable[[], None]) -> None:
        if self._waits:
            self._acts.append(act)
        elif self._under_way is not None:
            self._acts_under_way.append(act)
        elif self._acting is not None:
            self._acting.append(act)
        else:
            act()

    def read(self, session_id: str, after: int, most: int) -> Page:
        session = self._logs.get(session_id)
        if session is None:
            return Page((), 0, 0)
        # Offsets count from 1 without holes, so an offset is the index of the one that follows it.
        rows = session.entries
        return Page([_entry(row) for row in rows[after : after + most]], 1 if rows else 0, len(rows))

    def forget(self, session_id: str) -> None:
        session = self._logs.pop(session_id, None)
        if session is None:
            return
        session.forgotten = True
        self._changed.pop(session.number, None)
        if session.places:
            self._gone += session.places
            self._call()
        self._run_all(session.wakes)

    def subscribe(self, session_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        session = self._logs.get(session_id)
        if session is None:
            return lambda: None
        wakes = session.wakes
        wakes.append(wake)

        def unsubscribe() -> None:
            if wake in wakes:
                wakes.remove(wake)

        return unsubscribe

    # --- commits -----------------------------------------------------------------------------------------

    @property
    def _waits(self) -> bool:
        """Something waits for the next commit, or somebody for what was forgotten before it was kept."""
        return bool(self._changed or self._said or self._gone or self._acts)

    def _call(self) -> None:
        """A commit begins at the end of this turn of the loop, unless one is under way."""
        if self._under_way is None and not self._is_called:
            self._is_called = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Gives the writer all that waits. Never in the midst of a step: marks are asked for here."""
        self._is_called = False
        if self._under_way is not None or not self._waits:
            return
        unix_ms = int(self._unix_s() * 1000)
        put: list[Record] = []
        for session in self._changed.values():
            if session.pending:
                self._last_chunk += 1
            put += _sealed(session, self._last_chunk, unix_ms)
        # Only now: whatever failed above has changed nothing, and nobody is told that it is kept.
        self._under_way = [_taken(session, unix_ms) for session in self._changed.values()]
        self._seal_commanders(put)
        self._acts_under_way.extend(self._acts)
        self._writer.write(Batch(put, self._gone))
        self._changed, self._said, self._gone, self._acts = {}, {}, [], []

    def _seal_commanders(self, put: list[Record]) -> None:
        """Adds what commanders said to what is put; those that are gone leave their place."""
        for commander_id, hello in self._said.items():
            number = self._commanders.get(commander_id)
            if hello is not None:
                if number is None:
                    self._commanders_counted += 1
                    number = self._commanders[commander_id] = self._commanders_counted
                put.append(records.seal(records.place(records.COMMANDERS, number), hello))
            elif number is not None:
                del self._commanders[commander_id]
                self._gone.append(records.place(records.COMMANDERS, number))

    def _on_written(self) -> None:
        """The commit under way is kept: shows it, begins the next, wakes viewers, calls whoever waited."""
        grown, self._under_way = self._under_way, None
        assert grown is not None
        if self._is_stalled:
            self._is_stalled = False
            log.warning("journal: %s can be written again; nothing was lost", self._path)
            self._run_all([lambda: self._tell_stalled(False)])
        for session, rows in grown:
            session.entries += rows
        acts, self._acts_under_way = self._acts_under_way, deque()
        self._hand_over()
        for session, rows in grown:
            if rows and not session.forgotten:
                self._run_all(session.wakes)
        self._acting = acts
        while acts:
            self._run_all([acts.popleft()])
        self._acting = None

    def _on_stalled(self, why: str) -> None:
        if self._is_stalled:
            return
        self._is_stalled = True
        log.error("journal: %s can't be written: %s; until then sessions wait", self._path, why)
        self._run_all([lambda: self._tell_stalled(True)])

    def _run_all(self, calls: Iterable[Callable[[], None]]) -> None:
        """One that fails keeps none of the others from being called."""
        for call in tuple(calls):
            try:
                call()
            except Exception:
                log.exception("journal: a callback failed")


def _places(number: int, chunks: list[int]) -> list[int]:
    """Where the records of a session lie."""
    return [records.place(records.MARKS, number), records.place(records.ASKED, number), *chunks]


def _sealed(session: _Log, chunk: int, unix_ms: int) -> list[Record]:
    """What is to be written of a session; its events at the place `chunk`."""
    number = session.number
    put = []
    if session.asked is not None:
        put.append(records.seal(records.place(records.ASKED, number), session.asked))
    if session.pending:
        put.append(records.seal(chunk, (number, unix_ms, session.pending)))
        session.chunk = chunk
    if session.mark is not None:
        put.append(records.seal_mark(records.place(records.MARKS, number), session.mark()))
    return put


def _taken(session: _Log, unix_ms: int) -> _Grown:
    """What the session will have grown by; it waits no more."""
    if session.asked is not None:
        session.places = _places(session.number, [])
    if session.pending:
        session.places.append(session.chunk)
    events, session.pending, session.asked, session.mark = session.pending, [], None, None
    return _Grown(session, [(unix_ms, *event) for event in events])


def _entry(row: EntryRow) -> Entry:
    return Entry(row[0], SessionEvent._make(row[1:]))


class _Entries(Sequence[Entry]):
    """Entries made when they are looked at, of rows that are in memory anyway."""

    def __init__(self, rows: Sequence[EntryRow], number: int) -> None:
        self._rows = rows
        self._number = number

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, at: int) -> Entry: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Entry]: ...

    def __getitem__(self, at: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(at, slice):
            return [_entry(self._rows[each]) for each in range(*at.indices(self._number))]
        return _entry(self._rows[range(self._number)[at]])
