"""Deny patterns, as a `Matcher` for the core. They run on RE2 alone, in time linear in the text.

Called by `serve.py`, which compiles what settings name; asked by the core's windows. Keeps nothing between two
calls and knows no session.

However many patterns there are, they are three programs: one asks whether there is anything at all, which is
the answer nearly always, one finds where a match begins, one where the end of the text could become one
(`begins.py`). Single patterns are asked only when a match is certain, for its name. Text crosses to RE2 as
UTF-8, in which indexes are counted until they go back.
"""

from collections.abc import Mapping
from typing import Any, Final

import re2

from dispatcher.begins import Begin, begin_of
from dispatcher.core.holdback import Sighting

PATTERN_CHARS_MAX: Final = 10_000
PATTERNS_MAX: Final = 1_000
# What many repeats cost is paid by the loop when a possible match begins, once for all that may follow. Measured with
# 100 patterns that begin alike: 2.5 ms for `.{1,50}` in 10 of them, 26 in 100, 56 for `.{1,100}`.
COPIES_MAX: Final = 5_000
# What RE2 may take for one program and its states. When the states need more, RE2 forgets some and makes them
# again: slower, and as right.
_PROGRAM_BYTES: Final = 32 << 20
# What may follow a text, as far as an assertion at its end can tell: a word's character, or another. What
# matches before the latter matches before the end of a line and of the text, too.
_FOLLOWING: Final = (b"a", b" ")
# The upper bits of all bytes of a character in UTF-8 but the first.
_INSIDE_CHARACTER: Final = 0x80
# The answer of the first program when there is nothing: only its third part, which always matches. Should it
# ever run out of memory it answers None, and the others are asked.
_WHOLE, _BEGIN, _NOTHING = 0, 1, [2]


class PatternError(ValueError):
    """A pattern that can't be used; the text says which and why."""


def compile_patterns(patterns: Mapping[str, str]) -> "Patterns":
    """`patterns` is RE2 syntax by name; names are told in verdicts, logs and metrics. Raises PatternError."""
    if not 0 < len(patterns) <= PATTERNS_MAX:
        raise PatternError(f"there must be 1 to {PATTERNS_MAX} patterns, there are {len(patterns)}")
    begins = {name: _checked(name, pattern) for name, pattern in patterns.items()}
    copies = sum(begin.copies for begin in begins.values())
    if copies > COPIES_MAX:
        most = max(begins, key=lambda name: begins[name].copies)
        raise PatternError(
            f"all patterns together: their repeats in braces stand for {copies:,} characters, and more than "
            f"{COPIES_MAX:,} take too long to look at; shorten them, {_whose(most)} with its "
            f"{begins[most].copies:,} first"
        )
    singles = {name: _program(_whose(name), begin.whole) for name, begin in begins.items()}
    whole = "|".join(f"(?:{begin.whole})" for begin in begins.values())
    begin = "|".join(begin.begin for begin in begins.values())
    return Patterns(singles, f"(?:{whole})", f"(?:{begin})\\z")


def longest_match(name: str, pattern: str) -> int | None:
    """In characters; None: there is no longest. Raises PatternError."""
    return _checked(name, pattern).longest


def _checked(name: str, pattern: str) -> Begin:
    if not name:
        raise PatternError(f"pattern {pattern!r}: must have a name")
    if len(pattern) > PATTERN_CHARS_MAX:
        raise PatternError(
            f"{_whose(name)}: must have at most {PATTERN_CHARS_MAX} characters, has {len(pattern)}"
        )
    _program(_whose(name), pattern)
    try:
        begin = begin_of(pattern)
    except ValueError as error:
        raise PatternError(f"{_whose(name)}: {error}") from None
    if begin.may_be_empty:
        raise PatternError(f"{_whose(name)}: must not match empty text; it would match everywhere")
    return begin


def _whose(name: str) -> str:
    return f"pattern {name!r}"


def _options() -> Any:
    options = re2.Options()
    options.never_capture = True
    options.longest_match = True
    options.log_errors = False
    options.max_mem = _PROGRAM_BYTES
    return options


def _program(whose: str, pattern: str) -> Any:
    try:
        return re2.compile(pattern, _options())
    except UnicodeEncodeError:
        raise PatternError(f"{whose}: must be text that UTF-8 can encode") from None
    except re2.error as error:
        why = error.args[0]
        why = why.decode(errors="replace") if isinstance(why, bytes) else why
        raise PatternError(f"{whose}: {why}") from None


class Patterns:
    """Implements `Matcher`. Made by `compile_patterns`."""

    def __init__(self, singles: Mapping[str, Any], whole: str, begin: str) -> None:
        self._singles = dict(singles)
        self._whole = _program("all patterns together", whole)
        self._begin = _program("all patterns together", begin)
        self._any = re2.Set.SearchSet(_options())
        try:
            for part in (whole, begin, ""):
                self._any.Add(part)
            self._any.Compile()
        except re2.error:
            raise PatternError("all patterns together: too large for RE2") from None

    def __repr__(self) -> str:
        return f"<Patterns {', '.join(self._singles)}>"

    def scan(self, text: str, start: int, final: bool) -> Sighting | None:
        shown = _shown(text)
        seen = self._any.Match(shown)
        if seen == _NOTHING:
            return None
        size = len(shown)
        begin = len(_shown(text[:start]))
        match = hold = size
        if seen is None or _WHOLE in seen:
            found = self._whole.search(shown, begin)
            match = size if found is None else found.start()
        if not final and (seen is None or _BEGIN in seen):
            found = self._begin.search(shown, begin)
            hold = size if found is None else found.start()
        # Where one that begins earlier is possible, that is waited for.
        name = self._certain(shown, match, final) if match < size and (final or match <= hold) else ""
        if not name and hold == size:
            return None
        return Sighting(_chars(shown, match) if name else -1, name, _chars(shown, hold))

    def may_grow(self, text: str, start: int) -> bool:
        shown = _shown(text)
        return self._begin.match(shown, len(_shown(text[:start]))) is not None

    def end(self, text: str, start: int) -> int:
        shown = _shown(text)
        found = self._whole.match(shown, len(_shown(text[:start])))
        return len(text) if found is None else _chars(shown, found.end())

    def furthest(self, text: str, start: int, end: int, until: int) -> int:
        shown = _shown(text)
        at, last, furthest = (len(_shown(text[:index])) for index in (start, until, end))
        while at < min(furthest, last):
            found = self._whole.match(shown, at)
            if found is not None:
                furthest = max(furthest, found.end())
            at += 1
            while at < len(shown) and shown[at] & 0xC0 == _INSIDE_CHARACTER:
                at += 1
        return _chars(shown, furthest)

    def _certain(self, shown: bytes, at: int, final: bool) -> str:
        """The pattern that was the first to be certain to match at `at`; empty when none is yet."""
        size = len(shown)
        if not final and not _matches_anyway(self._whole, shown, at, size):
            return ""
        certain = {
            name: program
            for name, program in self._singles.items()
            if program.match(shown, at) is not None and (final or _matches_anyway(program, shown, at, size))
        }
        if len(certain) < 2:
            return next(iter(certain), "")
        return min(certain, key=lambda name: _certain_after(certain[name], shown, at))


def _shown(text: str) -> bytes:
    # What UTF-8 can't encode, halves of surrogate pairs, is looked at as another character.
    return text.encode(errors="replace")


def _chars(shown: bytes, index: int) -> int:
    return len(shown[:index].decode())


def _matches_anyway(program: Any, shown: bytes, at: int, until: int) -> bool:
    """Whether it matches `shown[at:until]` or a part from `at` on, whatever follows."""
    before = shown[:until]
    return all(program.match(before + after, at, until) is not None for after in _FOLLOWING)


def _certain_after(program: Any, shown: bytes, at: int) -> int:
    """How much text it takes until the program is certain to match at `at`; one more than there is where
    only the text's end makes it so. More text never makes a certain match uncertain, hence the bisection."""
    if not _matches_anyway(program, shown, at, len(shown)):
        return len(shown) + 1
    low, high = at + 1, len(shown)
    while low < high:
        middle = (low + high) // 2
        if _matches_anyway(program, shown, at, middle):
            high = middle
        else:
            low = middle + 1
    return low
