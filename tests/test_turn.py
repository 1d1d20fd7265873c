"""The laws of a turn: whatever breaks in between, what the agent said arrives exactly once, in order."""

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commander.core.outbox import Sealed, Text
from commander.core.turn import Bounds, Credit, Done, Outcome, Packet, Phase, Signal, Turn, Usage

BOUNDS = Bounds(outbox_packets=8, outbox_bytes=256, packet_bytes_max=16)
PLENTY = Credit(1_000, 1_000_000)


def turn(credit: Credit | None = PLENTY) -> Turn:
    return Turn("session", 1, BOUNDS, credit)


def taken(what: Turn) -> list[Packet]:
    return list(iter(what.take, None))


@dataclass
class Wire:
    """A dispatcher and the link to it: keeps packets in order, drops repeats, and never sees a hole."""

    turn: Turn
    credit: Credit
    acknowledged: int = 0
    wire: deque[Packet] = field(default_factory=deque)
    kept: list[Packet] = field(default_factory=list)
    under_way: int = 0
    under_way_bytes: int = 0

    def take(self) -> None:
        before_bytes = self.under_way_bytes
        packet = self.turn.take()
        if packet is None:
            return
        self.under_way += 1
        self.under_way_bytes += packet.size_bytes
        assert self.under_way <= self.credit.packets, "more packets than the credit"
        assert before_bytes < self.credit.bytes, "a packet beyond the bytes of the credit"
        self.wire.append(packet)

    def deliver(self) -> None:
        if not self.wire:
            return
        packet = self.wire.popleft()
        assert packet.sequence <= len(self.kept) + 1, "a hole"
        if packet.sequence == len(self.kept) + 1:
            self.kept.append(packet)
        else:
            assert self.kept[packet.sequence - 1] == packet, "the same number, another packet"

    def acknowledge(self, credit: Credit) -> None:
        newly = self.kept[self.acknowledged :]
        self.acknowledged = len(self.kept)
        self.credit = credit
        self.under_way -= len(newly)
        self.under_way_bytes -= sum(packet.size_bytes for packet in newly)
        assert self.turn.acknowledge(self.acknowledged, credit)

    def break_and_resume(self, credit: Credit) -> None:
        self.wire.clear()
        self.turn.unlink()
        self.acknowledged = len(self.kept)
        self.credit = credit
        self.under_way = self.under_way_bytes = 0
        assert self.turn.resume(len(self.kept) + 1, credit)


CREDITS = st.builds(Credit, st.integers(0, 5), st.integers(0, 40))
STEPS = st.one_of(
    st.tuples(st.just("say"), st.text(min_size=1, max_size=30)),
    st.tuples(st.just("think"), st.text(min_size=1, max_size=30)),
    st.tuples(st.just("seal"), st.integers(1, 30)),
    st.tuples(st.sampled_from(["take", "take", "deliver"]), st.none()),
    st.tuples(st.sampled_from(["acknowledge", "break"]), CREDITS),
)


@settings(max_examples=300)
@given(CREDITS, st.lists(STEPS, max_size=60))
def test_all_that_was_said_arrives_once_and_in_order(credit: Credit, steps: list[tuple[str, object]]) -> None:
    said: list[object] = []
    agent = turn(credit)
    wire = Wire(agent, credit)
    for step, value in steps:
        match step, value:
            case "say", str(text):
                said += text
                agent.offer_text(text)
            case "think", str(text):
                said += [("think", each) for each in text]
                agent.offer(Text(text, "step"))
            case "seal", int(size):
                said.append(size)
                agent.offer(Sealed(size, size))
            case "take", _:
                wire.take()
            case "deliver", _:
                wire.deliver()
            case "acknowledge", Credit() as new:
                wire.acknowledge(new)
            case "break", Credit() as new:
                wire.break_and_resume(new)
    agent.finish(Outcome.COMPLETED)
    wire.break_and_resume(PLENTY)
    while agent.has_more or wire.wire:
        wire.take()
        wire.deliver()
    wire.acknowledge(PLENTY)

    assert [packet.sequence for packet in wire.kept] == list(range(1, len(wire.kept) + 1))
    heard: list[object] = []
    for packet in wire.kept[:-1]:
        match packet.payload:
            case Text(text, None):
                heard += text
            case Text(text, _):
                heard += [("think", each) for each in text]
            case sealed:
                heard.append(sealed)
    assert heard == said
    content = "".join(each for each in said if isinstance(each, str))
    done = Done(Outcome.COMPLETED, len(content), zlib.crc32(content.encode()), Usage())
    assert wire.kept[-1].payload == done
    assert agent.is_delivered
    assert agent.unacknowledged == 0


def test_without_credit_nothing_goes() -> None:
    agent = turn(Credit(0, 100))
    agent.offer_text("a")
    assert agent.take() is None
    assert agent.acknowledge(0, Credit(1, 100))
    packet = agent.take()
    assert packet == Packet(1, Text("a"), 1)


def test_one_packet_may_exceed_the_bytes_and_no_second() -> None:
    agent = turn(Credit(10, 5))
    agent.offer(Sealed("large", 50))
    agent.offer(Sealed("small", 1))
    assert [packet.payload for packet in taken(agent)] == ["large"]
    assert agent.acknowledge(1, Credit(10, 5))
    assert [packet.payload for packet in taken(agent)] == ["small"]


def test_a_link_without_acknowledgements_has_no_bounds() -> None:
    agent = turn(None)
    for _ in range(50):
        agent.offer(Sealed("x", 100))
    agent.finish(Outcome.COMPLETED)
    assert len(taken(agent)) == 51
    assert agent.unacknowledged == 0
    assert agent.is_delivered


def test_an_acknowledgement_of_what_was_never_sent_changes_nothing() -> None:
    agent = turn()
    agent.offer_text("a")
    agent.take()
    assert not agent.acknowledge(2, PLENTY)
    assert agent.unacknowledged == 1
    assert agent.acknowledge(1, PLENTY)


def test_an_older_acknowledgement_gives_no_credit() -> None:
    agent = turn(Credit(2, 100))
    for item in ("a", "b", "c"):
        agent.offer(Sealed(item, 1))
    taken(agent)
    assert agent.acknowledge(2, Credit(0, 0))
    assert agent.acknowledge(1, Credit(5, 100))
    assert not agent.has_credit


@pytest.mark.parametrize("next_sequence", [0, 1, 4])
def test_what_is_gone_or_never_was_cannot_be_resumed(next_sequence: int) -> None:
    agent = turn()
    for item in ("a", "b"):
        agent.offer(Sealed(item, 1))
    taken(agent)
    agent.acknowledge(1, PLENTY)
    agent.unlink()
    assert not agent.resume(next_sequence, PLENTY)


def test_fenced_it_has_nothing_to_say() -> None:
    agent = turn()
    agent.offer_text("a")
    agent.take()
    agent.offer_text("b")
    agent.fence()
    agent.offer_text("c")
    assert agent.take() is None
    assert not agent.has_more
    assert agent.last_sequence == 1


def test_owed_signals_are_taken_once_and_in_order() -> None:
    agent = turn()
    judged = [agent.receive(sequence) for sequence in (1, 1, 3, 2, 3, 0)]
    assert judged == [
        Signal.FRESH,
        Signal.REPEAT,
        Signal.EARLY,
        Signal.FRESH,
        Signal.FRESH,
        Signal.FRESH,
    ]
    assert agent.last_signal == 3


def told(what: Turn) -> tuple[bool, tuple[int, int]]:
    """Whether there may be news, and what they are."""
    return what.has_news, what.news()


def test_what_was_received_and_read_is_told_once() -> None:
    agent = turn()
    assert told(agent) == (False, (0, 0))
    agent.receive(1)
    agent.receive(2)
    assert [told(agent), told(agent)] == [(True, (2, 0)), (False, (0, 0))]
    agent.receive(3)
    agent.read(2)
    assert [told(agent), told(agent)] == [(True, (3, 2)), (False, (0, 0))]
    agent.read(1)
    agent.read(0)
    assert told(agent) == (False, (0, 0))


@pytest.mark.parametrize("link", [Turn.unlink, lambda agent: agent.resume(1, PLENTY)])
def test_what_was_read_is_told_on_each_link(link: Callable[[Turn], None]) -> None:
    agent = turn()
    agent.offer_text("one")
    agent.take()
    agent.receive(1)
    link(agent)
    # A Hello tells of signals, and of nothing that was read.
    assert told(agent) == (False, (0, 0))
    agent.read(1)
    assert told(agent) == (True, (0, 1))
    link(agent)
    assert told(agent) == (True, (0, 1))


def test_a_turn_that_is_given_up_says_so_behind_what_has_gone_and_nothing_after() -> None:
    agent = turn(Credit(2, 10_000))
    for text in ("one one one one ", "two two two two ", "three"):
        agent.offer_text(text)
    gone = taken(agent)
    assert agent.fail("why", 100)
    agent.offer_text("four")
    agent.finish(Outcome.COMPLETED)
    assert not agent.fail("why again", 100)
    # Its end waits for credit like everything, and is sent again like everything.
    assert taken(agent) == []
    agent.unlink()
    assert agent.resume(2, PLENTY)
    second, done = taken(agent)
    assert second == gone[1]
    assert done.sequence == 3
    assert done.payload == Done(
        Outcome.FAILED, 32, zlib.crc32(b"one one one one two two two two "), Usage(), "why"
    )
    assert agent.acknowledge(3, PLENTY)
    assert agent.is_delivered
    assert taken(agent) == []


def test_what_is_fenced_can_not_be_given_up() -> None:
    agent = turn()
    agent.fence()
    assert not agent.fail("why", 100)
    assert taken(agent) == []


def test_a_bare_result_belongs_to_the_first_call_open() -> None:
    agent = turn()
    for call_id in ("one", "two", "three"):
        agent.open_call(call_id, f"waiter of {call_id}", Sealed(call_id, 1))
    agent.abandon("one")
    assert agent.open_call_ids == ("two", "three")
    # Nobody waits for the first any more; its result is still the first to come.
    assert [agent.close_call("") for _ in range(4)] == [None, "waiter of two", "waiter of three", None]


def test_a_result_finds_its_call_by_id_and_only_once() -> None:
    agent = turn()
    agent.open_call("one", "first", Sealed("one", 1))
    agent.open_call("two", "second", Sealed("two", 1))
    assert agent.close_call("two") == "second"
    assert agent.close_call("two") is None
    assert agent.close_call("unknown") is None
    assert agent.waiters() == ("first",)


def test_an_answer_without_a_question_finds_nobody() -> None:
    agent = turn()
    agent.open_question("q", "asker", Sealed("q", 1))
    assert agent.close_question("") is None
    assert agent.open_question_ids == ("q",)
    assert agent.close_question("q") == "asker"


def test_its_phase_is_what_it_waits_for() -> None:
    agent = turn()
    phases = [agent.phase]
    agent.offer_text("a")
    phases.append(agent.phase)
    agent.open_call("call", "waiter", Sealed("call", 1))
    phases.append(agent.phase)
    agent.open_question("question", "waiter", Sealed("question", 1))
    phases.append(agent.phase)
    agent.close_question("question")
    agent.close_call("call")
    phases.append(agent.phase)
    assert phases == [
        Phase.WAITING_FIRST_TOKEN,
        Phase.GENERATING,
        Phase.WAITING_TOOL,
        Phase.WAITING_ANSWER,
        Phase.GENERATING,
    ]


def test_usage_adds_up_in_done() -> None:
    agent = turn()
    agent.count_usage(Usage(1, 2, 3, "small"))
    agent.count_usage(Usage(10, 20, 30))
    agent.finish(Outcome.FAILED, "error", 5)
    (packet,) = taken(agent)
    assert packet.payload == Done(Outcome.FAILED, 0, 0, Usage(11, 22, 33, "small"), "error")


def test_credit_is_never_negative() -> None:
    with pytest.raises(ValueError, match="never negative"):
        Credit(-1, 0)


def test_what_nobody_waits_for_is_withdrawn_once_and_only_while_it_is_open() -> None:
    agent = turn()
    agent.open_call("one", "first", Sealed("one", 1))
    agent.open_question("two", "second", Sealed("two", 1))
    assert agent.abandon("one")
    assert not agent.abandon("one")
    agent.close_question("two")
    assert not agent.abandon("two")
    assert not agent.abandon("nobody")


def test_who_waits_in_vain_asks_nobody_and_is_told_of_the_end() -> None:
    agent = turn()
    agent.wait_in_vain("one", "first")
    assert not agent.has_more
    assert agent.waiters() == ("first",)
    assert not agent.abandon("one")
    assert agent.waiters() == ()
