"""The circuit breaker in front of a language model's provider."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from commander.core.breaker import Breaker, State


def opened(failures_max: int = 2, open_s: float = 10.0) -> Breaker:
    breaker = Breaker(failures_max, open_s)
    assert [breaker.failed(0.0) for _ in range(failures_max)] == [*[False] * (failures_max - 1), True]
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = opened()
    assert breaker.state is State.OPEN
    assert breaker.refuse_s(4.0) == 6.0


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = Breaker(2, 10.0)
    breaker.failed(0.0)
    breaker.worked()
    assert not breaker.failed(0.0)
    assert breaker.state is State.CLOSED


def test_after_its_time_one_request_tries_and_the_others_stay_away() -> None:
    breaker = opened()
    assert breaker.refuse_s(10.0) is None
    assert breaker.state is State.HALF_OPEN
    assert breaker.refuse_s(10.0) == 10.0


def test_what_tried_and_worked_closes_it() -> None:
    breaker = opened()
    breaker.refuse_s(10.0)
    breaker.worked()
    assert breaker.state is State.CLOSED
    assert breaker.failures == 0


def test_what_has_begun_lets_the_others_in_and_may_fail_yet() -> None:
    breaker = opened()
    breaker.refuse_s(10.0)
    breaker.began()
    assert breaker.refuse_s(10.0) is None
    assert breaker.failures == 2
    assert breaker.failed(11.0)
    assert breaker.refuse_s(11.0) == 10.0


def test_a_request_from_before_that_begins_does_not_close_it() -> None:
    breaker = opened()
    breaker.began()
    assert breaker.state is State.OPEN


def test_what_tried_and_failed_opens_it_for_another_while() -> None:
    breaker = opened()
    breaker.refuse_s(10.0)
    assert breaker.failed(11.0)
    assert breaker.refuse_s(11.0) == 10.0


def test_what_tried_and_was_given_up_lets_the_next_one_try() -> None:
    breaker = opened()
    breaker.refuse_s(10.0)
    breaker.let_go(10.5)
    assert breaker.refuse_s(10.5) is None


def test_a_failure_of_a_request_from_before_does_not_open_it_again() -> None:
    breaker = opened()
    assert not breaker.failed(9.0)
    assert breaker.refuse_s(9.0) == 1.0


@given(st.integers(0, 50))
def test_with_no_failures_it_never_opens(failures: int) -> None:
    breaker = Breaker(0, 10.0)
    for _ in range(failures):
        assert not breaker.failed(0.0)
    assert breaker.refuse_s(0.0) is None


class Requests(RuleBasedStateMachine):
    """Any number of requests at once, with any outcome, as time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(3, 10.0)
        self.now = 0.0
        self.under_way = 0

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        before = self.breaker.state
        refused_s = self.breaker.refuse_s(self.now)
        if refused_s is None:
            self.under_way += 1
            assert self.breaker.state is (State.CLOSED if before is State.CLOSED else State.HALF_OPEN)
            assert before is not State.HALF_OPEN
        else:
            assert 0 < refused_s <= 10.001

    @precondition(lambda self: self.under_way)
    @rule(how=st.sampled_from(["worked", "failed", "let_go"]))
    def end(self, how: str) -> None:
        self.under_way -= 1
        if how == "worked":
            self.breaker.worked()
            assert self.breaker.state is State.CLOSED
        elif how == "failed":
            self.breaker.failed(self.now)
        else:
            self.breaker.let_go(self.now)

    @invariant()
    def closed_means_few_failures(self) -> None:
        if self.breaker.state is State.CLOSED:
            assert self.breaker.failures < 3


test_requests = Requests.TestCase
