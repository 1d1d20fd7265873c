"""Finds arithmetic in what somebody typed: "what is 17*23+4, please?" holds 17 * 23 + 4. Pure.

It only finds and tidies; the dispatcher's tool calculates, and has the last word on what is arithmetic. What
merely looks a little like it is left alone: 2024-05-01, 1.2.3, a single number.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

DEPTH_MAX = 50

_FUNCTIONS = "sqrt|round|abs|min|max|floor|ceil|exp|log10|log2|log|sin|cos|tan"
# No leading zero (a date, a phone number), nothing glued to it (5th, 1.2.3). Groups of three only where a comma
# can't part arguments.
_PLAIN = r"(?:(?:0|[1-9]\d*)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w]|\.\d)"
_NUMBER = re.compile(_PLAIN)
_GROUPED = re.compile(rf"[1-9]\d{{0,2}}(?:,\d{{3}})+(?:\.\d+)?(?![\w]|,\d|\.\d)|{_PLAIN}")
_CONSTANT = re.compile(r"(?:pi|tau|e)(?!\w)")
_FUNCTION = re.compile(rf"({_FUNCTIONS})\s*\(", re.IGNORECASE)
_ROOT = re.compile(r"(?:the\s+)?square\s+root\s+of(?!\w)", re.IGNORECASE)
_SIGN = re.compile(r"[-+−]")
_SPACE = re.compile(r"\s*")
# The first that fits counts; each with what it is called in a tidy expression.
_OPERATORS = tuple(
    (re.compile(pattern, re.IGNORECASE), f" {name} ")
    for pattern, name in (
        (r"%\s*of(?!\w)|percent\s+of(?!\w)", "/ 100 *"),
        (r"\*\*|\^|to\s+the\s+power\s+of(?!\w)", "**"),
        (r"//", "//"),
        (r"[*×·]|times(?!\w)|multiplied\s+by(?!\w)|x(?=\s*[\d(])", "*"),
        (r"[/÷]|divided\s+by(?!\w)", "/"),
        (r"%|mod(?:ulo)?(?!\w)", "%"),
        (r"\+|plus(?!\w)", "+"),
        (r"[-−–]|minus(?!\w)", "-"),
    )
)
_START = re.compile(
    rf"(?<![\w.])(?:[\d.(+−-]|(?:{_FUNCTIONS})\s*\(|(?:pi|tau|e)(?!\w)|(?:the\s+)?square\s+root)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class FoundSum:
    """Arithmetic that stands at text[start:end], and a tidy form of it."""

    start: int
    end: int
    expression: str


def find_sums(text: str) -> Iterator[FoundSum]:
    """All of them, in order; none overlaps another."""
    reader = _Reader(text)
    at = 0
    while (start := _START.search(text, at)) is not None:
        found = reader.expression(start.start(), DEPTH_MAX, in_call=False)
        if found is not None and found.is_work:
            yield FoundSum(start.start(), found.end, found.expression)
            at = found.end
        else:
            at = start.start() + 1


@dataclass(frozen=True, slots=True)
class _Piece:
    end: int
    expression: str
    # There is something to calculate: a number alone is none.
    is_work: bool = False


class _Reader:
    """Reads expressions from one text. Remembers what it has read, so that no text takes long, however odd."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._read: dict[tuple[int, bool], _Piece | None] = {}

    def expression(self, at: int, depth: int, *, in_call: bool) -> _Piece | None:
        """The longest expression that begins here, with at most `depth` levels in it."""
        if (at, in_call) not in self._read:
            self._read[at, in_call] = self._expression(at, depth, in_call=in_call)
        return self._read[at, in_call]

    def _expression(self, at: int, depth: int, *, in_call: bool) -> _Piece | None:
        first = self._operand(at, depth, in_call=in_call)
        if first is None:
            return None
        parts, end, is_work = [first.expression], first.end, first.is_work
        while (following := self._following(end, depth, in_call=in_call)) is not None:
            parts.append(following.expression)
            end, is_work = following.end, True
        return _Piece(end, "".join(parts), is_work)

    def _following(self, at: int, depth: int, *, in_call: bool) -> _Piece | None:
        """An operator and its right side."""
        at = self._skip(at)
        for pattern, name in _OPERATORS:
            operator = pattern.match(self._text, at)
            if operator is not None:
                right = self._operand(self._skip(operator.end()), depth, in_call=in_call)
                return None if right is None else _Piece(right.end, name + right.expression)
        return None

    def _operand(self, at: int, depth: int, *, in_call: bool) -> _Piece | None:
        if depth == 0:
            return None
        text = self._text
        sign = _SIGN.match(text, at)
        if sign is not None:
            signed = self._operand(sign.end(), depth - 1, in_call=in_call)
            name = "+" if sign[0] == "+" else "-"
            return None if signed is None else _Piece(signed.end, name + signed.expression, signed.is_work)
        if text.startswith("(", at):
            return self._bracket(at + 1, depth - 1)
        function = _FUNCTION.match(text, at)
        if function is not None:
            return self._call(function[1].casefold(), function.end(), depth - 1)
        root = _ROOT.match(text, at)
        if root is not None:
            of = self._operand(self._skip(root.end()), depth - 1, in_call=in_call)
            return None if of is None else _Piece(of.end, f"sqrt({of.expression})", is_work=True)
        number = (_NUMBER if in_call else _GROUPED).match(text, at) or _CONSTANT.match(text, at)
        return None if number is None else _Piece(number.end(), number[0].replace(",", ""))

    def _bracket(self, at: int, depth: int) -> _Piece | None:
        inner = self.expression(self._skip(at), depth, in_call=False)
        if inner is None:
            return None
        end = self._skip(inner.end)
        if not self._text.startswith(")", end):
            return None
        return _Piece(end + 1, f"({inner.expression})", inner.is_work)

    def _call(self, name: str, at: int, depth: int) -> _Piece | None:
        arguments = []
        while True:
            argument = self.expression(self._skip(at), depth, in_call=True)
            if argument is None:
                return None
            arguments.append(argument.expression)
            at = self._skip(argument.end)
            if self._text.startswith(")", at):
                return _Piece(at + 1, f"{name}({', '.join(arguments)})", is_work=True)
            if not self._text.startswith(",", at):
                return None
            at += 1

    def _skip(self, at: int) -> int:
        space = _SPACE.match(self._text, at)
        return at if space is None else space.end()
