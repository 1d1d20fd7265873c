"""Deadlines by key, against the plainest model of them: a dict."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.timers import Timers

KEYS = st.sampled_from([("ack", "l1"), ("ack", "l2"), ("stop", "c1", "s1", "1"), ("room",)])
TIMES = st.sampled_from([0.0, 1.0, 1.5, 2.0, 5.0])


def due_in_order(timers: Timers[tuple[str, ...]], now: float) -> list[tuple[str, ...]]:
    popped = []
    while (key := timers.pop_due(now)) is not None:
        popped.append(key)
    return popped


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), KEYS, TIMES),
            st.tuples(st.just("set_if_absent"), KEYS, TIMES),
            st.tuples(st.just("cancel"), KEYS, TIMES),
            st.tuples(st.just("pop_due"), KEYS, TIMES),
        ),
        max_size=40,
    )
)
def test_they_are_a_dict_of_times(steps: list[tuple[str, tuple[str, ...], float]]) -> None:
    timers: Timers[tuple[str, ...]] = Timers()
    model: dict[tuple[str, ...], float] = {}
    for what, key, at in steps:
        if what == "set":
            timers.set(key, at)
            model[key] = at
        elif what == "set_if_absent":
            timers.set_if_absent(key, at)
            model.setdefault(key, at)
        elif what == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        else:
            due = sorted((when, each) for each, when in model.items() if when <= at)
            assert due_in_order(timers, at) == [each for _, each in due]
            for _, each in due:
                del model[each]
        assert len(timers) == len(model)
        assert timers.next_deadline() == min(model.values(), default=None)
        assert repr(timers) == f"<Timers {len(model)} set, next {min(model.values(), default=None)}>"


def test_a_deadline_is_due_at_its_time_and_not_before() -> None:
    timers: Timers[tuple[str, ...]] = Timers()
    timers.set(("a",), 1.0)
    assert timers.pop_due(0.999) is None
    assert timers.pop_due(1.0) == ("a",)
    assert timers.pop_due(1.0) is None
    assert timers.next_deadline() is None


def test_one_that_is_moved_for_ever_is_still_one() -> None:
    """Each acknowledgement moves a deadline: what it was before must not pile up, nor be told of."""
    timers: Timers[tuple[str, ...]] = Timers()
    for number in range(10_000):
        timers.set(("moved",), float(number % 7) + number)
        timers.set(("other",), 20_000.0)
    assert len(timers) == 2
    assert due_in_order(timers, 30_000.0) == [("moved",), ("other",)]


def test_one_that_is_cancelled_and_set_to_the_same_time_is_due_once() -> None:
    timers: Timers[tuple[str, ...]] = Timers()
    timers.set(("a",), 1.0)
    timers.cancel(("a",))
    timers.set(("a",), 1.0)
    assert due_in_order(timers, 2.0) == [("a",)]
