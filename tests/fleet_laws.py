"""What must hold between sessions, slots and the queue after every step. Called by `laws.Witness` alone."""

from collections.abc import Collection, Iterator

from dispatcher.core.fleet import Commander, CommanderState, SlotState
from dispatcher.core.router import Router
from dispatcher.core.session import Session, State


def idle_slots(router: Router) -> set[tuple[str, str, int]]:
    """The slots that are stopping or stuck, by commander, session and attempt."""
    return {
        (commander.commander_id, slot.session_id, slot.attempt)
        for commander in router.fleet.commanders.values()
        for slot in commander.slots.values()
        if slot.state is not SlotState.BUSY
    }


def judge_fleet(router: Router, live: list[Session], stops: Collection[tuple[str, str, int]]) -> None:
    """`live` are the sessions that are; `stops` the attempts that were told to stop, by link."""
    busy: set[str] = set()
    for commander in router.fleet.commanders.values():
        assert repr(commander)
        assert len(commander.slots) <= commander.hello.slots, commander
        assert 0 <= commander.load <= 1, commander
        assert (commander.link is None) == (commander.state is CommanderState.DETACHED), commander
        assert commander.link is None or commander.link.link_id in router.fleet.links, commander
        busy.update(_judge_slots(router, commander, stops))
    for session in live:
        held = session.state is not State.QUEUED and session.commander_id != ""
        assert held == (session.session_id in busy), f"{session!r} and its slot"
        if session.state is State.QUEUED and not router.rests(session):
            fitting = list(_fitting(router, session))
            assert not fitting, f"{session!r} waits, and {fitting} is free"


def _judge_slots(
    router: Router, commander: Commander, stops: Collection[tuple[str, str, int]]
) -> Iterator[str]:
    """Judges a commander's slots, and tells whose sessions are on them."""
    for key, slot in commander.slots.items():
        assert key == (slot.session_id, slot.attempt), slot
        session = router.sessions.get(slot.session_id)
        mine = session is not None and session.live and session.attempt == slot.attempt
        # One that is parked, or was, is nobody's until it is taken again.
        mine = mine and session is not None and session.commander_id != ""
        # An ended session's slot is free, stopping or stuck, never busy.
        assert mine == (slot.state is SlotState.BUSY), f"{slot} of {session!r}"
        if slot.state is SlotState.STOPPING and commander.link is not None:
            told = (commander.link.link_id, slot.session_id, slot.attempt)
            assert told in stops, f"{slot} was not told"
        if session is not None and mine:
            assert session.commander_id == commander.commander_id, session
            yield session.session_id


def _fitting(router: Router, session: Session) -> Iterator[Commander]:
    """Who could run a session that waits."""
    requested = session.requested
    assert requested is not None, session
    for commander in router.fleet.commanders.values():
        if (
            commander.state is CommanderState.READY
            and commander.free > 0
            and commander.commander_id not in session.refused_by
            and commander.serves(session.agent, requested.agent_version, requested.commander_labels)
        ):
            yield commander
