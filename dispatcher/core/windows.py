"""The windows of one session: who speaks, what is held of whom, and in which order it goes on.

Each speaker has windows of its own: the content and the thoughts of each agent path, because sub-agents
interleave; and of thoughts each run of deltas of one step, because a step ends where another begins. What a
speaker has held may be overtaken by others and by other kinds of packets, never by its own later text.

Knows no limit and gives no verdict: `policy.py` owns it and is its only caller. How text is held is
`holdback.py`'s.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dispatcher.core.holdback import Hold, Redaction, Spot, Tally, Watch
from dispatcher.core.mark import HeldText, Redacted
from dispatcher.core.rules import NOTHING, ByKind, Finding, Judges, Kind

# Matches that are only told of, in one session. After that nobody looks for more. As many that are replaced are told
# of; more are replaced in silence.
OBSERVED_MAX: Final = 1_000


class Release(NamedTuple):
    """Text that may go to viewers. `step` is that of a thought."""

    kind: Kind
    text: str
    agent: str = ""
    step: str = ""


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
    """One agent's content, or its thoughts of one step. What may stop is looked for first; what passes there is looked
    at for what is only told of, and goes on with marks where it is to be redacted."""

    __slots__ = ("_agent", "_hold", "_kind", "_redaction", "_tally", "_watch", "step")

    def __init__(
        self,
        kind: Kind,
        agent: str,
        step: str,
        stages: tuple[Hold | None, Redaction | None, Watch | None],
        tally: Tally,
    ) -> None:
        self._kind: Kind = kind
        self._agent = agent
        self.step = step
        self._hold, self._redaction, self._watch = stages
        self._tally = tally

    @property
    def since(self) -> int | None:
        # What waits to be redacted came before what waits to be judged.
        since = None if self._redaction is None else self._redaction.since
        return self._hold.since if since is None and self._hold is not None else since

    @property
    def held(self) -> HeldText | None:
        """None: it holds nothing back, ever."""
        hold, redaction = self._hold, self._redaction
        if hold is None and redaction is None:
            return None
        state = ("", "", 0, ()) if hold is None else hold.state
        return HeldText(self._kind, self._agent, self.step, *state, redaction.state if redaction else None)

    def drop_held(self) -> None:
        """What it holds was another one's, and is never released; what was released is still there before."""
        if self._hold is not None:
            self._hold.drop()
        if self._redaction is not None:
            self._redaction.drop()

    def put_back(self, text: HeldText) -> str:
        """Goes on where another one stood; gives what that one held and this one would not."""
        redacted, loose = text.redacted, ""
        if self._redaction is not None:
            self._redaction.put_back(_to_redact(text, is_held=self._hold is not None))
        elif redacted is not None:
            loose = redacted.held[redacted.hidden :]
        if self._hold is not None:
            left, released = text.left, text.released
            if redacted is not None and not released:
                # Nobody looked for what stops until now.
                left, released = (redacted.left + redacted.held)[-1:], redacted.passed + len(redacted.held)
            self._hold.put_back(left, text.held, released, text.arrivals)
        elif self._redaction is None:
            loose += text.held
        return loose

    def take(self, text: str, sequence: int) -> Outcome | None:
        """None: `text` goes on as it is, and that is all."""
        passed, spot, since = text, None, None
        if self._hold is not None:
            since = self._hold.since
            passed, spot = self._hold.take(text, sequence)
        observed = self._watch.take(passed) if self._watch is not None and passed else None
        released, spots = passed, None
        if self._redaction is not None and passed:
            released, spots, undecided = self._redaction.take(passed, sequence if since is None else since)
            spot = undecided or spot
        if released == text and spot is None and not observed and not spots:
            return None
        out = Outcome()
        self._tell(out, released, observed, spots, spot)
        return out

    def finish(self, out: Outcome) -> None:
        passed, spot, observed, since = "", None, None, self.since
        if self._hold is not None:
            passed, spot = self._hold.finish()
        if self._watch is not None:
            observed = self._watch.take(passed)
            if spot is None:
                observed += self._watch.finish()
        released, spots = passed, None
        if self._redaction is not None:
            released, spots, undecided = self._redaction.take(passed, since or 0)
            spot = undecided or spot
            if spot is None:
                # What waits behind a match that stops is never released: the two might overlap.
                rest, more = self._redaction.finish()
                released, spots = released + rest, spots + more
        self._tell(out, released, observed, spots, spot)

    def redact(self, text: str) -> tuple[str, list[Finding]]:
        """A text that comes whole, with marks."""
        if self._redaction is None:
            return text, []
        released, spots, undecided = self._redaction.take(text, 0)
        assert undecided is None, self
        rest, more = self._redaction.finish()
        return released + rest, [self._redacted(spot) for spot in spots + more]

    def _redacted(self, spot: Spot) -> Finding:
        return Finding(self._kind, self._agent, spot, enforced=False, redacted=True)

    def _tell(
        self,
        out: Outcome,
        released: str,
        observed: list[Spot] | None,
        redacted: list[Spot] | None,
        spot: Spot | None,
    ) -> None:
        if released:
            out.releases.append(Release(self._kind, released, self._agent, self.step))
        for seen in observed or ():
            out.findings.append(Finding(self._kind, self._agent, seen, enforced=False))
        for replaced in redacted or ():
            if self._tally.left > 0:
                self._tally.left -= 1
                out.findings.append(self._redacted(replaced))
        if spot is not None:
            out.findings.append(Finding(self._kind, self._agent, spot, enforced=True))
            out.blocked = True


def _to_redact(text: HeldText, *, is_held: bool) -> Redacted:
    """What one that redacts takes up. Where nobody judges any more what was held to be judged, that follows."""
    before = text.redacted or Redacted(text.left, "", 0, text.released, ())
    if is_held:
        return before
    arrivals = before.arrivals + text.arrivals
    return before._replace(held=before.held + text.held, arrivals=arrivals)


class Windows:
    """All speakers of one session. `chars_max` bounds each window, `speakers_max` their number. `marks` are by the
    names of patterns.

    Once an outcome is blocked, none of it may be asked for more text.
    """

    __slots__ = (
        "_chars_max",
        "_holding",
        "_judges",
        "_marks",
        "_overcrowded",
        "_redacted",
        "_speakers",
        "_speakers_max",
        "_tally",
    )

    def __init__(self, judges: ByKind, marks: Mapping[str, str], chars_max: int, speakers_max: int) -> None:
        self._judges = judges
        self._marks = marks
        self._chars_max = chars_max
        self._speakers_max = speakers_max
        self._speakers: dict[tuple[Kind, str], _Speaker] = {}
        self._holding: dict[tuple[Kind, str], _Speaker] = {}  # those of which something is held
        self._overcrowded = False
        self._tally = Tally(OBSERVED_MAX)
        self._redacted = Tally(OBSERVED_MAX)

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

    def put_back(self, held: Iterable[HeldText]) -> list[tuple[Release, int]]:
        """Puts back what others held, before anybody speaks; what these would not hold comes back, in its order, with
        the first packet of it. What is only told of is not put back."""
        loose: list[tuple[int, Release]] = []
        for text in held:
            kind: Kind = "thought" if text.kind == "thought" else "content"
            speaker = self._speaker(kind, text.agent, text.step)
            if rest := speaker.put_back(text):
                arrivals = (text.redacted.arrivals if text.redacted else ()) + text.arrivals
                loose.append((arrivals[0][0] if arrivals else 0, Release(kind, rest, text.agent, text.step)))
            if speaker.held is not None:
                self._speakers[kind, text.agent] = speaker
            if speaker.since is not None:
                self._holding[kind, text.agent] = speaker
        return [(release, first) for first, release in sorted(loose, key=lambda each: each[0])]

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

    def state(self, text: str, sequence: int, agent: str, kind: Kind, *, rewritten: bool = False) -> Outcome:
        """Judges text that comes whole and leaves nothing behind; no release is told of. Where nobody can put a mark
        into it, what is to be redacted must not leave either; `rewritten`: somebody does, see `redact`."""
        speaker = self._speaker(kind, agent, "")
        out = speaker.take(text, sequence) or Outcome()
        if not out.blocked:
            speaker.finish(out)
        out.releases.clear()
        redacted = [finding for finding in out.findings if finding.redacted]
        out.findings = [finding for finding in out.findings if not finding.redacted]
        if redacted and not rewritten and not out.blocked:
            out.findings.append(redacted[0]._replace(enforced=True, redacted=False))
            out.blocked = True
        return out

    def redact(self, text: str, agent: str, kind: Kind) -> tuple[str, list[Finding]]:
        """A text that comes whole, with marks, and what they stand for."""
        return self._speaker(kind, agent, "").redact(text)

    def to_tell(self, findings: list[Finding]) -> list[Finding]:
        """Those of what was redacted that may still be told of."""
        told = findings[: self._redacted.left]
        self._redacted.left -= len(told)
        return told

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
        stop, redact, observe, _ = self._judges_of(kind)
        hold = None if stop is None else Hold(stop, self._chars_max)
        redaction = None if redact is None else Redaction(redact, self._marks, self._chars_max)
        watch = None if observe is None else Watch(observe, self._chars_max, self._tally)
        # Of what comes whole one is enough to know.
        tally = self._redacted if kind in ("content", "thought") else Tally(1)
        return _Speaker(kind, agent, step, (hold, redaction, watch), tally)

    def _judges_of(self, kind: Kind) -> Judges:
        return self._judges.get(kind, NOTHING)

    def _ask(self, key: tuple[Kind, str], speaker: _Speaker, text: str, sequence: int) -> Outcome | None:
        out = speaker.take(text, sequence)
        if speaker.since is not None:
            self._holding[key] = speaker
        elif self._holding:
            self._holding.pop(key, None)
        return out

    def _refuse(self, first: Release) -> Outcome | None:
        """More speakers than can be looked at: nothing may pass unseen, or it is told of once."""
        judges = self._judges_of(first.kind)
        is_held = judges.stop is not None or judges.redact is not None or bool(judges.services)
        finding = Finding(first.kind, first.agent, None, is_held)
        if finding.enforced:
            return Outcome([], [finding], blocked=True)
        if self._overcrowded:
            return None
        self._overcrowded = True
        return Outcome([first], [finding])
