"""Latency over HTTP at the pace of a language model: many sessions with a viewer each, and one with many."""

from collections.abc import AsyncGenerator
from typing import Final

from bench.load import LEFT_OUT
from bench.paced import PER_SECOND
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Scene
from bench.tell import Tell
from bench.tokens import Latencies
from bench.web import Web, latencies_of, on_bare, on_pair, on_relay, started

_P50: Final = Latencies._fields.index("p50_ms")
_P99: Final = Latencies._fields.index("p99_ms")
_LATE: Final = Goal("at most", 1)


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    async with started() as web:
        yield await _paced(web, plan, tell)
        yield await _one_for_all(web, plan, tell)


async def _paced(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    sessions = plan.pace_sessions
    ours: list[Latencies] = []
    relayed: list[Latencies] = []
    alone: list[Latencies] = []
    for number in range(plan.web_rounds):
        tell(f"{sessions} sessions paced, round {number + 1} of {plan.web_rounds}")
        window = await on_pair(web, "pace", sessions, plan.pace_s, per_second=PER_SECOND)
        ours.append(await latencies_of(web, window))
        window = await on_relay(web, sessions, plan.pace_s, PER_SECOND)
        relayed.append(await latencies_of(web, window))
        window = await on_bare(web, "/alone/pace", sessions, plan.pace_s, per_second=PER_SECOND)
        alone.append(await latencies_of(web, window))
    who = f"{sessions} × {PER_SECOND:g} tokens/s: yield to the viewer's bytes"
    rows = []
    for name, index in (("p50", _P50), ("p99", _P99)):
        mine, theirs = [each[index] for each in ours], [each[index] for each in relayed]
        rows.append(row(f"{who}, {name}", "ms", mine, theirs, _LATE, f"bare: (b); {LEFT_OUT}"))
        rows.append(
            row(
                f"{who}, {name}, against no hop",
                "ms",
                mine,
                [each[index] for each in alone],
                note="bare: (a)",
            )
        )
    return rows


async def _one_for_all(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    viewers = plan.crowd_sessions
    found: list[Latencies] = []
    for number in range(plan.web_rounds):
        tell(f"{viewers} viewers of one paced session, round {number + 1} of {plan.web_rounds}")
        window = await on_pair(web, "pace", 1, plan.crowd_s, viewers, per_second=PER_SECOND)
        found.append(await latencies_of(web, window))
    who = f"{viewers:,} viewers of one session at {PER_SECOND:g} tokens/s: yield to a viewer's bytes"
    return [
        row(f"{who}, p50", "ms", [f.p50_ms for f in found], note=LEFT_OUT),
        row(f"{who}, p99", "ms", [f.p99_ms for f in found], note=LEFT_OUT),
    ]
