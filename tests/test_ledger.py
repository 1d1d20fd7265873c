"""The record of tool calls: at most once, so many at once, in the order asked."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.ledger import Asked, CallState, Ledger
from dispatcher.core.packets import ToolCall, ToolOutcome

ONE = ToolOutcome("1")
OTHER = ToolOutcome("2")


def call(call_id: str, tool: str = "add", arguments: str = "{}") -> ToolCall:
    return ToolCall(call_id, tool, arguments, f"key-{call_id}")


def test_a_call_runs_once_and_is_told_again() -> None:
    ledger = Ledger(running_max=2)
    assert ledger.ask(1, "", call("x")) is Asked.RUN
    assert ledger.ask(1, "", call("x")) is Asked.REPEATED
    assert ledger.finish(1, "x", ONE) is not None
    assert ledger.ask(1, "", call("x")) is Asked.ANSWERED
    known = ledger.find(1, "x")
    assert known is not None
    assert known.outcome == ONE
    assert (len(ledger), ledger.running) == (1, 0)


def test_a_second_outcome_counts_nothing() -> None:
    ledger = Ledger(running_max=2)
    ledger.ask(1, "", call("x"))
    assert ledger.finish(1, "x", ONE) is not None
    assert ledger.finish(1, "x", OTHER) is None
    assert ledger.finish(1, "nobody", ONE) is None
    assert ledger.finish(2, "x", ONE) is None
    known = ledger.find(1, "x")
    assert known is not None
    assert known.outcome == ONE
    assert ledger.running == 0


def test_the_same_id_with_other_words_is_a_conflict() -> None:
    ledger = Ledger(running_max=2)
    ledger.ask(1, "", call("x"))
    assert ledger.ask(1, "", call("x", arguments='{"a":1}')) is Asked.CONFLICT
    assert ledger.ask(1, "", call("x", tool="sub")) is Asked.CONFLICT
    assert ledger.ask(2, "", call("x", tool="sub")) is Asked.RUN


def test_who_is_owed_runs_in_the_order_asked() -> None:
    ledger = Ledger(running_max=1)
    assert [ledger.ask(1, "", call(each)) for each in "abc"] == [Asked.RUN, Asked.OWED, Asked.OWED]
    assert ledger.next_owed() is None
    # What waits has no outcome to give.
    assert ledger.finish(1, "b", ONE) is None
    assert ledger.ask(1, "", call("b")) is Asked.REPEATED
    ledger.finish(1, "a", ONE)
    first = ledger.next_owed()
    assert first is not None
    assert (first.request.call_id, first.state) == ("b", CallState.RUNNING)
    assert ledger.next_owed() is None
    assert repr(ledger) == "<Ledger 3 calls, 1 running, 1 owed>"


def test_names_are_given_where_they_are_missing() -> None:
    ledger = Ledger(running_max=9)
    bare = ToolCall("", "add", "{}")
    first = ledger.named(bare, "s1")
    assert (first.call_id, first.idempotency_key) == ("call-1", "s1:call-1:48e36139")
    ledger.ask(1, "", first)
    assert ledger.named(bare, "s1").call_id == "call-2"
    assert ledger.named(call("mine"), "s1") == call("mine")
    assert ledger.named(ToolCall("mine", "add", "{}"), "s1").idempotency_key == "s1:mine:48e36139"


def test_nothing_waits_and_nothing_is_waited_for_when_it_is_abandoned() -> None:
    ledger = Ledger(running_max=1)
    ledger.ask(1, "", call("a"))
    ledger.ask(1, "", call("b"))
    ledger.abandon()
    assert ledger.running == 0
    assert ledger.next_owed() is None


@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(st.sampled_from(["ask", "finish"]), st.sampled_from("abcdef"), st.booleans()), max_size=60
    ),
)
def test_each_call_begins_once_and_never_more_than_may(
    running_max: int, steps: list[tuple[str, str, bool]]
) -> None:
    ledger = Ledger(running_max)
    begun: list[str] = []
    asked: list[str] = []
    running: set[str] = set()
    for what, call_id, other_words in steps:
        if what == "ask":
            came_to = ledger.ask(1, "", call(call_id, tool="sub" if other_words else "add"))
            if came_to in (Asked.RUN, Asked.OWED):
                asked.append(call_id)
            if came_to is Asked.RUN:
                begun.append(call_id)
                running.add(call_id)
        elif ledger.finish(1, call_id, ONE) is not None:
            running.remove(call_id)
            while (owed := ledger.next_owed()) is not None:
                begun.append(owed.request.call_id)
                running.add(owed.request.call_id)
        assert ledger.running == len(running) <= running_max
        assert len(set(begun)) == len(begun)
        assert begun == asked[: len(begun)]
        assert len(begun) == len(asked) or ledger.running == running_max
        assert len(ledger) == len(asked)
