"""Who is there, what is taken, and whom to ask."""

import pytest

from dispatcher.core.fleet import Commander, CommanderState, Fleet, Slot, SlotState
from dispatcher.core.packets import AgentOffer, Drain, Hello


def hello(
    commander_id: str = "c1",
    instance: str = "i1",
    slots: int = 2,
    stuck: int = 0,
    agents: tuple[AgentOffer, ...] = (AgentOffer("echo"),),
    **labels: str,
) -> Hello:
    return Hello(commander_id, instance, "test/1", agents, labels, slots, stuck, ())


class Docks:
    """A fleet to which commanders link, each by a link of its own."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.links = 0

    def link(self, greeting: Hello) -> Commander:
        self.links += 1
        link = self.fleet.link_opened(f"l{self.links}", "peer", f"m{self.links}", now=0.0)
        commander = self.fleet.greet(link, greeting)
        # What the router does once the slots are settled.
        commander.has_stuck(greeting.stuck)
        return commander


def take(commander: Commander, number: int, state: SlotState = SlotState.BUSY) -> None:
    for _ in range(number):
        slot = Slot(f"s{len(commander.slots)}", 1, state)
        commander.slots[slot.session_id, 1] = slot


@pytest.fixture
def docks() -> Docks:
    return Docks()


def test_slots_that_are_busy_stopping_or_stuck_are_taken(docks: Docks) -> None:
    commander = docks.link(hello(slots=4))
    for number, state in enumerate(SlotState):
        assert commander.free == 4 - number
        take(commander, 1, state)
        assert commander.count(state) == 1
    assert commander.free == 1
    assert commander.load == 0.75
    assert repr(commander) == "<Commander c1 ready 3/4, 1 stuck>"


def test_slots_stuck_unknown_to_us_are_taken_and_never_counted_twice(docks: Docks) -> None:
    commander = docks.link(hello(slots=4, stuck=2))
    assert commander.free == 2
    take(commander, 1, SlotState.STUCK)
    commander.has_stuck(2)
    assert commander.free == 2
    commander.has_stuck(0)
    assert commander.free == 3


def test_until_the_slots_are_settled_stuck_ones_count_rather_twice_than_not_at_all(docks: Docks) -> None:
    commander = docks.link(hello(slots=3))
    take(commander, 1, SlotState.STUCK)
    link = docks.fleet.link_opened("again", "peer", "m", now=1.0)
    assert docks.fleet.greet(link, hello(slots=3, stuck=1)) is commander
    assert commander.free == 1


def test_it_never_has_less_than_nothing_free(docks: Docks) -> None:
    commander = docks.link(hello(slots=2))
    take(commander, 2)
    docks.link(hello(slots=1))
    assert commander.free == 0
    assert commander.load == 1.0


@pytest.mark.parametrize(
    ("agent", "version", "labels", "serves"),
    [
        ("echo", "", {}, True),
        ("echo", "2", {}, True),
        ("echo", "3", {}, False),
        ("demo", "", {}, True),
        ("demo", "1", {}, False),
        ("nobody", "", {}, False),
        ("echo", "", {"region": "eu"}, True),
        ("echo", "", {"region": "us"}, False),
        ("echo", "", {"region": "eu", "gpu": ""}, False),
    ],
)
def test_whom_it_serves(docks: Docks, agent: str, version: str, labels: dict[str, str], serves: bool) -> None:
    agents = (AgentOffer("echo", "1"), AgentOffer("echo", "2"), AgentOffer("demo"))
    commander = docks.link(hello(agents=agents, region="eu"))
    assert commander.serves(agent, version, labels) is serves
    assert (commander in docks.fleet.serving(agent, version, labels)) is serves


def test_the_least_loaded_is_chosen_by_share_and_then_by_name(docks: Docks) -> None:
    small, large = docks.link(hello("small", slots=2)), docks.link(hello("large", slots=10))
    assert docks.fleet.choose("echo", "", {}, "", ()) is large
    take(large, 1)
    assert docks.fleet.choose("echo", "", {}, "", ()) is small
    take(small, 1)
    assert docks.fleet.choose("echo", "", {}, "", ()) is large
    assert docks.fleet.choose("echo", "", {}, "small", ()) is small
    assert docks.fleet.choose("echo", "", {}, "small", {"small"}) is large
    take(small, 1)
    assert docks.fleet.choose("echo", "", {}, "small", ()) is large
    assert docks.fleet.choose("echo", "", {}, "", {"large"}) is None


def test_only_who_is_ready_is_chosen(docks: Docks) -> None:
    commander = docks.link(hello())
    for state in CommanderState:
        commander.state = state
        chosen = docks.fleet.choose("echo", "", {}, "", ())
        assert (chosen is commander) is (state is CommanderState.READY)
    # It may return: who asks for its agent waits.
    assert list(docks.fleet.serving("echo", "", {})) == [commander]


def test_a_lost_link_detaches_its_commander_unless_a_newer_one_is_there(docks: Docks) -> None:
    commander = docks.link(hello())
    first = commander.link
    assert first is not None
    assert docks.fleet.link_lost(first.link_id) is first
    assert (commander.state, commander.link) == (CommanderState.DETACHED, None)
    assert docks.link(hello()) is commander
    second = commander.link
    assert second is not None
    assert docks.link(hello()) is commander
    docks.fleet.link_lost(second.link_id)
    assert commander.state is CommanderState.READY
    assert commander.link is not None
    assert docks.fleet.link_lost("nobody") is None


def test_another_process_of_the_name_is_another_commander(docks: Docks) -> None:
    first = docks.link(hello())
    take(first, 1)
    first.drain = Drain("AdminDrain", None)
    again = docks.link(hello())
    assert again is first
    assert again.state is CommanderState.DRAINING
    other = docks.link(hello(instance="i2"))
    assert other is not first
    assert not other.slots
    assert other.state is CommanderState.READY
    assert docks.fleet.commanders == {"c1": other}
    # The first is gone already: to remove it again must not remove the other.
    docks.fleet.remove(first)
    assert docks.fleet.commanders == {"c1": other}
    docks.fleet.remove(other)
    assert not docks.fleet.commanders


def test_views_tell_who_it_is(docks: Docks) -> None:
    docks.link(hello(agents=(AgentOffer("echo"), AgentOffer("demo", "2"))))
    docks.link(hello("c2", agents=(AgentOffer("echo", "1"),)))
    assert docks.fleet.agents() == ["demo", "echo"]
    assert repr(docks.fleet) == "<Fleet [<Commander c1 ready 0/2>, <Commander c2 ready 0/2>]>"
    link = docks.fleet.link_opened("l9", "10.0.0.1:5", "m9", now=0.0)
    assert repr(link) == "<Link l9 new from 10.0.0.1:5>"
    link.minimal = True
    assert repr(link) == "<Link l9 minimal from 10.0.0.1:5>"
