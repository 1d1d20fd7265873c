"""What an agent has said and the link has not yet taken: merged, and cut, at the moment it is taken.

An `Outbox` stands between two threads and has no lock. The agent's thread offers, the link's thread takes;
each counter has one writer, and appending to and taking from a deque are atomic. Merging happens at taking
and never later, because that is when a sequence number is given out and with it what a resend looks like.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass


# Not frozen, though nobody changes one: there is one for every packet, and a frozen one takes four times as long to
# make (a named tuple twice as long).
@dataclass(slots=True)
class Text:
    """A delta of the answer, or of the reasoning step named `step`.

    Neighbours of the same step and path may be merged into one, and a long one is cut between code points.
    `path` is that of the sub-agent that speaks, empty for the root.
    """

    text: str
    step: str | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Sealed:
    """Anything else: it goes whole, by itself, and in its place. `size_bytes` is that of `payload` encoded;
    `is_awaited`: somebody waits for what the other side makes of it."""

    payload: object
    size_bytes: int
    path: str = ""
    is_awaited: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """Something too large for one packet: its pieces are made one by one as they are taken. At least one."""

    pieces: Iterator[Sealed]
    size_bytes: int


# A bare str is content of the root agent: nearly all there ever is, and so worth having without a wrapper.
Item = str | Text | Sealed | Series


def utf8_size(text: str) -> int:
    """Bytes of `text` in UTF-8. UnicodeEncodeError for a lone surrogate, which is no text."""
    return len(text) if text.isascii() else len(text.encode())


def cut_utf8(text: str, start: int, bytes_max: int) -> str:
    """The longest piece of `text` from `start` on that has at most `bytes_max` (at least 4) bytes in UTF-8."""
    piece = text[start : start + bytes_max]
    if piece.isascii():
        return piece
    encoded = piece.encode()
    # The text is valid, so what "ignore" drops can only be a code point that the cut went through.
    return piece if len(encoded) <= bytes_max else encoded[:bytes_max].decode(errors="ignore")


class Outbox:
    """The waiting room of one turn, bounded in items and bytes.

    The bound is soft by one item: what is offered is always kept, and the answer says whether there is room
    for more. Whoever offers waits when there is not; nothing is ever dropped.
    """

    __slots__ = (
        "_bytes_max",
        "_offered_bytes",
        "_packet_bytes_max",
        "_packets_max",
        "_rest",
        "_rest_start",
        "_series",
        "_series_bytes",
        "_series_piece",
        "_taken_bytes",
        "_waiting",
    )

    def __init__(self, *, packets_max: int, bytes_max: int, packet_bytes_max: int) -> None:
        self._waiting: deque[Item] = deque()
        self._packets_max = packets_max
        self._bytes_max = bytes_max
        self._packet_bytes_max = packet_bytes_max
        self._offered_bytes = 0  # written by the agent's thread alone
        self._taken_bytes = 0  # written by the link's thread alone
        # What is left of a text that was longer than a packet, and how much of it has been taken already.
        self._rest: Text | None = None
        self._rest_start = 0
        # The series that is being taken: its next piece, those after it, and the bytes of all of these.
        self._series_piece: Sealed | None = None
        self._series: Iterator[Sealed] = iter(())
        self._series_bytes = 0

    def __repr__(self) -> str:
        return f"<Outbox waiting={len(self._waiting)} bytes={self.waiting_bytes}>"

    # -- the agent's thread ----------------------------------------------------------------------------------

    def offer_text(self, text: str) -> bool:
        """Puts content of the root agent in; True while there is room for more. The hot path."""
        size = len(text) if text.isascii() else len(text.encode())
        self._waiting.append(text)
        self._offered_bytes += size
        return (
            len(self._waiting) < self._packets_max
            and self._offered_bytes - self._taken_bytes < self._bytes_max
        )

    def offer(self, item: Text | Sealed | Series) -> bool:
        """Puts anything else in; True while there is room for more."""
        size = _text_bytes(item) if isinstance(item, Text) else item.size_bytes
        self._waiting.append(item)
        self._offered_bytes += size
        return self.has_room

    # -- either thread ---------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < self._packets_max and self.waiting_bytes < self._bytes_max

    @property
    def is_half_empty(self) -> bool:
        """There is room enough that waking the agent is worth its while."""
        return len(self._waiting) * 2 <= self._packets_max and self.waiting_bytes * 2 <= self._bytes_max

    @property
    def waiting_bytes(self) -> int:
        return self._offered_bytes - self._taken_bytes

    # -- the link's thread -----------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self._waiting) or self._rest is not None or self._series_piece is not None

    def take(self) -> Text | Sealed | None:
        """What goes into the next packet: neighbouring deltas as one, a long one cut. None when empty."""
        if self._rest is not None:
            return self._cut(self._rest)
        if self._series_piece is not None:
            return self._next_piece(self._series_piece)
        if not self._waiting:
            return None
        first = self._waiting.popleft()
        if isinstance(first, str):
            return self._merge_content(first)
        if isinstance(first, Sealed):
            self._taken_bytes += first.size_bytes
            return first
        if isinstance(first, Series):
            self._series, self._series_bytes = first.pieces, first.size_bytes
            return self._next_piece(next(self._series))
        return self._merge(first)

    def clear(self) -> None:
        """Drops everything. Only for a turn whose words do not count any more."""
        self._waiting.clear()
        self._rest = self._series_piece = None
        self._series = iter(())
        self._taken_bytes = self._offered_bytes

    def _merge_content(self, first: str) -> Text:
        # As `_merge`, for what nearly all traffic is: bare strings, so no step and no path to compare.
        waiting, size_max = self._waiting, self._packet_bytes_max
        size = len(first) if first.isascii() else len(first.encode())
        if size > size_max:
            return self._cut_first(Text(first))
        if not waiting:
            self._taken_bytes += size
            return Text(first)
        parts = [first]
        while waiting:
            following = waiting[0]
            if not isinstance(following, str):
                break
            following_size = len(following) if following.isascii() else len(following.encode())
            if size + following_size > size_max:
                break
            parts.append(following)
            size += following_size
            waiting.popleft()
        self._taken_bytes += size
        return Text("".join(parts))

    def _merge(self, first: Text) -> Text:
        waiting, size = self._waiting, _text_bytes(first)
        if size > self._packet_bytes_max:
            return self._cut_first(first)
        parts, packet_size = [first.text], size
        while waiting:
            following = waiting[0]
            if not isinstance(following, Text) or (following.step, following.path) != (
                first.step,
                first.path,
            ):
                break
            packet_size += utf8_size(following.text)
            if packet_size > self._packet_bytes_max:
                break
            parts.append(following.text)
            # The step's name was counted once for every item offered, though it goes out once.
            size += _text_bytes(following)
            waiting.popleft()
        self._taken_bytes += size
        return Text("".join(parts), first.step, first.path)

    def _next_piece(self, piece: Sealed) -> Sealed:
        self._series_piece = next(self._series, None)
        taken = self._series_bytes if self._series_piece is None else piece.size_bytes
        self._series_bytes -= taken
        self._taken_bytes += taken
        return piece

    def _cut_first(self, text: Text) -> Text:
        self._rest_start = 0
        return self._cut(text)

    def _cut(self, text: Text) -> Text:
        step_bytes = utf8_size(text.step or "")
        start = self._rest_start
        piece = cut_utf8(text.text, start, max(4, self._packet_bytes_max - step_bytes))
        self._rest_start = start + len(piece)
        self._taken_bytes += utf8_size(piece) + (step_bytes if start == 0 else 0)
        self._rest = text if self._rest_start < len(text.text) else None
        return Text(piece, text.step, text.path)


def _text_bytes(item: Text) -> int:
    return utf8_size(item.text) + (utf8_size(item.step) if item.step else 0)
