"""One process of the bench, seen from the bench: started, told what to do, ended by its id."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
# Beyond these, in seconds, something is broken.
_START_S: Final = 20.0
_ORDER_S: Final = 30.0
_DRAIN_S: Final = 0.5
_LEAVE_S: Final = 4.0
# How much of a program's log is shown when it fails.
_LOG_BYTES: Final = 3_000


class ChildError(Exception):
    """A process of the bench did not do as told."""


class Child:
    """A program of this package. One order at a time."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.name = module.removeprefix("bench.")
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=_environment(),
            # Ctrl-C is for the bench, which ends its processes in order.
            start_new_session=True,
        )
        threading.Thread(target=self._read, name=f"{self.name} reader", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Child {self.name}, process {self._process.pid}>"

    async def says(self, pattern: str) -> str:
        """Waits for a line like this; what its first group matched."""
        async with self._turn:
            while (found := re.search(pattern, await self._line(_START_S))) is None:
                pass
            return found[1]

    async def told(self, order: str, timeout_s: float = _ORDER_S, **arguments: Any) -> Any:
        """Gives an order and waits for its answer."""
        async with self._turn:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps({"order": order, **arguments}) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                raise ChildError(self._last_words("is gone")) from None
            # Other lines are what the program says to people.
            while not (line := await self._line(timeout_s)).startswith("{"):
                pass
            answer = json.loads(line)
        if "failed" in answer:
            raise ChildError(f"{self.name} could not {order}:\n{answer['failed']}")
        return answer["answer"]

    def signal(self, number: signal.Signals) -> int:
        """Sends it a signal. When that was, nanoseconds."""
        now_ns = time.monotonic_ns()
        self._process.send_signal(number)
        return now_ns

    async def end(self) -> None:
        """Asks it to go, asks again, which means at once, and makes it."""
        for leave, patience_s in (
            (self._process.terminate, _DRAIN_S),
            (self._process.terminate, _LEAVE_S),
            (self._process.kill, None),
        ):
            if self._process.poll() is None:
                leave()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(self._process.wait, patience_s)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What was buffered for a process that is gone.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._log.close()

    async def _line(self, timeout_s: float) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._lines.get()
        except TimeoutError:
            raise ChildError(self._last_words(f"said nothing for {timeout_s:g} s")) from None
        if not line:
            raise ChildError(self._last_words("ended"))
        return line

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
            self._loop.call_soon_threadsafe(self._lines.put_nowait, "")
        except (RuntimeError, ValueError):  # the loop, or the pipe, was closed: nobody listens any more
            pass

    def _last_words(self, what: str) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_BYTES))
        words = self._log.read().decode(errors="replace").strip()
        return f"{self!r} {what}; its log ends:\n{words or '(empty)'}"


def _environment() -> dict[str, str]:
    """Without settings meant for other dispatchers and commanders."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DISPATCHER_", "COMMANDER_"))
    }
