"""Thousands of runs of both cores under faults. A failing seed prints how to see it step by step."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from simulation.world import World, run

RUNS = 150
SLOW_RUNS = int(os.environ.get("SIMULATION_RUNS", "100000"))


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


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_promises_hold_in_many_runs() -> None:
    seeds = range(1_000_000, 1_000_000 + SLOW_RUNS)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as every_core:
        began_at = time.monotonic()
        for count, _ in enumerate(every_core.map(run, seeds, chunksize=20), 1):
            if count % 1_000 == 0:
                per_minute = 60 * count / (time.monotonic() - began_at)
                print(f"{count} of {SLOW_RUNS} runs, {per_minute:.0f} a minute", flush=True)
