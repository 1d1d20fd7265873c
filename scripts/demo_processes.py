"""The processes of the demo: started, waited for by what they print, and ended one by one, by their ids."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
READY_S: Final = 30.0
# Longer than the processes themselves take to let their sessions end.
END_S: Final = 10.0
DRAIN_S: Final = 2
TAIL_LINES: Final = 15


class DemoError(Exception):
    """A step that did not come to what it should. The message is for whoever runs the demo."""


class Child:
    """One process, with the last lines that it printed. Whatever happens, `end` has to be called."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self.lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = process
        self._printed = asyncio.Condition()
        self._has_closed = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, name: str, module: str, *words: str) -> "Child":
        """Starts `python -m MODULE WORDS`."""
        # Settings of a dispatcher or commander that is already at home here are not meant for these.
        kept = {
            key: text for key, text in os.environ.items() if not key.startswith(("DISPATCHER_", "COMMANDER_"))
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
            env={**kept, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            # Out of the terminal's reach: Ctrl-C is for the demo, which then ends them in order.
            start_new_session=True,
        )  # fmt: skip
        return cls(name, process)

    def __repr__(self) -> str:
        state = "running" if self._process.returncode is None else f"ended with {self._process.returncode}"
        return f"<Child {self.name}, process {self.pid}, {state}>"

    async def says(self, pattern: str) -> re.Match[str]:
        """The first line that fits, of those kept and those to come. DemoError when it can't come any more."""
        wanted = re.compile(pattern)
        try:
            async with asyncio.timeout(READY_S), self._printed:
                while True:
                    for line in self.lines:
                        if found := wanted.search(line):
                            return found
                    if self._has_closed:
                        raise DemoError(f"{self.name} ended before it was ready")
                    await self._printed.wait()
        except TimeoutError:
            raise DemoError(f"{self.name} was not ready within {READY_S:g} s") from None

    async def ended(self) -> None:
        """Waits until it ends, which it should not do by itself."""
        await self._process.wait()

    async def end(self) -> int:
        """Asks it to go, and makes it go if need be; its exit code."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._process.wait()
        self.kill()
        code = await self._process.wait()
        await self._reading
        return code

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def tail(self) -> str:
        """The last lines that it printed."""
        lines = [f"    | {line}" for line in self.lines] or ["    | nothing"]
        return "\n".join([f"{self.name} (process {self.pid}) said last:", *lines])

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            # Not send_signal: that looks whether it has ended, and takes its exit code away from the loop.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._printed:
                self.lines.append(line.decode(errors="replace").rstrip())
                self._printed.notify_all()
        async with self._printed:
            self._has_closed = True
            self._printed.notify_all()


class Processes:
    """All children. `fallen` is done with the first of them that has ended by itself; `end` ends the others."""

    def __init__(self) -> None:
        self.fallen: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._children: list[Child] = []
        self._watches: list[asyncio.Task[None]] = []

    async def start(self, name: str, module: str, *words: str) -> Child:
        child = await Child.start(name, module, *words)
        self._children.append(child)
        self._watches.append(asyncio.create_task(self._watch(child)))
        return child

    async def _watch(self, child: Child) -> None:
        await child.ended()
        if not self.fallen.done():
            self.fallen.set_result(child)

    async def lose(self, name: str) -> int:
        """Kills one of them, as a power failure would; its process id. That it is gone concerns nobody any more."""
        at = [child.name for child in self._children].index(name)
        self._watches.pop(at).cancel()
        child = self._children.pop(at)
        child.kill()
        await child.end()
        return child.pid

    async def end(self) -> dict[str, int]:
        """Ends all, the last started first; their exit codes by name."""
        codes = {}
        for watch in self._watches:
            watch.cancel()
        while self._children:
            codes[self._children[-1].name] = await self._children[-1].end()
            self._children.pop()
        return codes

    def kill(self) -> None:
        """Ends all at once."""
        for child in self._children:
            child.kill()

    def tails(self) -> str:
        return "\n".join(child.tail() for child in self._children)
