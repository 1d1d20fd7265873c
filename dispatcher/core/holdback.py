"""Text that waits until it is known to be harmless, and no longer.

A pattern may match across packets, so the end of what has come may be the begin of a match. `Hold` keeps that
end back and nothing more; everything before the first character at which a match could still begin goes on at
once. When a match is certain, and none that begins earlier is possible any more, what stands before it is
released and nothing else ever is. So what is released does not depend on how the text was cut into packets:
it is the text up to the leftmost match in the whole of it.

    pattern   password        text so far   "the pass"      released   "the "      held   "pass"

Where a match stays possible without being certain for more than so many characters, that counts as a match:
to let it go might let a match go, to wait on would be unbounded.

`Watch` holds nothing back. It looks at what is released and finds each leftmost-longest match, one after the
other; what is undecided for too long it finds too, and skips.

`Redaction` puts a mark in place of what matches, and releases all else. It looks for the longest match from every
character, not only behind the one before: of `abcd` with the patterns `abc` and `cd` nothing is left but a mark.

    pattern   [0-9]{4}        text so far   "pin 12"        released   "pin "      held   "12"
                              then          "34 it is"      released   "[redacted] it is"

All three belong to one speaker; `windows.py` has those of a session and is their only caller. None knows a
pattern language: they ask a `Matcher`, which `patterns.py` is.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from dispatcher.core.mark import Redacted

# A watch looks at a long text in pieces of so many characters, so that each of many matches costs little.
_WATCHED_PIECE_CHARS: Final = 256


class Sighting(NamedTuple):
    """What a matcher sees; indexes into the text it was shown.

    `match` is where the leftmost match begins, told once it is certain whatever follows and none that begins
    earlier is possible any more; -1 until then. `pattern` is the name of the pattern that was certain first.
    `hold` is the first index from which all that follows is the begin of a match, a whole one included; the
    text's length when there is none, and always when the text is final.
    """

    match: int
    pattern: str
    hold: int


class Matcher(Protocol):
    """Patterns, as the core knows them. Each has a name; none matches empty text."""

    def scan(self, text: str, start: int, final: bool) -> Sighting | None:
        """Looks at `text[start:]`. `start` is 1 when the first character was judged before and is there for
        its context alone, 0 at the begin of the speaker's text. `final`: nothing follows. None: no match, and
        nothing to hold."""

    def may_grow(self, text: str, start: int) -> bool:
        """Whether all of `text[start:]` is the begin of a match."""

    def end(self, text: str, start: int) -> int:
        """Where the longest match that begins at `start` ends. Asked only where there is one."""

    def furthest(self, text: str, start: int, end: int, until: int) -> int:
        """Where what is to be hidden ends: all matches that begin from `start` up to `end`, and in those matches, but
        before `until`. `end` where there is none."""


class Spot(NamedTuple):
    """Where in a speaker's text something was found, in characters from its begin. `pattern` is the name of
    the one that matches there, empty where it was undecided for too long whether any does."""

    at: int
    pattern: str


class Hold:
    """One speaker's text before patterns that must not pass. It is over with the first spot it finds."""

    __slots__ = ("_arrivals", "_held", "_left", "_matcher", "_max", "_released")

    def __init__(self, matcher: Matcher, chars_max: int) -> None:
        self._matcher = matcher
        self._max = chars_max
        self._left = ""  # the last character released: patterns look one character back
        self._held = ""
        self._released = 0  # characters
        # Of each packet of which something is held: its sequence, and the characters received with it.
        self._arrivals: deque[tuple[int, int]] = deque()

    def __repr__(self) -> str:
        return f"<Hold {self._released} characters released, {len(self._held)} held>"

    @property
    def chars(self) -> int:
        """How many characters are held; at most `chars_max`."""
        return len(self._held)

    @property
    def since(self) -> int | None:
        """The packet that brought the first character not released; None when all are."""
        return self._arrivals[0][0] if self._arrivals else None

    @property
    def state(self) -> tuple[str, str, int, tuple[tuple[int, int], ...]]:
        """What another one needs to go on where this one stands; see `put_back`."""
        return self._left, self._held, self._released, tuple(self._arrivals)

    def drop(self) -> None:
        """What is held is never released. What follows is judged as behind the last character that was."""
        self._held = ""
        self._arrivals.clear()

    def put_back(self, left: str, held: str, released: int, arrivals: tuple[tuple[int, int], ...]) -> None:
        """Goes on where another one stood, before anything was taken."""
        self._left, self._held, self._released = left, held, released
        self._arrivals = deque(arrivals)

    def take(self, text: str, sequence: int) -> tuple[str, Spot | None]:
        """What may go on of what was held and of `text`."""
        if not text:
            return "", None
        if len(self._held) + len(text) <= self._max + 1:
            released, spot = self._judge(self._held + text, False)
        else:
            released, spot = self._judge_pieces(text)
        if self._held or spot is not None:
            self._arrivals.append((sequence, self._released + max(1, len(self._held))))
        if self._arrivals:
            self._forget_arrivals()
        return released, spot

    def finish(self) -> tuple[str, Spot | None]:
        """What may go on of what is held, now that nothing follows."""
        if not self._held:
            return "", None
        released, spot = self._judge(self._held, True)
        self._forget_arrivals()
        return released, spot

    def _judge_pieces(self, text: str) -> tuple[str, Spot | None]:
        """Never looks further than one character over the bound, so that what is undecided for too long is
        found in one large packet as in many small ones."""
        released = ""
        spot = None
        begin = 0
        while begin < len(text) and spot is None:
            room = self._max + 1 - len(self._held)
            more, spot = self._judge(self._held + text[begin : begin + room], False)
            released += more
            begin += room
        return released, spot

    def _judge(self, waiting: str, final: bool) -> tuple[str, Spot | None]:
        text = self._left + waiting
        start = len(self._left)
        sighting = self._matcher.scan(text, start, final)
        if sighting is None:
            self._left = text[-1]
            self._held = ""
            self._released += len(waiting)
            return waiting, None
        spot = None
        until = sighting.hold
        if sighting.match >= 0:
            until = sighting.match
            spot = Spot(self._released + until - start, sighting.pattern)
        elif until == start and len(waiting) > self._max:
            spot = Spot(self._released, "")
        self._released += until - start
        self._left = text[until - 1 : until] if until else ""
        self._held = "" if spot is not None else text[until:]
        return text[start:until], spot

    def _forget_arrivals(self) -> None:
        arrivals = self._arrivals
        while arrivals and arrivals[0][1] <= self._released:
            arrivals.popleft()


class Tally:
    """How many spots the watches of a session may still tell of."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class Watch:
    """One speaker's text before patterns that are only told of."""

    __slots__ = ("_left", "_matcher", "_max", "_passed", "_pending", "_tally", "_told")

    def __init__(self, matcher: Matcher, chars_max: int, tally: Tally) -> None:
        self._matcher = matcher
        self._max = chars_max
        self._tally = tally
        self._left = ""
        self._pending = ""  # what may yet become a match, or a longer one
        self._passed = 0  # characters before it
        self._told = False  # the match at its begin was told of

    def __repr__(self) -> str:
        return f"<Watch {self._passed} characters passed, {len(self._pending)} pending>"

    def take(self, text: str) -> list[Spot]:
        spots: list[Spot] = []
        begin = 0
        while begin < len(text) and self._tally.left > 0:
            piece = text[begin : begin + min(_WATCHED_PIECE_CHARS, self._max + 1 - len(self._pending))]
            begin += len(piece)
            self._pending += piece
            self._look(spots, False)
        return spots

    def finish(self) -> list[Spot]:
        """Nothing follows."""
        spots: list[Spot] = []
        self._look(spots, True)
        return spots

    def _look(self, spots: list[Spot], final: bool) -> None:
        while self._pending and self._tally.left > 0:
            text = self._left + self._pending
            start = len(self._left)
            too_long = len(self._pending) > self._max
            if self._told:
                if not final and not too_long and self._matcher.may_grow(text, start):
                    return
                self._pass(text, self._matcher.end(text, start))
                continue
            sighting = self._matcher.scan(text, start, final)
            if sighting is None:
                self._pass(text, len(text))
            elif sighting.match >= 0:
                self._pass(text, sighting.match)
                self._tell(Spot(self._passed, sighting.pattern), spots)
                self._told = True
            elif sighting.hold == start and too_long:
                self._tell(Spot(self._passed, ""), spots)
                self._pass(text, len(text))
            else:
                self._pass(text, sighting.hold)
                return

    def _tell(self, spot: Spot, spots: list[Spot]) -> None:
        self._tally.left -= 1
        spots.append(spot)

    def _pass(self, text: str, until: int) -> None:
        self._told = False
        self._passed += until - len(self._left)
        self._left = text[until - 1 : until] if until else ""
        self._pending = text[until:]


class Redaction:
    """One speaker's text before patterns whose matches are replaced. `marks` are by the names of patterns.

    A match may be undecided for no more than `chars_max` characters: patterns that could be are refused before.
    Should it happen all the same, it is a spot without a pattern, and nothing more may be taken.
    """

    __slots__ = ("_arrivals", "_hidden", "_left", "_marks", "_matcher", "_max", "_passed", "_pending")

    def __init__(self, matcher: Matcher, marks: Mapping[str, str], chars_max: int) -> None:
        self._matcher = matcher
        self._marks = marks
        self._max = chars_max
        self._left = ""
        self._pending = ""  # what is held
        # So many characters at its begin are in a match whose mark was released.
        self._hidden = 0
        self._passed = 0  # characters before it
        # As in `Hold`.
        self._arrivals: deque[tuple[int, int]] = deque()

    def __repr__(self) -> str:
        return f"<Redaction {self._passed} characters passed, {len(self._pending)} held>"

    @property
    def chars(self) -> int:
        """How many characters are held; at most `chars_max`."""
        return len(self._pending)

    @property
    def since(self) -> int | None:
        """The packet that brought the first character held; None when none is."""
        return self._arrivals[0][0] if self._arrivals else None

    @property
    def state(self) -> Redacted:
        """What another one needs to go on where this one stands; see `put_back`."""
        return Redacted(self._left, self._pending, self._hidden, self._passed, tuple(self._arrivals))

    def drop(self) -> None:
        """What is held is never released. What follows is judged as behind the last character that was."""
        self._pending = ""
        self._hidden = 0
        self._arrivals.clear()

    def put_back(self, state: Redacted) -> None:
        """Goes on where another one stood, before anything was taken."""
        self._left, self._pending, self._hidden, self._passed = state[:4]
        self._arrivals = deque(state.arrivals)

    def take(self, text: str, sequence: int) -> tuple[str, list[Spot], Spot | None]:
        """What may go on, with marks; what was replaced; and where it was undecided for too long."""
        if not text:
            return "", [], None
        out: list[str] = []
        spots: list[Spot] = []
        begin, undecided = 0, None
        while begin < len(text) and undecided is None:
            room = max(1, min(_WATCHED_PIECE_CHARS, self._max + 1 - len(self._pending)))
            self._pending += text[begin : begin + room]
            begin += room
            undecided = self._look(out, spots, False)
        if self._pending or undecided is not None:
            self._arrivals.append((sequence, self._passed + max(1, len(self._pending))))
        self._forget_arrivals()
        return "".join(out), spots, undecided

    def finish(self) -> tuple[str, list[Spot]]:
        """What may go on of what is held, now that nothing follows."""
        out: list[str] = []
        spots: list[Spot] = []
        self._look(out, spots, True)
        self._forget_arrivals()
        return "".join(out), spots

    def _look(self, out: list[str], spots: list[Spot], final: bool) -> Spot | None:
        while self._pending:
            start = len(self._left)
            text = self._left + self._pending
            sighting = self._matcher.scan(text, start, final)
            if sighting is None or sighting.match < 0:
                hold = len(text) if sighting is None else sighting.hold
                too_long = hold == start and len(self._pending) > self._max
                self._pass(out, text, hold)
                return Spot(self._passed, "") if too_long else None
            self._pass(out, text, sighting.match)
            start, hold = len(self._left), len(self._left) + sighting.hold - sighting.match
            text = self._left + self._pending
            if hold == start:
                # It may become a longer one.
                return Spot(self._passed, "") if len(self._pending) > self._max else None
            if not self._hidden:
                out.append(self._marks[sighting.pattern])
                spots.append(Spot(self._passed, sighting.pattern))
            end = self._matcher.furthest(text, start, start + max(1, self._hidden), hold)
            self._hidden = end - start
            self._pass(out, text, min(end, hold))
        return None

    def _pass(self, out: list[str], text: str, until: int) -> None:
        count = until - len(self._left)
        hidden = min(self._hidden, count)
        out.append(self._pending[hidden:count])
        self._hidden -= hidden
        self._passed += count
        self._left = text[until - 1 : until] if until else ""
        self._pending = text[until:]

    def _forget_arrivals(self) -> None:
        arrivals = self._arrivals
        while arrivals and arrivals[0][1] <= self._passed:
            arrivals.popleft()
