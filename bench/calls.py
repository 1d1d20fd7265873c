"""A tool call's round trip, nothing else going on: the agent's `await` to its result."""

import json
from collections.abc import AsyncGenerator

from bench.load import Window, ask
from bench.plan import Plan
from bench.rows import Row, row
from bench.scene import Bare, Pair, Scene
from bench.tell import Tell


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for number in range(plan.rounds):
        tell(f"round {number + 1} of {plan.rounds}")
        ours.append(await _pair(scene.pair, plan.calls))
        bare.append(await _bare(scene.bare, plan.calls))
    yield [
        row(
            f"tool round trip, {name}",
            "ms",
            [each[index] / 1e6 for each in ours],
            [each[index] / 1e6 for each in bare],
            note="bare: a packet and its answer, no tool is run",
        )
        for index, name in enumerate(("p50", "p99"))
    ]


async def _pair(pair: Pair, calls: int) -> tuple[float, float]:
    watched = await ask(pair, "calls", 1, Window.soon(0, 0), calls=calls)
    await watched.over()
    said = "".join(event.content.text for _, event in watched.events if event.HasField("content"))
    p50, p99 = json.loads(said)
    return p50, p99


async def _bare(bare: Bare, calls: int) -> tuple[float, float]:
    p50, p99 = await bare.clients[0].told("calls", calls=calls)
    return p50, p99
