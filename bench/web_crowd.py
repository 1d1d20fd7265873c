"""Over HTTP, many sessions at the pace of a language model with a viewer each, from several commander processes."""

from collections.abc import AsyncGenerator
from typing import Final

from bench.load import LEFT_OUT
from bench.paced import PER_SECOND
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Scene, more_workers
from bench.tell import Tell
from bench.tokens import Latencies
from bench.web import Web, latencies_of, on_pair, started

_SUSTAINED: Final = Goal("at least", 98, of="value")
_LATE: Final = Goal("at most", 60, of="value")


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    async with started() as web:
        yield await _crowd(web, plan, tell)


async def _crowd(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    sessions = plan.crowd_sessions
    found: list[Latencies] = []
    async with more_workers(web.pair, plan.crowd_processes - 1):
        for number in range(plan.web_rounds):
            tell(f"{sessions} sessions, a viewer each, round {number + 1} of {plan.web_rounds}")
            window = await on_pair(web, "pace", sessions, plan.crowd_s, per_second=PER_SECOND)
            found.append(await latencies_of(web, window))
    due = sessions * PER_SECOND * plan.crowd_s
    who = f"{sessions:,} × {PER_SECOND:g} tokens/s, a viewer each"
    return [
        row(
            f"{who}: seen in time, of what was due",
            "%",
            [f.in_time / due * 100 for f in found],
            (),
            _SUSTAINED,
        ),
        row(f"{who}: yield to the viewer's bytes, p50", "ms", [f.p50_ms for f in found], note=LEFT_OUT),
        row(
            f"{who}: yield to the viewer's bytes, p99",
            "ms",
            [f.p99_ms for f in found],
            (),
            _LATE,
            LEFT_OUT,
        ),
    ]
