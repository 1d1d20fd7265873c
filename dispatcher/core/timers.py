"""Deadlines by key: set, moved, cancelled, and due in order. Owns no clock; seconds are the caller's."""

from collections.abc import Collection
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=tuple[str, ...])

# Entries that were moved or cancelled stay in the heap until they surface or outnumber the live ones so far.
_STALE_FACTOR = 2
_STALE_FLOOR = 64


class Timers(Generic[Key]):
    """At most one deadline per key."""

    def __init__(self) -> None:
        self._due_at: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []

    def __len__(self) -> int:
        return len(self._due_at)

    def __repr__(self) -> str:
        return f"<Timers {len(self._due_at)} set, next {self.next_deadline()}>"

    def set(self, key: Key, at: float) -> None:
        """Sets or moves the deadline of `key`."""
        if self._due_at.get(key) == at:
            return
        self._due_at[key] = at
        heappush(self._heap, (at, key))
        if len(self._heap) > _STALE_FLOOR + _STALE_FACTOR * len(self._due_at):
            self._heap = [(due, key) for key, due in self._due_at.items()]
            heapify(self._heap)

    def set_if_absent(self, key: Key, at: float) -> None:
        """Sets the deadline of `key` unless it has one."""
        if key not in self._due_at:
            self.set(key, at)

    def postpone(self, kinds: Collection[str], seconds: float) -> None:
        """Moves every deadline whose key begins with one of `kinds`."""
        for key, due in list(self._due_at.items()):
            if key[0] in kinds:
                self.set(key, due + seconds)

    def cancel(self, key: Key) -> None:
        self._due_at.pop(key, None)

    def next_deadline(self) -> float | None:
        heap = self._heap
        while heap and self._due_at.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> Key | None:
        """The next key that is due at `now`, removed; None when none is."""
        at = self.next_deadline()
        if at is None or at > now:
            return None
        _, key = heappop(self._heap)
        del self._due_at[key]
        return key
