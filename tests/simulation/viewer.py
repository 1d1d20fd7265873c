"""A viewer of the simulation: reads a session at its own pace, goes away, and comes back with its cursor."""

from collections.abc import Callable
from random import Random

from dispatcher.core import events as e
from dispatcher.core.packets import SessionEvent
from simulation.clock import Clock
from simulation.dispatcher import SimulatedDispatcher


class SimulatedViewer:
    """Of one session; what it was shown, and in which epoch."""

    def __init__(self, clock: Clock, rng: Random, dispatcher: SimulatedDispatcher, session_id: str) -> None:
        self.session_id = session_id
        self.epoch = dispatcher.journal.epoch
        self.seen: list[SessionEvent] = []
        # It was told that what it asks for is not to be had.
        self.was_told_of_gap = False
        self._clock = clock
        self._rng = rng
        self._dispatcher = dispatcher
        # Which of the dispatcher's lives was told that it watches: the next one has to be told again.
        self._told_life = 0
        self._pace_s = self._wait_s = rng.choice((0.01, 0.5, 5.0))
        self._come()

    @property
    def is_done(self) -> bool:
        return self.was_told_of_gap or (bool(self.seen) and self.seen[-1].kind == "ended")

    def _come(self) -> None:
        self._watch()
        self._later(self._read)

    def _watch(self) -> None:
        if self._dispatcher.is_up:
            self._told_life = self._dispatcher.lives
            self._dispatcher.ask(e.ViewerCame(self.session_id), lambda reply: None)

    def _leave(self) -> None:
        self._dispatcher.ask(e.ViewerLeft(self.session_id), lambda reply: None)

    def _later(self, act: Callable[[], None]) -> None:
        self._clock.after(self._rng.expovariate(1 / self._wait_s), act)

    def _read(self) -> None:
        """What there is behind its cursor, some of it; then it stays, or comes back later."""
        journal = self._dispatcher.journal
        if not self._dispatcher.is_up:
            self._later(self._come)
            return
        if self._told_life != self._dispatcher.lives:
            self._watch()
        log = journal.logs.get(self.session_id)
        if journal.epoch != self.epoch or log is None:
            self.was_told_of_gap = True
            return
        after = len(self.seen)
        assert after <= len(log.entries), f"{self!r}: was shown {after} of {len(log.entries)} events"
        some = log.entries[after : after + self._rng.choice((1, 5, 1000))]
        self.seen += [event for _, event in some]
        # It looks less often where nothing happens.
        self._wait_s = self._pace_s if some else min(10.0, self._wait_s * 2)
        if self.is_done:
            self._leave()
        elif self._rng.random() < 0.05:
            self._leave()
            self._later(self._come)
        else:
            self._later(self._read)

    def __repr__(self) -> str:
        return f"<SimulatedViewer of {self.session_id} in {self.epoch}: {len(self.seen)} seen>"
