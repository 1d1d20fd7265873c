"""A journal around another one: passes everything on. What is to be seen or done besides is added by subclasses."""

from collections.abc import Callable, Sequence

from dispatcher.core.events import SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Hello, SessionEvent
from dispatcher.journal import Journal, Page


class Around:
    """Implements `Journal`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def epoch(self) -> str:
        return self._journal.epoch

    @property
    def is_lasting(self) -> bool:
        return self._journal.is_lasting

    def open(self, requested: SessionRequested) -> None:
        self._journal.open(requested)

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        self._journal.append(session_id, events, mark)

    def remember(self, commander_id: str, hello: Hello | None) -> None:
        self._journal.remember(commander_id, hello)

    def when_kept(self, act: Callable[[], None]) -> None:
        self._journal.when_kept(act)

    def read(self, session_id: str, after: int, most: int) -> Page:
        return self._journal.read(session_id, after, most)

    def forget(self, session_id: str) -> None:
        self._journal.forget(session_id)

    def subscribe(self, session_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        return self._journal.subscribe(session_id, wake)
