"""A search over the text files of one folder, which it never leaves.

Bounded in files, bytes and answers, and it says so when a bound was met. Symbolic links are not followed, at
any level: files are opened through the handle of the folder they were listed in.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dispatcher.tools.contract import ToolArgumentsError, ToolDenied, ToolError

# Of everything listed, text or not; and of text files read.
ENTRIES_MAX = 20_000
FILES_MAX = 500
FILE_BYTES_MAX = 262_144
TOTAL_BYTES_MAX = 8_388_608
FOLDER_DEPTH_MAX = 8
MATCHES_MAX = 20
LINE_CHARS_MAX = 240
WORDS_CHARS_MAX = 200
LEFT_OUT_MAX = 10

SUFFIXES = frozenset({".txt", ".md", ".rst", ".csv", ".json", ".toml", ".yaml", ".yml", ".log", ".ini"})


@dataclass(frozen=True, slots=True)
class Match:
    """A line that has what was asked for."""

    file: str
    line_number: int
    line: str


@dataclass(slots=True)
class Found:
    """What a search came to. The lines with most of the words come first."""

    matches: list[Match]
    files_searched: int = 0
    # Lines that match and are not in `matches`.
    more_matches: int = 0
    # Empty when everything was read to its end; otherwise what was not.
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str) -> None:
        """Remembers what was not searched, the first few of it by name."""
        if len(self.left_out) < LEFT_OUT_MAX:
            self.left_out.append(what)
        elif len(self.left_out) == LEFT_OUT_MAX:
            self.left_out.append("and more")


def search(root: Path, folder: str, words: str, stopped: Callable[[], bool]) -> Found:
    """Lines under `root`/`folder` with any of the words, those with most of them first.

    Raises ToolArgumentsError, ToolDenied (the folder is outside), ToolError (there is no such folder).
    """
    wanted = _wanted(words)
    start = _inside(root, folder)
    found = Found([])
    by_rank: list[list[Match]] = [[] for _ in wanted]
    for name, lines in _files(root, start, found, stopped):
        found.files_searched += 1
        for number, line in enumerate(lines, 1):
            folded = line.casefold()
            rank = sum(word in folded for word in wanted)
            if rank == 0:
                continue
            kept = by_rank[len(wanted) - rank]
            if len(kept) < MATCHES_MAX:
                kept.append(Match(name, number, _cut(line.strip())))
            else:
                found.more_matches += 1
    ranked = [match for kept in by_rank for match in kept]
    found.matches = ranked[:MATCHES_MAX]
    found.more_matches += len(ranked) - len(found.matches)
    return found


def _wanted(words: str) -> list[str]:
    if len(words) > WORDS_CHARS_MAX:
        raise ToolArgumentsError(f"words has {len(words)} characters; at most {WORDS_CHARS_MAX} may be")
    wanted = list(dict.fromkeys(words.casefold().split()))
    if not wanted:
        raise ToolArgumentsError("words is empty; one word to look for is needed at least")
    return wanted


def _inside(root: Path, folder: str) -> Path:
    """The folder to begin in, links resolved."""
    if "\0" in folder:
        raise ToolArgumentsError("folder holds a NUL character")
    home = root.resolve()
    try:
        start = (home / folder).resolve()
        is_folder = start.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, a loop of links
        raise ToolArgumentsError(f"folder can't be used: {type(error).__name__}") from None
    if not start.is_relative_to(home):
        raise ToolDenied(
            f"folder {_cut(folder)!r} is outside the folder that may be searched; name one within it"
        )
    if not is_folder:
        raise ToolError(f"there is no folder {_cut(folder)!r} here; leave it out to search everything")
    return start


def _files(
    root: Path, start: Path, found: Found, stopped: Callable[[], bool]
) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each text file, in the order of names. Tells `found` what it leaves out."""
    bytes_left = TOTAL_BYTES_MAX
    files = 0
    for name, handle in _names(root, start, found):
        if stopped() or files == FILES_MAX or bytes_left <= 0:
            found.leave_out(f"everything after the first {files} files")
            return
        bytes_max = min(FILE_BYTES_MAX, bytes_left)
        try:
            raw = _read(name.name, handle, bytes_max + 1)
        except OSError:
            found.leave_out(f"{name}, which can't be read")
            continue
        if raw is None or b"\0" in raw:
            continue  # not text, whatever its name says
        files += 1
        bytes_left -= len(raw)
        if len(raw) > bytes_max:
            found.leave_out(f"the end of {name}")
        yield str(name), raw[:bytes_max].decode("utf-8", "replace").splitlines()


def _names(root: Path, start: Path, found: Found) -> Iterator[tuple[Path, int]]:
    """Each file with a text's name, relative to the root, and the handle of the folder it is in."""
    home = root.resolve()
    entries = 0

    def unreadable(_: OSError) -> None:
        found.leave_out("a folder that can't be read")

    for at, folders, names, handle in os.fwalk(start, follow_symlinks=False, onerror=unreadable):
        here = Path(at).relative_to(home)
        entries += len(folders) + len(names)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        if folders and (len(here.parts) >= FOLDER_DEPTH_MAX or entries > ENTRIES_MAX):
            found.leave_out(f"the folders in {here}")
            folders.clear()
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.casefold() in SUFFIXES:
                yield here / name, handle


def _read(name: str, folder: int, bytes_max: int) -> bytes | None:
    """The beginning of a regular file; None for a link, a pipe or a device. Raises OSError."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return None
    # It may have become something else since: no link is followed, and no pipe waited for.
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(file, "rb") as opened:
        return opened.read(bytes_max) if stat.S_ISREG(os.fstat(file).st_mode) else None


def _cut(text: str) -> str:
    return text if len(text) <= LINE_CHARS_MAX else text[: LINE_CHARS_MAX - 1] + "…"
