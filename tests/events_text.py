"""Words of a transcript as what they stand for: packets, requests, limits. `transcript.py` has the grammar."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final
from zlib import crc32

from laws import MARK

from dispatcher.core import events
from dispatcher.core.events import Event, Selector
from dispatcher.core.limits import Limits
from dispatcher.core.packets import (
    Detail,
    Done,
    ErrorReport,
    Goodbye,
    Heartbeat,
    Question,
    Refused,
    StopAck,
    ToolCall,
    ToolFailure,
    ToolOutcome,
    Usage,
    Withdrawal,
)
from dispatcher.core.policy import Budgets, Mode
from dispatcher.core.rules import KINDS, Judged, Judges, RuleBook, Service, Span
from dispatcher.patterns import compile_patterns
from dispatcher.readable import same_call
from dispatcher.redaction import redacted_json

# That of a transcript: it holds back the last 4 characters, and is told the 6 before.
SERVICE: Final = Service("judge", fails_open=False, hold_chars=4, before_chars=6, gather_s=0.1)
_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')


class TranscriptError(Exception):
    """The transcript says something that its grammar doesn't know."""


@dataclass
class Words:
    """What follows a verb: plain words in order, and settings by name; and the same again after each `;`.
    Whoever is done asks `end`."""

    plain: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    following: list["Words"] = field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> "Words":
        groups = [cls()]
        for word in _WORD.findall(text):
            name, sign, value = word.partition("=")
            if word == ";":
                groups.append(cls())
            elif sign and name.isidentifier():
                groups[-1].named[name] = _unquoted(value)
            else:
                groups[-1].plain.append(_unquoted(word))
        first, *first.following = groups
        return first

    def next(self, default: str | None = None) -> str:
        if not self.plain and default is None:
            raise TranscriptError("a word is missing")
        return self.plain.pop(0) if self.plain else str(default)

    def has(self, word: str) -> bool:
        """Whether this plain word is there; it is taken."""
        if word not in self.plain:
            return False
        self.plain.remove(word)
        return True

    def text(self, name: str, default: str = "") -> str:
        return self.named.pop(name, default)

    def number(self, name: str, default: int = 0) -> int:
        return int(self.named.pop(name, default))

    def seconds(self, name: str) -> float | None:
        value = self.named.pop(name, None)
        return None if value is None else float(value)

    def pairs(self, name: str) -> dict[str, str]:
        pairs = self.named.pop(name, "")
        return dict(pair.split(":", 1) for pair in pairs.split(",") if pair)

    def end(self) -> None:
        if self.plain or self.named or self.following:
            raise TranscriptError(f"not understood: {self.plain} {self.named} {self.following}")


def _unquoted(word: str) -> str:
    return json.loads(word) if word.startswith('"') else word


# --- packets ---------------------------------------------------------------------------------------------


def payload(kind: str, words: Words, said: str) -> tuple[str, object, Detail]:
    """Text, body and detail of a packet of this kind."""
    if kind == "content":
        return words.next(""), None, None
    if kind == "thought":
        step = words.next()
        return words.next(), step, None
    read = _DETAILS.get(kind)
    body = f"<{kind}>"
    says = words.text("says")
    if read is None:
        return says, body, None
    detail = read(words, said)
    if isinstance(detail, ToolCall):
        body = same_call(detail.tool_name, detail.arguments_json)
    return says, body, detail


def _done(words: Words, said: str) -> Done:
    failed = words.has("failed")
    error = ErrorReport("agent_exception", "commander", "session", "it raised") if failed else None
    if words.has("by_the_model"):
        error = ErrorReport("rate_limited", "llm", "session", "the model is busy", retryable=True)
    tokens = words.named.pop("tokens", None)
    usage = None if tokens is None else Usage(output_tokens=int(tokens))
    chars = words.number("chars", len(said))
    return Done(not failed, chars, words.number("crc", crc32(said.encode())), usage, error)


def _error(words: Words, said: str) -> ErrorReport:
    scope: Any = words.text("scope")
    origin: Any = words.text("origin")
    return ErrorReport(words.next(), origin, scope, words.next(""))


def _call(words: Words, said: str) -> ToolCall:
    to_agent = words.has("to_agent")
    name, arguments = words.next(), words.next("{}")
    timeout_ms = words.named.pop("timeout_ms", None)
    return ToolCall(
        words.text("id"),
        name,
        arguments,
        words.text("key"),
        None if timeout_ms is None else int(timeout_ms),
        to_agent,
    )


def _heartbeat(words: Words, said: str) -> Heartbeat:
    blocked_for_s = words.seconds("blocked_for_s") or 0.0
    return Heartbeat(
        words.number("phase"),
        blocked_for_s,
        words.number("running"),
        words.number("stuck"),
        words.has("draining"),
    )


def _stop_ack(words: Words, said: str) -> StopAck:
    words.next()  # the stop's id, for people
    phase: Any = words.next("")
    return StopAck(phase)


_DETAILS: Final[dict[str, Callable[[Words, str], Detail]]] = {
    "done": _done,
    "error": _error,
    "tool_call": _call,
    "heartbeat": _heartbeat,
    "stop_ack": _stop_ack,
    "usage": lambda words, said: Usage(words.number("input"), words.number("output")),
    "question": lambda words, said: Question(words.next(""), words.seconds("expires_in_s"), "<question>"),
    "withdrawal": lambda words, said: Withdrawal(words.text("call"), words.text("question")),
    "refused": lambda words, said: Refused(words.next(), words.next("no")),
    "goodbye": lambda words, said: Goodbye(words.next("drained")),
}


# --- requests --------------------------------------------------------------------------------------------


def ask(words: Words) -> Event:
    budgets = [one.name for one in fields(Budgets) if one.name in words.named]
    given: Any = {
        name: words.seconds(name) if name.endswith("_s") else words.number(name) for name in budgets
    }
    return events.SessionRequested(
        words.next(),
        words.text("agent", "echo"),
        b"<request>",
        agent_version=words.text("version"),
        user_id=words.text("user"),
        labels=words.pairs("labels"),
        commander_labels=words.pairs("commander_labels"),
        affinity_key=words.text("affinity"),
        idempotency_key=words.text("idempotency"),
        application=words.text("application"),
        said=(said,) if (said := words.text("said")) else (),
        request_crc32=words.number("request_crc32"),
        budgets=Budgets(**given) if given else None,
        stop_when_unwatched_s=words.seconds("stop_when_unwatched_s"),
        held_by_questions=words.has("held_by_questions"),
    )


def delegate(words: Words) -> Event:
    """What the shell makes of a call that asks an agent."""
    session_id, _, attempt = words.next().partition("/")
    call_id, agent = words.next(), words.next()
    asked = events.Delegated(session_id, int(attempt), call_id)
    return events.DelegationRequested(asked, events.SessionRequested("", agent, b"<request>"))


def tool_progress(words: Words) -> Event:
    session_id, _, attempt = words.next().partition("/")
    call_id, text = words.next(), words.next("")
    return events.ToolProgressed(session_id, int(attempt), call_id, text, b"<progress>")


def approval(words: Words) -> Event:
    """What the shell makes of a call that somebody has to allow."""
    session_id, _, attempt = words.next().partition("/")
    call_id = words.next()
    question = Question(f"approve-{call_id}", words.seconds("expires_in_s"), "<question>")
    return events.ApprovalRequested(session_id, int(attempt), call_id, question)


def stop(words: Words) -> Event:
    code: Any = words.text("code", "user_cancel")
    session_id, stop_id = words.next(), words.next()
    reason, actor = words.text("reason", "UserCancel"), words.text("actor")
    return events.StopRequested(session_id, stop_id, code, reason, actor, words.seconds("grace_s"))


def stops(words: Words) -> Event:
    code: Any = words.text("code", "admin")
    selector = Selector(
        words.text("user"),
        words.text("agent"),
        words.text("commander"),
        words.pairs("labels"),
        words.has("everything"),
    )
    return events.StopsRequested(
        selector, words.next(), code, words.text("reason", "AdminStop"), words.text("actor")
    )


def tool(words: Words) -> Event:
    session_id, _, attempt = words.next().partition("/")
    call_id, result = words.next(), words.next()
    code = words.text("failure")
    outcome = ToolOutcome(result, ToolFailure(code, f"it {code}") if code else None, words.text("told"))
    return events.ToolFinished(session_id, int(attempt), call_id, outcome, result)


def judged(words: Words) -> Event:
    """What the service of the transcript says: `ID ACTION [LABEL] [spans=BEGIN-END,…]`."""
    session_id, _, attempt = words.next().partition("/")
    review_id = words.next()
    action: Any = words.next()
    label = words.next("")
    spans = [each.partition("-") for each in words.text("spans").split(",") if each]
    said = Judged(
        SERVICE,
        action,
        label,
        tuple(Span(int(begin), int(end), MARK) for begin, _, end in spans),
    )
    if words.has("fails_open"):
        said = said._replace(service=SERVICE._replace(fails_open=True))
    return events.TextJudged(session_id, int(attempt), review_id, (said,))


# --- limits ----------------------------------------------------------------------------------------------


def limits_of(words: Words, before: Limits) -> Limits:
    """The limits before, with those that are named replaced; those of policies by their own names."""
    own: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    known = {one.name: one.type for one in fields(Limits)}
    for name, value in words.named.items():
        if name in ("deny", "deny_observed"):
            policy[name] = compile_patterns({pattern: pattern for pattern in value.split(",")})
        elif name == "redact":
            # Rules that put a mark into whatever anybody says.
            rules = {pattern: pattern for pattern in value.split(",")}
            judges = dict.fromkeys(KINDS, Judges(redact=compile_patterns(rules)))
            marks = dict.fromkeys(rules, MARK)
            policy["rules"] = RuleBook("v1", frozenset(rules), marks, {}, judges, redacted_json)
        elif name == "judge":
            # A service that is asked about these kinds of text.
            kinds = [kind for kind in KINDS if kind in value.split(",")]
            judges = dict.fromkeys(kinds, Judges(services=(SERVICE,)))
            policy["rules"] = RuleBook("v1", of_others=judges)
        elif name.endswith("_mode"):
            policy[name] = Mode(value)
        else:
            (own if name in known else policy)[name] = float(value) if name.endswith("_s") else int(value)
    words.named = {}
    words.end()
    return replace(before, **own, policy=replace(before.policy, **policy))
