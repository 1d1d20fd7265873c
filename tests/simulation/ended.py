"""What is kept of a session in the end: that it ended as it may, that its text is what its agents meant, by
attempts and resets, and that no message of the user is lost."""

from collections.abc import Collection, Mapping, Sequence
from zlib import crc32

from dispatcher.core.packets import Ended, Opened, SessionEvent, UserMessage
from simulation.agent import Agent
from simulation.asking import PARKING, all_said
from simulation.journal import Log

# Agents do not break the contract and the network only loses, so nothing may ever look like a breach of contract,
# like an answer that is not whole, or like a session that nobody ended in time.
ENDINGS = {"completed", "stopped", "commander_lost", "poisoned", "queue_timeout", "detached"}
# Nobody dies of these, or loses more than a connection.
HARMLESS = frozenset({"cut", "redial", "jump", "drain", "leave"})

# Of a session, those who ran each attempt.
Ran = Mapping[int, Sequence[Agent]]


def _may_be_late(log: Log, ended: Ended) -> bool:
    """The one that asked for it gave it less time than the limit."""
    if ended.ending != "deadline_exceeded":
        return False
    budgets = log.requested.budgets if log.requested.delegated is not None else None
    return budgets is not None and (budgets.total_time_s or 0) < 400.0


def check_ending(session_id: str, log: Log, faults: Collection[str]) -> None:
    """It has one, which may be after what has befallen the run."""
    kept = log.events
    ended = kept[-1].body
    assert isinstance(ended, Ended), f"{session_id} never ended: {kept[-1]}"
    assert sum(event.kind == "ended" for event in kept) == 1
    assert ended.ending in ENDINGS or _may_be_late(log, ended), (
        f"{session_id}: {ended.ending}: {ended.message}"
    )
    if ended.ending == "commander_lost":
        # A commander that is told to go may be so before its agents are done.
        assert set(faults) - (HARMLESS - {"drain"}), f"{session_id}: lost over cuts alone: {ended.message}"
    if ended.ending == "poisoned":
        assert set(faults) - HARMLESS, f"{session_id}: {ended.message}"


def check_content(session_id: str, kept: Sequence[SessionEvent], ran: Ran) -> None:
    """What viewers have in the end, who did as each reset told them."""
    ended = kept[-1].body
    assert isinstance(ended, Ended), kept[-1]
    shown: dict[int, str] = {}
    pieces: list[str] = []
    for event in kept:
        if event.kind == "reset":
            shown.clear()
            pieces.clear()
        elif event.kind == "content":
            pieces.append(event.text)
            if not event.agent:
                shown[event.attempt] = shown.get(event.attempt, "") + event.text
        elif event.kind == "started":
            before = "".join(pieces)
            for agent in ran[event.attempt]:
                told = agent.published
                assert told == before, f"{session_id}: viewers have {before!r}, and it was told {told!r}"
    text = "".join(pieces)
    assert (ended.content_chars, ended.content_crc32) == (len(text), crc32(text.encode()))
    for attempt, part in shown.items():
        agents = ran[attempt]
        assert len(agents) == 1, f"{session_id}: attempt {attempt} ran on {len(agents)} commanders"
        assert agents[0].said.startswith(part), f"{session_id}: viewers have what the agent never said"
        if ended.ending == "completed" and attempt == kept[-1].attempt:
            assert agents[0].said == part, f"{session_id}: completed, and something is missing"
    opened = kept[0].body
    assert isinstance(opened, Opened), opened
    if ended.ending == "completed" and opened.agent in PARKING:
        own = "".join(shown.values())
        assert own == all_said(session_id), (
            f"{session_id}: its agent would say {all_said(session_id)!r}, and {own!r}"
        )


def check_messages(
    session_id: str, kept: Sequence[SessionEvent], accepted: Collection[str], ran: Ran
) -> None:
    """Each message of the user was taken by an agent that counts, or is given back."""
    given = [event.body.message_id for event in kept if isinstance(event.body, UserMessage)]
    ended = kept[-1].body
    assert isinstance(ended, Ended), kept[-1]
    assert set(accepted) <= set(given), f"{session_id}: {accepted} were accepted, and {given} kept"
    assert set(ended.unread) <= set(given), ended
    since = max((event.attempt for event in kept if event.kind == "reset"), default=1)
    taken = [
        message_id
        for attempt in range(since, kept[-1].attempt + 1)
        for agent in ran.get(attempt, ())
        for message_id in agent.taken
    ]
    lost = set(given) - set(ended.unread) - set(taken)
    assert not lost, f"{session_id}: {lost} were neither taken nor given back"
    if ended.ending == "completed":
        last = {m for agent in ran[kept[-1].attempt] for m in agent.taken}
        assert not last & set(ended.unread), f"{session_id}: {ended.unread} were given back, and taken"
