"""The table of a turn's states, cell by cell: who holds a slot, and how each is given back."""

import pytest

from commander.core.outbox import Sealed
from commander.core.slots import (
    STOPS_REMEMBERED_MAX,
    UNSTARTED_REMEMBERED_MAX,
    Abandon,
    Begin,
    Cancel,
    Effect,
    GiveUp,
    Lost,
    Refusal,
    Refused,
    Release,
    Resumed,
    Send,
    Slots,
    Start,
    StopAck,
    StopStep,
)
from commander.core.turn import Bounds, Credit, Done, Numbered, Outcome, Turn

BOUNDS = Bounds(outbox_packets=8, outbox_bytes=256, packet_bytes_max=64)
PLENTY = Credit(100, 10_000)
GRACE_S = 5.0
KEEP_S = 60.0
AGENTS = (("weather", ""), ("news", "1"), ("news", "2"))


def slots_of(count: int = 2, agents: tuple[tuple[str, str], ...] = AGENTS) -> Slots:
    return Slots(agents, count, BOUNDS, stop_grace_s=GRACE_S, unlinked_keep_s=KEEP_S)


def start(session_id: str = "s", attempt: int = 1, agent: str = "weather", version: str = "") -> Start:
    return Start(session_id, attempt, agent, version, PLENTY, "request")


def begun(slots: Slots, session_id: str = "s", attempt: int = 1) -> Turn:
    effects = slots.start(start(session_id, attempt), 0.0)
    begin = effects[-1]
    assert isinstance(begin, Begin)
    return begin.turn


def stop(slots: Slots, now: float = 0.0, stop_id: str = "stop-1", attempt: int = 1) -> list[Effect]:
    return slots.stop("s", attempt, stop_id, "UserCancel", None, now)


def steps(effects: list[Effect]) -> list[tuple[str, StopStep]]:
    return [
        (effect.signal.stop_id, effect.signal.step)
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.signal, StopAck)
    ]


def kinds(effects: list[Effect]) -> list[type[object]]:
    return [type(effect) for effect in effects]


def refusal(effects: list[Effect]) -> Refusal:
    (effect,) = effects
    assert isinstance(effect, Send)
    assert isinstance(effect.signal, Refused)
    return effect.signal.code


# ---- starts ----


def test_a_start_takes_a_slot_and_a_full_commander_refuses() -> None:
    slots = slots_of(1)
    begun(slots, "one")
    assert slots.running == 1
    assert refusal(slots.start(start("two"), 0.0)) is Refusal.NO_SLOT


def test_a_repeated_start_changes_nothing() -> None:
    slots = slots_of()
    begun(slots)
    assert slots.start(start(), 0.0) == []
    assert slots.running == 1


def test_a_start_that_its_stop_has_overtaken_is_refused() -> None:
    slots = slots_of(1)
    assert steps(stop(slots)) == [("stop-1", StopStep.APPLIED)]
    assert refusal(slots.start(start(), 0.0)) is Refusal.STOPPED
    assert slots.running == 0
    assert kinds(slots.start(start(attempt=2), 0.0)) == [Begin]


def test_a_start_of_what_is_being_stopped_or_is_stuck_is_refused() -> None:
    """A dispatcher that died before it had kept why it was stopped starts it again in its next life, and waits."""
    slots = slots_of()
    begun(slots)
    stop(slots)
    assert refusal(slots.start(start(), 1.0)) is Refusal.STOPPED
    slots.expire(GRACE_S)
    assert slots.stuck == 1
    assert refusal(slots.start(start(), 10.0)) is Refusal.STOPPED


def test_of_stops_that_overtook_their_starts_the_oldest_are_forgotten() -> None:
    slots = slots_of()
    for number in range(UNSTARTED_REMEMBERED_MAX + 1):
        slots.stop(f"s-{number}", 1, "stop", "UserCancel", None, 0.0)
    assert refusal(slots.start(start("s-1"), 0.0)) is Refusal.STOPPED
    assert kinds(slots.start(start("s-0"), 0.0)) == [Begin]


@pytest.mark.parametrize(
    ("agent", "version", "served"),
    [
        ("weather", "", ("weather", "")),
        ("news", "2", ("news", "2")),
        ("news", "", ("news", "1")),
        ("", "2", ("news", "2")),
        ("", "", None),
        ("news", "3", None),
        ("sports", "", None),
    ],
)
def test_an_agent_is_found_by_name_and_version(
    agent: str, version: str, served: tuple[str, str] | None
) -> None:
    effects = slots_of().start(start(agent=agent, version=version), 0.0)
    if served is None:
        assert refusal(effects) is Refusal.NO_SUCH_AGENT
    else:
        (begin,) = effects
        assert isinstance(begin, Begin)
        assert (begin.agent, begin.agent_version) == served


def test_the_only_agent_needs_no_name() -> None:
    (begin,) = slots_of(agents=(("weather", "1"),)).start(start(agent=""), 0.0)
    assert isinstance(begin, Begin)


def test_a_newer_attempt_cancels_the_older() -> None:
    slots = slots_of()
    older = begun(slots, attempt=1)
    effects = slots.start(start(attempt=2), 1.0)
    assert kinds(effects) == [Cancel, Begin]
    assert older.fenced
    assert slots.running == 2


def test_a_draining_commander_refuses() -> None:
    slots = slots_of()
    slots.drain(30.0, 0.0)
    assert refusal(slots.start(start(), 0.0)) is Refusal.DRAINING


# ---- ends ----


def test_a_slot_is_free_when_the_agent_has_ended_and_the_turn_goes_when_all_is_acknowledged() -> None:
    slots = slots_of()
    turn = begun(slots)
    turn.offer(Sealed("said", 4))
    turn.finish(Outcome.COMPLETED)
    assert slots.ended(turn, Outcome.COMPLETED, 1.0) == []
    assert (slots.running, slots.undelivered) == (0, 1)
    assert turn in slots.resumable
    while turn.take():
        pass
    assert slots.delivered(turn, 1.0) == []
    turn.acknowledge(turn.last_sequence, PLENTY)
    assert slots.delivered(turn, 1.0) == [Release(turn, "weather", "completed")]
    assert slots.is_idle


def test_a_failed_turn_is_released_as_failed() -> None:
    slots = slots_of()
    turn = begun(slots)
    turn.finish(Outcome.FAILED, "why")
    turn.take()
    turn.acknowledge(1, PLENTY)
    assert slots.ended(turn, Outcome.FAILED, 1.0) == [Release(turn, "weather", "failed")]


# ---- stops ----


def test_a_stop_fences_cancels_and_answers_in_one_step() -> None:
    slots = slots_of()
    turn = begun(slots)
    turn.offer_text("never to be sent")
    effects = stop(slots)
    assert kinds(effects) == [Cancel, Send]
    assert steps(effects) == [("stop-1", StopStep.RECEIVED)]
    assert turn.take() is None
    assert slots.find("s", 1) is None
    assert slots.running == 1


def test_when_the_agent_has_ended_the_stop_is_applied_and_the_slot_free() -> None:
    slots = slots_of()
    turn = begun(slots)
    stop(slots, now=1.0)
    effects = slots.ended(turn, None, 1.5)
    assert steps(effects) == [("stop-1", StopStep.APPLIED)]
    assert effects[-1] == Release(turn, "weather", "stopped", stopping_s=0.5)
    assert slots.is_idle


def test_a_repeated_stop_is_answered_and_changes_nothing() -> None:
    slots = slots_of()
    turn = begun(slots)
    stop(slots, now=1.0)
    again = stop(slots, now=2.0)
    assert kinds(again) == [Send]
    assert steps(again) == [("stop-1", StopStep.RECEIVED)]
    assert steps(slots.ended(turn, None, 3.0)) == [("stop-1", StopStep.APPLIED)]


def test_each_of_several_stops_is_answered() -> None:
    slots = slots_of()
    turn = begun(slots)
    stop(slots, stop_id="one")
    stop(slots, stop_id="two")
    assert steps(slots.ended(turn, None, 1.0)) == [("one", StopStep.APPLIED), ("two", StopStep.APPLIED)]


def test_so_many_stops_are_remembered_and_no_more() -> None:
    slots = slots_of()
    turn = begun(slots)
    for number in range(STOPS_REMEMBERED_MAX + 5):
        assert steps(stop(slots, stop_id=f"stop-{number}")) == [(f"stop-{number}", StopStep.RECEIVED)]
    assert len(steps(slots.ended(turn, None, 1.0))) == STOPS_REMEMBERED_MAX


@pytest.mark.parametrize("attempt", [2, 0])
def test_a_stop_of_what_is_not_here_has_been_obeyed(attempt: int) -> None:
    effects = slots_of().stop("nobody", attempt, "stop-1", "UserCancel", None, 0.0)
    assert steps(effects) == [("stop-1", StopStep.APPLIED)]


def test_a_stop_of_an_older_attempt_leaves_the_newer_alone() -> None:
    slots = slots_of()
    turn = begun(slots, attempt=2)
    assert steps(stop(slots, attempt=1)) == [("stop-1", StopStep.APPLIED)]
    assert not turn.fenced


def test_a_stop_without_attempt_means_the_newest() -> None:
    slots = slots_of()
    turn = begun(slots, attempt=7)
    stop(slots, attempt=0)
    assert turn.fenced


def test_a_stop_after_the_agent_has_ended_drops_what_is_not_sent() -> None:
    slots = slots_of()
    turn = begun(slots)
    turn.offer_text("said")
    turn.finish(Outcome.COMPLETED)
    slots.ended(turn, Outcome.COMPLETED, 1.0)
    effects = stop(slots, now=2.0)
    assert steps(effects) == [("stop-1", StopStep.RECEIVED), ("stop-1", StopStep.APPLIED)]
    assert effects[-1] == Release(turn, "weather", "stopped")
    assert turn.take() is None


def test_an_agent_that_ends_by_itself_after_a_stop_was_stopped() -> None:
    slots = slots_of()
    turn = begun(slots)
    stop(slots)
    assert slots.ended(turn, Outcome.COMPLETED, 1.0)[-1] == Release(turn, "weather", "stopped", 1.0)


# ---- the grace ----


def test_an_agent_that_ignores_its_stop_is_abandoned_and_its_slot_stuck() -> None:
    slots = slots_of(2)
    turn = begun(slots)
    stop(slots, now=1.0)
    assert slots.next_deadline() == 1.0 + GRACE_S
    assert slots.expire(1.0 + GRACE_S - 0.001) == []
    effects = slots.expire(1.0 + GRACE_S)
    assert steps(effects) == [("stop-1", StopStep.ABANDONED)]
    assert effects[-1] == Abandon(turn, GRACE_S)
    assert (slots.running, slots.stuck) == (0, 1)
    begun(slots, "other")
    assert refusal(slots.start(start("third"), 9.0)) is Refusal.NO_SLOT


def test_a_stuck_agent_that_ends_after_all_frees_its_slot() -> None:
    slots = slots_of(1)
    turn = begun(slots)
    stop(slots)
    slots.expire(GRACE_S)
    effects = slots.ended(turn, None, 20.0)
    assert steps(effects) == [("stop-1", StopStep.APPLIED)]
    assert slots.stuck == 0
    begun(slots, "next")


def test_a_stop_of_a_stuck_turn_is_told_so() -> None:
    slots = slots_of()
    begun(slots)
    stop(slots)
    slots.expire(GRACE_S)
    assert steps(stop(slots, stop_id="again")) == [
        ("again", StopStep.RECEIVED),
        ("again", StopStep.ABANDONED),
    ]


def test_the_stop_says_how_long_the_grace_is_and_a_later_one_may_shorten_it() -> None:
    slots = slots_of()
    begun(slots)
    slots.stop("s", 1, "one", "x", 100.0, 0.0)
    assert slots.next_deadline() == 100.0
    slots.stop("s", 1, "two", "x", 1.0, 10.0)
    assert slots.next_deadline() == 11.0


def test_with_nothing_but_stuck_slots_it_gives_up() -> None:
    slots = slots_of(2)
    for session_id in ("one", "two"):
        begun(slots, session_id)
        slots.stop(session_id, 1, "stop", "x", None, 0.0)
    effects = slots.expire(GRACE_S)
    assert [type(effect) for effect in effects].count(GiveUp) == 1


# ---- links ----


def test_after_a_break_each_turn_gets_its_verdict() -> None:
    slots = slots_of(3)
    resumed, lost, unnamed = (begun(slots, name) for name in ("resumed", "lost", "unnamed"))
    for turn in (resumed, lost, unnamed):
        turn.offer_text("said")
        turn.take()
        turn.unlink()
    slots.unlinked(1.0)
    effects = slots.linked(
        [Resumed("resumed", 1, 1, PLENTY), Lost("lost", 1, "fenced: a newer attempt runs")],
        slots.resumable,
        2.0,
    )
    assert effects == [
        Cancel(lost, "fenced: a newer attempt runs"),
        Cancel(unnamed, "the dispatcher gave no verdict on it"),
    ]
    assert slots.resumable == (resumed,)
    assert resumed.take() is not None


def test_a_turn_that_is_lost_says_nothing_of_its_end() -> None:
    slots = slots_of()
    turn = begun(slots)
    slots.linked([Lost("s", 1, "why")], [turn], 1.0)
    assert slots.ended(turn, None, 2.0) == [Release(turn, "weather", "lost", 1.0)]


def test_what_was_kept_meanwhile_need_not_be_sent_again() -> None:
    slots = slots_of()
    turn = begun(slots)
    turn.offer_text("said")
    turn.finish(Outcome.COMPLETED)
    turn.take()
    turn.take()
    slots.ended(turn, Outcome.COMPLETED, 1.0)
    turn.unlink()
    effects = slots.linked([Resumed("s", 1, 3, PLENTY)], [turn], 2.0)
    assert effects == [Release(turn, "weather", "completed")]


def test_a_resume_that_cannot_be_served_ends_the_session_for_both() -> None:
    slots = slots_of()
    turn = begun(slots)
    turn.offer_text("said")
    turn.take()
    turn.acknowledge(1, PLENTY)
    turn.unlink()
    effects = slots.linked([Resumed("s", 1, 1, PLENTY)], [turn], 1.0)
    assert kinds(effects) == [Send, Cancel]
    (send, _) = effects
    assert isinstance(send, Send)
    assert isinstance(send.signal, Numbered)
    assert isinstance(send.signal.packet.payload, Done)
    assert send.signal.packet.payload.outcome is Outcome.FAILED
    # Not the number that is wanted: a hole, which ends the session as protocol_error.
    assert send.signal.packet.sequence == 2


def test_without_a_link_turns_are_kept_for_a_while() -> None:
    slots = slots_of()
    turn = begun(slots)
    slots.unlinked(10.0)
    slots.unlinked(20.0)
    assert slots.next_deadline() == 10.0 + KEEP_S
    assert slots.expire(10.0 + KEEP_S - 0.001) == []
    assert kinds(slots.expire(10.0 + KEEP_S)) == [Cancel]
    assert turn.fenced


def test_a_new_link_ends_the_waiting() -> None:
    slots = slots_of()
    turn = begun(slots)
    slots.unlinked(0.0)
    slots.linked([Resumed("s", 1, 1, PLENTY)], [turn], 1.0)
    assert slots.next_deadline() is None


# ---- giving a turn up ----


def test_a_turn_that_is_given_up_ends_when_its_agent_has_and_its_done_has_arrived() -> None:
    slots = slots_of()
    turn = begun(slots)
    assert kinds(slots.fail(turn, "why", "error", 10, 1.0)) == [Cancel]
    assert slots.fail(turn, "why", "error", 10, 1.0) == []
    # What it said counts, so it is resumed like any other.
    assert slots.resumable == (turn,)
    turn.take()
    turn.acknowledge(1, PLENTY)
    assert slots.delivered(turn, 1.0) == []
    assert slots.running == 1
    (release,) = slots.ended(turn, None, 2.0)
    assert isinstance(release, Release)
    assert (release.turn, release.how) == (turn, "failed")
    assert slots.is_idle


def test_a_turn_that_is_given_up_waits_for_its_acknowledgement() -> None:
    slots = slots_of()
    turn = begun(slots)
    slots.fail(turn, "why", "error", 10, 1.0)
    assert slots.ended(turn, None, 2.0) == []
    assert (slots.running, slots.undelivered) == (0, 1)
    turn.take()
    turn.acknowledge(1, PLENTY)
    (release,) = slots.delivered(turn, 3.0)
    assert isinstance(release, Release)
    assert release.how == "failed"


def test_an_agent_that_ignores_that_its_turn_is_given_up_is_stuck_until_it_ends() -> None:
    slots = slots_of()
    turn = begun(slots)
    slots.fail(turn, "why", "error", 10, 1.0)
    assert kinds(slots.expire(1.0 + GRACE_S)) == [Abandon]
    assert slots.stuck == 1
    turn.take()
    turn.acknowledge(1, PLENTY)
    assert kinds(slots.ended(turn, None, 9.0)) == [Release]
    assert (slots.stuck, slots.is_idle) == (0, True)


def test_a_turn_that_has_said_its_end_is_not_given_up() -> None:
    slots = slots_of()
    turn = begun(slots)
    turn.finish(Outcome.COMPLETED)
    turn.take()
    assert slots.fail(turn, "why", "error", 10, 1.0) == []


# ---- draining ----


def test_a_drained_commander_is_idle_when_its_turns_are_over() -> None:
    slots = slots_of()
    turn = begun(slots)
    slots.drain(30.0, 0.0)
    assert not slots.is_idle
    turn.finish(Outcome.COMPLETED)
    slots.ended(turn, Outcome.COMPLETED, 1.0)
    assert not slots.is_idle
    turn.take()
    turn.acknowledge(1, PLENTY)
    slots.delivered(turn, 1.0)
    assert slots.is_idle


def test_what_has_not_ended_when_the_time_to_drain_is_over_is_cancelled() -> None:
    slots = slots_of()
    turn = begun(slots)
    slots.drain(30.0, 0.0)
    assert slots.next_deadline() == 30.0
    assert kinds(slots.expire(30.0)) == [Cancel]
    assert slots.next_deadline() == 30.0 + GRACE_S
    assert kinds(slots.expire(35.0)) == [Abandon]
    assert turn.fenced
    # A stuck agent is nothing to wait for.
    assert slots.is_idle


def test_the_sooner_of_two_drains_holds() -> None:
    slots = slots_of()
    begun(slots)
    slots.drain(30.0, 0.0)
    slots.drain(5.0, 1.0)
    slots.drain(30.0, 2.0)
    assert slots.next_deadline() == 6.0
