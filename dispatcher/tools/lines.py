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
# Empty ones are not told, and so many are looked at.
CHATTER_LINES_SEEN_MAX: Final = 1_000
CHATTER_WINDOW_S: Final = 10.0
CHATTER_LINE_BYTES_MAX: Final = 65_536
# What is kept of a line that is too long: enough to see what it was.
HEAD_BYTES: Final = 512


class Line(NamedTuple):
    """One line without its end. Of one that was too long, only the beginning, and apart from it the last of it."""

    text: bytes
    is_whole: bool = True
    tail: bytes = b""


class Lines:
    """Cuts what comes into lines; never holds more than the limit."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._open = bytearray()
        # The line that is open was too long: nothing more of it is kept.
        self._is_long = False
        self._tail = b""

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that end in this chunk, in order."""
        *ended, rest = chunk.split(b"\n")
        lines = []
        for part in ended:
            self._keep(part)
            lines.append(self._line())
        self._keep(rest)
        return lines

    def skip(self, chunk: bytes) -> int:
        """How many lines end in this chunk. They are not looked at; what comes after the last of them is kept."""
        ended = chunk.count(b"\n")
        if ended:
            self._line()
        self._keep(chunk[chunk.rfind(b"\n") + 1 :])
        return ended

    def end(self) -> list[Line]:
        """The last line, where it has no end of its own."""
        return [self._line()] if self._open else []

    def _keep(self, part: bytes) -> None:
        if not self._is_long and len(self._open) + len(part) > self._bytes_max:
            self._is_long, self._tail = True, bytes(self._open[-HEAD_BYTES:])
        if self._is_long:
            self._tail = (self._tail + part[-HEAD_BYTES:])[-HEAD_BYTES:]
            self._open += part[: max(0, HEAD_BYTES - len(self._open))]
            del self._open[HEAD_BYTES:]
        else:
            self._open += part

    def _line(self) -> Line:
        line = Line(bytes(self._open).removesuffix(b"\r"), not self._is_long, self._tail)
        self._open.clear()
        self._is_long, self._tail = False, b""
        return line


class Chatter:
    """Lines of somebody else's, told to the log: cut, without control characters, not more often than may be."""

    def __init__(self, log: logging.Logger, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._name = name
        self._clock = clock
        self._began_at = clock()
        self._told = 0
        self._seen = 0
        self._left_out = 0
        self._lines = Lines(CHATTER_LINE_BYTES_MAX)

    def hear(self, chunk: bytes) -> None:
        """What came. Once enough was told, the rest is counted and no more: that is a hundred times as quick."""
        if self._is_full():
            self._left_out += self._lines.skip(chunk)
            return
        lines = self._lines.feed(chunk)
        self._seen += len(lines)
        for line in lines:
            self._tell(line.text)

    def end(self) -> None:
        """Nothing more comes."""
        for line in self._lines.end():
            self._tell(line.text)
        self.settle()

    def _is_full(self) -> bool:
        now = self._clock()
        if now - self._began_at >= CHATTER_WINDOW_S:
            self.settle()
            self._began_at, self._told, self._seen = now, 0, 0
        return self._told >= CHATTER_LINES_MAX or self._seen >= CHATTER_LINES_SEEN_MAX

    def _tell(self, line: bytes) -> None:
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
