"""What another process writes, as lines of bounded length, and its chatter as bounded lines of the log.

A process of somebody else's may write without end and without a line's end. Nothing here keeps more of it than the
limits say. Knows nothing of what the lines mean.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

# Of one line of chatter; and so many lines in so many seconds.
CHATTER_CHARS_MAX: Final = 1_000
CHATTER_LINES_MAX: Final = 50
CHATTER_WINDOW_S: Final = 10.0
# What is kept of a line that is too long: enough to see what it was.
HEAD_BYTES: Final = 512


class Line(NamedTuple):
    """One line without its end. Of one that was too long, only the beginning."""

    text: bytes
    is_whole: bool = True


class Lines:
    """Cuts what comes into lines; never holds more than the limit."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._open = bytearray()
        # The line that is open was too long: nothing more of it is kept.
        self._is_long = False

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that end in this chunk, in order."""
        *ended, rest = chunk.split(b"\n")
        lines = []
        for part in ended:
            self._keep(part)
            lines.append(self._line())
        self._keep(rest)
        return lines

    def end(self) -> list[Line]:
        """The last line, where it has no end of its own."""
        return [self._line()] if self._open else []

    def _keep(self, part: bytes) -> None:
        self._is_long = self._is_long or len(self._open) + len(part) > self._bytes_max
        if self._is_long:
            self._open += part[: max(0, HEAD_BYTES - len(self._open))]
            del self._open[HEAD_BYTES:]
        else:
            self._open += part

    def _line(self) -> Line:
        line = Line(bytes(self._open).removesuffix(b"\r"), not self._is_long)
        self._open.clear()
        self._is_long = False
        return line


class Chatter:
    """Lines of somebody else's, told to the log: cut, without control characters, not more often than may be."""

    def __init__(self, log: logging.Logger, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._name = name
        self._clock = clock
        self._began_at = clock()
        self._told = 0
        self._left_out = 0

    def tell(self, line: bytes) -> None:
        now = self._clock()
        if now - self._began_at >= CHATTER_WINDOW_S:
            self.settle()
            self._began_at, self._told = now, 0
        if self._told >= CHATTER_LINES_MAX:
            self._left_out += 1
            return
        text = line[: CHATTER_CHARS_MAX * 4].decode("utf-8", "replace").strip()
        if text:
            self._told += 1
            shown = "".join(each if each.isprintable() else " " for each in text[:CHATTER_CHARS_MAX])
            self._log.info("%s says: %s", self._name, shown)

    def settle(self) -> None:
        """Says how many lines were left out since the last time."""
        if self._left_out:
            self._log.warning("%s said %d lines more, which were left out", self._name, self._left_out)
            self._left_out = 0
