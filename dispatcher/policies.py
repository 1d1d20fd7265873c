"""The policies in force: those of the file, read anew when it changes, and the deny patterns of the settings.

A file that can't be used changes nothing: what was in force stays, and the log and a metric say so. `serve.py` makes
one, and hands what it makes to the core.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dispatcher.core.events import Count
from dispatcher.core.rules import RuleBook
from dispatcher.metrics import Metrics
from dispatcher.patterns import PatternError
from dispatcher.policy_file import PolicyFile, PolicyFileError, read_policy_file, rule_book

log = logging.getLogger(__name__)

# What of a file changes with its content: when it was written, how long it is, which one it is.
_Stamp = tuple[int, int, int] | None


class Policies:
    """What is judged by. `deny` are patterns by name; `path` None: there is no file."""

    def __init__(
        self, path: Path | None, deny: Mapping[str, str], hold_chars_max: int, metrics: Metrics
    ) -> None:
        self._path = path
        self._deny = deny
        self._hold_chars_max = hold_chars_max
        self._metrics = metrics
        self._file = PolicyFile()
        # Of the file that was read last, whatever came of it.
        self._stamp: _Stamp = None
        self._books: dict[bool, RuleBook] = {}

    def __repr__(self) -> str:
        return f"<Policies {self._file.version or 'without a file'}, {len(self._file.rules)} rules>"

    def begin(self) -> None:
        """Reads the file for the first time. Raises PolicyFileError or PatternError."""
        if self._path is not None:
            self._stamp = _stamp(self._path)
            self._put_in_force(*self._read(self._path))
        else:
            self._books = self._written(self._file)

    def book(self, *, deny_stops: bool) -> RuleBook:
        return self._books[deny_stops]

    async def follow(self, poll_s: float, changed: Callable[[], None]) -> None:
        """Reads the file when SIGHUP comes, and when it is another one every so often (0: never), for ever. `changed`
        is called when others are in force."""
        path = self._path
        if path is None:
            return
        asked = asyncio.Event()
        with _on_hangup(asked):
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(poll_s or None):
                        await asked.wait()
                stamp = await asyncio.to_thread(_stamp, path)
                if asked.is_set() or stamp != self._stamp:
                    asked.clear()
                    self._stamp = stamp
                    await self._read_again(path, changed)

    async def _read_again(self, path: Path, changed: Callable[[], None]) -> None:
        try:
            file, books = await asyncio.to_thread(self._read, path)
        except (PolicyFileError, PatternError) as error:
            self._metrics.count(Count("policy_reloads", ("failed",)))
            kept = f"policy_file: nothing of it counts, version {self._file.version} stays in force"
            for line in (*str(error).splitlines(), kept):
                log.error("%s", line)  # noqa: TRY400 - a user's mistake has no traceback
            return
        self._metrics.count(Count("policy_reloads", ("loaded",)))
        self._put_in_force(file, books)
        changed()

    def _read(self, path: Path) -> tuple[PolicyFile, dict[bool, RuleBook]]:
        file = read_policy_file(path, self._hold_chars_max)
        return file, self._written(file)

    def _written(self, file: PolicyFile) -> dict[bool, RuleBook]:
        return {stops: rule_book(file, self._deny, deny_stops=stops) for stops in (True, False)}

    def _put_in_force(self, file: PolicyFile, books: dict[bool, RuleBook]) -> None:
        self._file, self._books = file, books
        self._metrics.policy_in_force(file.version)
        services = f"; services: {', '.join(file.services)}" if file.services else ""
        log.info("policy_file: version %s is in force; rules: %d%s", file.version, len(file.rules), services)


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextlib.contextmanager
def _on_hangup(asked: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
