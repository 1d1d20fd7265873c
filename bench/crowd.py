"""Many sessions at the pace of a language model, from several commander processes, on one dispatcher.

Latencies are those of the load while it lasts: its beginning and its end, where all sessions open and finish at
once, have no part in them, on either side. Whether it is sustained, all that was due tells.
"""

from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from bench.load import LEFT_OUT, Window, latencies, on_bare, unwatched
from bench.paced import PER_SECOND
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Bare, Pair, Scene, more_clients, more_workers
from bench.tell import Tell
from bench.tokens import Latencies

_SUSTAINED: Final = Goal("at least", 98, of="value")
_LATENCY: Final = Goal("at most", 20, of="value")


class _Load(NamedTuple):
    """What arrived, and what it cost the server and all commanders, microseconds per token."""

    latencies: Latencies
    # Of what was due.
    in_time_percent: float
    server_us: float
    commanders_us: float


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    full: list[_Load] = []
    bare: list[_Load] = []
    half: list[_Load] = []
    more = plan.crowd_processes - 1
    tell(f"starting {more} more commanders and bare clients")
    async with more_workers(scene.pair, more), more_clients(scene.bare, more):
        for number in range(plan.crowd_rounds):
            tell(f"round {number + 1} of {plan.crowd_rounds}")
            full.append(await _pair(scene.pair, plan, PER_SECOND))
            bare.append(await _bare(scene.bare, plan, PER_SECOND))
            half.append(await _bare(scene.bare, plan, PER_SECOND / 2))
    who = f"{plan.crowd_sessions:,} × {PER_SECOND:g} tokens/s"
    rows = _rows(who, full, bare, _SUSTAINED, _LATENCY)
    rows += _rows(f"{who}, bare at {PER_SECOND / 2:g}", full, half)
    commanders = [each.commanders_us for each in full]
    yield [*rows, row(f"{who}: commanders' CPU per token", "µs", commanders)]


def _rows(
    who: str, ours: list[_Load], bare: list[_Load], sustained: Goal | None = None, late: Goal | None = None
) -> list[Row]:
    return [
        row(
            f"{who}: arrived in time, of what was due",
            "%",
            [each.in_time_percent for each in ours],
            [each.in_time_percent for each in bare],
            sustained,
        ),
        row(
            f"{who}: latency, p50",
            "ms",
            [each.latencies.p50_ms for each in ours],
            [each.latencies.p50_ms for each in bare],
            note=LEFT_OUT,
        ),
        row(
            f"{who}: latency, p99",
            "ms",
            [each.latencies.p99_ms for each in ours],
            [each.latencies.p99_ms for each in bare],
            late,
            f"{LEFT_OUT}; of what came: a generator that is held up makes its token late, not slow",
        ),
        row(
            f"{who}: server's CPU per token",
            "µs",
            [each.server_us for each in ours],
            [each.server_us for each in bare],
        ),
    ]


async def _pair(pair: Pair, plan: Plan, per_second: float) -> _Load:
    window = Window.soon(plan.crowd_sessions, plan.crowd_s)
    cpu_s = await unwatched(pair, "pace", plan.crowd_sessions, window, per_second=per_second)
    return _load(await latencies(pair, window), cpu_s, plan, per_second)


async def _bare(bare: Bare, plan: Plan, per_second: float) -> _Load:
    window = Window.soon(0, plan.crowd_s)
    told = {"per_second": per_second}
    cpu_s = await on_bare(bare, "pace", plan.crowd_sessions, window, lambda first: {"first": first, **told})
    return _load(await latencies(bare, window), cpu_s, plan, per_second)


def _load(found: Latencies, cpu_s: list[float], plan: Plan, per_second: float) -> _Load:
    due = plan.crowd_sessions * per_second * plan.crowd_s
    server_us, *commanders_us = (used_s / found.tokens * 1e6 for used_s in cpu_s)
    return _Load(found, found.in_time / due * 100, server_us, sum(commanders_us))
