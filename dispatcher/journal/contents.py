"""What a journal's file has: its records, in the order of their places, put together to sessions and commanders again.

Called by `file.py` alone; knows nothing of files.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dispatcher.core.events import SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Hello
from dispatcher.journal import records
from dispatcher.journal.life import LIFE
from dispatcher.journal.records import EntryRow, Record, RecordError

T = TypeVar("T")


@dataclass(slots=True)
class Stored:
    """A session as the file has it; `chunks` are the places of its events."""

    requested: SessionRequested
    mark: Mark | None = None
    rows: list[EntryRow] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Contents:
    """All that a file has: its sessions and commanders by their numbers there, in the order in which they came."""

    epoch: str
    sessions: dict[int, Stored] = field(default_factory=dict)
    commanders: dict[int, Hello] = field(default_factory=dict)
    _marks: dict[int, Mark] = field(default_factory=dict)

    def take_in(self, record: Record) -> None:
        """The next record, in the order of places. Raises RecordError, which says whose it is."""
        shelf, number = divmod(record.place, records.SHELF_SIZE)
        if record.place == LIFE:
            # It was read before, when the file was taken.
            return
        if shelf == records.COMMANDERS:
            self.commanders[number] = unsealed(records.hello, record, f"commander {number}")
        elif shelf == records.MARKS:
            self._marks[number] = unsealed(records.mark, record, f"where session {number} stood")
        elif shelf == records.ASKED:
            requested = unsealed(records.requested, record, f"what session {number} was asked")
            self.sessions[number] = Stored(requested, self._marks.pop(number, None))
        else:
            chunk = unsealed(records.chunk, record, f"events at {record.place}")
            stored = self.sessions.get(chunk.session)
            if stored is None:
                raise RecordError(f"what session {chunk.session} was asked is missing")
            try:
                stored.rows += records.rows(chunk, len(stored.rows))
            except RecordError as error:
                raise RecordError(f"session {stored.requested.session_id}: {error}") from None
            stored.chunks.append(record.place)

    def judge(self) -> None:
        """Raises RecordError when something is missing."""
        if self._marks:
            raise RecordError(f"what session {min(self._marks)} was asked is missing")
        for stored in self.sessions.values():
            session_id, mark = stored.requested.session_id, stored.mark
            if stored.rows and mark is None:
                raise RecordError(f"where session {session_id} stood is missing")
            if mark is not None and mark.offset not in (0, len(stored.rows)):
                raise RecordError(f"session {session_id} has {len(stored.rows)} events of {mark.offset}")


def unsealed(kind: Callable[[Any], T], record: Record, name: str) -> T:
    """What was sealed, as `kind` of it makes it. Raises RecordError, which says whose it is by `name`."""
    try:
        return kind(records.unseal(record))
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from None
