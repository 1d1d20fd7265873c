"""The journal: the events of sessions, kept in order, and read by viewers at their own pace.

One protocol, several ways to keep it. The hub appends; edges read from a cursor and are woken when there is
more. A journal stamps each event with the time at which it was kept, and knows nothing of what events mean
beyond their offsets: 1, 2, 3 … within a session.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from dispatcher.core.packets import SessionEvent


class Entry(NamedTuple):
    """An event as kept; `unix_ms` is the wall clock at that moment, for people who read."""

    unix_ms: int
    event: SessionEvent


class Page(NamedTuple):
    """Entries after a cursor, in order. `available_from` is the first offset kept, `head` the last; both are
    0 when the session is unknown here."""

    entries: Sequence[Entry]
    available_from: int
    head: int


class Journal(Protocol):
    """What keeps events. All calls are made in the event loop's thread and return at once."""

    @property
    def epoch(self) -> str:
        """One life of the journal; cursors of another epoch lead to a gap."""

    def append(self, session_id: str, events: Sequence[SessionEvent]) -> None:
        """Keeps the next events of a session; their offsets go on from the last one's."""

    def read(self, session_id: str, after: int, most: int) -> Page:
        """At most `most` entries with offsets above `after`."""

    def forget(self, session_id: str) -> None:
        """Lets go of a session's events."""

    def subscribe(self, session_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Calls `wake` after each append to the session and when it is forgotten; the result unsubscribes.

        `wake` must return at once and must not append.
        """
