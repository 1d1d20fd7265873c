"""Who may run now, and who waits: the places of one tool.

First come, first served, bounded in both numbers. Lives in one event loop; knows nothing of tools.
"""

import asyncio
from collections import deque


class PlacesFullError(Exception):
    """As many wait as may."""


class PlacesClosedError(Exception):
    """No place is given any more."""


class Places:
    """`places` may be held at once; `waiting_max` may wait for one. Both may be changed at any time."""

    def __init__(self, places: int, waiting_max: int) -> None:
        self.places = places
        self.waiting_max = waiting_max
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Places {self._taken} of {self.places} taken, {len(self._queue)} waiting>"

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def take(self, timeout_s: float) -> bool:
        """Takes a place, to be given back by `give_back`. False: none became free in time.

        Raises PlacesFullError, PlacesClosedError. Cancelled, it holds nothing.
        """
        if self._closed:
            raise PlacesClosedError
        if self._taken < self.places and not self._queue:
            self._taken += 1
            return True
        if len(self._queue) >= self.waiting_max:
            raise PlacesFullError
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            # Not wait_for: a place handed over in the same moment as a cancellation must not be lost.
            await asyncio.wait((turn,), timeout=timeout_s)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise
        finally:
            if not turn.done():
                self._queue.remove(turn)
        if turn.cancelled():
            raise PlacesClosedError
        return turn.done()

    def give_back(self) -> None:
        """Gives one place back; whoever waits longest has it at once."""
        self._taken -= 1
        self._seat()

    def resize(self, places: int, waiting_max: int) -> None:
        """Nobody is turned out: with fewer places, those over it are given back as they end."""
        self.places = places
        self.waiting_max = waiting_max
        self._seat()

    def close(self) -> None:
        """Those who wait get PlacesClosedError, as does whoever comes later."""
        self._closed = True
        while self._queue:
            self._queue.popleft().cancel()

    def _seat(self) -> None:
        while self._queue and self._taken < self.places:
            self._taken += 1
            self._queue.popleft().set_result(None)
