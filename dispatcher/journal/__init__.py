"""The journal: the events of sessions, kept in order, and read by viewers at their own pace.

One protocol, several ways to keep it. The hub appends; edges read from a cursor and are woken when there is
more. A journal stamps each event with the time at which it was kept, and knows nothing of what events mean
beyond their offsets: 1, 2, 3 … within a session.

A journal that outlives the process keeps besides, for each session, what was asked and the latest mark, and for each
commander its last Hello. What is appended counts as kept once it would survive the process: then it can be read, and
then `when_kept` acts. So nobody is ever told of anything that a restart could undo.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from dispatcher.core.events import Kept, SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Hello, SessionEvent


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


class Restored(NamedTuple):
    """What a journal brings from the life before: sessions in the order in which they were opened, and the commanders
    that were there last."""

    sessions: Sequence[Kept]
    commanders: Sequence[Hello]


class Journal(Protocol):
    """What keeps events. All calls are made in the event loop's thread and return at once."""

    @property
    def epoch(self) -> str:
        """One life of the journal; cursors of another epoch lead to a gap."""

    @property
    def is_lasting(self) -> bool:
        """What is kept outlives the process."""

    def open(self, requested: SessionRequested) -> None:
        """A session begins. Before its first `append`."""

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        """Keeps the next events of a session, if any; their offsets go on from the last one's. `mark` gives where the
        session stands now; it may be asked later too, and then tells what it stands at then."""

    def remember(self, commander_id: str, hello: Hello | None) -> None:
        """Keeps what a commander said of itself last; None: it is gone."""

    def when_kept(self, act: Callable[[], None]) -> None:
        """Calls `act` when all that came before is kept: at once, or later in the loop's thread. In the order asked."""

    def read(self, session_id: str, after: int, most: int) -> Page:
        """At most `most` entries with offsets above `after`."""

    def forget(self, session_id: str) -> None:
        """Lets go of a session's events."""

    def subscribe(self, session_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Calls `wake` after each append to the session and when it is forgotten; the result unsubscribes.

        `wake` must return at once and must not append.
        """
