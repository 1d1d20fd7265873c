"""Thousands of runs of both cores under faults. A failing seed prints how to see it step by step."""

import os
import time
from collections.abc import Callable
from functools import partial
from random import Random

import pytest
from simulation.clock import Clock
from simulation.wire import Wire
from simulation.world import World, run

RUNS = 150
SLOW_RUNS = int(os.environ.get("SIMULATION_RUNS", "100000"))
PARTS = 50


@pytest.mark.parametrize("tenth", range(10))
def test_promises_hold_under_faults(tenth: int) -> None:
    for seed in range(tenth * RUNS // 10, (tenth + 1) * RUNS // 10):
        run(seed)


def test_one_seed_is_one_story() -> None:
    first, second = World(7, keeps_transcript=True), World(7, keeps_transcript=True)
    first.run()
    second.run()
    assert first.transcript == second.transcript
    assert any(line.endswith("killed") or "cut" in line for line in first.transcript)


def test_a_stream_keeps_its_order() -> None:
    """What is sent while something slow is under way arrives at the same time, and still behind it."""
    for seed in range(100):
        clock, arrived = Clock(), list[bytes]()
        wire = Wire(clock, Random(seed), "l1")
        wire.up = arrived.append
        sent = [bytes([number]) for number in range(100)]
        for number, data in enumerate(sent):
            clock.at(number / 1000, partial(wire.send, "up", data))
        clock.run(100.0, 1000)
        assert arrived == sent, f"of seed {seed}"


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS), ids=lambda part: f"{part + 1} of {PARTS}")
def test_promises_hold_in_many_runs(part: int, progress: Callable[[str], None]) -> None:
    """In parts, for as many processes as there are to share them."""
    seeds = range(1_000_000 + part, 1_000_000 + SLOW_RUNS, PARTS)
    began_at = time.monotonic()
    for count, seed in enumerate(seeds, 1):
        run(seed)
        per_minute = 60 * count / (time.monotonic() - began_at)
        progress(
            f"simulation, part {part + 1} of {PARTS}: {count} of {len(seeds)} runs, {per_minute:.0f} a minute"
        )
