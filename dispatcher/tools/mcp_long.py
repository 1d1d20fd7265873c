"""Which call an answer is for that was too long to be kept: seen by its beginning and its end, or not at all.

Pure. A number counts only where it is certain that it is the answer's own and nothing that a tool has put into it.
"""

import json
import re
from typing import Final

_SPACE: Final = " \t"
# The last members of an answer. A string could not end so: it would end with its quotes.
_LAST: Final = re.compile(rb'[,{]\s*"id"\s*:\s*([0-9]{1,18})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


class UncertainError(Exception):
    """It is an answer, and to which call can't be seen."""


def call_of(head: bytes, tail: bytes) -> int | None:
    """The number of the call that a message answers; None for one that answers none. Raises UncertainError."""
    members = _members(head.decode("utf-8", "replace"))
    if not members.keys() & {"result", "error"}:
        return None
    number = members.get("id")
    if number is None and (last := _LAST.search(tail)):
        number = int(last[1])
    if not isinstance(number, int) or isinstance(number, bool):
        raise UncertainError
    return number


def _members(head: str) -> dict[str, object]:
    """Those at the top of an object that may break off: the last one then has no value."""
    found: dict[str, object] = {}
    decoder = json.JSONDecoder()
    at = head.find("{") + 1
    try:
        while at > 0:
            name, at = decoder.raw_decode(head, _after(head, at, ""))
            at = _after(head, at, ":")
            if not isinstance(name, str):
                break
            found[name] = None
            found[name], at = decoder.raw_decode(head, at)
            # A number that breaks off is another one.
            if at >= len(head):
                found[name] = None
                break
            at = _after(head, at, ",")
    except (ValueError, RecursionError):
        pass
    return found


def _after(head: str, at: int, sign: str) -> int:
    """Past the spaces, and past the sign. Raises ValueError where it is not there."""
    while at < len(head) and head[at] in _SPACE:
        at += 1
    if not head.startswith(sign, at):
        raise ValueError(f"no {sign}")
    at += len(sign)
    while at < len(head) and head[at] in _SPACE:
        at += 1
    return at
