"""What an agent may say, besides a bare str: made by the methods of `Turn`, to be yielded or emitted."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from commander.core.turn import TOKENS_MAX, Usage
from commander.errors import AgentFailure

# In what an estimate is told; a unit is left for the next one above so many of it.
_UNITS_S = (("s", 1), ("min", 60), ("h", 3600))
_COUNT_MAX = 90
# Larger ones no number of the wire holds.
_NUMBER_MAX = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer; the same as yielding the str itself."""

    text: str

    def __post_init__(self) -> None:
        _check_text("content", "text", self.text)


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning. Pieces of one step, one after the other, belong together."""

    step: str
    text: str

    def __post_init__(self) -> None:
        _check_text("thought", "step", self.step)
        _check_text("thought", "text", self.text)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work is. `percent` is 0 to 100; `left_s` what it may still take, which is told with the text."""

    text: str
    current: float | None = None
    total: float | None = None
    percent: float | None = None
    left_s: float | None = None

    def __post_init__(self) -> None:
        _check_text("progress", "text", self.text)
        for name in ("current", "total", "percent", "left_s"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and abs(value) < math.inf):
                raise TypeError(f"progress: {name} must be a finite number, not {value!r}")
            if value is not None and abs(value) > _NUMBER_MAX:
                raise ValueError(f"progress: {name} must be a number that can cross, up to {_NUMBER_MAX:g}")
        if self.percent is not None and not 0 <= self.percent <= 100:
            raise ValueError(f"progress: percent must lie between 0 and 100, not {self.percent!r}")
        if self.left_s is not None and self.left_s < 0:
            raise ValueError(f"progress: left_s must be 0 or more, not {self.left_s!r}")

    @property
    def told(self) -> str:
        """The text, and what it may still take: no more exact than an estimate is."""
        if not self.left_s:
            return self.text
        unit, unit_s = next((each for each in _UNITS_S if self.left_s <= _COUNT_MAX * each[1]), _UNITS_S[-1])
        count = math.ceil(self.left_s / unit_s)
        left = f"about {count:,} {unit} left"
        return f"{self.text}, {left}" if self.text else left


@dataclass(frozen=True, slots=True)
class Artifact:
    """Binary output. It may be of any size: it crosses in pieces."""

    name: str
    content: bytes | bytearray | memoryview
    mime_type: str
    artifact_id: str

    def __post_init__(self) -> None:
        _check_text("artifact", "name", self.name)
        _check_text("artifact", "mime_type", self.mime_type)
        if not isinstance(self.content, bytes | bytearray | memoryview):
            raise TypeError(f"artifact {self.name!r}: data must be bytes, not {type(self.content).__name__}")


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector of numbers."""

    values: Sequence[float]
    name: str = ""
    model: str = ""

    def __post_init__(self) -> None:
        _check_text("embedding", "name", self.name)
        _check_text("embedding", "model", self.model)
        if self.values is None:
            raise TypeError("embedding: values must be numbers, not None")


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens used since the last one."""

    usage: Usage

    def __post_init__(self) -> None:
        used = self.usage
        for name in ("input_tokens", "output_tokens", "reasoning_tokens"):
            value: object = getattr(used, name)
            if not isinstance(value, SupportsIndex):
                raise TypeError(f"usage: {name} must be a whole number, not {type(value).__name__}")
            if not 0 <= value.__index__() <= TOKENS_MAX:
                raise ValueError(f"usage: {name} must be a whole number from 0 to {TOKENS_MAX:,}")
        _check_text("usage", "model", used.model)


# What becomes of a sub-agent: told by its team, and by nobody else.


@dataclass(frozen=True, slots=True)
class Began:
    """It runs. What it is there for."""

    description: str


@dataclass(frozen=True, slots=True)
class Completed:
    """It ended well. What came of it, in a line; may be empty."""

    summary: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It ended badly. The session goes on."""

    failure: AgentFailure


AgentEvent = Began | Completed | Failed

Output = Content | Thought | Progress | Artifact | Embedding | Used


def _check_text(what: str, field: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what}: {field} must be a str, not {type(value).__name__}")
