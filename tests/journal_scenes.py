"""Journals with a file for tests: one that settles after each call, and a process that appends until it is killed."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asynchronous import PATIENCE_S
from dispatcher_process import ROOT, clean_environment

from dispatcher.core.events import SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Hello, SessionEvent
from dispatcher.journal import Journal, Page, Restored
from dispatcher.journal.sqlite import SqliteJournal

APPENDER = Path(__file__).parent / "journal_appender.py"


def asked(session_id: str, request: bytes | None = None) -> SessionRequested:
    return SessionRequested(session_id, "echo", request)


def texts(first: int, last: int, text: str = "text") -> list[SessionEvent]:
    return [
        SessionEvent(offset, "content", 1, "", f"{text} {offset}", None) for offset in range(first, last + 1)
    ]


class Settled:
    """A journal with a file outside any loop that turns: each change is kept when the call returns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, journal: Journal) -> None:
        self._loop = loop
        self._journal = journal
        self._opened: set[str] = set()

    @property
    def epoch(self) -> str:
        return self._journal.epoch

    @property
    def is_lasting(self) -> bool:
        return self._journal.is_lasting

    def open(self, requested: SessionRequested) -> None:
        self._opened.add(requested.session_id)
        self._journal.open(requested)
        self._settle()

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        if session_id not in self._opened:
            self.open(asked(session_id))
        self._journal.append(session_id, events, mark)
        self._settle()

    def remember(self, commander_id: str, hello: Hello | None) -> None:
        self._journal.remember(commander_id, hello)
        self._settle()

    def when_kept(self, act: Callable[[], None]) -> None:
        self._journal.when_kept(act)
        self._settle()

    def read(self, session_id: str, after: int, most: int) -> Page:
        return self._journal.read(session_id, after, most)

    def forget(self, session_id: str) -> None:
        self._journal.forget(session_id)
        self._settle()

    def subscribe(self, session_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        return self._journal.subscribe(session_id, wake)

    def _settle(self) -> None:
        self._loop.run_until_complete(kept(self._journal))


async def kept(journal: Journal) -> None:
    """Until all that was asked of it so far is kept."""
    future = asyncio.get_running_loop().create_future()
    journal.when_kept(lambda: future.set_result(None))
    await future


@contextlib.contextmanager
def settled(
    path: Path, unix_s: Callable[[], float], wrap: Callable[[Journal], Journal] = lambda journal: journal
) -> Iterator[Journal]:
    """A journal in a file, with a loop of its own."""
    with asyncio.Runner() as runner:

        async def opened() -> SqliteJournal:
            return SqliteJournal.at(path, unix_s=unix_s)

        journal = runner.run(opened())
        try:
            yield Settled(runner.get_loop(), wrap(journal))
        finally:
            runner.run(journal.close())


async def brought(path: Path) -> Restored:
    """What a file has for the next life."""
    journal = SqliteJournal.at(path)
    try:
        return journal.restored()
    finally:
        await journal.close()


class Appender:
    """A process that appends to a journal for ever, as `journal_appender.py` says; its lines come one by one."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self._log = path.with_name("appender.log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(APPENDER), str(path), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=clean_environment(PYTHONPATH=f"{ROOT}:{ROOT / 'gen'}"),
                cwd=ROOT,
            )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._stdout, self._stdin = self._process.stdout, self._process.stdin

    def lines(self) -> Iterator[str]:
        for line in self._stdout:
            if not line.endswith("\n"):
                # It was killed in the midst of saying so.
                return
            yield line.rstrip("\n")

    def say(self, word: str) -> None:
        self._stdin.write(f"{word}\n")
        self._stdin.flush()

    def log(self) -> list[str]:
        """What it has said on standard error."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        return self._process.wait(PATIENCE_S)

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self.wait()
        self._stdout.close()
        self._stdin.close()


@contextlib.contextmanager
def appending(path: Path, *arguments: str) -> Iterator[Appender]:
    appender = Appender(path, *arguments)
    try:
        yield appender
    finally:
        appender.close()
