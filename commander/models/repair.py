"""What a model says, made fit to be passed on: whole characters, and counts that are counts.

JSON lets a server send one half of a character and the other half with the next piece, or never; and any number where
tokens are counted.
"""

import math
from dataclasses import replace
from typing import Final

from commander.models.words import Finished, Reasoning, Said, Text, Tokens, ToolCall

# No provider counts so many; what JavaScript still counts exactly.
TOKENS_MAX: Final = 2**53 - 1
_LOST: Final = "\N{REPLACEMENT CHARACTER}"


class Repair:
    """Of one answer: what one piece leaves for the next."""

    def __init__(self) -> None:
        # By what it is a half of.
        self._halves: dict[type[Said], str] = {}
        self._is_odd = False

    def said(self, said: Said) -> Said:
        match said:
            case Text(text) | Reasoning(text):
                return type(said)(self._joined(type(said), text))
            case ToolCall(call_id, name, arguments):
                return ToolCall(self._whole(call_id), self._whole(name), self._whole(arguments))
            case Tokens():
                return Tokens(count(said.input), count(said.output), count(said.reasoning))
            case Finished() if self._is_odd:
                # The provider's own form has it as it came, and can't be sent again.
                return replace(said, native=None)
        return said

    def rest(self) -> str:
        """Of the text, when no more of it comes."""
        return _LOST if self._halves.pop(Text, "") else ""

    def _joined(self, kind: type[Said], text: str) -> str:
        text = self._halves.pop(kind, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._is_odd = True
            self._halves[kind], text = text[-1], text[:-1]
        return self._whole(text)

    def _whole(self, text: str) -> str:
        made = whole(text)
        if made is not text:
            self._is_odd = True
        return made


def whole(text: str) -> str:
    """The text itself where all its characters are; else with neighbouring halves joined, and others replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def count(number: object) -> int:
    """Of tokens: what no count can be is 0."""
    if not isinstance(number, int | float) or not math.isfinite(number):
        return 0
    return min(max(int(number), 0), TOKENS_MAX)
