"""Marks in JSON, so that it stays JSON: in its texts, its keys, and in place of its numbers.

Knows no patterns and no rules: the core asks, and says how a single text is redacted. Everything that was not
touched stays as it was written, numbers to their last digit. Where a match would be left, because it stands across
several texts or the whole is no JSON at all, nothing of it is left but a mark.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from dispatcher.core.rules import Finding, Redact
from dispatcher.readable import readable


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


class _Object(list[tuple[str, Any]]):
    """Keys and values as they were written: a key may stand twice."""

    __slots__ = ()


_CONSTANTS: Final = {True: "true", False: "false", None: "null"}


def redacted_json(text: str, redact: Redact, mark: Callable[[Finding], str]) -> tuple[str, list[Finding]]:
    """The text with marks and what they stand for, judged as people may read it: as it stands, and with its escapes
    resolved. `mark` is what stands for a finding where all of the text has to go."""
    _, seen = redact(readable(text))
    if not seen:
        return text, []
    findings: list[Finding] = []

    def one(text: str) -> str:
        redacted, found = redact(text)
        findings.extend(found)
        return redacted

    try:
        value = json.loads(
            text, object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number, parse_constant=_Number
        )
        written = _written(value, one)
    except (ValueError, RecursionError):
        written = text
    if redact(readable(written))[1]:
        return json.dumps({"redacted": mark(seen[0])}), seen
    return written, findings


def _written(value: Any, one: Callable[[str], str]) -> str:
    match value:
        case _Number():
            redacted = one(value)
            return redacted if redacted == value else _text(redacted)
        case str():
            return _text(one(value))
        case _Object():
            return "{" + ", ".join(f"{_text(one(key))}: {_written(of, one)}" for key, of in value) + "}"
        case list():
            return "[" + ", ".join(_written(each, one) for each in value) + "]"
    return _CONSTANTS[value]


def _text(text: str) -> str:
    # Halves of surrogate pairs can only be told by escapes.
    is_whole = text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)
    return json.dumps(text, ensure_ascii=not is_whole)
