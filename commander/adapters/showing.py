"""What viewers see of a foreign agent's work, besides its words.

A tool that it runs by itself is no call of the dispatcher's: no ledger has it and no rule judged it. So everybody is
told that it runs, as progress, and what it was given and returned are thoughts, which only those see who may.
"""

from collections.abc import Collection, Iterator
from typing import Final

from commander.adapters.offers import cut, shown_text
from commander.core.turn import Usage
from commander.errors import NAME_CHARS_MAX, fit
from commander.models.repair import Repair, count, whole
from commander.models.words import Reasoning, Text
from commander.outputs import Output, Progress, Thought, Used

# The step under which viewers see what a model thinks.
STEP: Final = "Thinking"


class Showing:
    """One turn's. `offered`: the tools of the dispatcher, whose calls viewers see without it."""

    def __init__(self, offered: Collection[str]) -> None:
        self.has_begun = False
        self._offered = frozenset(offered)
        self._names: dict[str, str] = {}
        # Servers send characters in halves.
        self._repair = Repair()

    def text(self, text: object) -> Iterator[Output | str]:
        if isinstance(text, str) and text:
            self.has_begun = True
            said = self._repair.said(Text(text))
            assert isinstance(said, Text)
            if said.text:
                yield said.text

    def reasoning(self, text: object, step: str = STEP) -> Iterator[Output | str]:
        if isinstance(text, str) and text:
            self.has_begun = True
            said = self._repair.said(Reasoning(text))
            assert isinstance(said, Reasoning)
            if said.text:
                yield Thought(step, said.text)

    def rest(self) -> Iterator[Output | str]:
        """What is left of the answer when no more of it comes."""
        if rest := self._repair.rest():
            yield rest

    def call(self, call_id: str, tool: str, arguments: object) -> Iterator[Output | str]:
        """A tool begins to run."""
        self.has_begun = True
        if tool in self._offered or call_id in self._names:
            return
        # A model may have made it up, of any length.
        tool = fit(tool, NAME_CHARS_MAX)
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
        self, model: str, input_tokens: object, output_tokens: object, reasoning_tokens: object
    ) -> Iterator[Output | str]:
        """What was used since the last time."""
        told = self._told
        total = Usage(count(input_tokens), count(output_tokens), count(reasoning_tokens))
        more = Usage(
            max(0, total.input_tokens - told.input_tokens),
            max(0, total.output_tokens - told.output_tokens),
            max(0, total.reasoning_tokens - told.reasoning_tokens),
            fit(model, NAME_CHARS_MAX),
        )
        if more.input_tokens or more.output_tokens:
            self._told = total
            yield Used(more)


def _text(value: object) -> str:
    return "{}" if value is None or value == "" else whole(cut(shown_text(value)))
