"""The windows of one session: who speaks, what is held of whom, and in which order it goes on.

Each speaker has windows of its own: the content and the thoughts of each agent path, because sub-agents
interleave; and of thoughts each run of deltas of one step, because a step ends where another begins. What a
speaker has held may be overtaken by others and by other kinds of packets, never by its own later text.

Knows no limit and gives no verdict: `policy.py` owns it and is its only caller. How text is held is
`holdback.py`'s.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from dispatcher.core.holdback import Hold, Matcher, Spot, Tally, Watch
from dispatcher.core.mark import HeldText

# Matches that are only told of, in one session. After that nobody looks for more.
OBSERVED_MAX: Final = 1_000

# A statement is text that comes whole, in one packet.
Kind = Literal["content", "thought", "statement"]


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

    @property
    def held(self) -> HeldText | None:
        """None: it holds nothing back, ever."""
        if self._hold is None:
            return None
        return HeldText(self._kind, self._agent, self.step, *self._hold.state)

    def drop_held(self) -> None:
        """What it holds was another one's, and is never released; what was released is still there before."""
        if self._hold is not None:
            self._hold.drop()

    def put_back(self, text: HeldText) -> None:
        if self._hold is not None:
            self._hold.put_back(text.left, text.held, text.released, text.arrivals)

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

    def begin_anew(self, *, goes_on: bool) -> None:
        """Other speakers come, and what was held is gone. Where content `goes_on`, theirs is judged as what follows."""
        before = self._speakers
        self._speakers, self._holding = {}, {}
        for key, speaker in before.items() if goes_on else ():
            if key[0] == "content":
                speaker.drop_held()
                self._speakers[key] = speaker

    @property
    def held(self) -> tuple[HeldText, ...]:
        """What is known of each speaker's text, to be put back into others."""
        return tuple(text for speaker in self._speakers.values() if (text := speaker.held) is not None)

    def put_back(self, held: Iterable[HeldText]) -> list[Release]:
        """Puts back what others held, before anybody speaks; what these would not hold comes back, in its order. What
        is only told of is not put back."""
        loose: list[tuple[int, Release]] = []
        for text in held:
            kind: Kind = "thought" if text.kind == "thought" else "content"
            if self._deny is None:
                if text.held:
                    since = text.arrivals[0][0] if text.arrivals else 0
                    loose.append((since, Release(kind, text.held, text.agent, text.step)))
                continue
            speaker = self._speakers[kind, text.agent] = self._speaker(kind, text.agent, text.step)
            speaker.put_back(text)
            if speaker.since is not None:
                self._holding[kind, text.agent] = speaker
        return [release for _, release in sorted(loose, key=lambda each: each[0])]

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

    def state(self, text: str, sequence: int, agent: str) -> Outcome:
        """Judges text that comes whole and leaves nothing behind; no release is told of."""
        speaker = self._speaker("statement", agent, "")
        out = speaker.take(text, sequence) or Outcome()
        if not out.blocked:
            speaker.finish(out)
        out.releases.clear()
        return out

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
        speaker = self._speakers[key] = self._speaker(first.kind, first.agent, first.step)
        return self._ask(key, speaker, first.text, sequence)

    def _speaker(self, kind: Kind, agent: str, step: str) -> _Speaker:
        hold = None if self._deny is None else Hold(self._deny, self._chars_max)
        watch = None if self._observed is None else Watch(self._observed, self._chars_max, self._tally)
        return _Speaker(kind, agent, step, hold, watch)

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
