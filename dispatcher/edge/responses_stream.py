"""A response as a stream of theirs, which can be gone on with from every number.

The number of an event is made of the session's own: the offset of what it tells, and which of the events it is that
tell it. So it is the same whoever asks, whenever, and nothing has to be kept for it.
"""

from collections.abc import Callable, Sequence
from typing import Final

from dispatcher.edge.native import json_bytes
from dispatcher.edge.openai_chunks import HEARTBEAT
from dispatcher.edge.openai_errors import of_notice
from dispatcher.edge.rendering import Notice
from dispatcher.edge.responses_items import ResponseItems, Told
from dispatcher.journal import Entry

# Events of theirs for one of ours, at most: an ending closes every call that still runs.
EACH_MAX: Final = 1_024


def number_of(offset: int, which: int) -> int:
    return (offset - 1) * EACH_MAX + which


def place_of(number: int) -> tuple[int, int]:
    """Which event of ours, and which of theirs for it."""
    return number // EACH_MAX + 1, number % EACH_MAX


class ResponseStream:
    """Of one session."""

    way = "openai_responses"
    is_exact = True
    key = None
    heartbeat = HEARTBEAT

    def __init__(self, session_id: str, *, thoughts: bool) -> None:
        self._items = ResponseItems(session_id, thoughts=thoughts, takes_back=False)
        self._number = 0
        self.when_over: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<ResponseStream after {self._number} of {self._items!r}>"

    @property
    def is_over(self) -> bool:
        return self._items.is_over

    def events(self, entries: Sequence[Entry]) -> bytes:
        return b"".join([self.rest(entry, 0) for entry in entries])

    def rest(self, entry: Entry, first: int) -> bytes:
        """What the next event of the session adds, from the first of theirs on that is wanted."""
        told = self._told(entry)
        if told and self.is_over:
            self.when_over()
        offset = entry.event.offset
        return b"".join(
            [_event(each, number_of(offset, which)) for which, each in enumerate(told) if which >= first]
        )

    def recall(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._told(entry)

    def notice(self, notice: Notice) -> bytes:
        """With the number of the last that was told, from which the stream can be gone on with."""
        trouble = of_notice(notice)
        if trouble is None or self.is_over:
            return b""
        record = {"code": trouble.code, "message": trouble.message, "param": None}
        return _event(Told("error", record), self._number)

    def _told(self, entry: Entry) -> list[Told]:
        told = self._items.told(entry)
        if len(told) > EACH_MAX:
            # The last is what all wait for.
            told = [*told[: EACH_MAX - 1], told[-1]]
        if told:
            self._number = number_of(entry.event.offset, len(told) - 1)
        return told


def _event(told: Told, number: int) -> bytes:
    record = {"type": told.type, "sequence_number": number, **told.fields}
    return b"event: %b\ndata: %b\n\n" % (told.type.encode(), json_bytes(record))
