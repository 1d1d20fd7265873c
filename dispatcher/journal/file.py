"""The file of a journal: an SQLite database with one table, opened by one process at a time.

Owns the schema, what is refused at the start, and the one way to write; knows no event loop. All calls block.
"""

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

from dispatcher.core.events import SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Hello
from dispatcher.journal import records
from dispatcher.journal.records import EntryRow, Record, RecordError

log = logging.getLogger(__name__)

T = TypeVar("T")
Part = TypeVar("Part")

# "ChSt"; and the version of the schema.
APPLICATION_ID: Final = 0x43685374
VERSION: Final = 1
# How long another process may still hold the file: one that is about to end, before a restart.
LOCK_WAIT_S: Final = 1.0
# The write-ahead log is brought into the file when it has so many pages of 4 KiB. What is written again and again, like
# marks, is then brought over once.
WAL_PAGES: Final = 4_096
WAL_BYTES_MAX: Final = 67_108_864
# Fewer than the least number of parameters that a build of SQLite allows, 999, has room for.
ROWS_PER_STATEMENT_MAX: Final = 200
PROGRESS_S: Final = 5.0

_SCHEMA: Final = (
    "CREATE TABLE records (place INTEGER PRIMARY KEY, crc32 INTEGER NOT NULL, content BLOB NOT NULL)"
)
_NEW_BEGINS: Final = (
    "move it away (with its -wal file): a new one begins with a new epoch, and viewers are told of a gap"
)


class JournalError(Exception):
    """The file can't be used. The message names it, and the mend."""


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
        if shelf == records.COMMANDERS:
            self.commanders[number] = _unsealed(records.hello, record, f"commander {number}")
        elif shelf == records.MARKS:
            self._marks[number] = _unsealed(records.mark, record, f"where session {number} stood")
        elif shelf == records.ASKED:
            requested = _unsealed(records.requested, record, f"what session {number} was asked")
            self.sessions[number] = Stored(requested, self._marks.pop(number, None))
        else:
            chunk = _unsealed(records.chunk, record, f"events at {record.place}")
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


class JournalFile:
    """Raises JournalError in `__init__` and `read`, sqlite3.Error in `write`."""

    def __init__(self, path: Path, *, power_safe: bool = False) -> None:
        self.path = path
        _look(path)
        with self._refusing():
            self._database = sqlite3.connect(
                path,
                timeout=LOCK_WAIT_S,
                isolation_level=None,
                # It is opened and read in one thread, then written in another.
                check_same_thread=False,
            )
            try:
                self._take(power_safe)
            except BaseException:
                self._database.close()
                raise

    def __repr__(self) -> str:
        return f"<JournalFile {self.path}>"

    def _take(self, power_safe: bool) -> None:
        """Makes it ours alone until it is closed, or the process ends in whatever way."""
        run = self._database.execute
        # A lock of SQLite's own: it also keeps everybody else out who knows the format, whatever name they found the
        # file under, and no child process inherits it.
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("BEGIN EXCLUSIVE")
        (application,) = run("PRAGMA application_id").fetchone()
        (version,) = run("PRAGMA user_version").fetchone()
        (tables,) = run("SELECT count(*) FROM sqlite_schema").fetchone()
        is_new = (application, version, tables) == (0, 0, 0)
        run("COMMIT")
        if not is_new and application != APPLICATION_ID:
            raise JournalError(f"{self.path} is a database of another program; choose another path")
        if not is_new and version < 1:
            raise JournalError(f"{self.path} is damaged: it has no version; {_NEW_BEGINS}")
        if version > VERSION:
            raise JournalError(
                f"{self.path} was written by a newer dispatcher (format {version}, this one knows {VERSION}); "
                f"start that one, or {_NEW_BEGINS}"
            )
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if power_safe else 'NORMAL'}")
        run(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        run(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        if is_new:
            self._begin()

    def _begin(self) -> None:
        """Writes what is in it from the first."""
        epoch = records.seal(records.EPOCH, secrets.token_hex(4))
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        run(_SCHEMA)
        run("INSERT INTO records VALUES (?, ?, ?)", epoch)
        run(f"PRAGMA application_id = {APPLICATION_ID}")
        run(f"PRAGMA user_version = {VERSION}")
        run("COMMIT")
        log.info("journal: %s is new", self.path)

    def read(self) -> Contents:
        """Everything that is in it; says so now and then when it takes long."""
        with self._refusing():
            (verdict,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise JournalError(f"{self.path} is damaged ({verdict}); {_NEW_BEGINS}")
            # A statement that is left in the midst would keep the file locked.
            everything = self._database.execute("SELECT place, crc32, content FROM records ORDER BY place")
            try:
                with contextlib.closing(everything):
                    return self._read(map(Record._make, everything))
            except RecordError as error:
                raise JournalError(f"{self.path} is damaged: {error}; {_NEW_BEGINS}") from None

    def _read(self, found: Iterator[Record]) -> Contents:
        first = next(found, None)
        if first is None or first.place != records.EPOCH:
            raise RecordError("its epoch is missing")
        contents = Contents(_unsealed(str, first, "the epoch"))
        tell_at = time.monotonic() + PROGRESS_S
        for count, record in enumerate(found):
            contents.take_in(record)
            if count % 1_000 == 0 and time.monotonic() > tell_at:
                tell_at = time.monotonic() + PROGRESS_S
                log.info(
                    "journal: %s: read %d records of %d sessions", self.path, count, len(contents.sessions)
                )
        contents.judge()
        return contents

    def write(self, put: Sequence[Record], gone: Sequence[int]) -> None:
        """Puts records, and deletes those at the places `gone`: everything or nothing."""
        statements = [
            (_PUT + ", ".join([_ROW] * len(some)), list(chain.from_iterable(some))) for some in _parts(put)
        ]
        statements += [
            (f"{_DELETE} ({', '.join('?' * len(some))})", list(some)) for some in _parts(sorted(gone))
        ]
        run = self._database.execute
        if len(statements) == 1:
            # A transaction of its own. The fewer calls, the seldomer this thread waits for the interpreter.
            run(*statements[0])
            return
        try:
            run("BEGIN IMMEDIATE")
            for statement in statements:
                run(*statement)
            run("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                run("ROLLBACK")
            raise

    def close(self) -> None:
        """Brings the write-ahead log into the file, and lets go of it."""
        self._database.close()

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Says what is wrong in the user's words."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            path = self.path
            if name.startswith("SQLITE_NOTADB"):
                raise JournalError(
                    f"{path} is no journal, or damaged; choose another path, or {_NEW_BEGINS}"
                ) from None
            if name.startswith("SQLITE_CORRUPT") or name == "SQLITE_ERROR":
                raise JournalError(f"{path} is damaged ({error}); {_NEW_BEGINS}") from None
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise JournalError(
                    f"{path} is in use by another process; a journal belongs to one dispatcher: end that one, "
                    "or choose another path"
                ) from None
            raise JournalError(
                f"{path} can't be read and written ({error}); this user needs to read and write the file and its "
                "folder, and there has to be room"
            ) from None


_PUT: Final = "INSERT OR REPLACE INTO records VALUES "
_ROW: Final = "(?, ?, ?)"
_DELETE: Final = "DELETE FROM records WHERE place IN"


def _parts(rows: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """As many at a time as one statement takes."""
    for start in range(0, len(rows), ROWS_PER_STATEMENT_MAX):
        yield rows[start : start + ROWS_PER_STATEMENT_MAX]


def _unsealed(kind: Callable[[Any], T], record: Record, name: str) -> T:
    try:
        return kind(records.unseal(record))
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from None


def _look(path: Path) -> None:
    """Refuses what SQLite would say little of, or would take for a new file. Makes it, if need be, for this user's
    eyes alone. Raises JournalError."""
    if not path.parent.is_dir():
        raise JournalError(f"{path}: there is no folder {path.parent}; make it first")
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            return
        if not path.is_file():
            raise JournalError(f"{path} should be a file; choose another path")
        if path.stat().st_size == 0:
            wal = path.with_name(f"{path.name}-wal")
            if wal.exists() and wal.stat().st_size > 0:
                raise JournalError(f"{path} is damaged: it is empty, and {wal.name} is not; {_NEW_BEGINS}")
            log.warning("journal: %s was empty: a new one begins there", path)
    except OSError as error:
        raise JournalError(
            f"{path} can't be made or read: {error.strerror}; this user needs to read and write the file and its folder"
        ) from None
