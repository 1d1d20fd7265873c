"""Latency and cost at an everyday load: many sessions at the pace of a language model.

Latencies are those of the load while it lasts: its beginning and its end, where all sessions open and finish at
once, have no part in them, on either side.
"""

from collections.abc import AsyncGenerator

from bench.load import LEFT_OUT, Window, latencies, on_bare, unwatched
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Bare, Pair, Scene
from bench.tell import Tell
from bench.tokens import Latencies

PER_SECOND = 50.0
_LATENCY = Goal("at most", 3)
_COST = Goal("at most", 1)


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    sessions = plan.pace_sessions
    ours: list[tuple[Latencies, float]] = []
    bare: list[tuple[Latencies, float]] = []
    for number in range(plan.rounds):
        tell(f"round {number + 1} of {plan.rounds}")
        ours.append(await on_pair(scene.pair, sessions, plan.pace_s))
        bare.append(await _bare(scene.bare, sessions, plan.pace_s))
    who = f"{sessions} × {PER_SECOND:g} tokens/s"
    yield [
        row(
            f"{who}: added latency to the journal, p50",
            "ms",
            [each.p50_ms for each, _ in ours],
            [each.p50_ms for each, _ in bare],
            _LATENCY,
            LEFT_OUT,
        ),
        row(
            f"{who}: added latency to the journal, p99",
            "ms",
            [each.p99_ms for each, _ in ours],
            [each.p99_ms for each, _ in bare],
            _LATENCY,
            LEFT_OUT,
        ),
        row(
            f"{who}: dispatcher's CPU per token",
            "µs",
            [cpu_us for _, cpu_us in ours],
            [cpu_us for _, cpu_us in bare],
            _COST,
        ),
    ]


async def on_pair(pair: Pair, sessions: int, seconds: float) -> tuple[Latencies, float]:
    window = Window.soon(sessions, seconds)
    cpu_s, *_ = await unwatched(pair, "pace", sessions, window, per_second=PER_SECOND)
    found = await latencies(pair, window)
    return found, cpu_s / found.tokens * 1e6


async def _bare(bare: Bare, sessions: int, seconds: float) -> tuple[Latencies, float]:
    window = Window.soon(0, seconds)
    cpu_s, *_ = await on_bare(
        bare, "pace", sessions, window, lambda first: {"first": first, "per_second": PER_SECOND}
    )
    found = await latencies(bare, window)
    return found, cpu_s / found.tokens * 1e6
