"""Whether a token costs more in a long answer than in a short one. Compared with the pair itself: the column of
the bare peer holds the short answers."""

from collections.abc import AsyncGenerator
from itertools import pairwise
from statistics import median
from typing import Final

from bench.load import Window, ask
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Pair, Scene
from bench.tell import Tell

_GOAL: Final = Goal("at most", 1.1)
# The part of a long answer at each of its ends that is compared.
_PART: Final = 0.2
_STRETCHES: Final = 40


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    tokens, answers = plan.length_tokens, plan.length_answers
    short = tokens // answers
    ends: list[tuple[float, float]] = []
    for alone in (False, True):
        long_us: list[float] = []
        short_us: list[float] = []
        for number in range(plan.rounds):
            tell(f"{'a packet per token' if alone else 'merged'}, round {number + 1} of {plan.rounds}")
            long_us.append(await _cpu_us(scene.pair, 1, tokens, alone=alone))
            if alone:
                ends.append(await _ends_us(scene.pair))
            short_us.append(await _cpu_us(scene.pair, answers, short, alone=alone))
        packets = ", a packet per token" if alone else ""
        what = f"CPU per token, 1 × {tokens:,} against {answers} × {short}{packets}"
        yield [row(what, "µs", long_us, short_us, _GOAL, "opening and ending included")]
    what = f"time per token, last {_PART:.0%} against first of {tokens:,}"
    yield [row(what, "µs", [last for _, last in ends], [first for first, _ in ends], _GOAL)]


async def _cpu_us(pair: Pair, answers: int, tokens: int, *, alone: bool) -> float:
    """The dispatcher's processor time for a token, one answer after the other, watched."""
    told = {"alone": 1} if alone else {}
    before = await pair.host.told("cpu")
    watched = await ask(pair, "count", 1, Window.soon(0, 0), tokens=tokens, **told)
    for number in range(1, answers):
        await watched.have_ended(number)
        await watched.ask(
            "count", {"tokens": str(tokens), **{key: str(value) for key, value in told.items()}}
        )
    await watched.over()
    return float(await pair.host.told("cpu") - before) / answers / tokens * 1e6


async def _ends_us(pair: Pair) -> tuple[float, float]:
    """Microseconds per token in the first part and in the last part of the answer that was journalled last."""
    when_ns = await pair.host.told("arrivals")
    part = int(len(when_ns) * _PART)
    return _per_token_us(when_ns[:part]), _per_token_us(when_ns[-part:])


def _per_token_us(when_ns: list[int]) -> float:
    """Of many short stretches the median, so that a pause of the machine is no cost of a token."""
    stretch = max(1, len(when_ns) // _STRETCHES)
    starts = when_ns[::stretch]
    return median((end - start) / stretch / 1e3 for start, end in pairwise(starts))
