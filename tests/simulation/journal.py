"""The journal of the simulation. What is appended counts only once it is kept, a while later, and a crash loses what
was not; a journal without a file loses all, and begins anew with another epoch."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from dispatcher.core.events import Kept, Restored, SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Hello, SessionEvent
from simulation.clock import Clock

# How long a commit takes.
COMMIT_S = (0.0002, 0.005, 0.1)


@dataclass
class Log:
    """One session, as it is kept."""

    requested: SessionRequested
    entries: list[tuple[int, SessionEvent]] = field(default_factory=list)
    mark: Mark = field(default_factory=Mark)

    @property
    def events(self) -> list[SessionEvent]:
        return [event for _, event in self.entries]


@dataclass
class _Batch:
    """What one commit keeps, and who waits for that. A change is prepared when the commit begins, and made when it is
    done."""

    prepare: list[Callable[[], Callable[[], None]]] = field(default_factory=list)
    changes: list[Callable[[], None]] = field(default_factory=list)
    acts: list[Callable[[], None]] = field(default_factory=list)


class SimulatedJournal:
    """`unix_s` is a wall clock that may jump."""

    def __init__(self, clock: Clock, rng: Random, unix_s: Callable[[], float], *, is_lasting: bool) -> None:
        self.is_lasting = is_lasting
        self.epoch = 0
        # What viewers can read, and what survives where there is a file.
        self.logs: dict[str, Log] = {}
        # What was told to whoever asked, in lives that left no trace.
        self.lost: list[dict[str, Log]] = []
        self._clock = clock
        self._rng = rng
        self._unix_s = unix_s
        self._commit_s = rng.choice(COMMIT_S)
        self._commanders: dict[str, Hello] = {}
        self._offsets: dict[str, int] = {}
        self._ended: set[str] = set()
        self._gathering = _Batch()
        self._committing: _Batch | None = None
        self._acts: deque[Callable[[], None]] = deque()
        self._acting = False
        self._life = 0
        # What befalls the process in the midst of the next commit.
        self._in_the_midst: Callable[[], None] | None = None

    def open(self, requested: SessionRequested) -> None:
        self._offsets[requested.session_id] = 0
        self._change(lambda: lambda: self.logs.update({requested.session_id: Log(requested)}))

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        unix_ms = int(self._unix_s() * 1000)
        for event in events:
            assert event.offset == self._offsets[session_id] + 1, f"{session_id}: {event} out of order"
            assert session_id not in self._ended, f"{session_id}: {event.kind} after the ending"
            self._offsets[session_id] = event.offset
            if event.kind == "ended":
                self._ended.add(session_id)

        entries = [(unix_ms, event) for event in events]

        def prepare() -> Callable[[], None]:
            stands_at = mark()

            def keep() -> None:
                log = self.logs[session_id]
                log.entries.extend(entries)
                log.mark = stands_at

            return keep

        self._change(prepare)

    def remember(self, commander_id: str, hello: Hello | None) -> None:
        def keep() -> None:
            self._commanders.pop(commander_id, None)
            if hello is not None:
                self._commanders[commander_id] = hello

        self._change(lambda: keep)

    def when_kept(self, act: Callable[[], None]) -> None:
        if self._gathering.prepare:
            self._gathering.acts.append(act)
        elif self._committing is not None:
            self._committing.acts.append(act)
        else:
            self._acts.append(act)
            self._act()

    def _act(self) -> None:
        """In the order asked, also when one of them asks for more."""
        while self._acts and not self._acting:
            self._acting = True
            self._acts.popleft()()
            self._acting = False

    def amid_next_commit(self, act: Callable[[], None]) -> None:
        self._in_the_midst = act

    def crash(self) -> None:
        """What was under way is kept or not, and nobody is told."""
        self._life += 1
        if self._committing is not None and self._rng.random() < 0.5:
            for change in self._committing.changes:
                change()
        self._gathering, self._committing = _Batch(), None
        self._acts.clear()
        if not self.is_lasting:
            self.lost.append(self.logs)
            self.logs, self._commanders = {}, {}
            self.epoch += 1
        self._offsets = {session_id: len(log.entries) for session_id, log in self.logs.items()}
        self._ended = {s for s, log in self.logs.items() if log.events and log.events[-1].kind == "ended"}

    def restored(self) -> Restored:
        sessions = [Kept(log.requested, log.mark, list(log.entries)) for log in self.logs.values()]
        return Restored(sessions, tuple(self._commanders.values()), int(self._unix_s() * 1000))

    def _change(self, prepare: Callable[[], Callable[[], None]]) -> None:
        if not self.is_lasting:
            # The session's state at the end of the step does not matter: nothing survives.
            prepare()()
            return
        self._gathering.prepare.append(prepare)
        if self._committing is None:
            self._commit()

    def _commit(self) -> None:
        # All that one step appends is kept together: the step is over before any of this begins.
        life, self._committing = self._life, _Batch()
        self._clock.after(0, lambda: self._begin(life))

    def _begin(self, life: int) -> None:
        if life == self._life:
            batch = self._committing = self._gathering
            self._gathering = _Batch()
            batch.changes = [prepare() for prepare in batch.prepare]
            commit_s = self._rng.expovariate(1 / self._commit_s)
            self._clock.after(commit_s, lambda: self._done(life))
            if self._in_the_midst is not None:
                self._clock.after(self._rng.uniform(0, commit_s), self._in_the_midst)
                self._in_the_midst = None

    def _done(self, life: int) -> None:
        batch = self._committing
        if life != self._life or batch is None:
            return
        self._committing = None
        for change in batch.changes:
            change()
        self._acts.extend(batch.acts)
        if self._gathering.prepare:
            self._commit()
        self._act()
