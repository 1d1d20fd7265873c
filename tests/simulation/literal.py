"""A matcher for one literal text: the simplest thing that makes policies hold text back."""

from dispatcher.core.holdback import Sighting


class Literal:
    """Matches `wanted` and nothing else."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    def scan(self, text: str, start: int, final: bool) -> Sighting | None:
        found = text.find(self._wanted, start)
        if found >= 0:
            return Sighting(found, "literal", found)
        if final:
            return None
        # What is longer than the rest of it would have been found.
        first = max(start, len(text) - len(self._wanted) + 1)
        hold = next((at for at in range(first, len(text)) if self.may_grow(text, at)), len(text))
        return None if hold == len(text) else Sighting(-1, "", hold)

    def may_grow(self, text: str, start: int) -> bool:
        return self._wanted.startswith(text[start:])

    def end(self, text: str, start: int) -> int:
        return start + len(self._wanted)

    def furthest(self, text: str, start: int, end: int, until: int) -> int:
        at = text.find(self._wanted, start)
        while 0 <= at < min(end, until):
            end = max(end, at + len(self._wanted))
            at = text.find(self._wanted, at + 1)
        return end
