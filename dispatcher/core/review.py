"""Text that waits until services have judged it: of each speaker what is asked about next, and how much may go on.

A service answers in its own time, so what comes meanwhile waits for the next question; about one speaker no more than
one is under way. A question begins with the end of the one before, which was held back: of any stretch of `hold_chars`
characters, all was in a question before any of it goes on. When nothing follows that would have to be judged with it,
see `close`, the last question says so, and lets all go.

Asks nobody itself, reads no clock and gives no verdict: `policy.py` owns it. What comes here has passed the rules on
text (`windows.py`), with their marks.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from dispatcher.core.mark import ReviewMark
from dispatcher.core.rules import ByKind, Kind, Service, Span
from dispatcher.core.windows import Release

# Of one question. More waits for the next.
ASKED_CHARS_MAX: Final = 16_384
# What a service wants to have redacted up to the end of a question may go on behind it: up to here it is held back.
SPAN_CHARS_MAX: Final = 4_096


class TextQuestion(NamedTuple):
    """What services are to judge of one speaker's text. `before` was judged already."""

    review_id: str
    kind: Kind
    agent: str
    text: str
    before: str
    is_final: bool
    services: tuple[Service, ...]


class Reviewed(NamedTuple):
    """What may go on, and where marks stand in it, counted from the begin of that speaker's text."""

    releases: list[Release]
    redacted: list[tuple[int, Span]]


class _Review:
    """One agent's content, or all its thoughts."""

    __slots__ = (
        "_arrivals",
        "_asked",
        "_before",
        "_before_chars",
        "_closing",
        "_held",
        "_hold_chars",
        "_is_final",
        "_passed",
        "_seen",
        "_steps",
    )

    def __init__(self, services: Iterable[Service]) -> None:
        self._hold_chars = max(service.hold_chars for service in services)
        self._before_chars = max(service.before_chars for service in services)
        self._before = ""
        self._held = ""
        # So many characters at its begin were in the last question, and are to be in the next.
        self._seen = 0
        # So many are in the question under way; 0: there is none.
        self._asked = 0
        self._is_final = False
        self._closing = False
        self._passed = 0  # characters before what is held
        # A packet, and the characters received with it, counted from the begin.
        self._arrivals: deque[tuple[int, int]] = deque()
        # Where each step's text ends.
        self._steps: deque[tuple[int, str]] = deque()

    @property
    def chars(self) -> int:
        return len(self._held)

    @property
    def unjudged_chars(self) -> int:
        """Without those that were judged once, and are held back for what follows."""
        return len(self._held) - self._seen

    @property
    def passed(self) -> int:
        return self._passed

    @property
    def since(self) -> int | None:
        """The packet that brought the first character held; None when none is."""
        return self._arrivals[0][0] if self._arrivals else None

    def mark(self, kind: Kind, agent: str) -> ReviewMark:
        return ReviewMark(
            kind, agent, self._before, self._held, self._passed, tuple(self._arrivals), tuple(self._steps)
        )

    def put_back(self, mark: ReviewMark) -> None:
        """Goes on where another one stood, before anything was taken. Nobody has judged what is held."""
        self._before = mark.before[-self._before_chars :] if self._before_chars else ""
        self._held, self._passed = mark.held, mark.passed
        self._arrivals, self._steps = deque(mark.arrivals), deque(mark.steps)

    def drop(self) -> None:
        """What is held is never released, and nobody waits for what is asked."""
        self._held = ""
        self._seen = self._asked = 0
        self._closing = False
        self._arrivals.clear()
        self._steps.clear()

    def take(self, text: str, step: str, sequence: int) -> None:
        self._held += text
        end = self._passed + len(self._held)
        self._arrivals.append((sequence, end))
        if self._steps and self._steps[-1][1] == step:
            self._steps.pop()
        self._steps.append((end, step))

    def close(self) -> None:
        """Nothing follows for now: all of it is to be judged as it stands."""
        self._closing = bool(self._held)

    def ask(self) -> tuple[str, str, bool] | None:
        """The text of the next question, what comes before it, and whether nothing follows; None: there is nothing new,
        or one is under way."""
        if self._asked or not self._held or (len(self._held) == self._seen and not self._closing):
            return None
        self._asked = min(len(self._held), ASKED_CHARS_MAX + self._seen)
        self._is_final = self._closing and self._asked == len(self._held)
        return self._held[: self._asked], self._before, self._is_final

    def answered(self, spans: Iterable[Span]) -> tuple[list[tuple[str, str]], list[tuple[int, Span]]]:
        """It may go on, but for these stretches of what was asked, which are in order and apart from each other. Gives
        the texts with their steps, and what was replaced."""
        asked, self._asked = self._asked, 0
        cut = asked if self._is_final else max(0, asked - self._hold_chars)
        applied: list[Span] = []
        for span in spans:
            if span.begin >= cut:
                break
            if span.end == asked and not self._is_final and asked - span.begin <= SPAN_CHARS_MAX:
                # It may go on behind the question.
                cut = span.begin
                break
            cut = max(cut, span.end)
            applied.append(span)
        redacted = [(self._passed + span.begin, span) for span in applied]
        told = self._release(cut, applied)
        self._seen = asked - cut
        self._closing = self._closing and bool(self._held)
        return told, redacted

    def _release(self, cut: int, spans: list[Span]) -> list[tuple[str, str]]:
        """Lets the first `cut` characters go, with marks."""
        told: list[tuple[str, str]] = []
        end, at, number = self._passed + cut, 0, 0
        while at < cut:
            step_end, step = self._steps[0]
            until = min(cut, step_end - self._passed)
            pieces = []
            while number < len(spans) and spans[number].begin < until:
                span = spans[number]
                pieces.append(self._held[at : max(at, span.begin)])
                if span.begin >= at:
                    pieces.append(span.mark)
                at = min(until, span.end)
                if span.end > until:
                    break
                number += 1
            pieces.append(self._held[at:until])
            at = until
            if step_end <= end:
                self._steps.popleft()
            if text := "".join(pieces):
                told.append((text, step))
        if self._before_chars and told:
            shown = "".join(text for text, _ in told)
            self._before = (self._before + shown)[-self._before_chars :]
        self._held = self._held[cut:]
        self._passed = end
        while self._arrivals and self._arrivals[0][1] <= end:
            self._arrivals.popleft()
        return told


class Reviews:
    """All speakers of one session whose text services judge. `judges` are by kind."""

    __slots__ = ("_number", "_of", "_services", "_under_way")

    def __init__(self, judges: ByKind) -> None:
        self._services = {kind: each.services for kind, each in judges.items() if each.services}
        self._of: dict[tuple[Kind, str], _Review] = {}
        # The questions that are under way, with whom they are about.
        self._under_way: dict[str, tuple[Kind, str]] = {}
        self._number = 0

    def __repr__(self) -> str:
        return f"<Reviews {self.chars} characters wait, {len(self._under_way)} questions under way>"

    def services(self, kind: Kind) -> tuple[Service, ...]:
        """Those that judge this kind of text."""
        return self._services.get(kind, ())

    @property
    def chars(self) -> int:
        """How many characters wait, of all speakers."""
        return sum(review.chars for review in self._of.values())

    @property
    def unjudged_chars(self) -> int:
        """How many of them were in no question that was answered."""
        return sum(review.unjudged_chars for review in self._of.values())

    @property
    def is_waiting(self) -> bool:
        """Somebody's text has not gone on yet."""
        return any(review.chars for review in self._of.values())

    @property
    def since(self) -> int | None:
        """The first packet of which something waits; None when nothing does."""
        waiting = [since for review in self._of.values() if (since := review.since) is not None]
        return min(waiting) if waiting else None

    @property
    def gather_s(self) -> float:
        """How long text is gathered between two questions."""
        return max(service.gather_s for services in self._services.values() for service in services)

    def mint(self) -> str:
        """The id of another question of this session."""
        self._number += 1
        return str(self._number)

    def take(self, releases: Iterable[Release], sequence: int) -> list[Release]:
        """Keeps what is to be judged, and gives the rest. `sequence`: the first packet of which something is in it."""
        rest = []
        for release in releases:
            if release.kind not in self._services:
                rest.append(release)
            elif release.text:
                self._review(release.kind, release.agent).take(release.text, release.step, sequence)
        return rest

    def close(self) -> None:
        """Nobody says anything more for now."""
        for review in self._of.values():
            review.close()

    def ask(self) -> list[TextQuestion]:
        """All that can be asked now."""
        questions = []
        for (kind, agent), review in self._of.items():
            if (asked := review.ask()) is not None:
                review_id = self.mint()
                self._under_way[review_id] = (kind, agent)
                questions.append(TextQuestion(review_id, kind, agent, *asked, self._services[kind]))
        return questions

    def about(self, review_id: str) -> tuple[Kind, str, int] | None:
        """Whom a question under way is about, and how many characters of that speaker's come before what is held; None:
        there is no such question any more."""
        key = self._under_way.get(review_id)
        return None if key is None else (*key, self._of[key].passed)

    def answered(self, review_id: str, spans: Iterable[Span]) -> Reviewed:
        """What was asked may go on, but for these stretches of it; raises KeyError for what is not under way."""
        kind, agent = self._under_way.pop(review_id)
        told, redacted = self._of[kind, agent].answered(spans)
        return Reviewed([Release(kind, text, agent, step) for text, step in told], redacted)

    def begin_anew(self, *, goes_on: bool) -> None:
        """Other speakers come, and what waited is gone. Where content `goes_on`, theirs is judged as what follows."""
        self._under_way.clear()
        for key, review in list(self._of.items()):
            review.drop()
            if not goes_on or key[0] != "content":
                del self._of[key]

    @property
    def marks(self) -> tuple[ReviewMark, ...]:
        """What waits, to be put back into another one."""
        return tuple(review.mark(kind, agent) for (kind, agent), review in self._of.items())

    def put_back(self, mark: ReviewMark) -> None:
        """Stands where another one stood, before anything was taken."""
        self._review(of_pieces(mark.kind), mark.agent).put_back(mark)

    def _review(self, kind: Kind, agent: str) -> _Review:
        review = self._of.get((kind, agent))
        if review is None:
            review = self._of[kind, agent] = _Review(self._services[kind])
        return review


def apart(spans: Iterable[Span]) -> list[Span]:
    """Stretches in order, those that overlap or touch made one, under the mark of the first."""
    told: list[Span] = []
    for span in sorted(spans):
        if told and span.begin <= told[-1].end:
            told[-1] = told[-1]._replace(end=max(told[-1].end, span.end))
        else:
            told.append(span)
    return told


def of_pieces(kind: str) -> Kind:
    """What comes in pieces is one of two."""
    return "thought" if kind == "thought" else "content"


def unreviewed(mark: ReviewMark) -> list[Release]:
    """What waited for services, where none is to judge it any more."""
    told, at = [], 0
    for end, step in mark.steps:
        if text := mark.held[at : end - mark.passed]:
            told.append(Release(of_pieces(mark.kind), text, mark.agent, step))
        at = end - mark.passed
    return told
