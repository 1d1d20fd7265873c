"""Reads a transcript, plays it to a Router, and writes it anew with what the Router did.

A transcript is a text of lines. It opens with a paragraph of why. Then, by its first character, a line is:

    > 1.50 VERB …     an event at 1.5 s; `two blanks and more` continue it on the next line
    < EFFECT …        what the Router wanted done, in order; written by the renderer
    = VIEW            what a view shows after `> 1.50 show`; written by the renderer
    anything else     prose, kept as it is

    > 0.00 limits queue_wait_s=5              Limits, before the first event: those to begin with
    > 0.00 link l1                            a stream was accepted; its own session, if minimal, is m-l1
    > 0.00 hello l1 c1/i1 slots=2 agents=echo,demo@2 labels=region:eu stuck=1 resume=s1/1#5^2
    > 0.10 ask s1 agent=echo …                SessionRequested, by the names of its fields
    > 0.20 packets l1 s1/1#1 content "hi" ; s1/1#2 done
    > 0.30 tick                               time passes

A packet is addressed `SESSION/ATTEMPT#SEQUENCE`, each part as far as it is set; `-` sets none. `done` tells the
length and CRC-32 of what the transcript sent, unless it says otherwise. A resume is `SESSION/ATTEMPT#LAST^SIGNAL`.

Deadlines that are due before an event are met first, as a hub would, each at its time: `< @1.25 …`. Logs and
measures are left out. Heartbeats are far apart and time limits off unless the transcript sets them, because most
are not about them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from effects_text import effect_lines
from events_text import (
    TranscriptError,
    Words,
    approval,
    ask,
    delegate,
    judged,
    limits_of,
    payload,
    stop,
    stops,
    tool,
    tool_progress,
)
from laws import Witness

from dispatcher.core import events
from dispatcher.core.events import Effect, Event
from dispatcher.core.limits import Limits
from dispatcher.core.packets import (
    AgentOffer,
    Hello,
    Packet,
    Resume,
)
from dispatcher.core.policy import PolicyLimits

# What opaque payloads weigh unless a packet says otherwise, bytes.
PAYLOAD_BYTES: Final = 10
CALM: Final = Limits(heartbeat_interval_s=100_000.0, policy=PolicyLimits(total_time_s=inf, first_token_s=inf))

# Times of a transcript are decimal, those of the core are added up: so far apart they are the same.
_SAME_S: Final = 1e-6

_ADDRESS = re.compile(r"(?P<session>[^/#]*)(?:/(?P<attempt>\d+))?(?:#(?P<sequence>\d+))?")
_RESUME = re.compile(r"(?P<session>[^/]+)/(?P<attempt>\d+)#(?P<sent>\d+)(?:\^(?P<signal>\d+))?")


class Scene:
    """A Router and who talks to it."""

    def __init__(self) -> None:
        self._limits = CALM
        self._witness: Witness | None = None
        # What was said in each session and attempt, and up to which number: a repeat says nothing new.
        self._said: dict[tuple[str, int], str] = {}
        self._last: dict[tuple[str, int], int] = {}
        self._now = 0.0
        self._verbs: dict[str, Callable[[Words], Event]] = {
            "link": self._link,
            "hello": self._hello,
            "packets": self._packets,
            "lost": self._lost,
            "ask": ask,
            "stop": stop,
            "stops": stops,
            "answer": lambda words: _answer(words, words.next(), words.next(), words.next()),
            "decline": lambda words: _answer(words, words.next(), words.next(), None),
            "message": lambda words: events.MessageGiven(words.next(), words.next(), words.next()),
            "tool": tool,
            "tool_progress": tool_progress,
            "delegate": delegate,
            "approval": approval,
            "judged": judged,
            "viewer_came": lambda words: events.ViewerCame(words.next()),
            "viewer_left": lambda words: events.ViewerLeft(words.next()),
            "drain_commander": lambda words: events.CommanderDrainRequested(
                words.next(), words.text("reason", "AdminDrain"), words.seconds("deadline_s")
            ),
            "drain": lambda words: events.DrainRequested(words.text("reason", "upgrade")),
            "shutdown": lambda words: events.ShutdownRequested(
                words.next(), words.text("reason", "gone"), words.has("hands_over")
            ),
            "journal": lambda words: events.JournalChanged(words.next() == "stalls"),
            "dropped": _dropped,
            "late": lambda words: events.TimePassed(float(words.next())),
            "limits": self._limits_changed,
        }

    @property
    def witness(self) -> Witness:
        if self._witness is None:
            self._witness = Witness(self._limits)
        return self._witness

    def perform(self, event: list[str]) -> list[str]:
        """What the Router does about one event line, as lines of a transcript: before it, what was due sooner."""
        words = Words.read(" ".join(event)[1:])
        at = max(self._now, float(words.next()))
        verb = words.next()
        if verb == "limits" and self._witness is None:
            self._limits = limits_of(words, self._limits)
            return event
        if verb == "late":
            # The process stood still: what was due meanwhile is due now.
            return [*event, *self._performed(verb, words, at)]
        until = at + _SAME_S if verb == "tick" else at - _SAME_S
        return [*self._due(until), *event, *self._performed(verb, words, at)]

    def _performed(self, verb: str, words: Words, at: float) -> list[str]:
        if verb == "tick":
            words.end()
            return []
        if verb == "show":
            return [f"= {view!r}" for view in self._shown(words)]
        if verb == "restart":
            idempotent = words.text("idempotent")
            self._limits = limits_of(words, self._limits)
            self._now = at
            self.witness.restart(self._limits)
            return self._lines(self.witness.restored(at, frozenset({idempotent} - {""})))
        read = self._verbs.get(verb)
        if read is None:
            raise TranscriptError(
                f"no such verb: {verb}; there are {', '.join(self._verbs)}, tick, show and restart"
            )
        event = read(words)
        words.end()
        self._now = at
        return self._lines(self.witness.step(event, at))

    def _due(self, until: float) -> Iterator[str]:
        while (due := self.witness.router.next_deadline()) is not None and due <= until:
            self._now = max(self._now, due)
            for line in self._lines(self.witness.step(events.TimePassed(), self._now)):
                yield f"< @{due:.2f} {line.removeprefix('< ')}"

    def _shown(self, words: Words) -> list[object]:
        router = self.witness.router
        if not words.plain:
            return [router, *router.sessions.values()]
        return [self._view(words.next()) for _ in list(words.plain)]

    def _view(self, name: str) -> object:
        router = self.witness.router
        for views in (router.sessions, router.fleet.commanders, router.fleet.links):
            if name in views:
                return views[name]
        raise TranscriptError(f"there is no session, commander or link {name}")

    def _lines(self, effects: list[Effect]) -> list[str]:
        return [f"< {line}" for effect in effects for line in effect_lines(effect, self._limits)]

    # --- events ------------------------------------------------------------------------------------------

    def _link(self, words: Words) -> Event:
        link_id = words.next()
        return events.LinkOpened(link_id, words.text("peer", "peer"), f"m-{link_id}")

    def _hello(self, words: Words) -> Event:
        link_id = words.next()
        commander_id, _, instance = words.next().partition("/")
        offers = [offer.partition("@") for offer in words.text("agents", "echo").split(",")]
        on_restart: Any = words.text("on_restart", "restart")
        parks = words.text("parks").split(",")
        resumes = [_resume(each) for each in words.text("resume").split(",") if each]
        hello = Hello(
            commander_id,
            instance,
            "test/1",
            tuple(
                AgentOffer(name, version, on_restart=on_restart, parks=name in parks)
                for name, _, version in offers
            ),
            words.pairs("labels"),
            words.number("slots", 1),
            words.number("stuck"),
            tuple(resumes),
            message_bytes_max=words.number("message_bytes"),
        )
        return events.HelloReceived(link_id, hello)

    def _lost(self, words: Words) -> Event:
        half_closed = words.has("half_closed")
        link_id = words.next()
        why = words.text("why", "the stream ended")
        return events.LinkLost(link_id, half_closed, why, words.text("status", "UNAVAILABLE"))

    def _limits_changed(self, words: Words) -> Event:
        self._limits = limits_of(words, self._limits)
        return events.LimitsChanged(self._limits)

    def _packets(self, words: Words) -> Event:
        link_id = words.next()
        following, words.following = words.following, []
        return events.PacketsReceived(link_id, [self._packet(each) for each in (words, *following)])

    def _packet(self, words: Words) -> Packet:
        address = words.next()
        found = _ADDRESS.fullmatch(address.removeprefix("-"))
        if found is None:
            raise TranscriptError(f"{address}: is to be SESSION/ATTEMPT#SEQUENCE")
        session_id, attempt = found["session"], int(found["attempt"] or 0)
        kind = words.next()
        finish = words.has("finish") or words.has("over")
        said = self._said.get((session_id, attempt), "")
        text, body, detail = payload(kind, words, said)
        size = words.number("size", len(text) if kind in ("content", "thought") else PAYLOAD_BYTES)
        path, signals, reads = words.text("path"), words.number("signals"), words.number("reads")
        words.end()
        sequence, last = int(found["sequence"] or 0), self._last.get((session_id, attempt), 0)
        if kind == "content" and not 0 < sequence <= last:
            self._said[session_id, attempt] = said + text
        self._last[session_id, attempt] = max(sequence, last)
        who = (session_id, attempt, sequence)
        return Packet(kind, *who, path, text, finish, signals, size, detail, body, "", reads)


def _resume(text: str) -> Resume:
    found = _RESUME.fullmatch(text)
    if found is None:
        raise TranscriptError(f"resume: {text} is to be SESSION/ATTEMPT#SENT or SESSION/ATTEMPT#SENT^SIGNAL")
    return Resume(found["session"], int(found["attempt"]), int(found["sent"]), int(found["signal"] or 0))


def _answer(words: Words, session_id: str, question_id: str, value_json: str | None) -> Event:
    attempt = words.number("attempt") if "attempt" in words.named else None
    return events.AnswerGiven(session_id, question_id, value_json, attempt)


def _dropped(words: Words) -> Event:
    session_id, _, attempt = words.next().partition("/")
    return events.SignalDropped(session_id, int(attempt), words.number("size"), words.number("limit"))


# --- the text --------------------------------------------------------------------------------------------


@dataclass
class Transcript:
    """A transcript as it was read, and as it is now. `seen` are the types of events and effects in it."""

    before: str
    after: str = ""
    seen: set[type[Any]] = field(default_factory=set)


def play(text: str) -> Transcript:
    """Plays a transcript. Raises TranscriptError, and AssertionError where a law is broken, with the line."""
    scene = Scene()
    lines: list[str] = []
    event: list[str] = []

    def perform() -> None:
        if event:
            try:
                lines.extend(scene.perform(event))
            except Exception as error:
                error.add_note(f"at: {event[0]}")
                raise
            event.clear()

    source = text.splitlines()
    if not source or not source[0].strip() or source[0][0] in "><=":
        raise TranscriptError("a transcript opens with a paragraph of why")
    for line in source:
        if event and line.startswith("  "):
            event.append(line)
            continue
        if line.startswith(("<", "=")):
            continue
        perform()
        if line.startswith(">"):
            event.append(line)
        else:
            lines.append(line)
    perform()
    return Transcript(text, "\n".join(lines) + "\n", scene.witness.seen)
