"""The write-ahead log of an SQLite database, as far as it tells what SQLite itself passes over in silence.

At the first frame that is not as it was written SQLite takes the log to be over. That is right where a crash cut off a
write: such a frame is the last. Where commits lie behind it, they are lost: frames of one run of the log bear the salts
of its header, and the last of each commit is marked. SQLite tells how many frames it took, so only those of one commit
need to be looked at closely. Reads alone; the format is that of sqlite.org/fileformat2.html, section 4.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
# Of a header, or of a frame's own, so much is in the checksum.
_HEADER_SUMMED: Final = 24
_FRAME_SUMMED: Final = 8
# The lowest bit tells the order of bytes in which checksums are made.
_MAGIC: Final = 0x377F0682
_WORD_MAX: Final = 0xFFFF_FFFF

Sums = tuple[int, int]


class Lost(NamedTuple):
    """What lies behind that which SQLite took. `goes_on`: more than one commit that was being written."""

    why: str
    goes_on: bool


class _Frame(NamedTuple):
    number: int
    is_commit: bool
    sums: Sums
    summed: bytes


def beside(path: Path) -> Path:
    """Where the log of a database lies: SQLite follows links first."""
    path = path.resolve()
    return path.with_name(f"{path.name}-wal")


def lost(wal: Path, taken: int) -> Lost | None:
    """What is lost of a log of which SQLite has taken so many frames. Raises OSError."""
    with wal.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size < _HEADER.size + _FRAME.size:
            return None
        header = file.read(_HEADER.size)
        magic, _, page_bytes, _, *salts, first, second = _HEADER.unpack(header)
        is_big = bool(magic & 1)
        if magic & ~1 != _MAGIC or _summed((0, 0), header[:_HEADER_SUMMED], is_big) != (first, second):
            return Lost(f"the header of {wal.name} is not as it was written", True)
        if not any(frame.is_commit for frame in _frames(file.fileno(), page_bytes, salts, taken)):
            return None
        sums = (first, second)
        if taken:
            at = _HEADER.size + (taken - 1) * (_FRAME.size + page_bytes)
            *_, first, second = _FRAME.unpack(os.pread(file.fileno(), _FRAME.size, at))
            sums = (first, second)
        return _judged(wal.name, _frames(file.fileno(), page_bytes, salts, taken), sums, is_big)


def _frames(file: int, page_bytes: int, salts: list[int], taken: int) -> Iterator[_Frame]:
    """Those behind what was taken that bear the salts."""
    frame_bytes = _FRAME.size + page_bytes
    size = os.fstat(file).st_size
    for number, at in enumerate(range(_HEADER.size + taken * frame_bytes, size, frame_bytes), taken + 1):
        content = os.pread(file, frame_bytes, at)
        if len(content) < _FRAME.size:
            return
        _, is_commit, *found, first, second = _FRAME.unpack_from(content)
        if found == salts:
            summed = content[:_FRAME_SUMMED] + content[_FRAME.size :]
            yield _Frame(
                number, is_commit > 0, (first, second), summed.ljust(_FRAME_SUMMED + page_bytes, b"\0")
            )


def _judged(name: str, frames: Iterator[_Frame], sums: Sums, is_big: bool) -> Lost | None:
    for bad in frames:
        sums = _summed(sums, bad.summed, is_big)
        if sums != bad.sums:
            break
    else:
        return None
    commits, is_over, goes_on = 0, bad.is_commit, False
    for frame in frames:
        goes_on = goes_on or is_over
        is_over = is_over or frame.is_commit
        commits += frame.is_commit
    if not commits and not goes_on:
        return None
    why = f"frame {bad.number} of {name} is not as it was written, and {commits} commits end behind it"
    return Lost(why, goes_on)


def _summed(sums: Sums, content: bytes, is_big: bool) -> Sums:
    words = struct.unpack(f"{'>' if is_big else '<'}{len(content) // 4}I", content)
    first, second = sums
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _WORD_MAX
        second = (second + odd + first) & _WORD_MAX
    return first, second
