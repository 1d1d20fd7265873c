"""The policy file: rules on what is said, services that are asked about it, and prices of models, as data. TOML, in
tables with a name each.

    [rule.card]
    pattern = '\b[0-9]{13,19}\b'
    on = ["content", "thoughts", "user"]
    action = "redact"

Reads it, says what is wrong with it, and makes of it, with the deny patterns of the settings, the rule book that the
core judges by. Knows no session and keeps nothing: `policies.py` holds what is in force.
"""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dispatcher.core.rules import KINDS, ByKind, Judges, Kind, Price, RuleBook, Service
from dispatcher.patterns import PatternError, Patterns, compile_patterns, longest_match
from dispatcher.redaction import redacted_json
from dispatcher.tables import Reached, SecretError, Table, Word, secrets_of

FILE_BYTES_MAX: Final = 4_194_304
# Each agent that rules name has programs of its own.
AGENTS_MAX: Final = 100
MODEL_CHARS_MAX: Final = 256
SERVICES_MAX: Final = 16
HOLD_CHARS_MAX: Final = 4_096
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

Action = Literal["observe", "redact", "stop"]
On = Literal["content", "thoughts", "tool_calls", "tool_results", "questions", "user", "any"]
_KINDS: Final[Mapping[On, tuple[Kind, ...]]] = {
    "content": ("content",),
    "thoughts": ("thought",),
    "tool_calls": ("tool_call",),
    "tool_results": ("tool_result",),
    "questions": ("question",),
    "user": ("user",),
    "any": KINDS,
}
_SAID_BY_AGENTS: Final = frozenset(KINDS) - {"user"}


class PolicyFileError(Exception):
    """A policy file that can't be used. The message has a line for each problem: file, table, key, what is right."""


def _mark(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError(
            "should be something that can be seen: without a mark, what stands around it would join"
        )
    return text


class RuleTable(Table):
    """`[rule.NAME]`: what to look for, in what, and what to do about it."""

    pattern: Annotated[str, Field(min_length=1)] | None = None
    literals: list[Annotated[str, Field(min_length=1, max_length=1000)]] = Field(
        default_factory=list, max_length=1000
    )
    ignore_case: bool = False
    # Of literals: letters, digits or _ before or after are none of theirs.
    whole_words: bool = False
    # None: all that agents and tools say.
    on: list[On] | None = Field(default=None, min_length=1)
    # By the agent that the session is with. None: all.
    agents: list[Word] | None = Field(default=None, min_length=1, max_length=AGENTS_MAX)
    action: Action
    mark: Annotated[str, Field(max_length=200), AfterValidator(_mark)] = "[redacted]"

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.pattern is None) == (not self.literals):
            raise ValueError("should have either pattern, in RE2's syntax, or literals, a list of texts")
        if self.whole_words and self.pattern is not None:
            raise ValueError(r"whole_words is for literals; in a pattern \b says the same")
        if self.whole_words and not all(_is_word(text[0]) and _is_word(text[-1]) for text in self.literals):
            raise ValueError(
                "whole_words needs literals that begin and end with one of A to Z, a to z, 0 to 9 and _"
            )
        if self.action == "redact" and self.on is not None and "questions" in self.on:
            raise ValueError(
                "a question can't be redacted: leave questions out of on, and observe or stop them by another rule"
            )
        if self.action != "redact" and "mark" in self.model_fields_set:
            raise ValueError('mark is for action = "redact"')
        return self

    @property
    def source(self) -> str:
        """As one RE2 pattern."""
        source = self.pattern or "|".join(map(_literally, self.literals))
        if self.whole_words:
            source = rf"\b(?:{source})\b"
        return f"(?i:{source})" if self.ignore_case else source

    @property
    def kinds(self) -> frozenset[Kind]:
        if self.on is None:
            return _SAID_BY_AGENTS
        return frozenset(kind for word in self.on for kind in _KINDS[word])


def _is_word(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char == "_")


def _literally(text: str) -> str:
    return "".join(each if each.isalnum() else f"\\x{{{ord(each):x}}}" for each in text)


class PriceTable(Table):
    """`[price."MODEL"]`: dollars for a million tokens of a model, by the name that its usage bears."""

    input_dollars: float = Field(ge=0, le=1_000_000)
    output_dollars: float = Field(ge=0, le=1_000_000)
    # Reasoning tokens are some of the output tokens. None: the price of those.
    reasoning_dollars: float | None = Field(default=None, ge=0, le=1_000_000)

    @property
    def price(self) -> Price:
        reasoning = self.output_dollars if self.reasoning_dollars is None else self.reasoning_dollars
        return Price(self.input_dollars, self.output_dollars, reasoning)


class ServiceTable(Reached):
    """`[service.NAME]`: a service that is asked about what is said; policy.proto says how."""

    # None: content alone.
    on: list[On] | None = Field(default=None, min_length=1)
    # By the agent that the session is with. None: all.
    agents: list[Word] | None = Field(default=None, min_length=1, max_length=AGENTS_MAX)
    # For one question, the wait for a place among those under way included.
    deadline_s: float = Field(default=1.0, ge=0.01, le=60)
    on_failure: Literal["stop", "pass"] = "stop"
    # How much of what was judged is held back, to be judged together with what follows; and how much of what was let
    # pass a question brings along.
    hold_chars: int = Field(default=64, ge=0, le=HOLD_CHARS_MAX)
    before_chars: int = Field(default=512, ge=0, le=16_384)
    # Between two questions of one session about what comes in pieces.
    gather_s: float = Field(default=0.1, ge=0, le=10)
    concurrency: int = Field(default=64, ge=1, le=10_000)
    # So many failures in a row, and it is left alone for so long. 0: never.
    failures_max: int = Field(default=10, ge=0, le=10_000)
    open_s: float = Field(default=10.0, ge=0.05, le=3600)

    @property
    def kinds(self) -> frozenset[Kind]:
        """Statements come from everywhere and change nothing: nobody is asked about those."""
        on: Sequence[On] = self.on or ("content",)
        return frozenset(kind for word in on for kind in _KINDS[word] if kind != "statement")


TABLES: Final[Mapping[str, type[Table]]] = {"rule": RuleTable, "price": PriceTable, "service": ServiceTable}


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What a file says. `version` is the beginning of the SHA-256 of its bytes."""

    version: str = ""
    rules: Mapping[str, RuleTable] = field(default_factory=dict)
    prices: Mapping[str, PriceTable] = field(default_factory=dict)
    services: Mapping[str, ServiceTable] = field(default_factory=dict)


# --- reading ---------------------------------------------------------------------------------------------


def read_policy_file(path: Path, hold_chars_max: int) -> PolicyFile:
    """Raises PolicyFileError with every problem there is."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise PolicyFileError(f"{path}: has more than {FILE_BYTES_MAX:,} bytes")
        told = tomllib.loads(content.decode())
    except OSError as error:
        raise PolicyFileError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PolicyFileError(
            f"{path}: should be text in UTF-8: {error.reason} at byte {error.start}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise PolicyFileError(_no_toml(path, error)) from None
    problems: list[str] = []
    tables: dict[str, dict[str, Table]] = {kind: {} for kind in TABLES}
    for kind, named in told.items():
        if kind not in TABLES:
            problems.append(f"{kind}: there is no such table; {_near(kind, TABLES)}")
        else:
            tables[kind] = dict(_tables(kind, named, problems))
    rules = {name: table for name, table in tables["rule"].items() if isinstance(table, RuleTable)}
    problems += [
        problem for name, rule in rules.items() for problem in _wrong_rule(name, rule, hold_chars_max)
    ]
    services = {name: table for name, table in tables["service"].items() if isinstance(table, ServiceTable)}
    problems += [problem for name, service in services.items() for problem in _wrong_service(name, service)]
    if not problems:
        problems += _wrong_together(rules, services)
    if problems:
        raise PolicyFileError("\n".join(f"{path}: {problem}" for problem in problems))
    prices = {name: table for name, table in tables["price"].items() if isinstance(table, PriceTable)}
    return PolicyFile(hashlib.sha256(content).hexdigest()[:12], rules, prices, services)


def _no_toml(path: Path, error: Exception) -> str:
    twice = re.match(r"Cannot declare \('(\w+)', '([^']*)'\) twice(.*)", str(error))
    if twice is not None:
        kind, name, where = twice.groups()
        return f"{path}: {kind}.{name}: stands twice{where}; each needs a name of its own"
    return f"{path}: is not TOML: {error}"


def _tables(kind: str, told: object, problems: list[str]) -> Iterator[tuple[str, Table]]:
    if not isinstance(told, dict) or not all(isinstance(each, dict) for each in told.values()):
        problems.append(f"{kind}: should be tables with a name each, e.g. [{kind}.mine]")
        return
    for name, values in told.items():
        if kind != "price" and not _NAME.fullmatch(name):
            problems.append(f"{kind}.{name}: its name should have 1 to 64 letters, digits, _ and -")
            continue
        if kind == "price" and not (0 < len(name) <= MODEL_CHARS_MAX and name.isprintable()):
            problems.append(
                f"{kind}.{name!r}: should be the name of a model, up to {MODEL_CHARS_MAX} characters"
            )
            continue
        try:
            yield name, TABLES[kind].model_validate(values)
        except ValidationError as error:
            known = TABLES[kind].model_fields
            problems += [f"{kind}.{name}{_wrong(each, known)}" for each in error.errors(include_url=False)]


def _wrong(error: ErrorDetails, known: Iterable[str]) -> str:
    key = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return f"{key}: there is no such key; {_near(str(error['loc'][-1]), known)}"
        case "missing":
            return f"{key}: is missing"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
    return f"{key}: {error['msg'].removeprefix('Input ')}"


def _near(told: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(told, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _wrong_rule(name: str, rule: RuleTable, hold_chars_max: int) -> Iterator[str]:
    key = f"rule.{name}.{'pattern' if rule.pattern is not None else 'literals'}"
    try:
        longest = longest_match(name, rule.source)
    except PatternError as error:
        yield f"{key}: {str(error).removeprefix(f'pattern {name!r}: ')}"
        return
    if rule.action == "redact" and (longest is None or longest > hold_chars_max):
        how_long = "without end" if longest is None else f"up to {longest:,} characters"
        yield (
            f"{key}: may match {how_long}, and what is to be redacted is held back for as long: at most "
            f"{hold_chars_max:,} (deny_hold_chars_max) are right, e.g. {{1,64}} in place of +"
        )


def _wrong_service(name: str, service: ServiceTable) -> Iterator[str]:
    try:
        secrets_of(service.headers, f"service.{name}.headers")
    except SecretError as error:
        yield str(error)


def _named_agents(rules: Mapping[str, RuleTable], services: Mapping[str, ServiceTable]) -> set[str]:
    named = [rule.agents for rule in rules.values()] + [service.agents for service in services.values()]
    return {agent for agents in named for agent in agents or ()}


def _wrong_together(rules: Mapping[str, RuleTable], services: Mapping[str, ServiceTable]) -> Iterator[str]:
    for name in sorted(rules.keys() & services.keys()):
        yield f"service.{name}: a rule has that name too, and the audit trail tells of both; choose another"
    if len(services) > SERVICES_MAX:
        yield f"service: there are {len(services)}; at most {SERVICES_MAX} are right"
    agents = _named_agents(rules, services)
    if len(agents) > AGENTS_MAX:
        yield f"rule: all rules and services together name {len(agents)} agents; at most {AGENTS_MAX} are right"
        return
    for action in ("stop", "redact", "observe"):
        sources = {name: rule.source for name, rule in rules.items() if rule.action == action}
        try:
            patterns = compile_patterns(sources) if sources else None
        except PatternError as error:
            yield f"rule: those with action {action}: {error}"
            continue
        if action != "redact" or patterns is None:
            continue
        for name in sources:
            seen = patterns.scan(rules[name].mark, 0, True)
            if seen is not None and seen.match >= 0:
                yield f"rule.{name}.mark: rule {seen.pattern} matches it; choose another"


# --- the rule book ---------------------------------------------------------------------------------------


def rule_book(file: PolicyFile, deny: Mapping[str, str], *, deny_stops: bool) -> RuleBook:
    """The rules of the file, and patterns by name for all that agents and tools say. Raises PatternError."""
    compiled: dict[tuple[str, ...], Patterns | None] = {(): None}
    asked = {
        name: Service(
            name, table.on_failure == "pass", table.hold_chars, table.before_chars, table.gather_s, table
        )
        for name, table in file.services.items()
    }

    def compile_once(sources: Mapping[str, str]) -> Patterns | None:
        names = tuple(sources)
        if names not in compiled:
            compiled[names] = compile_patterns(sources)
        return compiled[names]

    def judges(kind: Kind, agent: str) -> Judges:
        def of(action: Action) -> Patterns | None:
            sources = {
                name: rule.source
                for name, rule in file.rules.items()
                if rule.action == action
                and kind in rule.kinds
                and (rule.agents is None or agent in rule.agents)
            }
            if kind in _SAID_BY_AGENTS and action == ("stop" if deny_stops else "observe"):
                sources |= deny
            return compile_once(sources)

        services = [
            asked[name]
            for name, table in file.services.items()
            if kind in table.kinds and (table.agents is None or agent in table.agents)
        ]
        return Judges(of("stop"), of("redact"), of("observe"), tuple(services))

    def by_kind(agent: str) -> ByKind:
        found = {kind: judges(kind, agent) for kind in KINDS}
        return {kind: judges for kind, judges in found.items() if any(judges)}

    agents = _named_agents(file.rules, file.services)
    return RuleBook(
        file.version,
        frozenset(file.rules),
        {name: rule.mark for name, rule in file.rules.items() if rule.action == "redact"},
        {agent: by_kind(agent) for agent in sorted(agents)},
        by_kind(""),
        redacted_json,
        {model: table.price for model, table in file.prices.items()},
    )
