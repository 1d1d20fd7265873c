"""Lines from standard input, read only when somebody waits for one, without a thread and without blocking.

The descriptor stays in blocking mode: its file description may be shared with the shell, which would suffer.
So it is read only when the loop says it is readable. Nothing is read ahead of need, so that a program which
calls this one in a loop over its own input keeps the lines nobody asked for.
"""

import asyncio
import os
import sys

from dispatcher.console.outcome import ConsoleError, Exit

_CHUNK_BYTES = 65_536
LINE_BYTES = 1_048_576  # the largest packet, so that a longer line could not be sent anyway


class Keyboard:
    """`terminal`: lines are typed by a person, at any time. Otherwise they are there or they are not."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = -1 if descriptor is None else descriptor
        self._held = bytearray()
        self.terminal = descriptor is not None and _is_ours(descriptor)
        self.ended = descriptor is None or (os.isatty(descriptor) and not self.terminal)

    async def line(self) -> str | None:
        """The next line without its newline. None: there is none; on a terminal, the user typed Ctrl-D."""
        while (end := self._held.find(b"\n")) < 0:
            if len(self._held) > LINE_BYTES:
                raise ConsoleError(f"a line on standard input is longer than {LINE_BYTES} bytes", Exit.USAGE)
            chunk = b"" if self.ended else await self._read()
            if not chunk:
                self.ended = self.ended or not self.terminal
                rest = bytes(self._held)
                self._held.clear()
                return rest.decode(errors="replace") if rest else None
            self._held += chunk
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line.decode(errors="replace").removesuffix("\r")

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        try:
            loop.add_reader(self._descriptor, _resolve, readable)
        except PermissionError:
            pass  # a regular file, which is always readable and can't be waited for
        except OSError:
            self.ended = True
            return b""
        else:
            try:
                await readable
            finally:
                loop.remove_reader(self._descriptor)
        try:
            return os.read(self._descriptor, _CHUNK_BYTES)
        except OSError:  # the terminal is gone, or it is a folder
            self.ended = True
            return b""


def standard_input() -> Keyboard:
    try:
        return Keyboard(sys.stdin.fileno())
    except (AttributeError, ValueError, OSError):  # closed, or replaced by something without a descriptor
        return Keyboard(None)


def _resolve(readable: "asyncio.Future[None]") -> None:
    if not readable.done():
        readable.set_result(None)


def _is_ours(descriptor: int) -> bool:
    """Whether it is a terminal that this process may read: reading it from the background would stop us."""
    try:
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False
