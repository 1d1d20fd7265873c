"""From a pattern in RE2's syntax to one for whatever could be the begin of a match of it.

To hold back just enough of a text, one has to know whether its end could still become a match. `begin_of`
parses the pattern and writes another: of a character, that character; of `xy`, a begin of x, or x and a begin
of y; of `x|y`, a begin of either; of `x{2,5}`, up to four x and a begin of x. A begin is never empty, and a
whole match is one. Assertions (`^ $ \\b \\B \\A \\z`) have no characters of their own: inside a begin they are
tested, at its end what follows decides. So one thing is held for a character too long: text before assertions
that contradict each other.

Called by `patterns.py`, with patterns that RE2 has accepted: what RE2 refuses is not looked for here.
"""

from dataclasses import dataclass
from math import inf
from typing import Final

import re2

# How deep groups may be nested.
NESTING_MAX: Final = 50
# RE2's own bound; larger numbers in braces that it accepts are literal text.
_REPEAT_MAX: Final = 1_000

# Every packet behind a possible begin is looked at again, and the loop waits. Measured with 1,024 characters held:
# 0.2 ms with .{1,300}, 1.3 with 700, 14 with 900, where RE2 has more states than it keeps.
COUNT_MAX: Final = 300
_COUNT: Final = re2.compile(r"\{(0|[1-9][0-9]*)(,(0|[1-9][0-9]*)?)?\}")
_NUMBER: Final = re2.compile(r"\\(?:x\{([0-9A-Fa-f]+)\}|x([0-9A-Fa-f]{2})|([0-7]{1,3}))")
_UNICODE_CLASS: Final = re2.compile(r"\\[pP](?:\{[^}]*\}|.)")
_GROUP: Final = re2.compile(r"\((?:\?P?<[^>]*>|\?([imsU-]*)(:|\)))?")
_CONTROLS: Final = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True, slots=True)
class One:
    """Matches one character. `source` stands by itself."""

    source: str


@dataclass(frozen=True, slots=True)
class Edge:
    """Matches between two characters: an assertion."""

    source: str


@dataclass(frozen=True, slots=True)
class Run:
    """One part after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`most` None: without end."""

    part: "Node"
    least: int
    most: int | None


Node = One | Edge | Run | Choice | Repeat


@dataclass(frozen=True, slots=True)
class Begin:
    """`begin` matches what could begin a match, and `whole` what the pattern does, without its capturing
    groups and safe to be put into a larger pattern. `may_be_empty`: it also matches empty text. `copies`: how many
    characters its counted repeats stand for, `.{1,300}` for 300. `longest`: the characters of its longest match; None
    where there is no longest."""

    begin: str
    whole: str
    may_be_empty: bool
    copies: int
    longest: int | None


def begin_of(pattern: str) -> Begin:
    """Raises ValueError, with the reason, for what it does not know."""
    parser = _Parser(pattern)
    node = parser.parse()
    begin, copies = _begin(node) or "", _copies(node, is_counted=False)
    longest = _longest(node)
    return Begin(begin, parser.whole, _may_be_empty(node), copies, None if longest == inf else int(longest))


def _may_be_empty(node: Node) -> bool:
    match node:
        case One():
            return False
        case Edge():
            return True
        case Run(parts):
            return all(_may_be_empty(part) for part in parts)
        case Choice(options):
            return any(_may_be_empty(option) for option in options)
        case Repeat(part, least, _):
            return least == 0 or _may_be_empty(part)


def _copies(node: Node, *, is_counted: bool) -> int:
    match node:
        case One():
            return int(is_counted)
        case Edge():
            return 0
        case Run(parts) | Choice(parts):
            return sum(_copies(part, is_counted=is_counted) for part in parts)
        case Repeat(part, least, most):
            times = max(least, most or 0, 1)
            return times * _copies(part, is_counted=is_counted or times > 1)


def _longest(node: Node) -> float:
    match node:
        case One():
            return 1
        case Edge():
            return 0
        case Run(parts):
            return sum(map(_longest, parts))
        case Choice(options):
            return max(map(_longest, options), default=0)
        case Repeat(part, _, most):
            each = _longest(part)
            return each * (inf if most is None else most) if each else 0


def _written(node: Node) -> str:
    match node:
        case One(source) | Edge(source):
            return source
        case Run(parts):
            return "".join(_written(part) for part in parts)
        case Choice(options):
            return f"(?:{'|'.join(_written(option) for option in options)})"
        case Repeat(part, least, most):
            return _repeated(part, least, most)


def _repeated(part: Node, least: int, most: int | None) -> str:
    return f"(?:{_written(part)}){{{least},{'' if most is None else most}}}"


def _begin(node: Node) -> str | None:
    """None: it has no characters, so there is nothing that could begin it."""
    match node:
        case One(source):
            return source
        case Edge():
            return None
        case Run(parts):
            return _begin_of_run(parts)
        case Choice(options):
            return _either(*(_begin(option) for option in options))
        case Repeat(part, _, most):
            begin = _begin(part)
            if begin is None or most == 0:
                return None
            return begin if most == 1 else _repeated(part, 0, most and most - 1) + begin


def _begin_of_run(parts: tuple[Node, ...]) -> str | None:
    if len(parts) < 2:
        return _begin(parts[0]) if parts else None
    # Halves, not first and rest: it nests by the logarithm of the length, and RE2 compiles it sooner.
    half = len(parts) // 2
    first, rest = _begin_of_run(parts[:half]), _begin_of_run(parts[half:])
    return first if rest is None else _either(first, _written(Run(parts[:half])) + rest)


def _either(*begins: str | None) -> str | None:
    known = [begin for begin in begins if begin is not None]
    return known[0] if len(known) == 1 else f"(?:{'|'.join(known)})" if known else None


class _Parser:
    """Recursive descent. Flags are a set of the letters i, m, s that are on."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0
        self._whole: list[str] = []
        self._written = 0  # how much of the pattern is in `_whole`

    @property
    def whole(self) -> str:
        return "".join(self._whole)

    def parse(self) -> Node:
        node = self._choice(frozenset())
        if self._at < len(self._pattern):
            raise self._unknown(self._pattern[self._at])
        self._replace(self._at, "")
        return node

    def _replace(self, begin: int, by: str) -> None:
        """In `whole`, what was read since `begin` is written as `by`."""
        self._whole.append(self._pattern[self._written : begin] + by)
        self._written = self._at

    def _unknown(self, what: str) -> ValueError:
        return ValueError(f"{what!r} at character {self._at} is not known here")

    def _choice(self, flags: frozenset[str]) -> Node:
        options: list[Node] = []
        parts: list[Node] = []
        while self._at < len(self._pattern):
            char = self._pattern[self._at]
            if char == ")":
                break
            if char == "|":
                self._at += 1
                options.append(Run(tuple(parts)))
                parts = []
            elif char == "(":
                flags = self._group(parts, flags)
            elif char in "*+?{" and self._repeat(parts):
                pass
            elif char == "\\":
                self._escape(parts, flags)
            elif char == "[":
                parts.append(self._class(flags))
            else:
                self._at += 1
                parts.append(self._plain(char, flags))
        options.append(Run(tuple(parts)))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _plain(self, char: str, flags: frozenset[str]) -> Node:
        match char:
            case ".":
                return One("(?s:.)" if "s" in flags else ".")
            case "^":
                return Edge("(?m:^)" if "m" in flags else r"\A")
            case "$":
                return Edge("(?m:$)" if "m" in flags else r"\z")
        return self._literal(char, flags)

    def _literal(self, char: str, flags: frozenset[str]) -> Node:
        return self._folded(char if char.isalnum() else f"\\x{{{ord(char):x}}}", flags)

    def _folded(self, source: str, flags: frozenset[str]) -> Node:
        return One(f"(?i:{source})" if "i" in flags else source)

    def _group(self, parts: list[Node], flags: frozenset[str]) -> frozenset[str]:
        """Reads a group into `parts`, or flags; gives the flags that hold after it."""
        opened = self._at
        head = _GROUP.match(self._pattern, opened)
        letters, end = head.group(1), head.group(2)
        if letters is None and head.group() == "(" and self._pattern.startswith("(?", opened):
            raise self._unknown(self._pattern[opened : opened + 4])
        self._at = head.end()
        inner = _with(flags, letters or "")
        if end == ")":
            return inner
        if letters is None:
            self._replace(opened, "(?:")
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise ValueError(f"groups are nested more than {NESTING_MAX} deep")
        parts.append(self._choice(inner))
        self._depth -= 1
        self._at += 1  # its ")"
        return flags

    def _repeat(self, parts: list[Node]) -> bool:
        """Makes the last part a repeat; False where the text is literal after all."""
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._pattern[self._at])
        if simple is not None:
            self._at += 1
            least, most = simple
        else:
            count = _COUNT.match(self._pattern, self._at)
            if count is None:
                return False
            least = int(count.group(1))
            most = (
                least if count.group(2) is None else None if count.group(3) is None else int(count.group(3))
            )
            if max(least, most or 0) > _REPEAT_MAX:
                return False
            if max(least, most or 0) > COUNT_MAX:
                raise ValueError(
                    f"{count.group()} repeats more than {COUNT_MAX} times, which takes too long to look at while a "
                    "match is possible; make it shorter, or leave out its end"
                )
            self._at = count.end()
        # A lazy one matches the same texts.
        if self._pattern.startswith("?", self._at):
            self._at += 1
        parts.append(Repeat(parts.pop(), least, most))
        return True

    def _escape(self, parts: list[Node], flags: frozenset[str]) -> None:
        number = _NUMBER.match(self._pattern, self._at)
        kind = self._pattern[self._at + 1]
        if number is not None:
            self._at = number.end()
            hexadecimal = number.group(1) or number.group(2)
            code = int(hexadecimal, 16) if hexadecimal else int(number.group(3), 8)
            parts.append(self._literal(chr(code), flags))
        elif kind in "pP":
            self._at = (found := _UNICODE_CLASS.match(self._pattern, self._at)).end()
            parts.append(self._folded(found.group(), flags))
        elif kind == "Q":
            self._quote(parts, flags)
        elif kind in "dDsSwW":
            self._at += 2
            parts.append(self._folded(f"\\{kind}", flags))
        elif kind in "bBAz":
            self._at += 2
            parts.append(Edge(f"\\{kind}"))
        elif kind in _CONTROLS or not kind.isalnum():
            self._at += 2
            parts.append(self._literal(_CONTROLS.get(kind, kind), flags))
        else:
            raise self._unknown(f"\\{kind}")

    def _quote(self, parts: list[Node], flags: frozenset[str]) -> None:
        begin = self._at + 2
        end = self._pattern.find(r"\E", begin)
        closed = end >= 0
        end = end if closed else len(self._pattern)
        parts.extend(self._literal(char, flags) for char in self._pattern[begin:end])
        self._at = end + 2 if closed else end
        if not closed:
            self._replace(end, r"\E")

    def _class(self, flags: frozenset[str]) -> Node:
        opened = self._at
        at = opened + (2 if self._pattern.startswith("[^", opened) else 1)
        first = at
        while self._pattern[at] != "]" or at == first:
            if self._pattern.startswith("[:", at) and (named := self._pattern.find(":]", at + 2)) >= 0:
                at = named + 2
            else:
                at += 2 if self._pattern[at] == "\\" else 1
        self._at = at + 1
        return self._folded(self._pattern[opened : self._at], flags)


def _with(flags: frozenset[str], letters: str) -> frozenset[str]:
    """As `(?letters)` changes them. Laziness (U) matches the same texts."""
    on, _, off = letters.partition("-")
    return (flags | set(on)) - set(off) - {"U"}
