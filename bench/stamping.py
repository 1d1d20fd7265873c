"""A journal that stamps what it keeps, put around any other.

A text has come when it is kept, so that viewers can read it and a restart can't undo it. In memory that is the moment
at which it is appended; with a file it is later.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

from bench.keeping import Arrivals
from bench.orders import Orders
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Ended, SessionEvent
from dispatcher.journal import Journal
from dispatcher.journal.around import Around


class StampingJournal(Around):
    """Notes when each text was kept, and when each session ended."""

    def __init__(self, journal: Journal, arrivals: Arrivals) -> None:
        super().__init__(journal)
        self._arrivals = arrivals
        self._over: set[str] = set()
        self._after_ending = 0
        self._is_stamping = True
        # By session: when the first word of a second attempt was kept.
        self._retried: dict[str, int] = {}

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        super().append(session_id, events, mark)
        if session_id in self._over:
            self._after_ending += 1
        elif events and isinstance(events[-1].body, Ended):
            self._over.add(session_id)
        self.when_kept(partial(self._kept, session_id, events))

    # -- for the bench ---------------------------------------------------------------------------------------

    @property
    def orders(self) -> Orders:
        return {
            "after_ending": lambda: self._after_ending,
            "be_plain": self._be_plain,
            "retried": lambda: dict(self._retried),
        }

    def _kept(self, session_id: str, events: Sequence[SessionEvent]) -> None:
        for event in events:
            if event.text and self._is_stamping:
                self._arrivals.came(session_id, event.text)
                if event.attempt == 2:
                    self._retried.setdefault(session_id, time.monotonic_ns())
            elif isinstance(event.body, Ended):
                self._arrivals.ended(session_id, event.body.ending)

    def _be_plain(self) -> None:
        """Notes no texts from here on, so that the journal's own memory can be measured."""
        self._is_stamping = False
        self._arrivals.clear()
