"""One link's stream: bytes each way, in order, late, until it is cut. A cut loses what is under way; each side
learns of it at a time of its own, and one may not learn of it at all before its heartbeats tell."""

from collections.abc import Callable
from random import Random

from simulation.clock import Clock

# The share of urgent signals that overtake.
OVERTAKES = 0.5


class Wire:
    """Between one commander and the dispatcher. `up` and `down` receive bytes, `up_ended` and `down_ended` that
    the stream is over, with True for an orderly end."""

    def __init__(self, clock: Clock, rng: Random, link_id: str) -> None:
        self.link_id = link_id
        self.is_open = True
        self.up: Callable[[bytes], None] = lambda data: None
        self.down: Callable[[bytes], None] = lambda data: None
        self.up_ended: Callable[[bool], None] = lambda orderly: None
        self.down_ended: Callable[[bool], None] = lambda orderly: None
        self._clock = clock
        self._rng = rng
        self._slowness_s = rng.choice((0.0002, 0.01, 0.2))
        self._free_at = {"up": 0.0, "down": 0.0}
        self._first_at = 0.0
        self._blackholed = False

    def send(self, way: str, data: bytes, *, urgent: bool = False, first: bool = False) -> None:
        """What is urgent may overtake what waits to be written, but for what has to be `first`."""

        def deliver() -> None:
            if self.is_open and not self._blackholed:
                (self.up if way == "up" else self.down)(data)

        if urgent and self._rng.random() < OVERTAKES:
            at = max(self._first_at, self._clock.now + self._rng.expovariate(1 / self._slowness_s))
            self._clock.at(at, deliver)
        else:
            self._in_order(way, deliver)
        if first:
            self._first_at = self._free_at[way]

    def begin(self, act: Callable[[], None]) -> None:
        """The other side hears of the stream, before anything that is sent on it."""
        self._in_order("up", act)

    def end(self, way: str) -> None:
        """An orderly end from one side: the other hears of it after all that was sent."""

        def deliver() -> None:
            if self.is_open:
                (self.up_ended if way == "up" else self.down_ended)(True)

        self._in_order(way, deliver)

    def cut(self) -> None:
        """Both sides lose it, each at a time of its own."""
        if self.is_open:
            self.is_open = False
            self._clock.after(self._rng.uniform(0, 1.0), lambda: self.up_ended(False))
            self._clock.after(self._rng.uniform(0, 1.0), lambda: self.down_ended(False))

    def blackhole(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._blackholed = True

    def _in_order(self, way: str, act: Callable[[], None]) -> None:
        at = max(self._free_at[way], self._clock.now + self._rng.expovariate(1 / self._slowness_s))
        self._free_at[way] = at
        self._clock.at(at, act)
