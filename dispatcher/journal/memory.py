"""The embedded journal: everything in this process's memory, gone with it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dispatcher.core.events import SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Hello, SessionEvent
from dispatcher.journal import Entry, Page

# An entry as it lies in memory: its time, then the fields of its event. A plain tuple of plain values is let
# alone by the garbage collector, which otherwise visits every event kept, again and again.
_Row = tuple[Any, ...]


@dataclass(slots=True)
class _Log:
    entries: list[_Row] = field(default_factory=list)
    wakes: list[Callable[[], None]] = field(default_factory=list)


class MemoryJournal:
    """Keeps events until they are forgotten; how much that may be is decided by the core's limits."""

    def __init__(self, epoch: str, unix_s: Callable[[], float] = time.time) -> None:
        self._epoch = epoch
        self._unix_s = unix_s
        self._logs: dict[str, _Log] = {}

    def __repr__(self) -> str:
        return f"<MemoryJournal {self._epoch} of {len(self._logs)} sessions>"

    @property
    def epoch(self) -> str:
        return self._epoch

    @property
    def is_lasting(self) -> bool:
        return False

    def open(self, requested: SessionRequested) -> None:
        """It is kept by the core, which lives as long as this."""

    def remember(self, commander_id: str, hello: Hello | None) -> None:
        """Likewise."""

    def when_kept(self, act: Callable[[], None]) -> None:
        act()

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        log = self._logs.get(session_id)
        if log is None:
            log = self._logs[session_id] = _Log()
        entries = log.entries
        if events and events[0].offset != len(entries) + 1:
            raise AssertionError(f"{session_id}: offset {events[0].offset} where {len(entries) + 1} is due")
        unix_ms = int(self._unix_s() * 1000)
        for event in events:
            entries.append((unix_ms, *event))
        for wake in tuple(log.wakes):
            wake()

    def read(self, session_id: str, after: int, most: int) -> Page:
        log = self._logs.get(session_id)
        if log is None:
            return Page((), 0, 0)
        # Offsets count from 1 without holes, so an offset is the index of the one that follows it.
        rows = log.entries[after : after + most]
        entries = [Entry(row[0], SessionEvent._make(row[1:])) for row in rows]
        return Page(entries, 1 if log.entries else 0, len(log.entries))

    def forget(self, session_id: str) -> None:
        log = self._logs.pop(session_id, None)
        for wake in list(log.wakes) if log else ():
            wake()

    def subscribe(self, session_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        log = self._logs.get(session_id)
        if log is None:
            return lambda: None
        log.wakes.append(wake)

        def unsubscribe() -> None:
            if wake in log.wakes:
                log.wakes.remove(wake)

        return unsubscribe
