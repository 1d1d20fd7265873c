"""What one user may have, and how fast: the laws of the bucket, and who is remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.endings import Refusal
from dispatcher.core.events import SessionRequested
from dispatcher.core.limits import Limits
from dispatcher.core.policy import Guard, PolicyLimits
from dispatcher.core.quota import Bucket, Quotas, Spending
from dispatcher.core.session import Session

PER_MINUTE = st.integers(1, 1_000)
GAPS = st.lists(st.floats(0, 30), max_size=60)


def session(number: int, user_id: str) -> Session:
    requested = SessionRequested(f"s{number}", "echo", b"", user_id=user_id)
    guard = Guard(PolicyLimits())
    return Session(requested, guard, 0.0, running_tools_max=1, published_bytes_max=1)


@given(PER_MINUTE, GAPS)
def test_never_more_than_the_rate_and_one_bucketful(per_minute: int, gaps: list[float]) -> None:
    bucket, now, taken = Bucket(), 0.0, 0
    for gap in gaps:
        now += gap
        taken += not bucket.take(per_minute, now)
        assert taken <= per_minute + now * per_minute / 60 + 1e-6


@given(PER_MINUTE, GAPS)
def test_whoever_waits_as_long_as_it_is_told_may_come(per_minute: int, gaps: list[float]) -> None:
    bucket, now = Bucket(), 0.0
    for gap in gaps:
        now += gap
        wait_s = bucket.take(per_minute, now)
        if wait_s:
            assert 0 < wait_s <= 60 / per_minute + 1e-9
            now += wait_s + 1e-9
            assert bucket.take(per_minute, now) == 0


def test_as_many_at_once_as_in_a_minute() -> None:
    bucket = Bucket()
    assert [bucket.take(3, 0.0) for _ in range(4)] == [0, 0, 0, 20.0]


def test_one_user_takes_nothing_from_the_others() -> None:
    quotas, limits = Quotas(), Limits(sessions_per_minute_max=4, user_sessions_per_minute_max=1)
    assert quotas.take("alice", limits, 0.0) is None
    for _ in range(10):
        excess = quotas.take("alice", limits, 0.0)
        assert excess is not None
        assert excess.refusal is Refusal.RATE_LIMITED
        assert excess.retry_after_s == 60
    assert [quotas.take(user, limits, 0.0) for user in ("bob", "", "carol")] == [None] * 3
    for user in ("dave", ""):
        excess = quotas.take(user, limits, 0.0)
        assert excess is not None
        assert "sessions_per_minute_max is 4" in excess.message


def test_users_without_sessions_are_forgotten_when_there_are_too_many() -> None:
    quotas, limits = Quotas(), Limits(sessions_max=10)
    kept = session(1, "u0")
    quotas.entered(kept)
    for number in range(1_000):
        assert quotas.take(f"u{number}", limits, float(number)) is None
    assert len(quotas) == 10
    assert repr(quotas) == "<Quotas of 10 users>"
    quotas.ended(kept)
    quotas.forgotten(kept)
    assert quotas.ended_of("u0") == []


@pytest.mark.parametrize("user_id", ["", "alice"])
def test_whoever_bears_no_id_is_under_the_limits_for_all_alone(user_id: str) -> None:
    quotas, limits = Quotas(), Limits(user_sessions_max=1)
    quotas.entered(session(1, user_id))
    assert (quotas.excess(user_id, limits) is None) == (user_id == "")


# --- what is spent -----------------------------------------------------------------------------------------


@given(
    spent=st.lists(st.tuples(st.floats(0, 30), st.integers(0, 100)), max_size=30),
    window_s=st.sampled_from([10.0, 100.0]),
)
def test_what_was_spent_counts_for_a_window_and_a_hundredth_less_at_most(
    spent: list[tuple[float, int]], window_s: float
) -> None:
    spending, now, told = Spending(), 0.0, []
    for pause_s, dollars in spent:
        now += pause_s
        spending.add(dollars, window_s, now)
        told.append((now, dollars))
        total = spending.total(window_s, now)
        surely = sum(each for at, each in told if at > now - window_s * 0.99)
        perhaps = sum(each for at, each in told if at > now - window_s)
        assert surely - 1e-6 <= total <= perhaps + 1e-6
        wait_s = spending.below_s(total, window_s, now)
        if total:
            assert 0 < wait_s <= window_s + 1e-6
    assert spending.total(window_s, now + window_s) == 0


def test_what_was_spent_a_twentieth_later_counts_as_much_longer() -> None:
    spending = Spending()
    spending.add(1.0, 100.0, 0.0)
    spending.add(2.0, 100.0, 5.0)
    assert spending.total(100.0, 99.0) == 3.0
    assert spending.total(100.0, 101.0) == 2.0
    assert spending.below_s(2.0, 100.0, 101.0) == 4.0


def test_a_user_that_has_spent_too_much_gets_nothing_until_it_counts_no_more() -> None:
    limits = Limits(policy=PolicyLimits(user_cost_dollars_max=5.0, user_cost_window_s=100.0))
    quotas = Quotas()
    assert quotas.spend("", 9.0, limits, 0.0) == 0
    assert quotas.spend("ada", 2.0, limits, 0.0) == 2
    assert quotas.overspent("ada", limits, 1.0) is None
    assert quotas.spend("ada", 3.5, limits, 10.0) == 5.5
    excess = quotas.overspent("ada", limits, 20.0)
    assert excess is not None
    assert (excess.refusal, excess.retry_after_s) == (Refusal.RATE_LIMITED, 80.0)
    assert excess.message == "user_cost_dollars_max is 5 in 100 s, and this user has spent so much"
    assert quotas.overspent("bob", limits, 20.0) is None
    assert quotas.overspent("ada", limits, 100.0) is None
