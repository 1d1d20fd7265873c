"""What came out: for each claim the pair's values, the bare peer's, the ratios, and the goal."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple


class Spread(NamedTuple):
    """Of one value per round: the median, the least and the greatest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Goal:
    """What the ratio, or the pair's own value, should be; of each, the median counts."""

    sense: Literal["at least", "at most"]
    bound: float
    of: Literal["ratio", "value"] = "ratio"

    def met_by(self, row: "Row") -> bool:
        spread = row.ratio if self.of == "ratio" else row.ours
        value = None if spread is None else spread.median
        if value is None:
            return False
        return value >= self.bound if self.sense == "at least" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ours` and `theirs` have one value per round, of the same round each; `theirs` is
    None where there is nothing to compare with."""

    what: str
    unit: str
    ours: Spread
    theirs: Spread | None
    ratio: Spread | None
    goal: Goal | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.goal.met_by(self)


def row(
    what: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float] = (),
    goal: Goal | None = None,
    note: str = "",
) -> Row:
    """A row of rounds: the ratios are those of the pairs, ours to theirs. What is too small to be told from noise may
    come out as nothing or less, and has none."""
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=False) if mine >= 0 and other > 0]
    return Row(
        what,
        unit,
        Spread.of(ours),
        Spread.of(theirs) if theirs else None,
        Spread.of(pairs) if pairs else None,
        goal,
        note,
    )
