"""Verdicts on what passes: limits in numbers and time, and text that must never leave.

Owns what one session has used, and the windows in which its text waits to be judged (`windows.py`).
Reads no clock, arms no timer, ends nothing: it gives verdicts, packet by packet and in order, to `intake.py`, and
deadlines to the router.

It fails closed: text that is possibly a match for too long is a violation, and so is text of more speakers
than can be looked at. Violations bear names and numbers, never text.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from math import inf
from typing import Final, Literal, NamedTuple

from dispatcher.core.endings import Ending
from dispatcher.core.holdback import Matcher
from dispatcher.core.mark import GuardMark
from dispatcher.core.packets import StopCode, Usage
from dispatcher.core.review import Reviews, apart, of_pieces, unreviewed
from dispatcher.core.rules import (
    NOTHING,
    WORDS,
    ByKind,
    Finding,
    Judged,
    Judges,
    Kind,
    RuleBook,
    Span,
    said_by_agents,
)
from dispatcher.core.windows import OBSERVED_MAX, Outcome, Release, Windows


class Mode(Enum):
    """What a violation does: it stops the session, it is only told of, a mark stands in its place, or a call comes to
    nothing. The last two are for the policy file alone."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    REDACT = "redact"
    DENY = "deny"


class Policy(Enum):
    """A rule; the value is its one name in settings, stops, metrics and logs."""

    CONTENT_CHARS = "content_chars_max"
    THOUGHT_CHARS = "thought_chars_max"
    TOOL_CALLS = "tool_calls_max"
    REPEATED_CALLS = "repeated_calls_max"
    SESSION_COST = "session_cost_dollars_max"
    USER_COST = "user_cost_dollars_max"
    UNPRICED = "unpriced_models"
    OUTPUT_TOKENS = "output_tokens_max"
    TOTAL_TIME = "total_time_s"
    FIRST_TOKEN = "first_token_s"  # noqa: S105 - a name, not a password
    DENY = "deny_patterns"
    RULE = "policy_file"
    SERVICE = "policy_service"
    SERVICE_FAILED = "policy_service_failed"
    DENY_HOLD = "deny_hold_chars_max"
    DENY_SPEAKERS = "deny_speakers_max"

    @property
    def ending(self) -> Ending:
        """How a session ends that it stops."""
        return MEANINGS[self].ending

    @property
    def stop_code(self) -> StopCode:
        """Why that session's commander is told to stop."""
        return MEANINGS[self].stop_code


class Meaning(NamedTuple):
    """What breaking a rule means: to the session, to its commander, and in words."""

    ending: Ending
    stop_code: StopCode
    says: str


MEANINGS: Final[dict[Policy, Meaning]] = {
    Policy.CONTENT_CHARS: Meaning(Ending.LIMIT_EXCEEDED, "limit", "more than {limit} characters of content"),
    Policy.THOUGHT_CHARS: Meaning(Ending.LIMIT_EXCEEDED, "limit", "more than {limit} characters of thoughts"),
    Policy.TOOL_CALLS: Meaning(Ending.LIMIT_EXCEEDED, "limit", "more than {limit} tool calls"),
    Policy.REPEATED_CALLS: Meaning(
        Ending.LIMIT_EXCEEDED,
        "limit",
        "more than {limit} times the same tool call with the same arguments; {agent} is likely in a loop",
    ),
    Policy.SESSION_COST: Meaning(
        Ending.LIMIT_EXCEEDED,
        "limit",
        "it has cost more than {limit} dollars, by the prices of the policy file",
    ),
    Policy.USER_COST: Meaning(
        Ending.LIMIT_EXCEEDED, "limit", "its user has spent more than {limit} dollars in the time that counts"
    ),
    Policy.UNPRICED: Meaning(
        Ending.LIMIT_EXCEEDED, "limit", "it uses a model that the policy file has no price for; give it one"
    ),
    Policy.OUTPUT_TOKENS: Meaning(Ending.LIMIT_EXCEEDED, "limit", "more than {limit} output tokens"),
    Policy.TOTAL_TIME: Meaning(Ending.DEADLINE_EXCEEDED, "limit", "not done after {limit} s"),
    Policy.FIRST_TOKEN: Meaning(Ending.DEADLINE_EXCEEDED, "limit", "no first token after {limit} s"),
    Policy.DENY: Meaning(
        Ending.POLICY_BLOCKED,
        "policy_violation",
        "pattern {pattern!r} matches the {kind} of {agent} from character {at} on",
    ),
    Policy.RULE: Meaning(
        Ending.POLICY_BLOCKED,
        "policy_violation",
        "rule {pattern!r} matches the {kind} of {agent} from character {at} on",
    ),
    Policy.SERVICE: Meaning(
        Ending.POLICY_BLOCKED, "policy_violation", "service {pattern!r} judges the {kind} of {agent}: {label}"
    ),
    Policy.SERVICE_FAILED: Meaning(
        Ending.POLICY_UNAVAILABLE,
        "policy_violation",
        "service {pattern!r} has not judged the {kind} of {agent}: {label}",
    ),
    Policy.DENY_HOLD: Meaning(
        Ending.POLICY_BLOCKED,
        "policy_violation",
        "the {kind} of {agent} may match from character {at} on, and {limit} more did not decide it",
    ),
    Policy.DENY_SPEAKERS: Meaning(
        Ending.POLICY_BLOCKED, "policy_violation", "more than {limit} texts at once have to be looked at"
    ),
}


# Calls of an attempt that are counted, each for itself; of more, those that are new are not.
CALLS_KNOWN_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a request allows itself; None: nothing said. Enforced, and only ever tighter than the limit."""

    content_chars: int | None = None
    thought_chars: int | None = None
    tool_calls: int | None = None
    output_tokens: int | None = None
    total_time_s: float | None = None
    first_token_s: float | None = None

    def within(self, others: "Budgets") -> "Budgets":
        """The tighter one of each."""
        tighter = {}
        for one in fields(self):
            said = [
                value for value in (getattr(self, one.name), getattr(others, one.name)) if value is not None
            ]
            tighter[one.name] = min(said) if said else None
        return Budgets(**tighter)


@dataclass(frozen=True, slots=True)
class PolicyLimits:
    """What a session may do. Characters are code points. Seconds count from its opening, those to the first token
    from when a commander took it; `inf` is no deadline. `deny` is enforced, `deny_observed` only
    told of, in all that agents and tools say; where there are `rules`, these alone count. Raises ValueError naming the
    field."""

    content_chars_max: int = 2_000_000
    content_chars_mode: Mode = Mode.ENFORCE
    thought_chars_max: int = 4_000_000
    thought_chars_mode: Mode = Mode.ENFORCE
    tool_calls_max: int = 200
    tool_calls_mode: Mode = Mode.ENFORCE
    # The same call with the same arguments, in one attempt; 0: as often as it likes.
    repeated_calls_max: int = 20
    repeated_calls_mode: Mode = Mode.OBSERVE
    # By the prices of the rule book; `inf` is no limit. A mode of None for what has no price: it is free.
    session_cost_dollars_max: float = inf
    session_cost_mode: Mode = Mode.ENFORCE
    user_cost_dollars_max: float = inf
    user_cost_window_s: float = 86_400.0
    user_cost_mode: Mode = Mode.ENFORCE
    unpriced_mode: Mode | None = Mode.OBSERVE
    output_tokens_max: int = 10_000_000
    output_tokens_mode: Mode = Mode.ENFORCE
    total_time_s: float = 3_600.0
    total_time_mode: Mode = Mode.ENFORCE
    first_token_s: float = 600.0
    first_token_mode: Mode = Mode.ENFORCE
    # How long a match may stay possible without being certain, and how many texts are looked at at once.
    deny_hold_chars_max: int = 1_024
    deny_speakers_max: int = 1_000
    deny: Matcher | None = None
    deny_observed: Matcher | None = None
    rules: RuleBook | None = None

    @property
    def book(self) -> RuleBook:
        if self.rules is not None:
            return self.rules
        return RuleBook(of_others=said_by_agents(Judges(stop=self.deny, observe=self.deny_observed)))

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.endswith("_s") and not value > 0:
                raise ValueError(f"{one.name}: must be more than 0 seconds, is {value}")
            least = 1 if one.name.startswith("deny_") else 0
            if one.name.endswith("_max") and not value >= least:
                raise ValueError(f"{one.name}: must be at least {least}, is {value}")


class Violation(NamedTuple):
    """A rule that was broken.

    `limit` is what was allowed. For text, `pattern` is the name of the pattern, the rule or the service, `kind` and
    `agent` say whose text, and `at` from which of its characters on, counted from 0. `label`: what a service says.
    """

    policy: Policy
    mode: Mode
    limit: float = 0
    pattern: str = ""
    kind: Kind = "content"
    agent: str = ""
    at: int = 0
    label: str = ""

    @property
    def action(self) -> Literal["observe", "redact", "deny", "stop", "failed_open"]:
        """What is done about it, in the audit trail's word."""
        if self.policy is Policy.SERVICE_FAILED and self.mode is Mode.OBSERVE:
            return "failed_open"
        return _ACTIONS[self.mode]

    @property
    def message(self) -> str:
        """For people."""
        whose = f"agent {self.agent!r}" if self.agent else "the user" if self.kind == "user" else "the agent"
        says = MEANINGS[self.policy].says.format(
            limit=f"{self.limit:,.10g}",
            pattern=self.pattern,
            kind=WORDS.get(self.kind, self.kind),
            agent=whose,
            at=self.at,
            label=self.label,
        )
        return f"{self.policy.value}: {says}"


_ACTIONS: Final[dict[Mode, Literal["observe", "redact", "deny", "stop"]]] = {
    Mode.ENFORCE: "stop",
    Mode.OBSERVE: "observe",
    Mode.REDACT: "redact",
    Mode.DENY: "deny",
}
# What can come to nothing without the session.
_DENIABLE: Final = frozenset({"tool_call", "tool_result"})


class Verdict(NamedTuple):
    """What goes on, in order; which rules were broken; and the one that ends the session, if one does.

    `whole` is true of PASS alone: the packet goes on as it is, there is nothing else to do. Otherwise only
    `releases` go on: less than the packet's text, or more, since what was held may come before it.
    """

    whole: bool
    releases: tuple[Release, ...]
    violations: tuple[Violation, ...]
    stop: Violation | None


PASS: Final = Verdict(True, (), (), None)


class _Bound:
    """One limit. It may be two numbers: a budget is enforced though the limit it tightens is observed."""

    __slots__ = ("_enforce_at", "_observe_at", "_policy")

    def __init__(self, policy: Policy, limit: float, mode: Mode, budget: float | None) -> None:
        self._policy = policy
        self._observe_at = limit if mode is Mode.OBSERVE else inf
        self._enforce_at = min(limit if mode is Mode.ENFORCE else inf, inf if budget is None else budget)

    @property
    def free(self) -> float:
        """Up to here there is nothing to tell."""
        return min(self._observe_at, self._enforce_at)

    @property
    def enforced(self) -> float:
        """Beyond this the session ends."""
        return self._enforce_at

    def over(self, count: int) -> int:
        """By how much an enforced limit is exceeded."""
        return max(0, count - int(self._enforce_at)) if self._enforce_at < inf else 0

    def exceeded(self, count: float) -> list[Violation]:
        return self._tell(count > self._observe_at, count > self._enforce_at)

    def due(self, now: float, started_at: float) -> list[Violation]:
        # Compared as `next_deadline` adds it up, so that a timer set to that finds its deadline due.
        return self._tell(now >= started_at + self._observe_at, now >= started_at + self._enforce_at)

    def _tell(self, observe: bool, enforce: bool) -> list[Violation]:
        told = []
        if observe:
            told.append(Violation(self._policy, Mode.OBSERVE, self._observe_at))
            self._observe_at = inf
        if enforce:
            told.append(Violation(self._policy, Mode.ENFORCE, self._enforce_at))
        return told


def _covers(apart_spans: Sequence[Span], span: Span) -> bool:
    """One of these, which are in order and apart from each other, has some of it."""
    at = bisect_left(apart_spans, span.end, key=_begin) - 1
    return at >= 0 and apart_spans[at].end > span.begin


def _begin(span: Span) -> int:
    return span.begin


def _left(bound: _Bound, used: int) -> int | None:
    return None if bound.enforced == inf else max(0, int(bound.enforced) - used)


class Guard:
    """Counts and judges one session. After a verdict with a `stop` every later one repeats it and releases
    nothing."""

    __slots__ = (
        "_book",
        "_calls",
        "_content",
        "_content_free",
        "_content_windows",
        "_cut_at",
        "_first_token",
        "_hold_chars_max",
        "_output_tokens",
        "_repeated_calls",
        "_services_told",
        "_session_cost",
        "_speakers_max",
        "_stopped",
        "_thought_free",
        "_thought_windows",
        "_thoughts",
        "_tool_calls",
        "_total_time",
        "_unpriced_mode",
        "_user_cost",
        "_windows",
        "content_chars",
        "cost_dollars",
        "reviews",
        "thought_chars",
        "tool_calls",
    )

    def __init__(self, limits: PolicyLimits, budgets: Budgets | None = None, agent: str = "") -> None:
        own = budgets or Budgets()
        self._content = _Bound(
            Policy.CONTENT_CHARS, limits.content_chars_max, limits.content_chars_mode, own.content_chars
        )
        self._thoughts = _Bound(
            Policy.THOUGHT_CHARS, limits.thought_chars_max, limits.thought_chars_mode, own.thought_chars
        )
        self._tool_calls = _Bound(
            Policy.TOOL_CALLS, limits.tool_calls_max, limits.tool_calls_mode, own.tool_calls
        )
        self._repeated_calls = _Bound(
            Policy.REPEATED_CALLS, limits.repeated_calls_max or inf, limits.repeated_calls_mode, None
        )
        self._calls: dict[str, int] = {}
        self._session_cost = _Bound(
            Policy.SESSION_COST, limits.session_cost_dollars_max, limits.session_cost_mode, None
        )
        self._user_cost = _Bound(Policy.USER_COST, limits.user_cost_dollars_max, limits.user_cost_mode, None)
        self._unpriced_mode = limits.unpriced_mode
        self.cost_dollars = 0.0
        self._output_tokens = _Bound(
            Policy.OUTPUT_TOKENS, limits.output_tokens_max, limits.output_tokens_mode, own.output_tokens
        )
        self._total_time = _Bound(
            Policy.TOTAL_TIME, limits.total_time_s, limits.total_time_mode, own.total_time_s
        )
        self._first_token = _Bound(
            Policy.FIRST_TOKEN, limits.first_token_s, limits.first_token_mode, own.first_token_s
        )
        self._hold_chars_max = limits.deny_hold_chars_max
        self._speakers_max = limits.deny_speakers_max
        self._book = limits.book
        judges = self._book.judges(agent)
        # None where nobody looks for anything.
        self._windows: Windows | None = None
        if any(map(any, judges.values())):
            self._windows = self._all_windows(judges)
        # Where services judge anything.
        self.reviews = Reviews(judges) if any(each.services for each in judges.values()) else None
        self._services_told = OBSERVED_MAX
        self._content_windows = self._windows if any(judges.get("content", NOTHING)) else None
        self._thought_windows = self._windows if any(judges.get("thought", NOTHING)) else None
        self._stopped: Verdict | None = None
        self._cut_at: int | None = None  # the packet of which something will never be released
        # What was received, in characters and calls.
        self.content_chars = 0
        self.thought_chars = 0
        self.tool_calls = 0
        # Counts up to which text is a matter of patterns alone.
        self._content_free = -1.0
        self._thought_free = -1.0
        self._free()

    def __repr__(self) -> str:
        how = (
            f"stopped by {self._stopped.stop.policy.value}"
            if self._stopped and self._stopped.stop
            else "open"
        )
        return (
            f"<Guard {how}, {self.content_chars} + {self.thought_chars} characters, {self.tool_calls} calls>"
        )

    def content(self, text: str, sequence: int, agent: str = "") -> Verdict:
        """Judges a piece of the answer, the next of this agent; `sequence` is its packet's."""
        self.content_chars = chars = self.content_chars + len(text)
        if chars <= self._content_free:
            if self._content_windows is None:
                return PASS
            out = self._content_windows.take("content", text, sequence, agent, "")
            return PASS if out is None else self._verdict(out, [], sequence)
        return self._text(self._content, chars, "content", text, sequence, agent, "")

    def thought(self, text: str, sequence: int, agent: str = "", step: str = "") -> Verdict:
        """Judges a piece of reasoning. Where `step` is another than before, the step before ends."""
        self.thought_chars = chars = self.thought_chars + len(text)
        if chars <= self._thought_free:
            if self._thought_windows is None:
                return PASS
            out = self._thought_windows.take("thought", text, sequence, agent, step)
            return PASS if out is None else self._verdict(out, [], sequence)
        return self._text(self._thoughts, chars, "thought", text, sequence, agent, step)

    def statement(
        self, text: str, sequence: int, agent: str = "", kind: Kind = "statement", *, rewritten: bool = False
    ) -> Verdict:
        """Judges text that comes whole in one packet, e.g. a question's: it goes on unless there is a `stop`.
        `rewritten`: marks are put into it where rules want them, see `rewrite`."""
        if self._stopped is not None or self._windows is None or not text:
            return self._stopped or PASS
        out = self._windows.state(text, sequence, agent, kind, rewritten=rewritten)
        return self._verdict(out, [], sequence) if out.findings else PASS

    def rewrite(self, text: str, agent: str, kind: Kind, *, is_json: bool) -> tuple[str, Verdict]:
        """A text that comes whole with the marks that rules want in it."""
        windows = self._windows
        if self._stopped is not None or windows is None or not text:
            return text, PASS

        def redact(part: str) -> tuple[str, list[Finding]]:
            return windows.redact(part, agent, kind)

        if is_json:
            text, findings = self._book.redact_json(text, redact, self._mark)
        else:
            text, findings = redact(text)
        told = windows.to_tell(findings)
        return text, self._verdict(Outcome([], told), []) if told else PASS

    def tool_call(self) -> Verdict:
        """Judges one more tool call; with a `stop` it is not to be run."""
        self.tool_calls += 1
        return self._told(self._tool_calls.exceeded(self.tool_calls))

    def repeated(self, call: str, agent: str = "") -> Verdict:
        """Judges a call that was not asked before under its id; `call` is the same for the same name and arguments."""
        count = self._calls.get(call, 0) + 1
        if count > 1 or len(self._calls) < CALLS_KNOWN_MAX:
            self._calls[call] = count
        told = self._repeated_calls.exceeded(count)
        return self._told([violation._replace(agent=agent) for violation in told])

    def used(self, output_tokens: int) -> Verdict:
        """Judges what the session has used so far, all in all."""
        return self._told(self._output_tokens.exceeded(output_tokens))

    def price(self, usage: Usage) -> tuple[float | None, Verdict]:
        """What was used costs so many dollars; None where nobody knows, which is judged."""
        prices = self._book.prices
        price = prices.get(usage.model)
        if price is not None:
            return price.of(usage.input_tokens, usage.output_tokens, usage.reasoning_tokens), PASS
        mode = self._unpriced_mode
        if not prices or mode is None or not (usage.input_tokens or usage.output_tokens):
            return None, PASS
        if mode is Mode.OBSERVE:
            # Once is enough.
            self._unpriced_mode = None
        return None, self._told([Violation(Policy.UNPRICED, mode)])

    def spent(self, dollars: float, by_user: float) -> Verdict:
        """Judges what the session costs with so many more, and what its user has spent in all."""
        self.cost_dollars += dollars
        told = self._session_cost.exceeded(self.cost_dollars)
        return self._told(told + self._user_cost.exceeded(by_user))

    def told_below(self, kind: Kind, chars: int) -> Verdict:
        """Counts text of a delegated session, which that one's guard has judged. With a `stop` it is not to be told."""
        if kind == "content":
            bound, free = self._content, self._content_free
            self.content_chars = count = self.content_chars + chars
        else:
            bound, free = self._thoughts, self._thought_free
            self.thought_chars = count = self.thought_chars + chars
        if count <= free:
            return PASS
        told = bound.exceeded(count)
        self._free()
        return self._told(told)

    def left(self, spent_s: float, output_tokens: int) -> Budgets:
        """What may still be used, as far as that is enforced, after so many seconds and tokens."""
        return Budgets(
            content_chars=_left(self._content, self.content_chars),
            thought_chars=_left(self._thoughts, self.thought_chars),
            tool_calls=_left(self._tool_calls, self.tool_calls),
            output_tokens=_left(self._output_tokens, output_tokens),
            total_time_s=None if self.total_time_s == inf else max(0.0, self.total_time_s - spent_s),
        )

    def next_deadline(self, opened_at: float, silent_since: float | None) -> float | None:
        """When `time_passed` next has something to tell; None: never. `silent_since`: when the commander took the
        session from which no token has come yet; None where one has, or none has taken it."""
        due = opened_at + self._total_time.free
        if silent_since is not None:
            due = min(due, silent_since + self._first_token.free)
        return None if due == inf or self._stopped is not None else due

    def time_passed(self, now: float, opened_at: float, silent_since: float | None) -> Verdict:
        """Judges how long it takes."""
        told = [] if silent_since is None else self._first_token.due(now, silent_since)
        return self._told(told + self._total_time.due(now, opened_at))

    @property
    def total_time_s(self) -> float:
        """How long it may take in all, as far as that is enforced; `inf`: for ever."""
        return self._total_time.enforced

    def finish(self) -> Verdict:
        """The session ends by itself: all text is judged as it stands, and what was held goes on."""
        if self._stopped is not None or self._windows is None:
            return self._stopped or PASS
        out, first = Outcome(), self._windows.since
        self._windows.finish(out)
        return self._verdict(out, [], first=first or 0) if out.releases or out.findings else PASS

    # --- services ----------------------------------------------------------------------------------------

    def would_stop(self, text: str, agent: str, kind: Kind) -> bool:
        """Rules stop the session for a text that comes whole, so nobody need be asked."""
        return self._windows is not None and self._windows.state(text, 0, agent, kind, rewritten=True).blocked

    def answered(self, review_id: str, judged: Sequence[Judged]) -> Verdict:
        """Services have judged what was asked of `reviews`: it goes on, or the session ends."""
        about = None if self.reviews is None else self.reviews.about(review_id)
        if self._stopped is not None or self.reviews is None or about is None:
            return self._stopped or PASS
        kind, agent, at = about
        told = self._found(judged, kind, agent, at)
        if any(one.mode is Mode.ENFORCE for one in told):
            return self._verdict(Outcome(), told)
        spans = [span for each in judged if each.action == "redact" for span in each.spans]
        releases, redacted = self.reviews.answered(review_id, apart(spans))
        wanted = [(each.service.name, apart(each.spans)) for each in judged if each.action == "redact"]
        for position, span in redacted:
            name = next(name for name, their_spans in wanted if _covers(their_spans, span))
            told.append(Violation(Policy.SERVICE, Mode.REDACT, 0, name, kind, agent, position))
        told = self._to_tell(told)
        return Verdict(False, tuple(releases), tuple(told), None)

    def judged(self, judged: Sequence[Judged], kind: Kind, agent: str) -> Verdict:
        """Services have judged a text that comes whole. A violation of the mode DENY: that call comes to nothing."""
        if self._stopped is not None:
            return self._stopped
        return self._told(self._to_tell(self._found(judged, kind, agent, 0)))

    def _found(self, judged: Sequence[Judged], kind: Kind, agent: str, at: int) -> list[Violation]:
        """What services say of a text besides what is to be redacted."""
        in_pieces, told = kind in ("content", "thought"), []
        for service, action, label, _ in judged:
            policy, mode = Policy.SERVICE, Mode.ENFORCE
            if action == "pass" or (action == "redact" and in_pieces):
                continue
            if action == "failed":
                policy, mode = Policy.SERVICE_FAILED, Mode.OBSERVE if service.fails_open else Mode.ENFORCE
            elif action == "observe":
                mode = Mode.OBSERVE
            elif action == "redacted":
                mode = Mode.REDACT
            elif action == "deny" and kind in _DENIABLE:
                mode = Mode.DENY
            told.append(Violation(policy, mode, 0, service.name, kind, agent, at, label or action))
        return told

    def _to_tell(self, told: list[Violation]) -> list[Violation]:
        """Without those too many of a session that change nothing."""
        kept = []
        for one in told:
            if one.mode in (Mode.OBSERVE, Mode.REDACT):
                if not self._services_told:
                    continue
                self._services_told -= 1
            kept.append(one)
        return kept

    def begin_anew(self, content_chars: int, thought_chars: int) -> None:
        """Another attempt speaks: what was held of the one before is never released, and so many characters of it
        still count. With characters of content it goes on behind them. Calls and tokens count on: they were spent."""
        self.content_chars, self.thought_chars = content_chars, thought_chars
        self._cut_at = None
        # What the one before asked for is asked for again, and no loop.
        self._calls.clear()
        if self._windows is not None:
            self._windows.begin_anew(goes_on=content_chars > 0)
        if self.reviews is not None:
            self.reviews.begin_anew(goes_on=content_chars > 0)

    @property
    def mark(self) -> GuardMark:
        """Where it stands, to be put back into another one of the same limits."""
        held = () if self._windows is None else self._windows.held
        reviews = () if self.reviews is None else self.reviews.marks
        return GuardMark(
            self.content_chars, self.thought_chars, self.tool_calls, held, self.cost_dollars, reviews
        )

    def put_back(self, mark: GuardMark) -> list[Release]:
        """Stands where another one stood, before anything was judged. What that one held and nobody would judge any
        more, since the pattern is gone, goes on now."""
        self.content_chars, self.thought_chars, self.tool_calls = mark[:3]
        self.cost_dollars = mark.cost_dollars
        windows = self._windows or self._all_windows({})
        loose: list[Release] = []
        for waiting in mark.reviews:
            if self.reviews is not None and self.reviews.services(of_pieces(waiting.kind)):
                self.reviews.put_back(waiting)
            else:
                loose += unreviewed(waiting)
        for release, first in windows.put_back(mark.held):
            loose += [release] if self.reviews is None else self.reviews.take([release], first)
        return loose

    def safe(self, received: int) -> int:
        """The packet up to which everything was released, where all up to `received` have come: one of which
        a character is held, or was cut off, is not safe."""
        if self._windows is not None and (since := self._windows.since) is not None:
            received = min(received, since - 1)
        if self.reviews is not None and (since := self.reviews.since) is not None:
            received = min(received, since - 1)
        return received if self._cut_at is None else min(received, self._cut_at - 1)

    def _text(
        self, bound: _Bound, chars: int, kind: Kind, text: str, sequence: int, agent: str, step: str
    ) -> Verdict:
        if self._stopped is not None:
            return self._stopped
        over = bound.over(chars)
        allowed = text[: max(0, len(text) - over)]
        out, first = None, sequence
        if self.reviews is not None and self._windows is not None and self._windows.since is not None:
            first = min(first, self._windows.since)
        windows = self._content_windows if kind == "content" else self._thought_windows
        if windows is not None and allowed:
            out = windows.take(kind, allowed, sequence, agent, step)
        if out is None:
            out = Outcome([Release(kind, allowed, agent, step)] if allowed else [])
        # What was blocked ended before it could become too long.
        told = [] if out.blocked else bound.exceeded(chars)
        if over and not out.blocked and self._windows is not None:
            self._windows.finish(out)
        self._free()
        return self._verdict(out, told, sequence, first)

    def _told(self, told: list[Violation]) -> Verdict:
        if self._stopped is not None:
            return self._stopped
        return self._verdict(Outcome(), told) if told else PASS

    def _verdict(
        self, out: Outcome, told: list[Violation], sequence: int | None = None, first: int = 0
    ) -> Verdict:
        """`first`: the first packet of which something is in what is released."""
        releases = out.releases
        if releases and self.reviews is not None:
            releases = self.reviews.take(releases, first)
        violations = told + [self._violation(finding) for finding in out.findings]
        stop = next((one for one in violations if one.mode is Mode.ENFORCE), None)
        if stop is not None:
            self._stopped = Verdict(False, (), (), stop)
            self._cut_at = sequence
            self._free()
        return Verdict(False, tuple(releases), tuple(violations), stop)

    def _free(self) -> None:
        self._content_free = min(self._open_to("content"), self._content.free)
        self._thought_free = min(self._open_to("thought"), self._thoughts.free)

    def _open_to(self, kind: Kind) -> float:
        is_reviewed = self.reviews is not None and bool(self.reviews.services(kind))
        return -1 if self._stopped is not None or is_reviewed else inf

    def _violation(self, finding: Finding) -> Violation:
        mode = Mode.ENFORCE if finding.enforced else Mode.REDACT if finding.redacted else Mode.OBSERVE
        kind, agent, spot = finding.kind, finding.agent, finding.spot
        if spot is None:
            return Violation(Policy.DENY_SPEAKERS, mode, self._speakers_max, "", kind, agent)
        if spot.pattern:
            policy = Policy.RULE if spot.pattern in self._book.names else Policy.DENY
            return Violation(policy, mode, 0, spot.pattern, kind, agent, spot.at)
        return Violation(Policy.DENY_HOLD, mode, self._hold_chars_max, "", kind, agent, spot.at)

    def _mark(self, finding: Finding) -> str:
        return self._book.marks[finding.spot.pattern] if finding.spot is not None else ""

    def _all_windows(self, judges: ByKind) -> Windows:
        return Windows(judges, self._book.marks, self._hold_chars_max, self._speakers_max)
