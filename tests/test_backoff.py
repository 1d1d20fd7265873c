"""Full jitter: anywhere from nothing to a bound that doubles up to the longest."""

from hypothesis import given
from hypothesis import strategies as st

from commander.core.backoff import delay_s

FAILURES = st.integers(0, 10_000)
LUCK = st.floats(0, 1, exclude_max=True)


@given(FAILURES, LUCK)
def test_it_is_never_longer_than_the_longest(failures: int, luck: float) -> None:
    assert 0 <= delay_s(failures, first_s=0.2, max_s=5.0, random_unit=luck) <= 5.0


def test_its_bound_doubles() -> None:
    bounds = [delay_s(failures, first_s=0.2, max_s=5.0, random_unit=1.0) for failures in range(1, 8)]
    assert bounds == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@given(FAILURES)
def test_it_may_be_nothing(failures: int) -> None:
    assert delay_s(failures, first_s=0.2, max_s=5.0, random_unit=0.0) == 0.0
