"""What viewers see of a foreign agent's work, besides its words.

A tool that it runs by itself is no call of the dispatcher's: no ledger has it and no rule judged it. So everybody is
told that it runs, as progress, and what it was given and returned are thoughts, which only those see who may.
"""

import json
from collections.abc import Collection, Iterator
from typing import Final

from commander.adapters.offers import cut
from commander.core.turn import Usage
from commander.outputs import Output, Progress, Thought, Used

# The step under which viewers see what a model thinks.
STEP: Final = "Thinking"


class Showing:
    """One turn's. `offered`: the tools of the dispatcher, whose calls viewers see without it."""

    def __init__(self, offered: Collection[str]) -> None:
        self.has_begun = False
        self._offered = frozenset(offered)
        self._names: dict[str, str] = {}

    def text(self, text: object) -> Iterator[Output | str]:
        if isinstance(text, str) and text:
            self.has_begun = True
            yield text

    def reasoning(self, text: object, step: str = STEP) -> Iterator[Output | str]:
        if isinstance(text, str) and text:
            self.has_begun = True
            yield Thought(step, text)

    def call(self, call_id: str, tool: str, arguments: object) -> Iterator[Output | str]:
        """A tool begins to run."""
        self.has_begun = True
        if tool in self._offered or call_id in self._names:
            return
        self._names[call_id] = tool
        yield Progress(f"{tool} …")
        yield Thought(tool, f"{_text(arguments)}\n")

    def result(self, call_id: str, result: object) -> Iterator[Output | str]:
        """It has ended; `call` has told of it."""
        tool = self._names.pop(call_id, "")
        if tool:
            yield Thought(tool, f"→ {_text(result)}\n")


class Meter:
    """Tokens as some libraries count them: totals that only grow."""

    def __init__(self) -> None:
        self._told = Usage()

    def used(
        self, model: str, input_tokens: int, output_tokens: int, reasoning_tokens: int
    ) -> Iterator[Output | str]:
        """What was used since the last time."""
        told = self._told
        more = Usage(
            max(0, input_tokens - told.input_tokens),
            max(0, output_tokens - told.output_tokens),
            max(0, reasoning_tokens - told.reasoning_tokens),
            model,
        )
        if more.input_tokens or more.output_tokens:
            self._told = Usage(input_tokens, output_tokens, reasoning_tokens)
            yield Used(more)


def _text(value: object) -> str:
    if value is None or value == "":
        return "{}"
    if isinstance(value, str):
        return cut(value)
    try:
        return cut(json.dumps(value, ensure_ascii=False, default=str))
    except (TypeError, ValueError):
        return cut(str(value))
