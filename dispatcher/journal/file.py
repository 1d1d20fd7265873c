"""The file of a journal: an SQLite database with one table, opened by one process at a time.

Owns the schema, what is refused at the start, and the one way to write; knows no event loop. All calls block.
"""

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

from dispatcher.journal import life, records, wal
from dispatcher.journal.contents import Contents, unsealed
from dispatcher.journal.life import LIFE, Life
from dispatcher.journal.records import Record, RecordError

log = logging.getLogger(__name__)

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
# While it writes it looks so often whether the file is still the one at its path.
LOOK_S: Final = 1.0
PROGRESS_S: Final = 5.0

_SCHEMA: Final = (
    "CREATE TABLE records (place INTEGER PRIMARY KEY, crc32 INTEGER NOT NULL, content BLOB NOT NULL)"
)
_NEW_BEGINS: Final = (
    "move it away (with its -wal file): a new one begins with a new epoch, and viewers are told of a gap"
)


_GAP: Final = (
    "a new epoch begins: sessions go on with another attempt, and viewers that come back are told of a gap "
    "(other_epoch)"
)


class JournalError(Exception):
    """The file can't be used. The message names it, and the mend."""


class DisplacedError(Exception):
    """The file is not at its path any more: nobody would find what is written to it. The message has the mend."""


class JournalFile:
    """Raises JournalError in `__init__` and `read`, sqlite3.Error and DisplacedError in `write`. `boot` says in
    which life of the machine it is used."""

    def __init__(self, path: Path, *, power_safe: bool = False, boot: str | None = None) -> None:
        self.path = path
        self._wal = wal.beside(path)
        # Why commits may be missing, if so.
        self._lacks = ""
        # What was at the paths of the file and its log when they were taken; empty until then.
        self._own: list[tuple[int, int]] = []
        self._look_at_s = 0.0
        _look(path, self._wal)
        self._life = Life(life.boot_id() if boot is None else boot, power_safe, path.stat().st_ino)
        has_wal = self._wal.exists()
        with self._refusing():
            self._database = sqlite3.connect(
                path,
                timeout=LOCK_WAIT_S,
                isolation_level=None,
                # It is opened and read in one thread, then written in another.
                check_same_thread=False,
            )
            try:
                self._take(has_wal)
            except BaseException:
                self._database.close()
                raise

    def __repr__(self) -> str:
        return f"<JournalFile {self.path}>"

    def _take(self, has_wal: bool) -> None:
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
        self._judge(is_new, has_wal)
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        run(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        # What is written before its commit would lie in the log as if it were lost, were the process killed then.
        run("PRAGMA cache_spill = OFF")
        # What users say lies in this file alone, and not in a temporary one somewhere else.
        run("PRAGMA temp_store = MEMORY")
        # Until the file says that it is in use.
        run("PRAGMA synchronous = FULL")
        if is_new:
            self._begin()

    def _judge(self, is_new: bool, has_wal: bool) -> None:
        """Sees whether all that was written is there. Raises JournalError where that can't come of a crash."""
        run = self._database.execute
        if not is_new:
            self._judge_schema()
        former = None if is_new else self._former_life()
        # Brings the log into the file, which harms nothing, and tells how many of its frames SQLite has taken.
        _, taken, _ = run("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        lost = wal.lost(self._wal, max(0, taken)) if has_wal else None
        if former is not None:
            self._lacks = former.why_it_lacks(self._life)
            if not has_wal:
                self._lacks = f"{self._wal.name} is missing, though the process that used it did not close it"
        if lost is None or self._lacks:
            return
        if former is not None and not former.is_same_boot(self._life) and not lost.goes_on:
            # It had not waited for the disk to the end, so nobody was told of it.
            log.info("journal: %s: the last commit was not whole, and nobody was told of it", self.path)
            return
        self._leave_as_it_is()
        raise JournalError(f"{self.path} is damaged: {lost.why}; {_NEW_BEGINS}")

    def _judge_schema(self) -> None:
        """Another one might be read, and refuse what is written."""
        found = [
            text
            for (text,) in self._database.execute("SELECT sql FROM sqlite_schema WHERE tbl_name = 'records'")
        ]
        if found != [_SCHEMA]:
            told = "; ".join(map(str, found)) or "there is none"
            raise JournalError(
                f"{self.path} is damaged: its table should be {_SCHEMA!r}, and is {told!r}; {_NEW_BEGINS}"
            )

    def _former_life(self) -> Life | None:
        """Of the process that used it last, if that did not close it."""
        found = self._database.execute(
            "SELECT place, crc32, content FROM records WHERE place = ?", (LIFE,)
        ).fetchone()
        try:
            return (
                None
                if found is None
                else unsealed(life.life, Record._make(found), "in which life it was used")
            )
        except RecordError as error:
            raise JournalError(f"{self.path} is damaged: {error}; {_NEW_BEGINS}") from None

    def _leave_as_it_is(self) -> None:
        """Closes it. SQLite would delete its log then, and with it what can tell that commits are lost."""
        spare = self._wal.with_name(f"{self._wal.name}.kept")
        spare.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.link(self._wal, spare)
        self._database.close()
        # Where there are no such links the log is gone: the next start misses it, and begins a new epoch.
        with contextlib.suppress(FileNotFoundError):
            spare.replace(self._wal)

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
        """Everything that is in it; says so now and then when it takes long. From then on it is in use."""
        with self._refusing():
            (verdict,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise JournalError(f"{self.path} is damaged ({verdict}); {_NEW_BEGINS}")
            # A statement that is left in the midst would keep the file locked.
            everything = self._database.execute("SELECT place, crc32, content FROM records ORDER BY place")
            try:
                with contextlib.closing(everything):
                    contents = self._read(map(Record._make, everything))
            except RecordError as error:
                raise JournalError(f"{self.path} is damaged: {error}; {_NEW_BEGINS}") from None
            self._live(contents)
        return contents

    def _read(self, found: Iterator[Record]) -> Contents:
        first = next(found, None)
        if first is None or first.place != records.EPOCH:
            raise RecordError("its epoch is missing")
        contents = Contents(unsealed(str, first, "the epoch"))
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

    def _live(self, contents: Contents) -> None:
        """Says in the file that it is in use, and begins a new epoch where commits may be missing; for certain, before
        anything else is written."""
        put, gone = [records.seal(LIFE, self._life)], []
        if self._lacks:
            contents.epoch = secrets.token_hex(4)
            put.append(records.seal(records.EPOCH, contents.epoch))
            # They may have been told of what is lost, so they can't go on where they stand.
            gone = [records.place(records.COMMANDERS, number) for number in contents.commanders]
            contents.commanders.clear()
            log.warning("journal: %s: %s: the last commits may be lost; %s", self.path, self._lacks, _GAP)
        self._write(put, gone)
        run = self._database.execute
        # Into the file itself: it is to be known there, whatever becomes of the log.
        run("PRAGMA wal_checkpoint(TRUNCATE)")
        run(f"PRAGMA synchronous = {'FULL' if self._life.power_safe else 'NORMAL'}")
        self._own = self._found()

    def _found(self) -> list[tuple[int, int]]:
        """What is at the paths of the file and its log now."""
        return [(each.st_dev, each.st_ino) for each in map(os.stat, (self.path, self._wal))]

    def _stay(self) -> None:
        """Raises DisplacedError when what is written would be found by nobody, as of a second ago at most."""
        now_s = time.monotonic()
        if now_s < self._look_at_s:
            return
        try:
            found = self._found()
        except OSError as error:
            raise DisplacedError(f"{error.filename} is gone ({error.strerror}); {_PUT_BACK}") from None
        if found != self._own:
            which = self.path if found[0] != self._own[0] else self._wal
            raise DisplacedError(f"another file is at {which} now; {_PUT_BACK}")
        self._look_at_s = now_s + LOOK_S

    def write(self, put: Sequence[Record], gone: Sequence[int]) -> None:
        """Puts records, and deletes those at the places `gone`: everything or nothing."""
        self._stay()
        self._write(put, gone)

    def _write(self, put: Sequence[Record], gone: Sequence[int]) -> None:
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
        """Brings the write-ahead log into the file, and lets go of it. Raises sqlite3.Error."""
        try:
            if self._own:
                # Another file may be there by now; SQLite does not touch that.
                self._look_at_s = 0.0
                with contextlib.suppress(DisplacedError):
                    self.write([], [LIFE])
        finally:
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


_PUT_BACK: Final = "put it back, with its -wal file; or start anew, without the sessions that are in no file"
_PUT: Final = "INSERT OR REPLACE INTO records VALUES "
_ROW: Final = "(?, ?, ?)"
_DELETE: Final = "DELETE FROM records WHERE place IN"


def _parts(rows: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """As many at a time as one statement takes."""
    for start in range(0, len(rows), ROWS_PER_STATEMENT_MAX):
        yield rows[start : start + ROWS_PER_STATEMENT_MAX]


def _look(path: Path, log_beside: Path) -> None:
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
            if log_beside.exists() and log_beside.stat().st_size > 0:
                raise JournalError(
                    f"{path} is damaged: it is empty, and {log_beside.name} is not; {_NEW_BEGINS}"
                )
            log.warning("journal: %s was empty: a new one begins there", path)
    except OSError as error:
        raise JournalError(
            f"{path} can't be made or read: {error.strerror}; this user needs to read and write the file and its folder"
        ) from None
