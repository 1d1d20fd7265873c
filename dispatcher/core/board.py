"""The board: every piece of state that sessions share, and the moves that touch more than one of them.

All mutable state of the core is in here: the sessions, the fleet with its slots, the queue, the deadlines, the
room in the journal. `router.py`, `links.py` and `intake.py` decide; what concerns one slot or one commander they
change there, what concerns several sessions through these moves. A step's effects gather in `out`, in order. Within
one step the events of one session share one Append, placed where the first of them arose, so nothing is acknowledged
or told to a commander before it is kept.
"""

import json
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from math import inf
from typing import Final

from dispatcher.core.endings import FINISHED, STOP_OF_ENDING, Ending, Refusal
from dispatcher.core.events import (
    Append,
    Audit,
    CancelTools,
    CloseLink,
    Count,
    Effect,
    Forget,
    JudgeText,
    Leave,
    Log,
    Measure,
    Open,
    RunTool,
    Send,
    SessionRequested,
)
from dispatcher.core.fleet import Commander, CommanderState, Fleet, Link, Slot, SlotState
from dispatcher.core.ledger import Call
from dispatcher.core.limits import Limits
from dispatcher.core.packets import (
    PART,
    Answer,
    Ended,
    ErrorReport,
    OnRestart,
    Opened,
    Question,
    Reset,
    SessionEvent,
    Signal,
    Start,
    Started,
    Stop,
    ToolCall,
    ToolFailure,
    ToolOutcome,
    ToolResult,
    Usage,
)
from dispatcher.core.policy import PASS, Guard, Verdict
from dispatcher.core.quota import Quotas
from dispatcher.core.review import TextQuestion
from dispatcher.core.rules import Judged, Kind
from dispatcher.core.session import AskedBelow, Session, Step, asked_bytes
from dispatcher.core.timers import Timers
from dispatcher.core.windows import Release


def unanswered(code: str, message: str) -> ToolOutcome:
    """What becomes of a call that nobody will answer."""
    return failed(ToolFailure(code, message))


def failed(failure: ToolFailure) -> ToolOutcome:
    """The outcome of a call that came to nothing, with what a peer understands that reads nothing but the JSON."""
    told = {"error": {"code": failure.code, "message": failure.message}}
    return ToolOutcome(json.dumps(told, ensure_ascii=False), failure)


# Which parts of what people may read come with marks: all of a tool's answer, and of a call its arguments, the last.
NONE: Final = slice(0)
ALL: Final = slice(None)
LAST: Final = slice(-1, None)
# What becomes of the calls of an attempt that is lost.
_BEGUN: Final = unanswered("unknown_outcome", "its caller was lost while it ran; nobody knows what it did")
_NOT_BEGUN: Final = unanswered("cancelled", "its caller was lost before it ran")
_STOPPED: Final = unanswered(
    "cancelled", "its caller was lost, and the session that it had asked for was stopped"
)
_TOLD_ALREADY: Final = "and what it has told in another session can't be taken back"
# How those end that a session has asked for, where it ends so itself; else they are stopped.
_INHERITED: Final = frozenset(
    {
        Ending.POLICY_BLOCKED,
        Ending.POLICY_UNAVAILABLE,
        Ending.LIMIT_EXCEEDED,
        Ending.DEADLINE_EXCEEDED,
        Ending.DETACHED,
        Ending.SHUTDOWN,
    }
)
# What shows viewers that somebody is at work, sub-agents and those below included.
_SIGNS_OF_LIFE: Final = frozenset({"content", "thought", "question"})
# Of a delegated session, what is told by the one that asked for it as well.
_TOLD_ABOVE: Final = frozenset(
    {
        "content",
        "thought",
        "tool_call",
        "tool_result",
        "progress",
        "question",
        "answer",
        "agent_event",
        "artifact",
        "embedding",
        "usage",
    }
)


class Board:
    """The shared state of one dispatcher."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.sessions: dict[str, Session] = {}
        self.fleet = Fleet()
        self.quotas = Quotas()
        self.queue: OrderedDict[str, Session] = OrderedDict()
        # Those that wait a while before they queue for another attempt.
        self.resting: dict[str, Session] = {}
        self.timers: Timers[tuple[str, ...]] = Timers()
        self.draining = False
        # It goes, and takes no link any more.
        self.leaving = False
        # It leaves its sessions to a life after this one.
        self.hands_over = False
        # The journal can't keep anything for now.
        self.stalled = False
        # Sessions that have not ended; what the journal holds, bytes, as the core accounts it.
        self.live = 0
        self.kept_bytes = 0
        self.affinity: OrderedDict[str, str] = OrderedDict()
        self._by_idempotency_key: dict[tuple[str, str, str], Session] = {}
        self._ended: OrderedDict[str, Session] = OrderedDict()
        # Those that were kept long enough, and have viewers that may not have read the ending yet.
        self._overdue: OrderedDict[str, Session] = OrderedDict()
        self._starved: dict[str, Session] = {}
        # What a step has yet to settle between sessions of which one has asked for the other: verdicts on what is told
        # above, delegated sessions that have ended, and those that nobody waits for any more, with how they end.
        self.verdicts_above: deque[tuple[Session, Verdict]] = deque()
        self.delegated_over: deque[Session] = deque()
        self.orphans: deque[tuple[str, Ending, str, Stop | None]] = deque()
        # The step under way: its time, its effects, and each session's events in it.
        self.now = 0.0
        self.out: list[Effect] = []
        self._open: dict[str, list[SessionEvent]] = {}

    def begin(self, now: float) -> list[Effect]:
        """Begins a step; its effects gather in the list that is returned."""
        self.now = now
        self.out = []
        self._open = {}
        return self.out

    # --- telling -----------------------------------------------------------------------------------------

    def emit(self, session: Session, kind: str, agent: str, text: str, body: object, size: int = 0) -> None:
        """The session's next event; `size` is what it takes in bytes besides the texts that are seen here."""
        kept = session.kept_bytes
        event = session.event(kind, agent, text, body, size)
        self.kept_bytes += session.kept_bytes - kept
        events = self._open.get(session.session_id)
        if events is None:
            events = self._open[session.session_id] = []
            self.out.append(Append(session.session_id, events))
        events.append(event)
        session.marked = session.received
        if session.first_token_at is None and kind in _SIGNS_OF_LIFE:
            self.first_token(session)
        if session.delegated is not None:
            self._tell_above(session, kind, agent, text, body, size)

    def first_token(self, session: Session) -> None:
        """Whoever watches is not kept waiting in silence any more."""
        session.first_token_at = self.now
        self.out.append(Measure("first_token_s", self.now - session.started_at))

    def keep_mark(self, session: Session) -> None:
        """Keeps where it stands, though there may be nothing to tell."""
        session.marked = session.received
        if session.session_id not in self._open:
            self._open[session.session_id] = []
            self.out.append(Append(session.session_id, self._open[session.session_id]))

    # --- delegated sessions ------------------------------------------------------------------------------

    def above(self, session: Session) -> Session | None:
        """The session that asked for this one, as long as it waits for it."""
        asked = session.delegated
        above = self.sessions.get(asked.session_id) if asked is not None else None
        if asked is None or above is None or above.attempt != asked.attempt or not above.live:
            return None
        return above if above.children.get(asked.call_id) == session.session_id else None

    def _tell_above(
        self, session: Session, kind: str, agent: str, text: str, body: object, size: int
    ) -> None:
        """What a delegated session tells is told by the one that asked for it as well, under the agent's path. How it
        begins and ends is told otherwise; see `delegation.py`."""
        if kind == "content" and not agent:
            session.answers(text)
        above, asked = self.above(session), session.delegated
        if above is None or asked is None or above.guard is None or kind not in _TOLD_ABOVE:
            return
        path = f"{asked.path}/{agent}" if agent else asked.path
        verdict = PASS
        if kind in ("content", "thought"):
            verdict = above.guard.told_below("content" if kind == "content" else "thought", len(text))
        elif isinstance(body, ToolCall):
            verdict = above.guard.tool_call()
            body = body._replace(session_id=body.session_id or session.session_id)
        elif isinstance(body, ToolResult):
            body = body._replace(session_id=body.session_id or session.session_id)
        elif isinstance(body, Answer):
            was_held = above.is_held
            above.asked_below.pop(body.question_id, None)
            above.heard_answer(body)
            if was_held:
                self.await_viewers(above)
        if verdict is not PASS:
            self.verdicts_above.append((above, verdict))
            if verdict.stop is not None:
                return
        if kind == "content":
            above.publish(text)
        elif kind == "thought":
            above.thought_chars += len(text)
        self.emit(above, kind, path, text, body, size)

    def spend(self, session: Session, used: Usage, *, is_over: bool = False) -> None:
        """What was used costs something: the session, those above it, and its user. Where the turn `is_over` it ends
        nothing any more."""
        guard = session.guard
        if guard is None or not (used.input_tokens or used.output_tokens):
            return
        dollars, verdict = guard.price(used)
        if not is_over:
            self.violated(session, verdict)
        if dollars is None:
            return
        self.out.append(Count("cost_dollars", (used.model,), dollars))
        by_user = self.quotas.spend(session.user_id, dollars, self.limits, self.now)
        if not is_over and session.live:
            self.violated(session, guard.spent(dollars, by_user))
        above = self.above(session)
        while above is not None and above.guard is not None:
            verdict = above.guard.spent(dollars, by_user)
            if verdict is not PASS:
                self.verdicts_above.append((above, verdict))
            above = self.above(above)

    def tell_usage(self, session: Session) -> None:
        """What a delegated session has used, the one that asked for it has used as well."""
        above = self.above(session)
        used, session.usage_told = session.usage.beyond(session.usage_told), session.usage
        if above is None or above.guard is None:
            return
        above.usage, above.usage_below = above.usage.plus(used), above.usage_below.plus(used)
        verdict = above.guard.used(above.usage.output_tokens)
        if verdict is not PASS:
            self.verdicts_above.append((above, verdict))
        self.tell_usage(above)

    def _orphan(self, session: Session, ending: Ending, message: str, stop: Stop | None = None) -> None:
        """Nobody waits any more for what the session has asked others for."""
        self.orphans.extend((child_id, ending, message, stop) for child_id in session.children.values())
        session.children.clear()
        session.asked_below.clear()

    def ask_above(self, session: Session, question: Question, *, is_told_now: bool) -> None:
        """A question of a delegated session is asked by all above it: whoever watches one of them may answer. By the
        last event of each, or, after a restart, by one that is not known any more."""
        while (above := self.above(session)) is not None:
            told = question._replace(told_at=above.offset if is_told_now else 0)
            above.asked_below[question.question_id] = AskedBelow(session.session_id, told)
            if above.is_held:
                self.timers.cancel(("unwatched", above.session_id))
            session = above

    def send(self, link: Link, signal: Signal, *, urgent: bool = False) -> None:
        self.out.append(Send(link.link_id, signal, urgent))

    def ack(self, session: Session, link: Link) -> None:
        """Acknowledges what is kept, with credit as long as the journal has room."""
        link.ack_due.discard(session.session_id)
        if session.live:
            if self.is_choked(session):
                return
            self.check_room(session)
            if session.received > session.marked:
                # Of what came, some told nobody anything, and still is not to be asked for again.
                self.keep_mark(session)
        ack = session.ack(self.limits.credit_packets, self.limits.credit_bytes)
        self.send(link, Signal(ack, session.session_id, session.attempt))

    # --- services that judge -----------------------------------------------------------------------------

    def is_choked(self, session: Session) -> bool:
        """As much of its text as may waits to be judged: it gets no more credit until it was. What was judged and
        is held back waits for what the agent says next."""
        reviews = session.reviews
        return reviews is not None and reviews.unjudged_chars > self.limits.review_chars_max

    def review(self, session: Session, *, at_once: bool = False) -> None:
        """Asks about text that waits, `at_once` or when some has gathered."""
        reviews = session.reviews
        if reviews is None or not session.has_attempt:
            return
        if not at_once and self.now < session.review_at:
            self.timers.set_if_absent(("review", session.session_id), session.review_at)
            return
        for question in reviews.ask():
            session.review_at = self.now + reviews.gather_s
            self._judge(session, question)

    def review_whole(self, session: Session, kind: Kind, agent: str, text: str, tool_name: str = "") -> str:
        """Asks about a text that comes whole. Gives the id of the question; empty: nobody judges such text."""
        reviews = session.reviews
        services = reviews.services(kind) if reviews is not None else ()
        if reviews is None or not services:
            return ""
        whole = TextQuestion(reviews.mint(), kind, agent, text, "", True, services)
        self._judge(session, whole, tool_name)
        return whole.review_id

    def _judge(self, session: Session, question: TextQuestion, tool_name: str = "") -> None:
        self.out.append(
            JudgeText(
                session.session_id,
                session.attempt,
                question.review_id,
                question.kind,
                question.agent,
                question.text,
                question.services,
                question.before,
                question.is_final,
                session.agent,
                session.user_id,
                session.labels,
                tool_name,
            )
        )

    def heed(self, session: Session, judged: tuple[Judged, ...]) -> bool:
        """What services have said of what the user says. False: the session was ended for it."""
        if judged and session.live and session.guard is not None:
            self.violated(session, session.guard.judged(judged, "user", ""))
        return session.live

    # --- sessions ----------------------------------------------------------------------------------------

    def open_session(self, requested: SessionRequested) -> Session:
        """Enters a session and its first event. It has no slot yet and waits for none."""
        guard = Guard(self.limits.policy, requested.budgets, requested.agent)
        session = Session(
            requested,
            guard,
            self.now,
            running_tools_max=self.limits.session_tools_running_max,
            published_bytes_max=self.limits.published_bytes_max,
            answer_bytes_max=self.limits.delegated_answer_bytes_max,
        )
        self.enter(session)
        self.out.append(Open(requested))
        asked = session.delegated
        opened = Opened(session.agent, session.user_id, session.labels, asked.session_id if asked else "")
        self.emit(session, "opened", "", "", opened, asked_bytes(requested))
        self.arm_policy(session)
        self.await_viewers(session)
        self.out.append(Count("sessions_opened", (session.agent,)))
        return session

    def enter(self, session: Session) -> None:
        self.sessions[session.session_id] = session
        self.live += session.live
        self.quotas.entered(session)
        if session.idempotency_key:
            self._by_idempotency_key[session.asked_as] = session

    def refusal(self) -> Refusal | None:
        """Why no session can be opened now, whoever asks for it."""
        if self.draining:
            return Refusal.DRAINING
        if self.stalled:
            return Refusal.JOURNAL_STALLED
        return Refusal.SESSIONS_FULL if self.live >= self.limits.sessions_max else None

    def asked_before(self, requested: SessionRequested) -> Session | None:
        """The session that was asked for under the same key. Not one whose ending says to try again."""
        if not requested.idempotency_key:
            return None
        key = (requested.application, requested.user_id, requested.idempotency_key)
        session = self._by_idempotency_key.get(key)
        if session is None or (session.ending is not None and session.ending.traits.retryable):
            return None
        return session

    def end(
        self,
        session: Session,
        ending: Ending,
        message: str,
        *,
        stop: Stop | None = None,
        error: ErrorReport | None = None,
        turn_over: bool = False,
    ) -> None:
        """Ends a session: the fence falls, viewers get the ending, and where the agent still runs
        (`turn_over` False) its commander is told to stop it."""
        if session.delegated is not None:
            self.tell_usage(session)
        link, was_queued = session.link, self.queue.pop(session.session_id, None) is not None
        self.resting.pop(session.session_id, None)
        for timer in ("queue", "rest", "policy", "full", "unwatched", "park", "review"):
            self.timers.cancel((timer, session.session_id))
        for question_id in session.questions:
            self.timers.cancel(("question", session.session_id, question_id))
        ended = Ended(
            ending.value,
            message,
            session.content_chars,
            session.content_crc32,
            session.usage,
            stop,
            error,
            tuple(unread.message_id for _, unread, _ in session.unread),
        )
        self.emit(session, "ended", "", "", ended)
        if link is not None and link.minimal:
            link.broken_off = ending not in FINISHED
        if session.ledger.running:
            self.out.append(CancelTools(session.session_id, session.attempt))
        if session.delegated is not None:
            self.delegated_over.append(session)
        if session.children:
            own = ending if ending in _INHERITED else Ending.STOPPED
            self._orphan(session, own, f"the session that asked for it is over: {ending.value}", stop)
        session.close(ending, ended, self.now)
        session.stop_id = stop.stop_id if stop is not None else ""
        self.live -= 1
        self.quotas.ended(session)
        self._starved.pop(session.session_id, None)
        if link is not None:
            link.ack_due.discard(session.session_id)
        self.out.append(Count("sessions_ended", (ending.value,)))
        self.out.append(Measure("session_s", self.now - session.opened_at, (ending.value,)))
        level = "info" if ending in (Ending.COMPLETED, Ending.STOPPED) else "warning"
        told = message if message.startswith(ending.value) else f"{ending.value}: {message}"
        self.out.append(Log(level, f"ended: {told}", session.session_id, session.attempt))  # type: ignore[arg-type]
        self.keep(session)
        if self._starved:
            # It makes room for those; but its viewers shall have read the ending.
            self.timers.set_if_absent(("room",), self.now + self.limits.ack_interval_s)
        if not was_queued:
            self._let_go(session, link, stop, message, turn_over)
        if self.draining and self.live == 0:
            self.out.append(Leave())

    def _let_go(
        self, session: Session, link: Link | None, stop: Stop | None, message: str, turn_over: bool
    ) -> None:
        """Settles the slot of a session that has just ended."""
        if stop is None:
            code = STOP_OF_ENDING.get(session.ending or Ending.STOPPED, "fenced")
            stop = Stop(f"end-{session.session_id}", code, message, int(self.limits.stop_grace_s * 1000))
        commander = self.fleet.commanders.get(session.commander_id)
        slot = commander.slots.get((session.session_id, session.attempt)) if commander else None
        if commander is None or slot is None:
            if link is not None and link.minimal and not turn_over:
                self.send(link, Signal(stop, session.session_id), urgent=True)
                grace_s = 0.0 if link.half_closed else stop.grace_ms / 1000
                self.timers.set(("finish", link.link_id), self.now + grace_s)
            return
        if turn_over:
            self.free_slot(commander, slot)
            return
        slot.state = SlotState.STOPPING
        slot.stop = stop
        slot.stopped_at = self.now
        # While the link is down nobody hears of it, so nobody is late: it goes out after the next Hello.
        if link is not None:
            self.send_stop(commander, slot, stop, link)

    def send_stop(self, commander: Commander, slot: Slot, stop: Stop, link: Link) -> None:
        """Tells a commander to stop an attempt, and from here on waits for what it says to that."""
        key = (commander.commander_id, slot.session_id, str(slot.attempt))
        if slot.state is SlotState.STOPPING:
            if not slot.stop_received:
                self.timers.set(("stop_received", *key), self.now + self.limits.stop_received_s)
            due = self.now + stop.grace_ms / 1000 + self.limits.stop_received_s
            self.timers.set(("stop_applied", *key), due)
        self.send(link, Signal(stop, slot.session_id, slot.attempt), urgent=True)

    def arm_policy(self, session: Session) -> None:
        """Sets the deadline that policies have for the session next."""
        guard = session.guard
        due = guard.next_deadline(session.opened_at, session.silent_since) if guard else None
        if due is not None:
            self.timers.set(("policy", session.session_id), due)

    def may_pass(
        self,
        session: Session,
        text: str,
        agent: str,
        kind: Kind = "statement",
        rewritten: slice = NONE,
    ) -> bool:
        """Judges what people may read in something that comes whole. False: it is not to be told, and the session
        was ended. Marks are put into those of its parts that are `rewritten`, see `rewrite`."""
        guard = session.guard
        if guard is not None and text:
            parts = text.split(PART)
            marked = range(len(parts))[rewritten]
            for number, part in enumerate(parts):
                is_rewritten = number in marked
                verdict = guard.statement(part, session.received, agent, kind, rewritten=is_rewritten)
                if verdict is not PASS:
                    self.violated(session, verdict)
        return session.live

    def rewrite(self, session: Session, text: str, agent: str, kind: Kind, *, is_json: bool = True) -> str:
        """What may go on of a text that comes whole and was judged: itself, or with marks in it."""
        if session.guard is None:
            return text
        rewritten, verdict = session.guard.rewrite(text, agent, kind, is_json=is_json)
        self.violated(session, verdict)
        return rewritten

    def marked(self, session: Session | None, text: str | None, *, is_json: bool = False) -> str | None:
        """What the user says as it would go on; nobody is told of it."""
        if session is None or session.guard is None or not text:
            return text
        return session.guard.rewrite(text, "", "user", is_json=is_json)[0]

    def release(self, session: Session, release: Release) -> None:
        """Text goes on that policies have let through."""
        if not session.live:
            return
        if release.kind == "content":
            session.publish(release.text)
            self.emit(session, "content", release.agent, release.text, None)
        else:
            self.emit(session, "thought", release.agent, release.text, release.step)

    def violated(self, session: Session, verdict: Verdict) -> None:
        """Tells what policies found, and ends the session when one of them stops it."""
        for violation in verdict.violations:
            labels = (violation.policy.value, violation.mode.value)
            self.out.append(Count("policy_violations", labels))
            if violation.pattern:
                self.out.append(Count("rule_verdicts", (violation.pattern, violation.action)))
            self.out.append(
                Audit(
                    session.session_id,
                    session.attempt,
                    violation.policy.value,
                    violation.pattern,
                    violation.action,
                    violation.kind if violation.policy.stop_code == "policy_violation" else "",
                    violation.agent,
                    violation.at if violation.pattern else None,
                    f"{violation.mode.value}: {violation.message}",
                )
            )
        broken = verdict.stop
        if broken is None or not session.live:
            return
        policy = broken.policy
        reason = "PolicyViolation" if policy.stop_code == "policy_violation" else "LimitExceeded"
        stop = Stop(
            f"policy-{session.session_id}",
            policy.stop_code,
            reason,
            int(self.limits.stop_grace_s * 1000),
            policy=policy.value,
        )
        self.end(session, policy.ending, broken.message, stop=stop)

    def _time_left_s(self, session: Session) -> float | None:
        """How long the session may still take, as far as it is enforced."""
        assert session.guard is not None, session
        left = session.guard.total_time_s
        return None if left == inf else max(0.0, session.opened_at + left - self.now)

    def await_answer(self, session: Session, question: Question, asked_at: float) -> None:
        """Its question is open until it is answered or has waited long enough."""
        session.questions[question.question_id] = question
        session.answered.pop(question.question_id, None)
        wait_s = self.limits.question_wait_s
        if question.expires_in_s is not None:
            wait_s = max(0.0, min(question.expires_in_s, wait_s))
        self.timers.set(("question", session.session_id, question.question_id), asked_at + wait_s)
        if session.is_held:
            self.timers.cancel(("unwatched", session.session_id))
        self.ask_above(session, question, is_told_now=True)
        if session.parks and question.question_id not in session.approvals:
            self.park_later(session)

    def park_later(self, session: Session, least_s: float = 0.0) -> None:
        """Looks after a while whether it does nothing but wait for a person."""
        session.quiet_at = session.received
        after_s = max(self.limits.park_after_s, least_s)
        self.timers.set(("park", session.session_id), self.now + after_s)

    def run_tool(self, session: Session, call: Call) -> None:
        self.out.append(
            RunTool(
                session.session_id,
                call.attempt,
                call.agent,
                session.user_id,
                call.to_run,
                session.agent,
                call.is_approved,
            )
        )

    def run_owed(self, session: Session) -> None:
        """What waited for a place runs, as far as there are places."""
        runs_more = False
        while (owed := session.ledger.next_owed()) is not None:
            self.run_tool(session, owed)
            runs_more = True
        if runs_more:
            # Perhaps no event tells of this step, and a life after this one must not take them for what has not begun.
            self.keep_mark(session)

    # --- slots and the queue -----------------------------------------------------------------------------

    def choose(self, requested: SessionRequested, refused_by: Collection[str] = ()) -> Commander | None:
        """The commander to take a slot of, or None: all are busy."""
        return self.fleet.choose(
            requested.agent,
            requested.agent_version,
            requested.commander_labels,
            self.affinity.get(requested.affinity_key, "") if requested.affinity_key else "",
            refused_by,
        )

    def _choose_for(self, session: Session) -> Commander | None:
        """As `choose`. One that is under suspicion of killing commanders is kept apart from others that are, where
        there are commanders enough: so the poison dies alone, and whoever was only near it is cleared."""
        requested = session.requested
        assert requested is not None, session
        if session.is_suspect:
            apart = session.refused_by | {
                commander.commander_id
                for commander in self.fleet.commanders.values()
                if any(self._is_suspect(session_id) for session_id, _ in commander.slots)
            }
            commander = self.choose(requested, apart)
            if commander is not None:
                return commander
        return self.choose(requested, session.refused_by)

    def _is_suspect(self, session_id: str) -> bool:
        session = self.sessions.get(session_id)
        return session is not None and session.live and session.is_suspect

    def place(self, session: Session, *, first: bool = False) -> None:
        """Takes a slot for a queued session, or lets it wait for one, at the front where `first`."""
        requested = session.requested
        assert requested is not None, session
        commander = self._choose_for(session)
        if commander is not None:
            self.take(session, commander)
        else:
            self.wait(session, first=first)

    def wait(self, session: Session, *, first: bool = False) -> None:
        """Lets a session wait for a slot, without looking for one."""
        self.queue[session.session_id] = session
        if first:
            self.queue.move_to_end(session.session_id, last=False)
        if session.queue_due is None:
            session.queue_due = self.now + self.limits.queue_wait_s
        # One that was refused, maybe again and again, waits no longer for that.
        self.timers.set(("queue", session.session_id), session.queue_due)

    def waited_enough(self, session: Session) -> None:
        message = f"no commander became free within {self.limits.queue_wait_s:g} s"
        self.out.append(Measure("queue_wait_s", self.now - session.opened_at))
        if session.tries:
            self.end(session, Ending.COMMANDER_LOST, f"its commander was lost, and {message}")
        else:
            self.end(session, Ending.QUEUE_TIMEOUT, message)

    # --- failover ----------------------------------------------------------------------------------------

    def attempt_lost(self, session: Session, why: str, *, died: bool) -> None:
        """Its commander will not go on with it: another takes over, now or after a rest, or it ends. `died`: the
        commander has vanished, perhaps because of what this session made it do."""
        limits = self.limits
        session.lose_attempt(died=died)
        if session.tries >= limits.attempts_max:
            self._end_lost(session, why)
            return
        if session.touched and session.on_restart == "never":
            self.end(
                session, Ending.COMMANDER_LOST, f"{why}, and its agent is not to be run twice", turn_over=True
            )
            return
        if self._must_not_begin_anew(session, session.on_restart):
            self.end(session, Ending.COMMANDER_LOST, f"{why}, {_TOLD_ALREADY}", turn_over=True)
            return
        self.out.append(Count("attempts_lost"))
        told = f"attempt {session.attempt} of at most {limits.attempts_max} is lost: {why}"
        self.out.append(Log("warning", told, session.session_id, session.attempt))
        self._close_what_waits(session)
        self.give_back(session, Step.REQUEUE)
        session.refused_by.clear()
        # It has lost its slot through no fault of its own, and may wait for one anew.
        session.queue_due = None
        self.queue_again(session, first=True)

    def _must_not_begin_anew(self, session: Session, on_restart: OnRestart) -> bool:
        """What it has said stands among what others say above it, and can't be taken back there."""
        goes_on = session.parked or (on_restart == "continue" and session.may_continue())
        return session.delegated is not None and session.touched and not goes_on

    def queue_again(self, session: Session, *, first: bool = False, since: float | None = None) -> None:
        """Lets a session wait for a slot, after a rest where it has lost several attempts: from now on, or `since`."""
        if session.tries <= 1:
            self.wait(session, first=first)
        else:
            self.resting[session.session_id] = session
            rest_s = self.limits.restart_backoff_s * 2.0 ** (session.tries - 2)
            rest_s = min(rest_s, self.limits.restart_backoff_max_s)
            self.timers.set(("rest", session.session_id), (self.now if since is None else since) + rest_s)

    def _end_lost(self, session: Session, why: str) -> None:
        if session.tries > 1 and session.is_suspect:
            message = f"{session.tries} commanders died while they ran it, the last: {why}"
            self.end(session, Ending.POISONED, message, turn_over=True)
        else:
            attempts = f"; attempts_max is {session.tries}" if session.tries > 1 else ""
            self.end(session, Ending.COMMANDER_LOST, why + attempts, turn_over=True)

    def _close_what_waits(self, session: Session) -> None:
        """Answers, for viewers and for an agent that goes on, what the lost attempt has asked."""
        # Who was asked of a session that its questions hold does not know, and may answer: it is not left for that.
        for question_id in list(session.questions):
            del session.questions[question_id]
            self.timers.cancel(("question", session.session_id, question_id))
            self.emit(session, "answer", "", "", Answer(question_id, None, "commander_lost"))
        session.approvals.clear()
        if session.ledger.running:
            self.out.append(CancelTools(session.session_id, session.attempt))
        for question_id in list(session.asked_below):
            # Above it is closed by what is told of this.
            del session.asked_below[question_id]
            self.emit(session, "answer", "", "", Answer(question_id, None, "commander_lost"))
        children = set(session.children)
        if children:
            self._orphan(session, Ending.STOPPED, "the attempt that asked for it is lost")
        for call, begun in session.ledger.lose():
            call.outcome = _BEGUN if begun else _NOT_BEGUN
            if call.request.call_id in children:
                call.outcome = _STOPPED
            result = ToolResult(call.request.call_id, call.request.tool_name, call.outcome)
            self.emit(session, "tool_result", call.agent, "", result)

    def give_back(self, session: Session, step: Step) -> None:
        """It is nobody's any more, and a life after this one is to know that."""
        session.give_back(step)
        self.keep_mark(session)

    def rested(self, session: Session) -> None:
        """It may queue for another attempt."""
        del self.resting[session.session_id]
        self.place(session, first=True)

    def take(self, session: Session, commander: Commander) -> None:
        """Takes a slot of a commander that has a free one, and tells it to start."""
        requested = session.requested
        assert requested is not None, session
        if self.queue.pop(session.session_id, None) is not None:
            self.timers.cancel(("queue", session.session_id))
        on_restart = commander.on_restart(session.agent, requested.agent_version)
        if self._must_not_begin_anew(session, on_restart):
            self.end(
                session, Ending.COMMANDER_LOST, f"its commander was lost, {_TOLD_ALREADY}", turn_over=True
            )
            return
        session.advance(Step.TAKE)
        goes_on = session.parked or (on_restart == "continue" and session.may_continue())
        is_reset = session.touched and not goes_on
        session.begin_attempt(commander.commander_id, commander.link, self.now, goes_on=goes_on)
        session.on_restart = on_restart
        session.parks = commander.parks(session.agent, requested.agent_version)
        key = (session.session_id, session.attempt)
        commander.slots[key] = Slot(*key)
        commander.taken += 1
        if requested.affinity_key:
            self.affinity[requested.affinity_key] = commander.commander_id
            self.affinity.move_to_end(requested.affinity_key)
            if len(self.affinity) > self.limits.sessions_max:
                self.affinity.popitem(last=False)
        if is_reset:
            # All but its first event, which says what was asked.
            self.emit(session, "reset", "", "", Reset(1, "an attempt was lost; its answer begins anew"))
        self.emit(session, "started", "", "", Started(commander.commander_id))
        self.out.append(Measure("queue_wait_s", self.now - session.opened_at))
        self.start(session)
        self.arm_policy(session)
        told = f"started: agent {session.agent} on commander {commander.commander_id}"
        self.out.append(
            Log("info", told, session.session_id, session.attempt, commander_id=commander.commander_id)
        )

    def start(self, session: Session) -> None:
        """Sends the Start of the attempt under way and what is owed to it, once more after a link that may have
        lost them."""
        requested, link = session.requested, session.link
        assert requested is not None, session
        if link is None:
            return
        session.allowed = max(session.allowed, self.limits.credit_packets)
        start = Start(
            session.agent,
            requested.agent_version,
            session.user_id,
            self._time_left_s(session),
            self.limits.credit_packets,
            self.limits.credit_bytes,
            requested.request,
            session.published,
            session.id_prefix,
        )
        self.send(link, Signal(start, session.session_id, session.attempt))
        for signal in session.owed:
            self.send(link, signal)

    def free_slot(self, commander: Commander, slot: Slot) -> None:
        """The slot is free again and goes to the first in the queue that fits, also one it once refused."""
        for session in self.queue.values():
            session.refused_by.discard(commander.commander_id)
        commander.slots.pop((slot.session_id, slot.attempt), None)
        for timer in ("stop_received", "stop_applied"):
            self.timers.cancel((timer, commander.commander_id, slot.session_id, str(slot.attempt)))
        self.serve_queue(commander)

    def serve_queue(self, commander: Commander) -> None:
        while commander.state is CommanderState.READY and commander.free > 0:
            session = next(self._waiting_for(commander), None)
            if session is None:
                return
            self.take(session, commander)

    def serve_queue_by_load(self) -> None:
        """Gives every free slot to the queue, each session to whom it would have got with its request."""
        # Many sessions want the same: who could take them is looked for once, and soon there is nobody.
        could_take: dict[object, list[Commander]] = {}
        for session in list(self.queue.values()):
            requested = session.requested
            assert requested is not None, session
            labels = requested.commander_labels
            wants = (session.agent, requested.agent_version, tuple(sorted(labels.items())))
            if wants not in could_take:
                could_take[wants] = list(self.fleet.serving(session.agent, requested.agent_version, labels))
            could_take[wants] = [each for each in could_take[wants] if each.is_free]
            commander = self._choose_for(session) if could_take[wants] else None
            if commander is not None:
                self.take(session, commander)

    def _waiting_for(self, commander: Commander) -> Iterator[Session]:
        for session in self.queue.values():
            requested = session.requested
            assert requested is not None, session
            if commander.commander_id not in session.refused_by and commander.serves(
                session.agent, requested.agent_version, requested.commander_labels
            ):
                yield session

    # --- links -------------------------------------------------------------------------------------------

    def close_link(self, link: Link, status: str, message: str) -> None:
        """Ends the stream from this side. What it means for sessions is `Links.detach`."""
        self.out.append(CloseLink(link.link_id, status, message))
        level = "info" if link.goodbye or status in ("OK", "ABORTED") else "warning"
        told = f"closed the link of {link.whose}: {status}: {message}"
        self.out.append(Log(level, told, link_id=link.link_id, commander_id=link.commander_id))  # type: ignore[arg-type]

    # --- room in the journal -----------------------------------------------------------------------------

    def has_room(self, session: Session) -> bool:
        """The journal may keep more of it, once ended sessions have made room."""
        if self.kept_bytes >= self.limits.journal_bytes:
            self.make_room()
        return not self._full(session)

    def _full(self, session: Session) -> bool:
        above = self.above(session)
        return (
            session.kept_bytes >= self.limits.journal_session_bytes
            or self.kept_bytes >= self.limits.journal_bytes
            or (above is not None and self._full(above))
        )

    def check_room(self, session: Session) -> None:
        """Marks a session that has no room as starved: it gets no credit until there is some."""
        if self.kept_bytes >= self.limits.journal_bytes:
            self.make_room()
        full = self._full(session)
        if full and session.starved is None:
            session.starved = self.now
            session.starved_bytes = 0
            self._starved[session.session_id] = session
            self.timers.set(("full", session.session_id), self.now + self.limits.journal_full_wait_s)
            self.out.append(Count("sessions_starved"))
            self.out.append(
                Log("warning", "its journal is full: it gets no credit", session.session_id, session.attempt)
            )
        elif not full and session.starved is not None:
            session.starved = None
            self._starved.pop(session.session_id, None)
            self.timers.cancel(("full", session.session_id))

    def make_room(self) -> None:
        """Forgets ended sessions, oldest first, until the journal is below its bound."""
        while (kept := self._overdue or self._ended) and self.kept_bytes >= self.limits.journal_bytes:
            self.forget(next(iter(kept.values())))

    def make_room_of(self, user_id: str) -> None:
        """Forgets ended sessions of one user that nobody watches, oldest first, until there is less than the bound."""
        for session in self.quotas.ended_of(user_id):
            excess = self.quotas.excess(user_id, self.limits)
            if excess is None or excess.refusal is not Refusal.USER_JOURNAL_FULL:
                return
            if not session.viewers:
                self.forget(session)

    def keep(self, session: Session) -> None:
        """Keeps an ended session for as long as the limits say."""
        self._ended[session.session_id] = session
        self.timers.set(("forget", session.session_id), session.ended_at + self.limits.journal_keep_s)
        while len(self._ended) > self.limits.journal_keep_sessions:
            self.kept_enough(next(iter(self._ended.values())))

    def kept_enough(self, session: Session) -> None:
        """Forgets an ended session, as soon as nobody watches it any more."""
        if session.viewers:
            self.timers.cancel(("forget", session.session_id))
            self._ended.pop(session.session_id, None)
            self._overdue[session.session_id] = session
        else:
            self.forget(session)

    def await_viewers(self, session: Session, grace_s: float = 0.0) -> None:
        """Where nobody watches a session that is to be watched: it ends when nobody has come for so long."""
        requested, timer = session.requested, ("unwatched", session.session_id)
        # Viewers are told to come back to a life after this one: that they leave this one says nothing.
        if session.viewers or session.is_held or self.hands_over:
            self.timers.cancel(timer)
        elif requested is not None and requested.stop_when_unwatched_s is not None:
            self.timers.set(timer, self.now + grace_s + requested.stop_when_unwatched_s)

    def unwatched(self, session: Session) -> None:
        """Its last viewer has left."""
        if session.session_id in self._overdue:
            self.forget(session)

    def forget(self, session: Session) -> None:
        """Lets go of an ended session."""
        self.timers.cancel(("forget", session.session_id))
        self._ended.pop(session.session_id, None)
        self._overdue.pop(session.session_id, None)
        self.sessions.pop(session.session_id, None)
        self.quotas.forgotten(session)
        self.kept_bytes -= session.kept_bytes
        # Another may have been asked for under the same key since.
        if session.idempotency_key and self._by_idempotency_key.get(session.asked_as) is session:
            del self._by_idempotency_key[session.asked_as]
        self.out.append(Forget(session.session_id))
        self.feed_starved()

    def feed_starved(self) -> None:
        """There may be room: whoever waited for it may go on."""
        for starved in list(self._starved.values()):
            if not self._full(starved) and starved.link is not None:
                self.ack(starved, starved.link)
