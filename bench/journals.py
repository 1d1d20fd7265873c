"""What a file costs that outlives the process: the pair with such a journal, against itself with one in memory. In
this table the column of the bare peer holds the journal in memory."""

from collections.abc import AsyncGenerator
from typing import Final

from bench import paced, stops
from bench.flooded import to_journal
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Pair, Scene, pair
from bench.stops import Stops
from bench.tell import Tell
from bench.tokens import Latencies

_RATE: Final = Goal("at least", 0.8)
_WARM_S: Final = 0.1
_NOTE: Final = "bare: the journal in memory"
_Paced = tuple[Latencies, float]


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    # Both are new: a dispatcher that has already carried a lot is slower than one that has not.
    async with pair(in_file=True) as file, pair() as memory:
        both = (file, memory)
        for each in both:
            for sessions in plan.journal_sessions:
                await to_journal(each, sessions, _WARM_S)
        yield await _flooded(both, plan, tell)
        yield await _paced(both, plan, tell)
        yield await _stops(both, plan, tell)


async def _flooded(both: tuple[Pair, Pair], plan: Plan, tell: Tell) -> list[Row]:
    rows = []
    for sessions in plan.journal_sessions:
        rates: tuple[list[float], list[float]] = ([], [])
        for number in range(plan.rounds):
            tell(f"{sessions} flooding, round {number + 1} of {plan.rounds}")
            for each, found in zip(both, rates, strict=True):
                found.append((await to_journal(each, sessions, plan.flood_s)).tokens)
        who = f"{sessions} session{'s' if sessions > 1 else ''}"
        rows.append(row(f"{who}: yield to journal in a file", "tokens/s", *rates, _RATE, _NOTE))
    return rows


async def _paced(both: tuple[Pair, Pair], plan: Plan, tell: Tell) -> list[Row]:
    loads: tuple[list[_Paced], list[_Paced]] = ([], [])
    for number in range(plan.journal_rounds):
        tell(f"paced, round {number + 1} of {plan.journal_rounds}")
        for each, found in zip(both, loads, strict=True):
            found.append(await paced.on_pair(each, plan.pace_sessions, plan.journal_pace_s))
    who = f"{plan.pace_sessions} × {paced.PER_SECOND:g} tokens/s"
    file, memory = loads
    return [
        _row(
            f"{who}: latency to journal in a file, p50",
            [each.p50_ms for each, _ in file],
            [each.p50_ms for each, _ in memory],
        ),
        _row(
            f"{who}: latency to journal in a file, p99",
            [each.p99_ms for each, _ in file],
            [each.p99_ms for each, _ in memory],
        ),
        row(
            f"{who}: dispatcher's CPU per token, in a file",
            "µs",
            [cpu_us for _, cpu_us in file],
            [cpu_us for _, cpu_us in memory],
            note=_NOTE,
        ),
    ]


async def _stops(both: tuple[Pair, Pair], plan: Plan, tell: Tell) -> list[Row]:
    rows = []
    for busy in plan.stop_busy:
        took: tuple[list[Stops], list[Stops]] = ([], [])
        for number in range(plan.journal_rounds):
            tell(f"stops, {busy} busy sessions, round {number + 1} of {plan.journal_rounds}")
            for each, found in zip(both, took, strict=True):
                found.append(await stops.on_pair(each, plan.journal_stops, busy))
        file, memory = took
        for index, name in enumerate(("p50", "p99")):
            rows += [
                _row(
                    f"{busy} busy: stop call to agent's cancellation, {name}",
                    [each.cancelled[index] for each in file],
                    [each.cancelled[index] for each in memory],
                ),
                _row(
                    f"{busy} busy: stop call to viewer's last event, {name}",
                    [each.seen[index] for each in file],
                    [each.seen[index] for each in memory],
                ),
            ]
    return rows


def _row(what: str, file: list[float], memory: list[float]) -> Row:
    return row(what, "ms", file, memory, note=_NOTE)
