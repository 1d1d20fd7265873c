"""What an agent is to do and say: known to the agent and to the test alike, to the byte."""

import json
import random
from dataclasses import asdict, dataclass
from typing import Literal

# say: words, one by one; call: a tool's result; ask: a user's answer; hear: a message of the user.
Step = Literal["say", "call", "ask", "hear"]
# Some of more than one byte, and one beyond the first plane.
_WORDS = ("one", "two", "three", "für", "čtyři", "五つ", "🙂", "a-much-longer-word", "\n")


@dataclass(frozen=True)
class Script:
    """`gate`: a file for which tools wait. `pause_s`: between words."""

    seed: int
    steps: tuple[Step, ...]
    words: int = 60
    pause_s: float = 0.003
    gate: str = ""

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Script":
        told = json.loads(text)
        return cls(**{**told, "steps": tuple(told["steps"])})

    def pieces(self, at: int) -> list[str]:
        """What the step leaves in the text."""
        step = self.steps[at]
        if step == "say":
            choice = random.Random(f"{self.seed}/{at}")
            return [f"{choice.choice(_WORDS)}{number} " for number in range(self.words)]
        said = {"call": result(at), "ask": answer(at), "hear": message(at)}
        return [f"[{said[step]}] "]

    @property
    def text(self) -> str:
        return "".join(piece for at in range(len(self.steps)) for piece in self.pieces(at))

    @property
    def calls(self) -> int:
        return self.steps.count("call")


def result(at: int) -> str:
    """What the tool answers to the step's call."""
    return f"{at} squared is {at * at}"


def answer(at: int) -> str:
    """What the user answers to the step's question."""
    return f"the answer to {at}"


def message(at: int) -> str:
    """What the user says at the step."""
    return f"a word for {at}"
