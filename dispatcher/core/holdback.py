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

`Windows` are those of one session. Each speaker has its own: the content and the thoughts of each agent path,
because sub-agents interleave; and of thoughts each run of deltas of one step, because a step ends where
another begins. What a speaker has held may be overtaken by others and by other kinds of packets, never by its
own later text.

Counts nothing and knows no rule: `policy.py` owns and calls it. Knows no pattern language: it asks a
`Matcher`, which `patterns.py` is.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

# Matches that are only told of, in one session. After that nobody looks for more.
OBSERVED_MAX: Final = 1_000
# A watch looks at a long text in pieces of so many characters, so that each of many matches costs little.
_WATCHED_PIECE_CHARS: Final = 256

Kind = Literal["content", "thought"]


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


class Release(NamedTuple):
    """Text that may go to viewers. `step` is that of a thought."""

    kind: Kind
    text: str
    agent: str = ""
    step: str = ""


class Finding(NamedTuple):
    """A spot in somebody's text. `spot` None: there are more speakers than can be looked at."""

    kind: Kind
    agent: str
    spot: Spot | None
    enforced: bool


@dataclass(slots=True)
class Outcome:
    """What came of it, in order. `blocked`: an enforced finding; nothing more may be released, ever."""

    releases: list[Release] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    blocked: bool = False

    def add(self, then: "Outcome") -> None:
        self.releases += then.releases
        self.findings += then.findings
        self.blocked = then.blocked


class _Speaker:
    """One agent's content, or its thoughts of one step."""

    __slots__ = ("_agent", "_hold", "_kind", "_watch", "step")

    def __init__(self, kind: Kind, agent: str, step: str, hold: Hold | None, watch: Watch | None) -> None:
        self._kind: Kind = kind
        self._agent = agent
        self.step = step
        self._hold = hold
        self._watch = watch

    @property
    def since(self) -> int | None:
        return None if self._hold is None else self._hold.since

    def take(self, text: str, sequence: int) -> Outcome | None:
        """None: `text` goes on as it is, and that is all."""
        released, spot, observed = text, None, None
        if self._hold is not None:
            released, spot = self._hold.take(text, sequence)
        if self._watch is not None and released:
            observed = self._watch.take(released)
        if released == text and spot is None and not observed:
            return None
        out = Outcome()
        self._tell(out, released, observed, spot)
        return out

    def finish(self, out: Outcome) -> None:
        released, spot, observed = "", None, None
        if self._hold is not None:
            released, spot = self._hold.finish()
        if self._watch is not None:
            observed = self._watch.take(released)
            if spot is None:
                observed += self._watch.finish()
        self._tell(out, released, observed, spot)

    def _tell(self, out: Outcome, released: str, observed: list[Spot] | None, spot: Spot | None) -> None:
        if released:
            out.releases.append(Release(self._kind, released, self._agent, self.step))
        for seen in observed or ():
            out.findings.append(Finding(self._kind, self._agent, seen, False))
        if spot is not None:
            out.findings.append(Finding(self._kind, self._agent, spot, True))
            out.blocked = True


class Windows:
    """All speakers of one session. `chars_max` bounds each window, `speakers_max` their number.

    Once an outcome is blocked, none of it may be asked for more text.
    """

    __slots__ = (
        "_chars_max",
        "_deny",
        "_holding",
        "_observed",
        "_overcrowded",
        "_speakers",
        "_speakers_max",
        "_tally",
    )

    def __init__(
        self, deny: Matcher | None, observed: Matcher | None, chars_max: int, speakers_max: int
    ) -> None:
        self._deny = deny
        self._observed = observed
        self._chars_max = chars_max
        self._speakers_max = speakers_max
        self._speakers: dict[tuple[Kind, str], _Speaker] = {}
        self._holding: dict[tuple[Kind, str], _Speaker] = {}  # those of which something is held
        self._overcrowded = False
        self._tally = Tally(OBSERVED_MAX)

    def __repr__(self) -> str:
        return f"<Windows {len(self._speakers)} speakers, {len(self._holding)} held back>"

    @property
    def since(self) -> int | None:
        """The first packet of which something is held; None when nothing is."""
        if not self._holding:
            return None
        return min(speaker.since or 0 for speaker in self._holding.values())

    def take(self, kind: Kind, text: str, sequence: int, agent: str, step: str) -> Outcome | None:
        """The next piece of what a speaker says. None: it goes on as it is, and that is all."""
        key = (kind, agent)
        speaker = self._speakers.get(key)
        if speaker is not None and speaker.step == step:
            return self._ask(key, speaker, text, sequence) if text else None
        before = Outcome()
        if speaker is not None:
            self._end(key, before)
            if before.blocked:
                return before
        then = self._begin(Release(kind, text, agent, step), sequence) if text else None
        if not before.releases and not before.findings:
            return then
        before.add(then or Outcome([Release(kind, text, agent, step)]))
        return before

    def end_agent(self, agent: str, out: Outcome) -> None:
        """This agent says no more."""
        self._end_all([key for key in self._speakers if key[1] == agent], out)

    def finish(self, out: Outcome) -> None:
        """Nobody says any more."""
        self._end_all(list(self._speakers), out)

    def _end_all(self, keys: list[tuple[Kind, str]], out: Outcome) -> None:
        # What came first goes on first; speakers of whom nothing is held have no order.
        for key in sorted(keys, key=lambda key: self._speakers[key].since or 0):
            self._end(key, out)
            if out.blocked:
                return

    def _end(self, key: tuple[Kind, str], out: Outcome) -> None:
        self._speakers[key].finish(out)
        if not out.blocked:
            del self._speakers[key]
            self._holding.pop(key, None)

    def _begin(self, first: Release, sequence: int) -> Outcome | None:
        """A speaker's first piece."""
        if len(self._speakers) >= self._speakers_max:
            return self._refuse(first)
        key = (first.kind, first.agent)
        hold = None if self._deny is None else Hold(self._deny, self._chars_max)
        watch = None if self._observed is None else Watch(self._observed, self._chars_max, self._tally)
        speaker = self._speakers[key] = _Speaker(first.kind, first.agent, first.step, hold, watch)
        return self._ask(key, speaker, first.text, sequence)

    def _ask(self, key: tuple[Kind, str], speaker: _Speaker, text: str, sequence: int) -> Outcome | None:
        out = speaker.take(text, sequence)
        if speaker.since is not None:
            self._holding[key] = speaker
        elif self._holding:
            self._holding.pop(key, None)
        return out

    def _refuse(self, first: Release) -> Outcome | None:
        """More speakers than can be looked at: nothing may pass unseen, or it is told of once."""
        finding = Finding(first.kind, first.agent, None, self._deny is not None)
        if finding.enforced:
            return Outcome([], [finding], blocked=True)
        if self._overcrowded:
            return None
        self._overcrowded = True
        return Outcome([first], [finding])
