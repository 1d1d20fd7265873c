"""One session: its table of states, its order, its fence, and what is owed to whom.

Two rules. Everything that affects one session lives here; what is shared between sessions (slots, queue,
deadlines) lives on the board. And every change of state goes through `advance`, which
looks into TRANSITIONS; the diagram in docs/architecture.md is drawn from that table.

    queued     waits for a slot
    starting   a commander was told; nothing came from it yet
    running    packets come
    detached   its commander's link was lost; the commander may return
    parked     nobody runs it while a person is asked
    ended      over; what comes later is fenced

Effects are appended to the list that the caller hands in.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple
from zlib import crc32

from dispatcher.core.endings import Ending
from dispatcher.core.events import Effect, Send, SessionRequested, ToolFinished
from dispatcher.core.fleet import Link
from dispatcher.core.ledger import Ledger
from dispatcher.core.mark import GuardMark, Mark
from dispatcher.core.packets import (
    DECLINED,
    WITHDRAWN,
    Ack,
    Answer,
    Ended,
    ErrorReport,
    OnRestart,
    Packet,
    Published,
    PublishedAnswer,
    Question,
    SessionEvent,
    Signal,
    ToolCall,
    ToolResult,
    Usage,
    UserMessage,
    texts_bytes,
    utf8_bytes,
)
from dispatcher.core.policy import Guard
from dispatcher.core.review import Reviews
from dispatcher.core.windows import Release

_NO_GUARD: Final = GuardMark()
# How finely is known which bytes of what was received are not safe yet, so that a long hold costs little.
_UNSAFE_RUN_BYTES: Final = 16_384
# What an event costs the journal besides its text and body, bytes. Rough, and the same on every journal.
EVENT_OVERHEAD_BYTES: Final = 128
# What a call or a message costs in a Start besides its texts.
TOLD_OVERHEAD_BYTES: Final = 64


def asked_bytes(requested: SessionRequested) -> int:
    """What is kept of a request for as long as the events are: itself, and its key in a table."""
    return len(requested.request or b"") + utf8_bytes(requested.idempotency_key)


class State(Enum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    DETACHED = "detached"
    PARKED = "parked"
    ENDED = "ended"


class Step(Enum):
    """What moves a session from one state to another."""

    TAKE = "a slot was taken"
    SPEAK = "its first packet came"
    REFUSE = "the commander refused it"
    DETACH = "its link was lost"
    RESUME = "its commander returned"
    RESTART = "its commander returned without having heard of it"
    REQUEUE = "its attempt is lost, and there may be another"
    PARK = "it waits for a person alone"
    WAKE = "it has its answers"
    END = "it ended"


TRANSITIONS: Final[Mapping[State, Mapping[Step, State]]] = {
    State.QUEUED: {Step.TAKE: State.STARTING, Step.END: State.ENDED},
    State.STARTING: {
        Step.SPEAK: State.RUNNING,
        Step.REFUSE: State.QUEUED,
        Step.DETACH: State.DETACHED,
        Step.END: State.ENDED,
    },
    State.RUNNING: {Step.DETACH: State.DETACHED, Step.PARK: State.PARKED, Step.END: State.ENDED},
    State.PARKED: {Step.WAKE: State.QUEUED, Step.END: State.ENDED},
    State.DETACHED: {
        Step.RESUME: State.RUNNING,
        Step.RESTART: State.STARTING,
        Step.REQUEUE: State.QUEUED,
        Step.END: State.ENDED,
    },
    State.ENDED: {},
}


class AskedBelow(NamedTuple):
    """A question that one of the sessions asks that this one has asked for, or one below that."""

    session_id: str
    question: Question


class Session:
    """The state of one session. Attributes are read by views; only the core calls what changes them."""

    __slots__ = (
        "_owed_told_at",
        "agent",
        "allowed",
        "answer",
        "answer_bytes",
        "answer_bytes_max",
        "answered",
        "answers_told",
        "application",
        "approvals",
        "asked",
        "asked_below",
        "attempt",
        "children",
        "commander_id",
        "content_chars",
        "content_crc32",
        "delegated",
        "denied",
        "ended",
        "ended_at",
        "ending",
        "error",
        "finishing",
        "first_content_at",
        "first_token_at",
        "gate",
        "gate_bytes",
        "gate_review",
        "granted",
        "guard",
        "idempotency_key",
        "instance",
        "is_reviewed",
        "kept_bytes",
        "labels",
        "ledger",
        "let_through",
        "link",
        "marked",
        "offset",
        "on_restart",
        "opened_at",
        "owed",
        "owed_sequence",
        "parked",
        "parks",
        "paths",
        "phase",
        "progress",
        "published",
        "published_bytes_max",
        "questions",
        "queue_due",
        "quiet_at",
        "received",
        "refused_by",
        "request_crc32",
        "requested",
        "results",
        "review_at",
        "safe",
        "said",
        "said_bytes",
        "sent_chars",
        "sent_crc32",
        "session_id",
        "since_attempt",
        "started_at",
        "starved",
        "starved_bytes",
        "state",
        "step",
        "stop_id",
        "taken",
        "thought_chars",
        "tool_calls",
        "touched",
        "tries",
        "unacked_bytes",
        "unread",
        "unsafe",
        "usage",
        "usage_before",
        "usage_below",
        "usage_told",
        "user_id",
        "vanished",
        "viewers",
        "withdrawn",
    )

    def __init__(
        self,
        requested: SessionRequested,
        guard: Guard,
        now: float,
        *,
        running_tools_max: int,
        published_bytes_max: int,
        answer_bytes_max: int = 0,
    ) -> None:
        self.session_id = requested.session_id
        self.agent = requested.agent
        self.user_id = requested.user_id
        self.labels = dict(requested.labels)
        self.application = requested.application
        self.idempotency_key = requested.idempotency_key
        self.request_crc32 = requested.request_crc32
        self.requested: SessionRequested | None = requested
        # The call that it answers, where a session asked for it; its answer so far, None once that is too long. And the
        # sessions that it has asked for itself: by call, those that have not ended, and by question, which of them asks
        # the user, or has asked in the name of one below.
        self.delegated = requested.delegated
        self.answer: list[str] | None = []
        self.answer_bytes = 0
        self.answer_bytes_max = answer_bytes_max
        self.children: dict[str, str] = {}
        self.asked_below: dict[str, AskedBelow] = {}
        self.state = State.QUEUED
        self.opened_at = now
        self.ended_at = 0.0
        # Whose it is now. `tries` counts attempts that a commander took and lost, refusals don't count; `vanished` are
        # those of them whose commander vanished, with the instance that ran them.
        self.attempt = 0
        self.tries = 0
        self.vanished: list[tuple[int, str]] = []
        # Viewers may have something of attempts that were lost: since which one, and whether at all.
        self.since_attempt = 1
        self.touched = False
        self.on_restart: OnRestart = "restart"
        self.published: Published | None = None
        # The content that viewers have, in pieces, and its bytes; None once it is too long to be told to an agent.
        self.said: list[str] | None = []
        self.said_bytes = 0
        self.commander_id = ""
        self.instance = ""
        self.link: Link | None = None
        self.refused_by: set[str] = set()
        # When it has waited for a slot long enough; None before it has had to wait.
        self.queue_due: float | None = None
        self.started_at = 0.0
        # The first thought, content or question, of whomever; and the first content.
        self.first_token_at: float | None = None
        self.first_content_at: float | None = None
        self.phase = 0
        # Order. `received` is the highest packet taken, `safe` the highest of which all was kept, `granted` the highest
        # received at the last Ack; `starved` since when the journal has had no room. `unsafe` is what lies beyond
        # `safe`, in runs: the last packet of each, and its bytes.
        self.received = 0
        self.marked = 0
        self.safe = 0
        self.granted = 0
        self.unacked_bytes = 0
        self.unsafe: deque[tuple[int, int]] = deque()
        self.starved: float | None = None
        # What its commander may send: packets up to this one; and the bytes that came since the room was gone.
        self.allowed = 0
        self.starved_bytes = 0
        # What the attempt's commander sent, to check its Done against; what viewers were given.
        self.sent_chars = 0
        self.sent_crc32 = 0
        self.content_chars = 0
        self.content_crc32 = 0
        self.thought_chars = 0
        # Sub-agents that have spoken.
        self.paths: set[str] = set()
        # Of the last thought: a step's name is judged once for all its deltas.
        self.step = ""
        self.tool_calls = 0
        # Of all attempts, and of those before the one under way.
        self.usage = Usage()
        self.usage_before = Usage()
        # Of it, what delegated sessions of the attempt under way have used; and what of it the session above knows.
        self.usage_below = Usage()
        self.usage_told = Usage()
        self.progress: object = None
        self.error: ErrorReport | None = None
        self.offset = 0
        self.kept_bytes = 0
        # The user's messages that an agent has taken, and those that none has: with their number among what is owed,
        # and the offset of their event.
        self.taken: list[tuple[UserMessage, int]] = []
        self.unread: deque[tuple[int, UserMessage, int]] = deque()
        # Signals kept until the commander has them.
        self.owed: deque[Signal] = deque()
        self._owed_told_at: deque[int] = deque()
        self.owed_sequence = 0
        self.questions: dict[str, Question] = {}
        # Those of them that ask whether a call may run, and the call.
        self.approvals: dict[str, str] = {}
        # Its agent can be run again with the answers to its questions; it is to be run so; and its last packet when it
        # was last looked at whether it waits for a person alone.
        self.parks = False
        self.parked = False
        self.quiet_at = 0
        # What has been asked and answered since the last reset: the question, the answer, and the offset of its event.
        self.answers_told: list[tuple[Question, Answer, int]] = []
        # Offsets of answers to questions, and of outcomes of calls, for which its agent has not waited.
        self.withdrawn: set[int] = set()
        # Ids of all questions, and the attempt that asked first under each.
        self.asked: dict[str, int] = {}
        # What the user has answered last under each, so that a repeat of it is known for one.
        self.answered: dict[str, str | None] = {}
        self.guard: Guard | None = guard
        self.ledger = Ledger(running_tools_max)
        self.published_bytes_max = published_bytes_max
        # Services judge what it says; when they may be asked again.
        self.is_reviewed = guard.reviews is not None
        self.review_at = 0.0
        # Packets that wait until all text before them was judged, and the first of them too where `gate_review` is
        # under way; they were not received yet, and take so many bytes. `let_through` is one that waits no longer,
        # `denied` why it is to come to nothing.
        self.gate: deque[Packet] = deque()
        self.gate_bytes = 0
        self.gate_review = ""
        self.let_through: Packet | None = None
        self.denied = ""
        # What tools have answered, until it was judged.
        self.results: dict[str, ToolFinished] = {}
        self.viewers = 0
        # Its minimal commander has said its last, and is owed results of tools.
        self.finishing = False
        self.ending: Ending | None = None
        self.ended: Ended | None = None
        self.stop_id = ""

    def __repr__(self) -> str:
        where = f" on {self.commander_id}" if self.commander_id else ""
        how = f" {self.ending.value}" if self.ending else ""
        return f"<Session {self.session_id} {self.state.value}{how} attempt {self.attempt}{where} at {self.offset}>"

    @property
    def live(self) -> bool:
        return self.state is not State.ENDED

    @property
    def reviews(self) -> Reviews | None:
        """What waits of its text until services have judged it; None where none do, and once it has ended."""
        return self.guard.reviews if self.guard is not None else None

    @property
    def has_attempt(self) -> bool:
        """A commander runs it, or may come back to."""
        return self.state in (State.STARTING, State.RUNNING, State.DETACHED)

    @property
    def asked_as(self) -> tuple[str, str, str]:
        """Who asked, for whom, and under which key."""
        return self.application, self.user_id, self.idempotency_key

    def heard_answer(self, answer: Answer) -> None:
        """A question was answered, or can't be any more."""
        if answer.value_json is not None or answer.why == DECLINED:
            self.answered[answer.question_id] = answer.value_json

    def has_heard(self, question_id: str, value_json: str | None) -> bool:
        """The user has answered just so before, and nothing has been asked under that id since."""
        is_open = question_id in self.questions
        return not is_open and question_id in self.answered and self.answered[question_id] == value_json

    def message(self, message_id: str) -> UserMessage | None:
        """One that the user has added."""
        given = (*(message for message, _ in self.taken), *(message for _, message, _ in self.unread))
        return next((message for message in given if message.message_id == message_id), None)

    @property
    def is_held(self) -> bool:
        """It waits for somebody who need not watch it meanwhile."""
        held = self.requested is not None and self.requested.held_by_questions
        return held and bool(self.questions or self.asked_below)

    @property
    def open_questions(self) -> dict[str, Question]:
        """All that its viewers may answer: its own, and those of sessions that it has asked for."""
        if not self.asked_below:
            return self.questions
        return self.questions | {each: below.question for each, below in self.asked_below.items()}

    @property
    def id_prefix(self) -> str:
        """What ids have to begin with that viewers see beside those of sessions above."""
        if self.delegated is None:
            return ""
        # The ids of delegated sessions are those of the first one, a dot, and a number for each further one.
        return self.session_id.partition(".")[2] + "."

    @property
    def can_resume(self) -> bool:
        """A life after this one can go on with it. Not with a minimal commander's: that knows no resume."""
        return self.requested is not None and self.requested.request is not None

    @property
    def is_suspect(self) -> bool:
        """Every commander that ran it has vanished: it may have killed them."""
        return 0 < self.deaths == self.tries

    @property
    def deaths(self) -> int:
        """Attempts that were lost because their commander vanished, and is not back."""
        return len(self.vanished)

    @property
    def silent_since(self) -> float | None:
        """When a commander took it from which no token has come yet; None where one has, or none has it."""
        is_with_nobody = self.state in (State.QUEUED, State.PARKED)
        # What runs the same again is silent until it has its answers.
        is_waited_for = self.first_token_at is None and not (is_with_nobody or self.parked)
        return self.started_at if is_waited_for else None

    @property
    def untouched(self) -> bool:
        """Nothing of this attempt was seen by anybody, and it was told nothing that it has confirmed: another
        commander can begin it afresh."""
        return self.received == 0 and len(self.owed) == self.owed_sequence

    def advance(self, step: Step) -> None:
        """Moves to the state that the table gives. A step that isn't in the table is a bug of ours."""
        after = TRANSITIONS[self.state].get(step)
        if after is None:
            raise AssertionError(f"{self!r}: {step.name} is not a step from {self.state.name}")
        self.state = after

    def event(self, kind: str, agent: str, text: str, body: object, size: int) -> SessionEvent:
        """The session's next event, accounted for; `size` is what it takes besides the texts in it, in bytes."""
        self.offset += 1
        size += EVENT_OVERHEAD_BYTES + (len(text) if text.isascii() else utf8_bytes(text))
        if agent:
            size += utf8_bytes(agent)
        if body is not None:
            size += texts_bytes(body)
        self.kept_bytes += size
        # As `SessionEvent(…)`, in half of the time.
        return tuple.__new__(SessionEvent, (self.offset, kind, self.attempt, agent, text, body))

    def sent(self, text: str) -> None:
        """Its commander sent content; `Done` will be checked against it."""
        self.sent_chars += len(text)
        self.sent_crc32 = crc32(text.encode(errors="surrogatepass"), self.sent_crc32)

    def passed_on(self, text: str) -> None:
        """Its commander sent content, and viewers are given it as it is. The hot path: as long as nothing was ever held
        back, both have the same checksum."""
        encoded = text.encode(errors="surrogatepass")
        chars, crc = len(text), crc32(encoded, self.sent_crc32)
        if self.said is not None:
            self._say(text, len(encoded))
        is_same = self.sent_crc32 == self.content_crc32
        self.sent_chars += chars
        self.content_chars += chars
        self.sent_crc32 = crc
        self.content_crc32 = crc if is_same else crc32(encoded, self.content_crc32)

    def publish(self, text: str) -> None:
        """Viewers are given content."""
        encoded = text.encode(errors="surrogatepass")
        self.content_chars += len(text)
        self.content_crc32 = crc32(encoded, self.content_crc32)
        if self.said is not None:
            self._say(text, len(encoded))

    def _say(self, text: str, size: int) -> None:
        assert self.said is not None
        self.said_bytes += size
        if self.said_bytes > self.published_bytes_max:
            self.said = None
        else:
            self.said.append(text)

    def answers(self, text: str) -> None:
        """A piece of what a delegated session answers: the content of its own agent."""
        self.answer_bytes += utf8_bytes(text)
        if self.answer_bytes > self.answer_bytes_max:
            self.answer = None
        elif self.answer is not None:
            self.answer.append(text)

    def may_continue(self, more_bytes: int = 0) -> bool:
        """Whether all that was published, and so much more, can be told to an agent that goes on from there."""
        if self.said is None:
            return False
        calls = self.ledger.published(self.since_attempt)
        told = sum(map(texts_bytes, calls)) + sum(texts_bytes(message) for message, _ in self.taken)
        for question, answer, _ in self.answers_told:
            told += len(question.body) if isinstance(question.body, bytes) else 0
            told += texts_bytes(answer)
        told += TOLD_OVERHEAD_BYTES * (len(calls) + len(self.taken) + len(self.answers_told))
        return self.said_bytes + told + more_bytes <= self.published_bytes_max

    def begin_attempt(
        self, commander_id: str, link: Link | None, now: float, *, goes_on: bool = False
    ) -> None:
        """A new try: its order begins afresh. What earlier ones published stays where it `goes_on` from there, and is
        discarded otherwise. What the user has said is owed to it, unless one that it goes on from has taken that;
        other debts were those of the try before."""
        self.attempt += 1
        if self.touched and not goes_on:
            self._discard()
        self.published = self._published() if self.touched or self.parked else None
        self.commander_id = commander_id
        self.instance = link.commander.instance if link is not None and link.commander is not None else ""
        self.link = link
        self.started_at = now
        self.received = self.marked = self.safe = self.granted = self.allowed = self.unacked_bytes = 0
        self.unsafe.clear()
        self.forget_gate()
        self.results.clear()
        self.sent_chars = self.sent_crc32 = 0
        self.step = ""
        self.first_token_at = self.first_content_at = None
        self.usage_before = self.usage
        self.usage_below = Usage()
        if self.guard is not None:
            self.guard.begin_anew(self.content_chars, self.thought_chars)
        messages = [(message, at) for _, message, at in self.unread]
        self.unread.clear()
        self.owed.clear()
        self._owed_told_at.clear()
        self.owed_sequence = 0
        for message, at in messages:
            self._owed(message, at)

    def _discard(self) -> None:
        """Viewers are told to forget what earlier attempts said; what the user said counts once more."""
        self.touched = False
        self.since_attempt = self.attempt
        self.content_chars = self.content_crc32 = self.thought_chars = 0
        self.parked = False
        self.answers_told.clear()
        self.withdrawn.clear()
        self.said, self.said_bytes = [], 0
        self.answer, self.answer_bytes = [], 0
        self.progress = self.error = None
        self.unread.extendleft((0, message, at) for message, at in reversed(self.taken))
        self.taken.clear()

    def _published(self) -> Published:
        content = "".join(self.said or ())
        messages = tuple(message for message, _ in self.taken)
        # As they were asked: two may have the same words.
        asked = sorted(self.answers_told, key=lambda told: told[0].told_at)
        # One that runs the same again waits in vain for what it has not waited for.
        unheard = self.withdrawn if self.parked else set()
        answers = tuple(
            PublishedAnswer(question.body, _withdrawn(answer) if at in unheard else answer)
            for question, answer, at in asked
        )
        calls = self.ledger.published(self.since_attempt, unheard)
        return Published(content, calls, messages, answers, self.parked)

    def lose_attempt(self, *, died: bool) -> None:
        """The attempt under way is lost; `died`: its commander has vanished with it."""
        self.tries += 1
        if died:
            self.vanished.append((self.attempt, self.instance))
        self.touched = self.touched or not self.untouched

    def lives_after_all(self, attempt: int, instance: str) -> None:
        """A commander is back that was taken for dead with that attempt."""
        if (attempt, instance) in self.vanished:
            self.vanished.remove((attempt, instance))

    def forget_gate(self) -> None:
        """What waits to be received is sent again, or by nobody."""
        self.gate.clear()
        self.gate_bytes = 0
        self.gate_review = self.denied = ""
        self.let_through = None

    def give_back(self, step: Step) -> None:
        """Its commander won't run it: it is nobody's, and waits for a slot again."""
        self.advance(step)
        self.forget_gate()
        self.commander_id = ""
        self.link = None

    def hold(self, size: int) -> None:
        """The packet just received, of `size` bytes, is not safe yet: the credit makes up for it."""
        begun = self.unsafe.pop()[1] if self.unsafe and self.unsafe[-1][1] < _UNSAFE_RUN_BYTES else 0
        self.unsafe.append((self.received, begun + size))

    def ack(self, credit_packets: int, credit_bytes: int) -> Ack:
        """What is kept, and the credit from there. What a policy holds back is neither kept nor charged."""
        self.granted = self.received
        self.unacked_bytes = 0
        while self.unsafe and self.unsafe[0][0] <= self.safe:
            self.unsafe.popleft()
        if self.starved is not None:
            return Ack(self.safe, 0, 0)
        self.allowed = max(self.allowed, self.received + credit_packets)
        held_bytes = sum(size for _, size in self.unsafe)
        return Ack(self.safe, credit_packets + self.received - self.safe, credit_bytes + held_bytes)

    def owe(self, body: ToolResult | Answer | UserMessage, told_at: int, out: list[Effect]) -> None:
        """Numbers a signal, keeps it until its commander has it, and sends it where there is a link. `told_at` is the
        offset of the event that tells viewers of the same."""
        signal = self._owed(body, told_at)
        if self.link is not None:
            out.append(Send(self.link.link_id, signal))

    def _owed(self, body: ToolResult | Answer | UserMessage, told_at: int) -> Signal:
        self.owed_sequence += 1
        signal = Signal(body, self.session_id, self.attempt, self.owed_sequence)
        self.owed.append(signal)
        self._owed_told_at.append(told_at)
        if isinstance(body, UserMessage):
            self.unread.append((self.owed_sequence, body, told_at))
        return signal

    def heard_signals(self, up_to: int) -> None:
        """Its commander has all owed signals up to this one."""
        owed = self.owed
        while owed and owed[0].sequence <= up_to:
            owed.popleft()
            self._owed_told_at.popleft()

    def put_back(self, event: SessionEvent, at: float) -> None:
        """Takes in an event of a life before, in order; `at` is when it was kept, on today's clock. See `stand_at`."""
        size = len(event.body) if isinstance(event.body, bytes) else 0
        self.event(event.kind, event.agent, event.text, event.body, size)
        if event.agent:
            self.paths.add(event.agent)
        match event.kind, event.body:
            case "started", _:
                self.started_at = at
                self.first_token_at = self.first_content_at = None
            case "reset", _:
                self.said, self.said_bytes = [], 0
                self.answer, self.answer_bytes = [], 0
            case "content", _:
                if self.delegated is not None and not event.agent:
                    self.answers(event.text)
                self.first_token_at = self.first_token_at or at
                self.first_content_at = self.first_content_at or at
                if self.said is not None:
                    self._say(event.text, utf8_bytes(event.text))
            case "thought", _:
                self.first_token_at = self.first_token_at or at
            case "question", _:
                self.first_token_at = self.first_token_at or at
            case (_, ToolCall(session_id=below)) | (_, ToolResult(session_id=below)) if below:
                pass
            case _, ToolCall() as call:
                self.tool_calls += 1
                self.ledger.put_back(event.attempt, event.agent, call)
            case _, ToolResult() as result:
                self.ledger.put_back_outcome(event.attempt, result.call_id, result.outcome, event.offset)
            case _, Answer() as answer:
                self.heard_answer(answer)
            case _, UserMessage() as message:
                self.taken.append((message, event.offset))
            case _, Ended() as ended:
                self.close(Ending(ended.ending), ended, at)
                self.stop_id = ended.stop.stop_id if ended.stop is not None else ""

    def stand_at(self, mark: Mark, events: Sequence[SessionEvent]) -> list[Release]:
        """Stands where it stood in a life before, once all its events were put back: its commander may return. What was
        held and is not any more goes on now."""
        self.attempt, self.tries = mark.attempt, mark.tries
        self.vanished = list(mark.vanished)
        self.asked = dict(mark.asked)
        self.since_attempt, self.touched, self.on_restart = mark.since_attempt, mark.touched, mark.on_restart
        self.commander_id, self.instance = mark.commander_id, mark.instance
        self.received = self.marked = mark.received
        self.safe = mark.safe
        self.unsafe.extend(mark.unsafe)
        self.sent_chars, self.sent_crc32 = mark.sent_chars, mark.sent_crc32
        self.content_chars, self.content_crc32 = mark.content_chars, mark.content_crc32
        self.thought_chars = mark.thought_chars
        if self.first_token_at is None and mark.has_spoken:
            # What it has said is held back, and stands in no event. When it came is not known.
            self.first_token_at = self.started_at
        self.usage, self.usage_before = mark.usage, mark.usage_before
        self.usage_below, self.usage_told = mark.usage_below, mark.usage_told
        if self.ended is not None:
            return []
        self.state = State.DETACHED if mark.commander_id else State.QUEUED
        for sequence, at in mark.owed:
            body = events[at - 1].body
            assert isinstance(body, ToolResult | Answer | UserMessage), body
            self.owed.append(Signal(body, self.session_id, self.attempt, sequence))
            self._owed_told_at.append(at)
        self.owed_sequence = mark.owed_sequence
        messages = {at: message for message, at in self.taken}
        self.unread.extend((sequence, messages.pop(at), at) for sequence, at in mark.unread)
        self.taken = [(message, at) for at, message in messages.items()]
        self.ledger.put_back_waiting(mark.attempt, mark.waiting_calls)
        self.parks, self.parked = mark.parks, mark.parked
        self.withdrawn = set(mark.withdrawn)
        if mark.parked and mark.questions:
            self.state = State.PARKED
        for asked_at, answered_at in mark.answers:
            answer = events[answered_at - 1].body
            assert isinstance(answer, Answer), answer
            question = Question(answer.question_id, None, events[asked_at - 1].body, asked_at)
            self.answers_told.append((question, answer, answered_at))
        self.approvals = dict(mark.approvals)
        self.ledger.put_back_held(mark.attempt, self.approvals.values())
        self.ledger.put_back_allowed(mark.attempt, mark.allowed_calls)
        # The limit on what an agent is told may be lower now; see `restore.py`.
        if mark.goes_on and self.may_continue():
            self.published = self._published()
        assert self.guard is not None, self
        return self.guard.put_back(mark.guard)

    def heard_reads(self, up_to: int) -> None:
        """Its agent has taken the messages up to the owed signal of this number."""
        unread = self.unread
        while unread and unread[0][0] <= up_to:
            _, message, at = unread.popleft()
            self.taken.append((message, at))

    def mark(self) -> Mark:
        """Where it stands now, as far as its events do not tell."""
        # No generator where there is nothing to go through: this is asked for at each commit.
        owed, unread, questions = self.owed, self.unread, self.questions
        return Mark(
            attempt=self.attempt,
            tries=self.tries,
            deaths=self.deaths,
            touched=self.touched,
            on_restart=self.on_restart,
            goes_on=self.published is not None,
            since_attempt=self.since_attempt,
            commander_id=self.commander_id,
            instance=self.instance,
            received=self.received,
            safe=self.safe,
            sent_chars=self.sent_chars,
            sent_crc32=self.sent_crc32,
            content_chars=self.content_chars,
            content_crc32=self.content_crc32,
            thought_chars=self.thought_chars,
            usage=self.usage,
            usage_before=self.usage_before,
            owed=tuple((each.sequence, at) for each, at in zip(owed, self._owed_told_at, strict=True))
            if owed
            else (),
            owed_sequence=self.owed_sequence,
            unread=tuple((sequence, at) for sequence, _, at in unread) if unread else (),
            questions=tuple(
                (each.question_id, each.told_at, each.expires_in_s) for each in questions.values()
            )
            if questions
            else (),
            waiting_calls=self.ledger.waiting_calls,
            guard=self.guard.mark if self.guard is not None else _NO_GUARD,
            unsafe=tuple(self.unsafe),
            offset=self.offset,
            asked=tuple(self.asked.items()) if self.asked else (),
            vanished=tuple(self.vanished) if self.vanished else (),
            usage_below=self.usage_below,
            usage_told=self.usage_told,
            approvals=tuple(self.approvals.items()) if self.approvals else (),
            allowed_calls=self.ledger.allowed_calls,
            answers=tuple((question.told_at, at) for question, _, at in self.answers_told)
            if self.answers_told
            else (),
            parks=self.parks,
            parked=self.parked,
            withdrawn=tuple(sorted(self.withdrawn)) if self.withdrawn else (),
        )

    def close(self, ending: Ending, ended: Ended, now: float) -> None:
        """Ends it: what is no longer needed is let go; what views, late stops and repeats ask for is kept."""
        self.advance(Step.END)
        self.ending = ending
        self.ended = ended
        self.ended_at = now
        self.link = None
        self.requested = None
        self.guard = None
        self.starved = None
        self.unsafe.clear()
        self.forget_gate()
        self.results.clear()
        self.owed.clear()
        self._owed_told_at.clear()
        self.taken.extend((message, at) for _, message, at in self.unread)
        self.unread.clear()
        self.said = self.published = None
        self.answers_told.clear()
        self.withdrawn.clear()
        self.questions.clear()
        self.approvals.clear()
        self.asked_below.clear()
        self.refused_by.clear()
        self.ledger.abandon()


def _withdrawn(answer: Answer) -> Answer:
    """What an agent is told of an answer for which it has not waited."""
    return Answer(answer.question_id, None, WITHDRAWN)
