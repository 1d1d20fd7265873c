"""Virtual time: things happen in order of their time, and time is wherever the next thing is."""

from collections.abc import Callable
from heapq import heappop, heappush


class Clock:
    """Seconds. Runs what is due; two things at one time run in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.now + max(0.0, seconds), act)

    def at(self, when: float, act: Callable[[], None]) -> None:
        """For what keeps an order: `after` the difference may come out a rounding earlier or later than the time."""
        self._number += 1
        heappush(self._planned, (max(self.now, when), self._number, act))

    def run(self, until: float, steps_max: int) -> int:
        """Runs everything up to `until`, and says in how many steps. AssertionError when that takes more of them than
        any real run would."""
        planned = self._planned
        for steps in range(steps_max):
            if not planned or planned[0][0] > until:
                self.now = until
                return steps
            self.now, _number, act = heappop(planned)
            act()
        raise AssertionError(f"still busy at {self.now:.3f} after {steps_max} steps")
