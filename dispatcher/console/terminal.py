"""What is printed on: a terminal or a pipe, its width and colours, and the page that lines are written to.

Owns the knowledge of escape codes. Everything it is given to print has been through `escaping`; only the
codes of this file reach a terminal as codes. Knows nothing of sessions.
"""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

FALLBACK_COLUMNS = 80
_ERASE_LINE = "\r\x1b[K"


class Tone(Enum):
    """A way to print, as a select-graphic-rendition code."""

    PLAIN = ""
    DIM = "2"
    BOLD = "1"
    GOOD = "32"
    BAD = "31"
    ASKING = "36"


@dataclass(frozen=True)
class Look:
    """What a stream can show.

    `live`: the cursor may be moved, so there may be a bar and a prompt. `rich`: characters beyond ASCII.
    """

    live: bool
    colour: bool
    rich: bool

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> "Look":
        live = stream.isatty() and environ.get("TERM", "") not in ("", "dumb")
        encoding = (stream.encoding or "").lower().replace("-", "")
        return cls(live, live and not environ.get("NO_COLOR"), encoding.startswith("utf"))

    def paint(self, text: str, tone: Tone) -> str:
        if not self.colour or tone is Tone.PLAIN or not text:
            return text
        return f"\x1b[{tone.value}m{text}\x1b[0m"

    def glyph(self, fine: str, ascii_only: str) -> str:
        return fine if self.rich else ascii_only


def columns_of(stream: TextIO) -> int | None:
    """Width of the terminal that `stream` is, in cells; None when it is none."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or FALLBACK_COLUMNS
    except OSError:
        return FALLBACK_COLUMNS


def cells(text: str) -> int:
    """How many cells of a terminal `text` takes: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut(text: str, columns: int, ellipsis: str = "…") -> str:
    """`text` in at most `columns` cells, with `ellipsis` where something was left out."""
    if cells(text) <= columns:
        return text
    room = columns - cells(ellipsis)
    kept: list[str] = []
    for character in text:
        room -= _cells_of(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + ellipsis if columns >= cells(ellipsis) else ""


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None, ellipsis: str = "…"
) -> list[str]:
    """Aligned lines; cut to `columns` cells, or whole where that is None."""
    widths = [max(cells(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    lines = []
    for row in (headings, *rows):
        padded = (cell + " " * (width - cells(cell)) for cell, width in zip(row, widths, strict=True))
        line = "  ".join(padded).rstrip()
        lines.append(line if columns is None else cut(line, columns, ellipsis))
    return lines


class Page:
    """A stream of lines of which the last may still be open, with a bar or a prompt below it when live.

    `open` is true while a line has begun and not ended. The bar and the prompt are no lines: they are shown
    by `flush` whenever no line is open, and make way for what is written next.
    """

    def __init__(self, stream: TextIO, look: Look) -> None:
        self.stream = stream
        self.look = look
        self.open = False
        self._bar = ""
        self._prompt = ""
        self._shown = ""  # the bar or the prompt that stands on the terminal now

    @property
    def columns(self) -> int | None:
        return columns_of(self.stream)

    def append(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """Adds to the open line, or opens one. `text` holds no newline."""
        if text:
            self._make_way()
            self.stream.write(self.look.paint(text, tone))
            self.open = True

    def end_line(self) -> None:
        """Ends the open line, if there is one."""
        if self.open:
            self.stream.write("\n")
            self.open = False

    def newline(self) -> None:
        """Ends the open line, or makes an empty one."""
        self._make_way()
        self.stream.write("\n")
        self.open = False

    def line(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """A whole line of its own."""
        self.end_line()
        self._make_way()
        self.stream.write(self.look.paint(text, tone) + "\n")

    def bar(self, text: str) -> None:
        """What stands below the last line from now on. Empty: nothing. Only when live."""
        if self.look.live:
            self._bar = text

    def prompt(self, text: str) -> None:
        """What invites the user to type, in place of the bar. Empty: nothing. Only when live."""
        if self.look.live:
            self._prompt = text

    def echoed(self) -> None:
        """The terminal itself has ended the line, by echoing what was typed."""
        self.open = False
        self._shown = ""

    def disturb(self) -> None:
        """The terminal itself has printed something, such as `^C`: what comes next begins a line."""
        if self.look.live:
            self.stream.write("\n")
            self.echoed()

    def clear(self) -> None:
        """Takes the bar or the prompt away until the next flush, for another stream's sake."""
        if self.look.live:
            self.end_line()
            self._make_way()
            self.stream.flush()

    def flush(self) -> None:
        below = self._prompt or self._bar
        if not self.open and below != self._shown:
            self._make_way()
            self.stream.write(below)
            self._shown = below
        self.stream.flush()

    def close(self) -> None:
        """Leaves the cursor at the start of an empty line."""
        self._bar = self._prompt = ""
        self.end_line()
        self._make_way()
        self.stream.flush()

    def _make_way(self) -> None:
        if self._shown:
            # What the user has typed at a prompt so far stays to be seen; a bar is of no use any more.
            self.stream.write("\n" if self._shown == self._prompt else _ERASE_LINE)
            self._shown = ""
