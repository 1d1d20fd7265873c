"""What a viewer has received of one session, and whether that is what the dispatcher says it gave. Pure.

Owns the cursor to come back with. The promise it checks: nothing lost, nothing twice.
"""

import zlib
from array import array
from bisect import bisect_right

from southwest.ai.agent.v1 import chat_pb2


class Account:
    """Takes events in order.

    `cursor` is the last one's. `lost` turns true when part of what was asked for was not to be had, and `gone` says why
    when nothing of it is to be had any more. `resets` counts how often the answer began anew. The last event makes it
    `over` and is the `ending`.
    """

    def __init__(self, after: chat_pb2.Cursor | None = None) -> None:
        self.cursor = after
        self.lost = False
        self.gone = ""
        self.resets = 0
        self._messages: dict[str, str] = {}  # texts of what the user added, by id
        self._from_start = after is None
        self.over = False
        self.ending = chat_pb2.SessionEnded()
        # For each content event its offset, and length and CRC-32 of all content up to and including it: a
        # reset goes back to one of these.
        self._offsets = array("Q")
        self._chars = array("Q")
        self._crcs = array("L")

    def __repr__(self) -> str:
        at = "start" if self.cursor is None else f"{self.cursor.epoch}:{self.cursor.offset}"
        return f"<Account at {at}, {self.content_chars} characters{', not whole' if self.lost else ''}>"

    @property
    def content_chars(self) -> int:
        """Length of the content in code points."""
        return self._chars[-1] if self._chars else 0

    @property
    def content_crc32(self) -> int:
        return self._crcs[-1] if self._crcs else 0

    def take(self, event: chat_pb2.SessionEvent) -> bool:
        """Counts the event. False: it is a repeat, to be ignored."""
        if event.HasField("cursor") and not self._advance(event.cursor):
            return False
        kind = event.WhichOneof("event")
        if kind == "content":
            self._count(event.cursor.offset, event.content.text)
        elif kind == "user_message":
            self._messages[event.user_message.message_id] = event.user_message.text
        elif kind == "reset":
            self.resets += 1
            self._discard(event.reset.discard_after)
        elif kind == "gap":
            self._bridge(event.gap)
        elif kind == "ended":
            self.over = True
            self.ending = event.ended
        return True

    def skip(self, cursor: chat_pb2.Cursor) -> None:
        """Up to there is nothing more for this viewer: it comes back behind it."""
        if self.cursor is None or (cursor.epoch == self.cursor.epoch and cursor.offset > self.cursor.offset):
            self.cursor = cursor

    @property
    def unread(self) -> list[tuple[str, str]]:
        """Id and text of each message of the user that no agent has taken. The text is empty where it came before
        the first event received."""
        return [(each, self._messages.get(each, "")) for each in self.ending.unread_message_ids]

    def discrepancy(self) -> str | None:
        """What differs between the content received and the content the ending tells of.

        None: nothing, or it can't be told because not all was asked for or to be had.
        """
        if not self.over or self.lost or not self._from_start:
            return None
        told = (self.ending.content_chars, self.ending.content_crc32)
        if told == (self.content_chars, self.content_crc32):
            return None
        return (
            f"{self.content_chars} characters with CRC-32 {self.content_crc32:08x} arrived, "
            f"but {told[0]} with {told[1]:08x} were sent"
        )

    def _advance(self, cursor: chat_pb2.Cursor) -> bool:
        if self.cursor is not None and self.cursor.epoch == cursor.epoch:
            if cursor.offset <= self.cursor.offset:
                return False
        elif self.cursor is not None:
            self._forget()  # another life of the journal: its offsets say nothing about the earlier one's
        self.cursor = cursor
        return True

    def _bridge(self, gap: chat_pb2.Gap) -> None:
        """What follows begins at the gap's other end, which may lie before what has been received already."""
        first = gap.available_from
        if first.offset == 0:
            self.lost = True
            self.gone = gap.reason or "forgotten"
            return
        self._forget()
        # From the first event on it is whole after all.
        self._from_start = first.offset == 1
        self.lost = not self._from_start
        self.cursor = chat_pb2.Cursor(epoch=first.epoch, offset=first.offset - 1)

    def _count(self, offset: int, text: str) -> None:
        chars, crc = self.content_chars, self.content_crc32
        self._offsets.append(offset)
        self._chars.append(chars + len(text))
        self._crcs.append(zlib.crc32(text.encode(), crc))

    def _discard(self, after: chat_pb2.Cursor) -> None:
        if after.offset and self.cursor is not None and after.epoch != self.cursor.epoch:
            self._forget()
            return
        kept = bisect_right(self._offsets, after.offset)
        for column in (self._offsets, self._chars, self._crcs):
            del column[kept:]

    def _forget(self) -> None:
        self.lost = True
        for column in (self._offsets, self._chars, self._crcs):
            del column[:]
