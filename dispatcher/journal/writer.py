"""The one thread that writes a journal's file: a batch at a time, again and again until it is kept.

It is told of a batch by `write` and tells of it in the loop's thread: `written` once it would survive the process,
`stalled` with the error and its mend when it could not be kept, until it is. Nothing else may use the file meanwhile.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final, NamedTuple

from dispatcher.journal.file import DisplacedError, JournalFile
from dispatcher.journal.records import Record

log = logging.getLogger(__name__)

RETRY_S: Final = 0.5

_MEND: Final = "make room, or see what is wrong with the disk"


class Batch(NamedTuple):
    """What is kept together or not at all; see `JournalFile.write`."""

    put: Sequence[Record]
    gone: Sequence[int]


class Writer:
    """One batch at a time: the next only after `written`. `over` is done when the file is closed."""

    def __init__(
        self,
        file: JournalFile,
        loop: asyncio.AbstractEventLoop,
        written: Callable[[], None],
        stalled: Callable[[str], None],
    ) -> None:
        self._file = file
        self._loop = loop
        self._written = written
        self._stalled = stalled
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._leaving = threading.Event()
        self.over: asyncio.Future[None] = loop.create_future()
        # It must not hold up the end of a process that has no time to close it.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Writer of {self._file!r}>"

    def write(self, batch: Batch) -> None:
        """Returns at once."""
        self._batches.put(batch)

    def hurry(self) -> None:
        """From now on a batch that can't be kept is given up after one more try: somebody wants to leave."""
        self._leaving.set()

    async def close(self) -> None:
        """Ends after what is under way, and closes the file."""
        self._leaving.set()
        self._batches.put(None)
        await asyncio.shield(self.over)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (batch := self._batches.get()) is not None:
                if not self._keep(batch):
                    break
                self._tell(self._written)
        finally:
            try:
                self._file.close()
            except sqlite3.Error as error:
                log.error("journal: %s could not be closed: %s", self._file.path, error)  # noqa: TRY400
            self._tell(lambda: None if self.over.done() else self.over.set_result(None))

    def _keep(self, batch: Batch) -> bool:
        """Tries until it is kept. False: it was given up."""
        while True:
            is_last = self._leaving.is_set()
            try:
                self._file.write(*batch)
            except sqlite3.Error as error:
                why = f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)}); {_MEND}"
            except DisplacedError as error:
                why = str(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing was kept and nobody may be told so
                why = repr(error)
            else:
                return True
            self._tell(lambda why=why: self._stalled(why))  # type: ignore[misc]  # the default binds it here
            if is_last:
                return False
            self._leaving.wait(RETRY_S)

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            # The loop is gone: there is nobody to tell.
            self._leaving.set()
