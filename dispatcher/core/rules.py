"""What the text of a session is judged by: of each kind of text what stops it, what is replaced, what is only told of.

A rule book is made outside, from settings and the policy file (`policy_file.py`), and never changes: another one takes
its place. A session keeps the one that it began with. Knows matchers, no pattern language and no text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from dispatcher.core.holdback import Matcher, Spot

# Content and thoughts come in pieces. All else comes whole: a call's name and arguments, a result, a question, what the
# user says, and as a statement whatever people may read besides: errors, progress, news of sub-agents, names.
Kind = Literal["content", "thought", "tool_call", "tool_result", "question", "user", "statement"]
KINDS: Final[tuple[Kind, ...]] = (
    "content",
    "thought",
    "tool_call",
    "tool_result",
    "question",
    "user",
    "statement",
)
# In words, for people.
WORDS: Final[Mapping[Kind, str]] = {"tool_call": "tool call", "tool_result": "tool result", "user": "message"}


class Service(NamedTuple):
    """One that is asked about text, by its name in the policy file. `fails_open`: what it has not judged goes on, and
    is told of. See `review.py` for how much is asked at once, in characters, and how often, in seconds. `place` is
    where it is; the core hands it on unopened."""

    name: str
    fails_open: bool
    hold_chars: int
    before_chars: int
    gather_s: float
    place: object = None


class Span(NamedTuple):
    """A stretch of a text, and what stands in its place."""

    begin: int
    end: int
    mark: str


class Judged(NamedTuple):
    """What a service has said of a text. `label`: what it has found, or why it has `failed`. `redacted`: its marks
    stand there already."""

    service: Service
    action: Literal["pass", "observe", "redact", "redacted", "deny", "stop", "failed"]
    label: str = ""
    spans: tuple[Span, ...] = ()


class Judges(NamedTuple):
    """Those of one kind of text; None where there is nothing to look for, and nobody to ask."""

    stop: Matcher | None = None
    redact: Matcher | None = None
    observe: Matcher | None = None
    services: tuple[Service, ...] = ()


NOTHING: Final = Judges()
ByKind = Mapping[Kind, Judges]


def said_by_agents(judges: Judges) -> ByKind:
    """The same for all that agents and tools say, and nothing for what the user says."""
    return dict.fromkeys((kind for kind in KINDS if kind != "user"), judges) if any(judges) else {}


class Finding(NamedTuple):
    """A spot in somebody's text. `spot` None: there are more speakers than can be looked at. `redacted`: a mark stands
    in its place."""

    kind: Kind
    agent: str
    spot: Spot | None
    enforced: bool
    redacted: bool = False


# A text with its marks, and what they stand for.
Redact = Callable[[str], tuple[str, list[Finding]]]
# The same for JSON, which shall stay JSON: how a text in it is redacted, and what stands for a finding where all has
# to go. The core knows no JSON.
RedactJson = Callable[[str, Redact, Callable[[Finding], str]], tuple[str, list[Finding]]]


def _as_text(text: str, redact: Redact, _: Callable[[Finding], str]) -> tuple[str, list[Finding]]:
    return redact(text)


class Price(NamedTuple):
    """Of a million tokens of a model, in dollars. Reasoning tokens are some of the output tokens, at a price of their
    own."""

    input: float
    output: float
    reasoning: float

    def of(self, input_tokens: int, output_tokens: int, reasoning_tokens: int) -> float:
        reasoning_tokens = min(reasoning_tokens, output_tokens)
        spoken = (output_tokens - reasoning_tokens) * self.output + reasoning_tokens * self.reasoning
        return (input_tokens * self.input + spoken) / 1_000_000


@dataclass(frozen=True, slots=True)
class RuleBook:
    """`version` names the file's content. `marks` stand in place of what the patterns of these names match; `names` are
    those of the file's rules: other patterns are those of the settings. `of_agents` is by the agent that a session is
    with, `of_others` for all that are not in there. `prices` are by model; without any, nothing is
    said of costs."""

    version: str = ""
    names: frozenset[str] = frozenset()
    marks: Mapping[str, str] = field(default_factory=dict)
    of_agents: Mapping[str, ByKind] = field(default_factory=dict)
    of_others: ByKind = field(default_factory=dict)
    redact_json: RedactJson = _as_text
    prices: Mapping[str, Price] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<RuleBook {self.version or 'of settings'}, {len(self.names)} rules>"

    def judges(self, agent: str) -> ByKind:
        return self.of_agents.get(agent, self.of_others)
