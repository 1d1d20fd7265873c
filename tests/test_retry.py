"""How often, and after how long, a request that failed in passing is made again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.core.retry import Schedule

UNITS = st.floats(0, 1, exclude_max=True)
SCHEDULES = st.builds(Schedule, st.integers(1, 10), st.floats(0.01, 60), st.floats(1, 10), st.floats(0, 600))


def wait_s(
    failures: int, asked_s: float | None = None, left_s: float | None = None, random_unit: float = 0.999999
) -> float | None:
    schedule = Schedule(attempts=4, first_s=1.0, factor=2.0, asked_max_s=30.0)
    return schedule.wait_s(failures, asked_s=asked_s, left_s=left_s, random_unit=random_unit)


def test_the_waits_grow_by_their_factor_and_end_with_the_attempts() -> None:
    assert [wait_s(failures) for failures in (1, 2, 3)] == pytest.approx([1, 2, 4], rel=1e-3)
    assert wait_s(4) is None


def test_by_lot_a_wait_is_cut_to_half_at_most() -> None:
    assert wait_s(2, random_unit=0.0) == 1.0


def test_a_peer_that_wants_to_be_left_alone_is() -> None:
    assert wait_s(1, asked_s=7.0) == 7.0
    assert wait_s(3, asked_s=0.5) == pytest.approx(4, rel=1e-3)


def test_a_peer_that_wants_to_be_left_alone_for_too_long_is_not_asked_again() -> None:
    assert wait_s(1, asked_s=30.0) == 30.0
    assert wait_s(1, asked_s=30.5) is None


def test_a_wait_that_takes_all_the_time_there_is_is_none() -> None:
    assert wait_s(3, left_s=5.0) is not None
    assert wait_s(3, left_s=3.0) is None


@given(
    SCHEDULES, st.integers(1, 200), st.none() | st.floats(0, 1_000), st.none() | st.floats(0, 1_000), UNITS
)
def test_laws(
    schedule: Schedule, failures: int, asked_s: float | None, left_s: float | None, unit: float
) -> None:
    wait = schedule.wait_s(failures, asked_s=asked_s, left_s=left_s, random_unit=unit)
    if failures >= schedule.attempts or (asked_s or 0) > schedule.asked_max_s:
        assert wait is None
    if wait is not None:
        assert wait >= (asked_s or 0)
        assert wait >= schedule.first_s / 2
        assert left_s is None or wait < left_s
        assert wait <= max(asked_s or 0, schedule.first_s * schedule.factor ** (failures - 1))
