"""One session: its table of states, its order, and what is owed to whom."""

from zlib import crc32

import pytest

from dispatcher.core.endings import Ending
from dispatcher.core.events import Effect, Send, SessionRequested
from dispatcher.core.fleet import Link
from dispatcher.core.packets import Ack, Answer, Ended, Question, Signal, Usage, UserMessage
from dispatcher.core.policy import Guard, PolicyLimits
from dispatcher.core.session import EVENT_OVERHEAD_BYTES, TRANSITIONS, Session, State, Step

# How to get to each state.
PATHS = {
    State.QUEUED: [],
    State.STARTING: [Step.TAKE],
    State.RUNNING: [Step.TAKE, Step.SPEAK],
    State.DETACHED: [Step.TAKE, Step.DETACH],
    State.PARKED: [Step.TAKE, Step.SPEAK, Step.PARK],
    State.ENDED: [Step.END],
}


@pytest.fixture
def session() -> Session:
    return Session(
        SessionRequested("s1", "echo", b"hi", user_id="alice"),
        Guard(PolicyLimits()),
        1.0,
        running_tools_max=2,
        published_bytes_max=100,
    )


@pytest.fixture
def link() -> Link:
    return Link("l1", "peer", "m1", 0.0, 0.0)


def ended() -> Ended:
    return Ended("completed", "done", 0, 0, Usage())


# --- the table -------------------------------------------------------------------------------------------


def test_the_table_has_every_state_and_every_step() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {step for steps in TRANSITIONS.values() for step in steps} == set(Step)
    assert all(step.value and state.value for step in Step for state in State)


def test_every_state_can_be_reached_and_every_live_one_can_end() -> None:
    reached = {State.QUEUED}
    while more := {after for state in reached for after in TRANSITIONS[state].values()} - reached:
        reached |= more
    assert reached == set(State)
    assert not TRANSITIONS[State.ENDED]
    for state in set(State) - {State.ENDED}:
        assert TRANSITIONS[state][Step.END] is State.ENDED


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("state", State)
def test_a_step_is_taken_as_the_table_says_or_refused(session: Session, state: State, step: Step) -> None:
    for each in PATHS[state]:
        session.advance(each)
    assert session.state is state
    after = TRANSITIONS[state].get(step)
    if after is None:
        with pytest.raises(AssertionError, match=f"{step.name} is not a step from {state.name}"):
            session.advance(step)
        assert session.state is state
    else:
        session.advance(step)
        assert session.state is after


# --- events and order ------------------------------------------------------------------------------------


def test_events_are_numbered_from_1_and_accounted_for(session: Session) -> None:
    first = session.event("opened", "", "", None, 0)
    second = session.event("content", "team", "hello", None, 7)
    assert (first.offset, second.offset) == (1, 2)
    assert (second.kind, second.agent, second.text, second.attempt) == ("content", "team", "hello", 0)
    assert session.kept_bytes == 2 * EVENT_OVERHEAD_BYTES + len("team") + 5 + 7


def test_length_and_checksum_of_what_was_sent_and_what_was_shown(session: Session) -> None:
    for piece in ("dé", "jà 👋"):
        session.sent(piece)
    session.publish("dé")
    assert (session.sent_chars, session.sent_crc32) == (6, crc32("déjà 👋".encode()))
    assert (session.content_chars, session.content_crc32) == (2, crc32("dé".encode()))


def test_the_credit_is_beyond_what_was_received(session: Session) -> None:
    session.begin_attempt("c1", None, now=2.0)
    session.received = session.safe = 5
    session.unacked_bytes = 100
    assert session.ack(64, 1_000) == Ack(5, 64, 1_000)
    assert (session.unacked_bytes, session.granted) == (0, 5)


def test_what_is_held_back_is_made_up_for_until_it_is_safe(session: Session) -> None:
    session.begin_attempt("c1", None, now=2.0)
    session.received = session.safe = 1
    for size in (100, 20_000, 3):
        session.received += 1
        session.hold(size)
    assert session.ack(4, 1_000) == Ack(1, 7, 21_103)
    session.safe = 3
    assert session.ack(4, 1_000) == Ack(3, 5, 1_003)
    session.safe = 4
    assert session.ack(4, 1_000) == Ack(4, 4, 1_000)


def test_a_long_hold_costs_little_and_grants_little_too_much(session: Session) -> None:
    """Bytes are counted in runs: the credit is never too small, and too large by less than a run and a packet."""
    session.begin_attempt("c1", None, now=2.0)
    for _ in range(10_000):
        session.received += 1
        session.hold(100)
    assert len(session.unsafe) < 100
    for safe in (1, 160, 5_000, 9_999):
        session.safe = safe
        held = (session.received - safe) * 100
        granted = session.ack(4, 0).credit_bytes
        assert held <= granted <= held + 20_000
    session.safe = session.received
    assert session.ack(4, 0).credit_bytes == 0


def test_one_that_starves_gets_no_credit(session: Session) -> None:
    session.begin_attempt("c1", None, now=2.0)
    session.received = session.safe = 3
    session.starved = 2.0
    assert session.ack(64, 1_000) == Ack(3, 0, 0)


# --- what is owed ----------------------------------------------------------------------------------------


def test_owed_signals_are_numbered_sent_and_kept_until_they_are_had(session: Session, link: Link) -> None:
    session.begin_attempt("c1", link, now=2.0)
    out: list[Effect] = []
    for number in (1, 2, 3):
        session.owe(UserMessage(f"m{number}", "hi"), 7, out)
    assert out == [Send("l1", Signal(UserMessage(f"m{n}", "hi"), "s1", 1, n)) for n in (1, 2, 3)]
    session.heard_signals(2)
    session.heard_signals(1)
    assert [signal.sequence for signal in session.owed] == [3]
    session.link = None
    session.owe(Answer("q1", "1"), 7, out)
    assert len(out) == 3
    assert [signal.sequence for signal in session.owed] == [3, 4]


def test_a_new_attempt_owes_what_the_user_said_and_nothing_else(session: Session, link: Link) -> None:
    session.begin_attempt("c1", link, now=2.0)
    session.owe(UserMessage("m1", "one"), 7, [])
    session.owe(Answer("q1", "1"), 7, [])
    session.owe(UserMessage("m2", "two"), 7, [])
    session.begin_attempt("c2", link, now=3.0)
    assert list(session.owed) == [
        Signal(UserMessage("m1", "one"), "s1", 2, 1),
        Signal(UserMessage("m2", "two"), "s1", 2, 2),
    ]
    assert session.owed_sequence == 2


def test_an_attempt_is_untouched_until_it_spoke_or_confirmed(session: Session, link: Link) -> None:
    def confirm() -> None:
        session.heard_signals(1)

    def speak() -> None:
        session.received = 1

    for touch in (confirm, speak):
        session.begin_attempt("c1", link, now=2.0)
        session.owe(UserMessage("m1", "one"), 7, [])
        before = session.untouched
        touch()
        assert (before, session.untouched) == (True, False), touch


def test_one_that_is_given_back_is_nobodys(session: Session, link: Link) -> None:
    session.advance(Step.TAKE)
    session.begin_attempt("c1", link, now=2.0)
    session.give_back(Step.REFUSE)
    assert (session.state, session.commander_id, session.link) == (State.QUEUED, "", None)


# --- the end ---------------------------------------------------------------------------------------------


def test_the_end_lets_go_of_what_is_no_longer_needed(session: Session, link: Link) -> None:
    session.advance(Step.TAKE)
    session.begin_attempt("c1", link, now=2.0)
    session.owe(UserMessage("m1", "one"), 7, [])
    session.questions["q1"] = Question("q1", None, b"")
    session.refused_by.add("c9")
    session.starved = 3.0
    session.received = 1
    session.hold(10)
    session.close(Ending.COMPLETED, ended(), now=5.0)
    assert not session.live
    assert (session.ending, session.ended, session.ended_at) == (Ending.COMPLETED, ended(), 5.0)
    for let_go in (session.link, session.requested, session.guard, session.starved):
        assert let_go is None
    assert not session.owed
    assert not session.questions
    assert not session.refused_by
    assert not session.unsafe
    assert session.ledger.running == 0
    with pytest.raises(AssertionError):
        session.close(Ending.STOPPED, ended(), now=6.0)
    assert session.ending is Ending.COMPLETED


def test_it_says_where_it_stands(session: Session, link: Link) -> None:
    assert repr(session) == "<Session s1 queued attempt 0 at 0>"
    session.advance(Step.TAKE)
    session.begin_attempt("c1", link, now=2.0)
    assert repr(session) == "<Session s1 starting attempt 1 on c1 at 0>"
    session.close(Ending.STOPPED, ended(), now=3.0)
    assert repr(session) == "<Session s1 ended stopped attempt 1 on c1 at 0>"
