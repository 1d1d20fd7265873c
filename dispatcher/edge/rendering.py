"""What a dialect is: a way to write a session's events. No state but what the events themselves tell."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dispatcher.core.packets import SessionEvent
from dispatcher.journal import Entry


class Gap(NamedTuple):
    """What was asked for is not to be had: as the contract's `Gap`. Cursors as `epoch:offset`."""

    requested: str
    available_from: str
    reason: str


class GoAway(NamedTuple):
    """The dispatcher leaves, the session goes on: come back with the cursor."""

    cursor: str
    reason: str
    retry_after_ms: int


class Lag(NamedTuple):
    """The viewer takes less than there is. `stage` "coalesced": neighbouring pieces of text come as one; "thinned":
    thoughts and all but the latest progress are left out besides; "none": it has caught up. `left_out`: how many events
    since the last time this was told."""

    stage: str
    behind_events: int
    left_out: int


class Slow(NamedTuple):
    """The viewer has taken nothing for too long and is closed: come back with the cursor."""

    cursor: str
    after_s: float


Notice = Gap | GoAway | Lag | Slow


class Rendering(Protocol):
    """Of one session. Two viewers whose renderings have the same `key` are shown the same bytes; None: each has its
    own."""

    @property
    def way(self) -> str:
        """The dialect's name."""

    @property
    def key(self) -> str | None: ...

    @property
    def is_exact(self) -> bool:
        """Its viewers come back with positions of their own, within what an event became: so for them nothing is ever
        joined or left out."""

    @property
    def heartbeat(self) -> bytes:
        """What is sent when there is nothing to say, so that proxies let the connection be."""

    def events(self, entries: Sequence[Entry]) -> bytes:
        """The next events, in order, as they go out."""

    def notice(self, notice: Notice) -> bytes:
        """What is said to this viewer alone, and is no event. Empty where the dialect has no word for it."""


class Folding(Rendering, Protocol):
    """One whose words depend on what went before, e.g. on which block of text is open: a pure function of the events
    all the same, so for a viewer that comes back it is made anew of those that the viewer has had."""

    def recall(self, entries: Sequence[Entry]) -> None:
        """The next events, which the viewer has had."""


def coalesced(entries: Sequence[Entry]) -> list[Entry]:
    """Neighbouring pieces of one speaker's text as one, with the cursor of the last. Nothing is left out."""
    result: list[Entry] = []
    pieces: list[str] = []
    for entry in entries:
        if result and _goes_on(result[-1].event, entry.event):
            pieces.append(entry.event.text)
            result[-1] = entry
            continue
        _join(result, pieces)
        result.append(entry)
        pieces = [entry.event.text]
    _join(result, pieces)
    return result


def _join(result: list[Entry], pieces: list[str]) -> None:
    if len(pieces) > 1:
        last = result[-1]
        result[-1] = last._replace(event=last.event._replace(text="".join(pieces)))


def _goes_on(before: SessionEvent, event: SessionEvent) -> bool:
    return (
        event.kind == before.kind
        and event.kind in ("content", "thought")
        and event.agent == before.agent
        and event.attempt == before.attempt
        and event.body == before.body
    )


def thinned(entries: Sequence[Entry]) -> list[Entry]:
    """Without thoughts, and of progress the latest of each speaker. Content and all that is said once stays."""
    latest = {entry.event.agent: entry.event.offset for entry in entries if entry.event.kind == "progress"}
    return [
        entry
        for entry in entries
        if entry.event.kind != "thought"
        and (entry.event.kind != "progress" or latest[entry.event.agent] == entry.event.offset)
    ]
