"""Reads what a user typed as wishes that the demo agent can fulfil: by rules alone, no model. Pure.

`read` finds wishes in a request, in the order in which they are written. `read_remark` tells the few words that
steer an answer under way. Both are generous about how things are put, and look no further than the first
TEXT_CHARS_MAX characters.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from commander.agents.sums import find_sums

TEXT_CHARS_MAX = 4_000
PLACE_CHARS_MAX = 60
COUNT_MAX = 10_000
LONG_STORY_CHAPTERS = 60
SHORT_STORY_CHAPTERS = 3


@dataclass(frozen=True, slots=True)
class Sum:
    """Something to calculate. Empty: it was not said what."""

    expression: str


@dataclass(frozen=True, slots=True)
class Time:
    """What time it is somewhere. Empty: it was not said where."""

    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """Words to search for in the texts. Empty: it was not said what."""

    words: str


@dataclass(frozen=True, slots=True)
class Count:
    """Numbers to say aloud, both ends included, upwards or downwards."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Story:
    """A story."""

    chapters: int


@dataclass(frozen=True, slots=True)
class Hello:
    """A greeting, or the question who is speaking."""


Wish = Sum | Time | Search | Count | Story | Hello


class Remark(Enum):
    """What a user says about an answer under way."""

    ENOUGH = "enough"
    FASTER = "faster"
    SLOWER = "slower"


def read(text: str) -> list[Wish]:
    """The wishes in a request. Empty: none was recognised."""
    # Runs of blanks would be walked again and again by patterns that allow for them.
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text[:TEXT_CHARS_MAX]))
    found = sorted(_found(text), key=lambda each: each.start)
    wishes: list[Wish] = []
    read_up_to = 0
    for each in found:
        # Of two readings of the same words the one that begins first has more of them.
        if each.start >= read_up_to and each.wish not in wishes:
            wishes.append(each.wish)
            read_up_to = each.end
    if any(isinstance(wish, Sum) and wish.expression for wish in wishes):
        wishes = [wish for wish in wishes if wish != Sum("")]
    # "Hello, what is 2+2?" is about the sum.
    return [wish for wish in wishes if not isinstance(wish, Hello)] or wishes


def read_remark(text: str) -> Remark | None:
    """What a message says about the answer under way; None when it is a request of its own."""
    if len(text) > PLACE_CHARS_MAX:
        return None
    plain = " ".join(re.findall(r"[a-z']+", text.casefold()))
    for pattern, remark in _REMARKS:
        if pattern.fullmatch(plain):
            return remark
    return None


def places_in(text: str) -> tuple[str, ...]:
    """The places that "Tokyo, Lisbon and New York right now" names, each once, in order."""
    places = []
    for piece in _BETWEEN_PLACES.split(" ".join(text[:TEXT_CHARS_MAX].split())):
        place = _AROUND_PLACE.sub("", piece.strip(" \t\"'“”‘’()")).strip()
        if not place:
            continue
        if not _PLACE.fullmatch(place) or _NO_PLACE.match(place):
            break  # another clause begins here
        places.append(place)
    return tuple(dict.fromkeys(places))


def search_words(text: str) -> str:
    """What is worth searching for of a text: its words without those that stand in every sentence."""
    words = re.findall(r"[^\W_][\w'-]*", text[:200].casefold())
    return " ".join(dict.fromkeys(word for word in words if not _EVERYWHERE.fullmatch(word)))


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    end: int
    wish: Wish


# Where one clause ends and the next may begin. Bounded in front of it, so that no pattern walks a text twice.
_CLAUSE_END = (
    r"(?=[?!;\n]|\.(?:\s|$)|,?\s+(?:and|then|also|but)\s+(?:then\s+|please\s+)?"
    r"(?:what|how|tell|count|calculate|compute|search|find|look|say|give|show|who|when)\b|$)"
)
_TIME = re.compile(
    r"\b(?:what(?:'s|’s|s)?(?:\s+is)?(?:\s+the)?(?:\s+(?:current|local|exact))?\s+(?:time|date|day)\b"
    r"|(?:tell|give|show)\s+(?:me\s+)?(?:the\s+)?(?:current\s+|local\s+)?(?:time|date)\b"
    r"|(?:the\s+)?(?:current\s+|local\s+)?(?:time|date)\s+(?:is\s+it|(?:right\s+)?now|(?=in\s))"
    r"|how\s+late\s+is\s+it\b|tell\s+the\s+time\b)"
    rf"([^?!;\n]{{0,200}}?){_CLAUSE_END}",
    re.IGNORECASE,
)
_WHERE = re.compile(r"(?:^|\s)(?:in|at|for)\s+(.*)", re.IGNORECASE | re.DOTALL)
_SEARCH = re.compile(
    r"\b(?:(?:what\s+)?(?:do|does|did)\s+(?:the|your|these|those)\s+(?:text|file|document|note|doc|source)s?\s+"
    r"(?:say|tell|know|have|mention)s?(?:\s+(?:about|on|of|regarding))?"
    r"|search(?:\s+(?:in\s+)?(?:the\s+|your\s+|all\s+)?(?:text|file|document|note|doc)s?)?(?:\s+(?:for|about)\b)?"
    r"|(?:look\s+(?:up|for)|find|grep)\b(?:\s+(?:in\s+)?the\s+(?:text|file|document|note|doc)s?\s+for\b)?"
    r"|(?:what|anything|something)\s+is\s+(?:written|said)\s+about)"
    rf"([^?!;\n]{{0,200}}?){_CLAUSE_END}",
    re.IGNORECASE,
)
_IN_THE_TEXTS = re.compile(
    r"\s+(?:in|of|from)\s+(?:the|your|all|these)\s+(?:text|file|document|note|doc|folder)s?\b.*",
    re.IGNORECASE,
)
_COUNT = re.compile(
    r"\bcount\s+(?:(?:up|down|aloud|out\s+loud|slowly|quickly|for\s+me)\s+)*(?:from\s+(\d{1,9})\s+)?"
    r"(?:down\s+|up\s+)?to\s+(\d{1,9}(?:,\d{3})*)(?!\w)",
    re.IGNORECASE,
)
_STORY = re.compile(r"\b(?:(very\s+long|long|endless)\s+)?(?:story|tale|fairy\s*tale)\b", re.IGNORECASE)
_CALCULATE = re.compile(
    r"\b(?:calculate|compute|do\s+(?:some|a|the)\s+(?:maths?|sum|arithmetic|calculation)s?)\b", re.IGNORECASE
)
_HELLO = re.compile(
    r"^\W*(?:hello|hi|hey|good\s+(?:morning|day|afternoon|evening)|greetings|help)\b"
    r"|\b(?:who|what)\s+are\s+you\b|\bwhat\s+can\s+you\s+do\b|\bare\s+you\s+(?:an?\s+)?"
    r"(?:language\s+model|llm|ai|bot|robot|human|real|chatgpt|machine)\b",
    re.IGNORECASE,
)

_BETWEEN_PLACES = re.compile(r"\s*(?:,|&|;|/(?=\s)|\band\b|\bor\b)\s*", re.IGNORECASE)
_AROUND_PLACE = re.compile(
    r"^(?:(?:also|both|either|in|at|for|the\s+city\s+of)\s+)+"
    r"|[\s,]*\b(?:(?:right\s+)?now|please|today|currently|at\s+the\s+moment|thanks?|thank\s+you)\b.*|[.:\s]+$",
    re.IGNORECASE,
)
_PLACE = re.compile(
    rf"(?=.{{1,{PLACE_CHARS_MAX}}}$)[^\W\d_][\w.'’/+-]*(?:\s+[^\W\d_][\w.'’/+-]*){{0,3}}", re.DOTALL
)
_NO_PLACE = re.compile(
    r"(?:what|how|who|when|where|why|tell|count|calculate|compute|search|find|look|then|that|which|my|me|it|you"
    r"|your|this|words|seconds|minutes|hours|general|total|case|short)\b",
    re.IGNORECASE,
)
_EVERYWHERE = re.compile(
    r"a|an|and|any|are|about|at|be|by|can|could|did|do|does|for|from|give|has|have|how|i|in|into|is|it|its|know"
    r"|like|me|my|no|not|of|on|or|please|say|says|so|some|tell|texts?|than|that|the|their|them|then|there|these"
    r"|they|this|those|to|up|us|was|we|were|what|when|where|which|who|why|will|with|words?|would|you|your"
)
_REMARKS = tuple(
    (
        re.compile(rf"(?:(?:ok|okay|please|well|no|now|hey)\s+)*(?:{words})(?:\s+(?:now|please|thanks))*"),
        remark,
    )
    for remark, words in {
        Remark.ENOUGH: (
            r"stop(?:\s+(?:it|here|there|that))?|(?:that(?:'s|\s+is)?\s+)?enough|thanks?(?:\s+you)?|no\s+more"
            r"|quit|cancel|never\s*mind|that\s+will\s+do|shut\s+up|be\s+quiet"
        ),
        Remark.FASTER: r"(?:a\s+bit\s+|much\s+|go\s+|speak\s+)*(?:faster|quicker|hurry(?:\s+up)?|speed\s+up)",
        Remark.SLOWER: r"(?:a\s+bit\s+|much\s+|go\s+|speak\s+)*(?:slower|slow\s+down|not\s+so\s+fast)",
    }.items()
)


def _found(text: str) -> Iterator[_Found]:
    """Every reading of every part, in no order; they may overlap."""
    sums = list(find_sums(text))
    for each in sums:
        yield _Found(each.start, each.end, Sum(each.expression))
    for match in _TIME.finditer(text):
        yield _time(match)
    for match in _SEARCH.finditer(text):
        words = _IN_THE_TEXTS.sub("", match[1])
        asked_at = match.end(1) - len(match[1].lstrip())
        if any(each.start == asked_at for each in sums):
            continue  # "find sqrt(2)" is no search
        yield _Found(match.start(), match.end(), Search(search_words(words)))
    for match in _COUNT.finditer(text):
        first, last = int(match[1] or 1), int(match[2].replace(",", ""))
        yield _Found(match.start(), match.end(), Count(first, last))
    for match in _STORY.finditer(text):
        chapters = LONG_STORY_CHAPTERS if match[1] else SHORT_STORY_CHAPTERS
        yield _Found(match.start(), match.end(), Story(chapters))
    for match in _CALCULATE.finditer(text):
        yield _Found(match.start(), match.end(), Sum(""))
    for match in _HELLO.finditer(text):
        yield _Found(match.start(), match.end(), Hello())


def _time(match: re.Match[str]) -> _Found:
    where = _WHERE.search(match[1])
    places = () if where is None else places_in(where[1])
    if where is None or not places:
        # What follows was about something else: it may be a wish of its own.
        return _Found(match.start(), match.start(1), Time(places))
    last = match[0].rindex(places[-1]) + len(places[-1])
    return _Found(match.start(), match.start() + last, Time(places))
