"""Signals first, then every turn in its turn; a message never outgrows its bound."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from commander.core.batch import (
    ENVELOPE_BYTES,
    FRAME_BYTES,
    MESSAGE_BYTES_WISHED,
    MESSAGE_PACKETS_MAX,
    SIGNALS_MAX,
    Rotation,
)
from commander.core.outbox import Sealed
from commander.core.turn import Bounds, Credit, Numbered, Turn

BOUNDS = Bounds(outbox_packets=1_000, outbox_bytes=10_000_000, packet_bytes_max=16_384)
PLENTY = Credit(10_000, 1 << 30)
LARGEST = 1_048_576
CALLS = itertools.count()


def turns(count: int, credit: Credit | None = PLENTY) -> list[Turn]:
    return [Turn(f"session-{number}", 1, BOUNDS, credit) for number in range(count)]


def say(rotation: Rotation, turn: Turn, size: int = 10, text: str = "") -> None:
    """As the agent's thread does."""
    if text:
        turn.offer_text(text)
    else:
        turn.offer(Sealed(turn.session_id, size))
    if not turn.queued:
        rotation.mark(turn)


def gathered_turns(rotation: Rotation) -> list[str]:
    return [each.turn.session_id for each in rotation.gather() if isinstance(each, Numbered)]


def test_signals_go_before_content_and_in_order() -> None:
    rotation = Rotation(LARGEST)
    (turn,) = turns(1)
    say(rotation, turn)
    rotation.signal("first")
    rotation.signal("second")
    first, second, packet = rotation.gather()
    assert (first, second) == ("first", "second")
    assert isinstance(packet, Numbered)
    assert not rotation


def test_signals_that_nobody_reads_are_noticed() -> None:
    rotation = Rotation(LARGEST)
    for number in range(SIGNALS_MAX):
        rotation.signal(number)
    assert rotation.has_signals
    assert not rotation.is_choked
    rotation.signal("one too many")
    assert rotation.is_choked


def test_only_signals_when_only_they_are_wanted() -> None:
    rotation = Rotation(LARGEST)
    (turn,) = turns(1)
    say(rotation, turn)
    rotation.signal("one")
    assert rotation.gather(signals_only=True) == ["one"]
    assert gathered_turns(rotation) == ["session-0"]


def test_each_turn_gives_one_packet_a_round() -> None:
    rotation = Rotation(LARGEST)
    flood, drop = turns(2)
    for _ in range(3):
        say(rotation, flood)
    say(rotation, drop)
    assert gathered_turns(rotation) == ["session-0", "session-1", "session-0", "session-0"]


@given(st.lists(st.integers(0, 40), min_size=2, max_size=8))
def test_no_turn_waits_longer_than_a_round(counts: list[int]) -> None:
    """In any prefix of what is sent, two turns that both have more are at most one packet apart."""
    rotation = Rotation(LARGEST)
    all_turns = turns(len(counts))
    for turn, count in zip(all_turns, counts, strict=True):
        for _ in range(count):
            say(rotation, turn)
    sent = dict.fromkeys((turn.session_id for turn in all_turns), 0)
    left = {turn.session_id: count for turn, count in zip(all_turns, counts, strict=True)}
    while names := gathered_turns(rotation):
        for name in names:
            sent[name] += 1
            left[name] -= 1
            waiting = [sent[other] for other, more in left.items() if more]
            assert not waiting or max(waiting) - min(waiting) <= 1
    assert not any(left.values())


def test_a_full_message_goes_on_where_it_stopped() -> None:
    rotation = Rotation(LARGEST)
    first, second = turns(2)
    for _ in range(MESSAGE_PACKETS_MAX):
        say(rotation, first)
    say(rotation, second)
    message = gathered_turns(rotation)
    assert len(message) == MESSAGE_PACKETS_MAX
    assert message[1] == "session-1"
    assert gathered_turns(rotation) == ["session-0"]


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=40))
def test_a_message_keeps_its_bound_in_bytes(sizes: list[int]) -> None:
    largest = 65_536
    rotation = Rotation(largest)
    (turn,) = turns(1)
    for size in sizes:
        say(rotation, turn, size)
    seen = []
    while message := [each for each in rotation.gather() if isinstance(each, Numbered)]:
        seen += [each.packet.size_bytes for each in message]
        total = sum(each.packet.size_bytes + ENVELOPE_BYTES for each in message)
        assert total <= largest - FRAME_BYTES or len(message) == 1
    assert seen == sizes


def test_a_message_is_no_larger_than_it_need_be() -> None:
    rotation = Rotation(LARGEST)
    (turn,) = turns(1)
    for _ in range(100):
        say(rotation, turn, 10_000)
    assert len(rotation.gather()) * 10_000 < MESSAGE_BYTES_WISHED + 20_000


def test_a_turn_without_credit_gives_way_and_comes_back() -> None:
    rotation = Rotation(LARGEST)
    poor, rich = turns(2)
    poor = Turn("poor", 1, BOUNDS, Credit(1, 1_000))
    for turn in (poor, poor, rich):
        say(rotation, turn)
    assert gathered_turns(rotation) == ["poor", "session-1"]
    assert poor.held_back
    # Held back, it does not wake anybody.
    assert poor.queued
    assert not rotation.release(poor)
    assert poor.acknowledge(1, Credit(1, 1_000))
    assert rotation.release(poor)
    assert gathered_turns(rotation) == ["poor"]


def test_a_turn_that_is_empty_is_marked_anew() -> None:
    rotation = Rotation(LARGEST)
    (turn,) = turns(1)
    marked = []
    for _ in range(2):
        say(rotation, turn, text="a")
        marked.append(turn.queued)
        assert len(rotation.gather()) == 1
        marked.append(turn.queued)
        assert rotation.gather() == []
    assert marked == [True, False, True, False]


def test_without_a_link_turns_wait_and_signals_stay() -> None:
    rotation = Rotation(LARGEST)
    (turn,) = turns(1)
    say(rotation, turn)
    rotation.signal("owed")
    rotation.unlink([turn])
    say(rotation, turn)
    assert rotation.gather() == ["owed"]
    assert turn.resume(1, PLENTY)
    assert rotation.release(turn)
    assert gathered_turns(rotation) == ["session-0", "session-0"]


def test_what_was_held_for_the_next_message_is_dropped_with_its_turn() -> None:
    rotation = Rotation(65_536)
    first, second = turns(2)
    say(rotation, first, 60_000)
    say(rotation, second, 60_000)
    assert gathered_turns(rotation) == ["session-0"]
    second.fence()
    assert rotation.gather() == []


def ask(rotation: Rotation, turn: Turn) -> None:
    """As the agent's thread does with what somebody waits for."""
    turn.open_call(f"call-{next(CALLS)}", object(), Sealed(turn.session_id, 1))
    if not turn.queued:
        rotation.mark(turn)
    rotation.hurry(turn)


def test_what_is_waited_for_overtakes_other_turns_and_nothing_of_its_own() -> None:
    rotation = Rotation(LARGEST)
    *others, asking = turns(10)
    for other in others:
        say(rotation, other)
    say(rotation, asking, text="before")
    ask(rotation, asking)
    names = gathered_turns(rotation)
    asked = [place for place, name in enumerate(names) if name == asking.session_id]
    assert len(asked) == 2
    assert asked[-1] <= 4, "text and call went every other time"
    assert sorted(names) == sorted([each.session_id for each in others] + [asking.session_id] * 2)
    assert not rotation
    assert not rotation.has_express


def test_what_is_waited_for_stays_in_a_hurry_behind_whatever_comes_before_it() -> None:
    rotation = Rotation(LARGEST)
    *others, asking = turns(100)
    for other in others:
        for _ in range(9):
            say(rotation, other)
    for _ in range(8):
        say(rotation, asking)
    ask(rotation, asking)
    gathered = gathered_turns(rotation)
    assert gathered[: 2 * 9 + 1].count(asking.session_id) >= 9


def test_turns_in_a_hurry_take_turns() -> None:
    rotation = Rotation(LARGEST)
    slow, quick, *others = turns(10)
    for other in others:
        for _ in range(60):
            say(rotation, other)
    for _ in range(60):
        say(rotation, slow)
    ask(rotation, slow)
    ask(rotation, quick)
    assert gathered_turns(rotation).index(quick.session_id) <= 4


def test_turns_in_a_hurry_leave_half_of_the_link_to_the_others() -> None:
    rotation = Rotation(LARGEST)
    plain, *hurried = turns(9)
    for _ in range(MESSAGE_PACKETS_MAX):
        say(rotation, plain)
        for each in hurried:
            ask(rotation, each)
    shares = [gathered_turns(rotation) for _ in range(8)]
    for names in shares:
        in_turn = len([name for name in names if name == plain.session_id])
        assert in_turn >= len(names) // 2 // 9


def test_a_hurry_without_credit_or_after_the_end_is_no_hurry() -> None:
    rotation = Rotation(LARGEST)
    poor, fenced = turns(2, Credit(0, 0))
    ask(rotation, poor)
    ask(rotation, fenced)
    fenced.fence()
    assert gathered_turns(rotation) == []
    assert not rotation
    assert poor.acknowledge(0, PLENTY)
    assert rotation.release(poor)
    assert gathered_turns(rotation) == [poor.session_id]


def test_an_unlinked_rotation_hurries_for_nobody() -> None:
    rotation = Rotation(LARGEST)
    (turn,) = turns(1)
    ask(rotation, turn)
    rotation.unlink([turn])
    assert not rotation.has_express
    assert rotation.release(turn)
    assert gathered_turns(rotation) == [turn.session_id]


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), max_size=60))
def test_each_turns_packets_go_in_order_and_once_however_they_hurry(
    said: list[tuple[int, bool, bool]],
) -> None:
    rotation = Rotation(LARGEST)
    everyone = turns(5, None)
    for number, is_hurried, is_sent_now in said:
        (ask if is_hurried else say)(rotation, everyone[number])
        if is_sent_now:
            _check_order(rotation, everyone)
    while rotation:
        _check_order(rotation, everyone)
    assert not any(turn.has_more for turn in everyone)


def _check_order(rotation: Rotation, everyone: list[Turn]) -> None:
    before = {turn: turn.last_sequence for turn in everyone}
    for each in rotation.gather():
        assert isinstance(each, Numbered)
        assert each.packet.sequence == before[each.turn] + 1
        before[each.turn] += 1
    assert before == {turn: turn.last_sequence for turn in everyone}
