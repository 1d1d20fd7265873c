"""A real `commander` process: what it says, and how it ends."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

PATIENCE_S = 60.0


class CommanderProcess:
    """A running process. `lines` is what it has said on standard error so far."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._is_silent = False
        environ = {name: value for name, value in os.environ.items() if not name.startswith("COMMANDER_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "commander", *arguments],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str) -> str:
        """The first line that has this in it."""
        with self._news:

            def found() -> list[str]:
                return [line for line in self.lines if text in line]

            self._news.wait_for(lambda: bool(found()) or self._is_silent, PATIENCE_S)
            assert found(), f"{text!r} was not said: {self.lines}"
            return found()[0]

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        return self._process.wait(PATIENCE_S)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._is_silent = True
            self._news.notify_all()


@contextlib.contextmanager
def running_commander(folder: Path, *arguments: str) -> Iterator[CommanderProcess]:
    """`commander run` with these arguments, in this folder; killed at the end where it still runs."""
    process = CommanderProcess(["run", *arguments], folder)
    try:
        yield process
    finally:
        process.close()
