"""Thousands of runs of both cores under faults. A failing seed prints how to see it step by step."""

import os

import pytest
from simulation.world import World

RUNS = 150
SLOW_RUNS = int(os.environ.get("SIMULATION_RUNS", "5000"))


def run(seed: int) -> None:
    try:
        World(seed).run()
    except BaseException as error:
        error.add_note(f"seed {seed}: see it with: cd tests && python -m simulation {seed}")
        raise


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
    for seed in range(1_000_000, 1_000_000 + SLOW_RUNS):
        run(seed)
