"""The heart: `step(event, now) -> effects`.

One event at a time, called by `hub.py` alone. It never waits, so each decision is atomic: a slot is taken in
the step that finds it free, a stop wins or loses against a finish exactly once. `now` is a monotonic clock's
seconds. What comes from links is decided in `links.py` and `intake.py`; asking, stopping, answering and
deadlines are decided here. All state is on the board.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from dispatcher.core.approval import Approvals
from dispatcher.core.board import ALL, Board
from dispatcher.core.delegation import Delegation
from dispatcher.core.endings import ENDING_OF_STOP, Ending, Refusal
from dispatcher.core.events import (
    Accepted,
    AnswerGiven,
    ApprovalRequested,
    CommanderDrainRequested,
    Count,
    Declined,
    DelegationRequested,
    Draining,
    DrainRequested,
    Effect,
    Event,
    HelloReceived,
    JournalChanged,
    Leave,
    LimitsChanged,
    LinkLost,
    LinkOpened,
    Log,
    MessageGiven,
    PacketsReceived,
    Restored,
    Selector,
    SessionRequested,
    ShutdownRequested,
    SignalDropped,
    Stopped,
    StoppedMany,
    StopRequested,
    StopsRequested,
    TextJudged,
    TimePassed,
    ToolFinished,
    ToolProgressed,
    ViewerCame,
    ViewerLeft,
)
from dispatcher.core.fleet import Fleet
from dispatcher.core.intake import Intake
from dispatcher.core.limits import Limits
from dispatcher.core.links import Links
from dispatcher.core.packets import DECLINED, Answer, Goodbye, Signal, Stop, UserMessage
from dispatcher.core.parking import Parking
from dispatcher.core.quota import Excess
from dispatcher.core.restore import Restoring
from dispatcher.core.session import Session, State

# Being told of time so late says that nothing was seen meanwhile.
STOOD_STILL_S: Final = 0.5


class Router:
    """Decides about everything that happens to sessions and commanders."""

    def __init__(self, limits: Limits) -> None:
        self._board = Board(limits)
        self._links = Links(self._board)
        self._intake = Intake(self._board, self._links)
        self._delegation = Delegation(self._board, self._intake)
        self._intake.settle_by(self._delegation.settle)
        self._approvals = Approvals(self._board, self._intake)
        self._parking = Parking(self._board)
        self._steps: dict[type[Any], Callable[[Any], None]] = {
            PacketsReceived: self._intake.received,
            LinkOpened: self._links.opened,
            HelloReceived: self._links.greeted,
            LinkLost: self._links.lost,
            SessionRequested: self._session_requested,
            DelegationRequested: self._delegation.requested,
            StopRequested: self._stop_requested,
            StopsRequested: self._stops_requested,
            AnswerGiven: self._answer_given,
            MessageGiven: self._message_given,
            ToolFinished: self._intake.answer_call,
            ToolProgressed: self._intake.tell_progress,
            ApprovalRequested: self._approvals.requested,
            TextJudged: self._intake.text_judged,
            SignalDropped: self._signal_dropped,
            ViewerCame: self._viewer_came,
            ViewerLeft: self._viewer_left,
            CommanderDrainRequested: self._commander_drain_requested,
            DrainRequested: self._drain_requested,
            ShutdownRequested: self._shutdown_requested,
            LimitsChanged: self._limits_changed,
            JournalChanged: self._journal_changed,
            Restored: Restoring(self._board).restored,
            TimePassed: self._time_passed,
        }
        self._deadlines: dict[str, Callable[..., None]] = {
            "beat": self._links.beat,
            "heard": self._links.listen,
            "mute": self._links.mute,
            "grace": self._links.grace_over,
            "ack": self._intake.ack_due,
            "stop_applied": self._intake.stuck,
            "stop_received": self._stop_unreceived,
            "queue": self._queue_over,
            "rest": self._rest_over,
            "policy": self._policy_due,
            "question": self._question_over,
            "park": self._parking.due,
            "review": self._review_due,
            "full": self._full_over,
            "room": self._board.make_room,
            "unwatched": self._unwatched_over,
            "finish": self._finish_over,
            "forget": self._keep_over,
        }

    def __repr__(self) -> str:
        board = self._board
        return (
            f"<Router {board.live} live of {len(board.sessions)}, {len(board.queue)} queued, {board.fleet!r}>"
        )

    # --- for views: read, never change -------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        return self._board.limits

    @property
    def sessions(self) -> dict[str, Session]:
        return self._board.sessions

    @property
    def fleet(self) -> Fleet:
        return self._board.fleet

    @property
    def queued(self) -> int:
        """Those that rest before another attempt included."""
        return len(self._board.queue) + len(self._board.resting)

    def rests(self, session: Session) -> bool:
        """It has lost several attempts, and waits a while before it queues for the next."""
        return session.session_id in self._board.resting

    @property
    def live(self) -> int:
        return self._board.live

    @property
    def stalled(self) -> bool:
        """The journal can't keep anything for now."""
        return self._board.stalled

    @property
    def draining(self) -> bool:
        return self._board.draining

    @property
    def kept_bytes(self) -> int:
        return self._board.kept_bytes

    def asking(self, session_id: str, question_id: str) -> Session | None:
        """The session that asks this: itself, or one that was asked for by it. None: there is no such question."""
        session = self._board.sessions.get(session_id)
        while session is not None and question_id not in session.questions:
            below = session.asked_below.get(question_id)
            session = self._board.sessions.get(below.session_id) if below is not None else None
        return session

    def marked(self, session: Session | None, text: str | None, *, is_json: bool = False) -> str | None:
        """What the user says as it would go on."""
        return self._board.marked(session, text, is_json=is_json)

    def selected(self, selector: Selector, *, ended: bool = False) -> list[Session]:
        """The sessions that match, oldest first; those that have ended too where `ended`."""
        return [s for s in self._board.sessions.values() if (ended or s.live) and _matches(s, selector)]

    # --- steps -------------------------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Effect]:
        """Decides what is to be done about one event. The effects are to be performed in their order."""
        out = self._board.begin(now)
        self._steps[type(event)](event)
        self._delegation.settle()
        return out

    def next_deadline(self) -> float | None:
        """When TimePassed is due, on the clock of `now`; None: not before another event."""
        return self._board.timers.next_deadline()

    def _time_passed(self, event: TimePassed) -> None:
        timers, now = self._board.timers, self._board.now
        if event.late_s > STOOD_STILL_S:
            self._links.stood_still(event.late_s)
        while (key := timers.pop_due(now)) is not None:
            self._deadlines[key[0]](*key[1:])

    # --- asking ------------------------------------------------------------------------------------------

    def _session_requested(self, event: SessionRequested) -> None:
        board = self._board
        first = board.asked_before(event)
        if first is not None:
            self._join(event, first)
            return
        agents = board.fleet.agents()
        if not event.agent and len(agents) == 1:
            event = replace(event, agent=agents[0])
        if not event.agent and agents:
            excess: Excess | None = Excess(
                Refusal.INVALID_REQUEST, f"agent: is empty; name one of {', '.join(agents)}"
            )
        elif not any(board.fleet.serving(event.agent, event.agent_version, event.commander_labels)):
            excess = Excess(Refusal.NO_SUCH_AGENT, _no_such_agent(event, agents))
        else:
            excess = self._excess(event)
        if excess is not None:
            self._refuse(*excess)
            return
        session = board.open_session(replace(event, said=(), judged=()))
        board.out.append(Accepted(session.session_id))
        for text in event.said:
            if board.may_pass(session, text, "", "user", ALL):
                board.rewrite(session, text, "", "user", is_json=False)
        board.heed(session, event.judged)
        if session.live:
            board.place(session)

    def _excess(self, event: SessionRequested) -> Excess | None:
        """What there is too much of for another session; else the request counts."""
        board = self._board
        limits, quotas = board.limits, board.quotas
        refusal = board.refusal()
        if refusal is Refusal.DRAINING:
            return Excess(refusal, "the dispatcher is draining and takes no new sessions")
        if refusal is Refusal.JOURNAL_STALLED:
            return Excess(refusal, "the journal can't be written for now; try again later")
        if refusal is not None:
            return Excess(refusal, f"sessions_max is {limits.sessions_max}, and so many run or wait")
        board.make_room_of(event.user_id)
        excess = quotas.excess(event.user_id, limits) or quotas.overspent(event.user_id, limits, board.now)
        if excess is None and board.choose(event) is None:
            excess = self._excess_in_queue(event.user_id)
        return excess or quotas.take(event.user_id, limits, board.now)

    def _excess_in_queue(self, user_id: str) -> Excess | None:
        """No slot is free: there may be too many already that wait for one."""
        limits, queue = self._board.limits, self._board.queue
        if len(queue) >= limits.queue_sessions_max:
            told = f"queue_sessions_max is {limits.queue_sessions_max}, and so many wait already"
            return Excess(Refusal.QUEUE_FULL, told)
        of_user = sum(session.user_id == user_id for session in queue.values()) if user_id else -1
        if of_user >= limits.user_queue_sessions_max:
            told = f"user_queue_sessions_max is {limits.user_queue_sessions_max}, and so many of this user wait already"
            return Excess(Refusal.USER_QUEUE_FULL, told)
        return None

    def _join(self, event: SessionRequested, first: Session) -> None:
        """Its key was used before: for the same, or by mistake."""
        message = ""
        if event.agent not in ("", first.agent):
            message = f"was used to ask {first.agent!r}; use another one to ask {event.agent!r}"
        elif event.request_crc32 != first.request_crc32:
            message = "was used for another request; use another one, or ask for the same"
        if message:
            self._refuse(Refusal.KEY_TAKEN, f"idempotency_key: {message}")
        else:
            self._board.out.append(Accepted(first.session_id, joined=True))

    def _refuse(self, refusal: Refusal, message: str, retry_after_s: float | None = None) -> None:
        self._board.out.append(Count("sessions_refused", (refusal.value,)))
        self._board.out.append(Declined(refusal.value, message, refusal, retry_after_s))

    def _queue_over(self, session_id: str) -> None:
        self._board.waited_enough(self._board.sessions[session_id])

    def _rest_over(self, session_id: str) -> None:
        self._board.rested(self._board.sessions[session_id])

    # --- stopping ----------------------------------------------------------------------------------------

    def _stop_requested(self, event: StopRequested) -> None:
        session = self._board.sessions.get(event.session_id)
        if session is None:
            message = f"session_id: there is no session {event.session_id!r}, or it is no longer kept"
            self._board.out.append(Declined("unknown_session", message))
        elif session.ending is not None:
            ending = session.ending.value
            self._board.out.append(Stopped(session.session_id, session.stop_id, ending, already_ended=True))
        else:
            self._stop(session, event, event.stop_id)
            ending = ENDING_OF_STOP.get(event.code, Ending.STOPPED).value
            self._board.out.append(Stopped(session.session_id, event.stop_id, ending, already_ended=False))

    def _stops_requested(self, event: StopsRequested) -> None:
        self._stop_all(self.selected(event.selector), event)

    def _stop_all(self, sessions: list[Session], event: StopsRequested) -> None:
        for number, session in enumerate(sessions, 1):
            self._stop(session, event, f"{event.stop_id}-{number}")
        self._board.out.append(StoppedMany([session.session_id for session in sessions]))

    def _stop(self, session: Session, event: StopRequested | StopsRequested, stop_id: str) -> None:
        grace_s = self._board.limits.stop_grace_s if event.grace_s is None else event.grace_s
        stop = Stop(stop_id, event.code, event.reason, int(grace_s * 1000), event.actor)
        by = f" by {event.actor}" if event.actor else ""
        ending = ENDING_OF_STOP.get(event.code, Ending.STOPPED)
        self._board.end(session, ending, f"stopped{by}: {event.reason}", stop=stop)

    def _stop_unreceived(self, commander_id: str, session_id: str, attempt: str) -> None:
        message = f"commander {commander_id} has not acknowledged its stop"
        self._board.out.append(Count("stops_unreceived"))
        self._board.out.append(Log("warning", message, session_id, int(attempt), commander_id=commander_id))

    def _shutdown_requested(self, event: ShutdownRequested) -> None:
        board = self._board
        board.draining = board.leaving = True
        board.hands_over = event.hands_over
        # A minimal commander can't come back.
        left = [s for s in board.sessions.values() if s.live and not (event.hands_over and s.can_resume)]
        stop = StopsRequested(Selector(), event.stop_id, "shutdown", event.reason)
        self._stop_all(left, stop)
        for link in list(board.fleet.links.values()):
            if not link.minimal:
                board.send(link, Signal(Goodbye(event.reason)))
            if event.hands_over:
                self._links.leave(link, event.reason)
            else:
                link.goodbye = True
                self._links.cut(link, "UNAVAILABLE", event.reason)

    # --- while it runs -----------------------------------------------------------------------------------

    def _answer_given(self, event: AnswerGiven) -> None:
        board = self._board
        session = board.sessions.get(event.session_id)
        marked = (
            board.marked(session, event.value_json, is_json=True) if event.instead is None else event.instead
        )
        # A repeat of what was accepted is accepted, whatever has become of the session since.
        if session is not None and session.has_heard(event.question_id, marked):
            board.out.append(Accepted(session.session_id))
            return
        if session is None or session.ending is not None:
            self._declined_for(session, event.session_id)
            return
        if event.question_id in session.asked_below and event.question_id not in session.questions:
            # Its events are told as those of the session above, with the attempt of that one.
            below = session.asked_below[event.question_id].session_id
            self._answer_given(replace(event, session_id=below, attempt=None))
            return
        message = ""
        if event.question_id not in session.questions:
            open_ids = ", ".join((*session.questions, *session.asked_below)) or "none"
            message = f"question_id: {event.question_id!r} is not an open question; open: {open_ids}"
        elif event.attempt not in (None, session.attempt):
            message = f"attempt: {event.attempt} is lost, and its question with it; attempt {session.attempt} asks now"
        elif event.attempt is None and session.asked[event.question_id] != session.attempt:
            message = (
                f"attempt: is not set, and more than one has asked under {event.question_id!r}; "
                f"for the question that is open, attempt {session.attempt} is right"
            )
        if message:
            board.out.append(Declined("no_such_question", message))
            return
        if session.state is State.PARKED and not self._parking.may_be_told(session, event.value_json or ""):
            most = board.limits.published_bytes_max
            told = f"value_json: with it, more than published_bytes_max, {most} bytes, would have to be told again"
            board.out.append(Declined("too_large", f"{told}; a shorter one is right"))
            return
        if event.value_json and not board.may_pass(session, event.said or event.value_json, "", "user", ALL):
            self._declined_for(session, event.session_id)
            return
        if not board.heed(session, event.judged):
            self._declined_for(session, event.session_id)
            return
        if event.value_json:
            marked = board.rewrite(session, event.value_json, "", "user")
            marked = marked if event.instead is None else event.instead
        answer = Answer(event.question_id, marked, "" if marked else DECLINED)
        self._answer(session, answer, event.actor)
        board.out.append(Accepted(session.session_id))

    def _answer(self, session: Session, answer: Answer, actor: str = "") -> None:
        was_held = session.is_held
        question = session.questions.pop(answer.question_id)
        session.heard_answer(answer)
        self._board.timers.cancel(("question", session.session_id, answer.question_id))
        self._board.emit(session, "answer", "", "", answer)
        call_id = session.approvals.pop(answer.question_id, "")
        if call_id:
            self._approvals.answered(session, call_id, answer, actor)
        else:
            session.answers_told.append((question, answer, session.offset))
            self._parking.answered(session, answer)
        if was_held:
            self._board.await_viewers(session)

    def _question_over(self, session_id: str, question_id: str) -> None:
        session = self._board.sessions[session_id]
        self._answer(session, Answer(question_id, None, "expired"))

    def _message_given(self, event: MessageGiven) -> None:
        board = self._board
        session = board.sessions.get(event.session_id)
        known = session.message(event.message_id) if session is not None else None
        if session is not None and known is not None:
            if known.text in (event.text, event.instead, board.marked(session, event.text)):
                board.out.append(Accepted(session.session_id))
            else:
                message = "idempotency_key: was used for another message; use another one"
                board.out.append(Declined(Refusal.KEY_TAKEN.value, message, Refusal.KEY_TAKEN))
            return
        if session is None or session.ending is not None:
            self._declined_for(session, event.session_id)
            return
        waiting = len(session.unread)
        if waiting >= board.limits.messages_waiting_max:
            message = (
                f"message: {waiting} wait for the agent already, and messages_waiting_max allows no more"
            )
            board.out.append(Declined("too_many_messages", message))
            return
        if not board.has_room(session):
            message = "message: the journal has no room for it; try again later"
            board.out.append(Declined("journal_full", message))
            return
        if not board.may_pass(session, event.text, "", "user", ALL):
            self._declined_for(session, event.session_id)
            return
        if not board.heed(session, event.judged):
            self._declined_for(session, event.session_id)
            return
        text = board.rewrite(session, event.text, "", "user", is_json=False)
        text = text if event.instead is None else event.instead
        given = UserMessage(event.message_id, text)
        board.emit(session, "user_message", "", "", given)
        session.owe(given, session.offset, board.out)
        board.out.append(Accepted(session.session_id))

    def _declined_for(self, session: Session | None, session_id: str) -> None:
        if session is None:
            message = f"session_id: there is no session {session_id!r}, or it is no longer kept"
            self._board.out.append(Declined("unknown_session", message))
        else:
            ending = session.ending.value if session.ending else ""
            self._board.out.append(Declined("session_ended", f"session_id: it has ended: {ending}"))

    def _signal_dropped(self, event: SignalDropped) -> None:
        """What an earlier life accepted under other limits: it ends this session alone."""
        session = self._board.sessions.get(event.session_id)
        if session is not None and session.live and session.attempt == event.attempt:
            told = (
                f"a message to its commander would have {event.size_bytes} bytes; "
                f"max_message_bytes is {event.limit_bytes}"
            )
            self._board.end(session, Ending.LIMIT_EXCEEDED, told, turn_over=session.untouched)

    # --- viewers -----------------------------------------------------------------------------------------

    def _viewer_came(self, event: ViewerCame) -> None:
        session = self._board.sessions.get(event.session_id)
        if session is not None:
            session.viewers += 1
            self._board.timers.cancel(("unwatched", session.session_id))

    def _viewer_left(self, event: ViewerLeft) -> None:
        session = self._board.sessions.get(event.session_id)
        if session is None:
            return
        session.viewers -= 1
        if session.viewers:
            return
        self._board.unwatched(session)
        self._board.await_viewers(session)

    def _unwatched_over(self, session_id: str) -> None:
        session = self._board.sessions[session_id]
        self._board.end(session, Ending.DETACHED, "nobody watches it any more")

    # --- deadlines ---------------------------------------------------------------------------------------

    def _policy_due(self, session_id: str) -> None:
        """A limit in time may be over: enforced, it ends the session; observed, it is counted."""
        board = self._board
        session = board.sessions[session_id]
        guard = session.guard
        assert guard is not None, session
        verdict = guard.time_passed(board.now, session.opened_at, session.silent_since)
        board.violated(session, verdict)
        if session.live:
            board.arm_policy(session)

    def _review_due(self, session_id: str) -> None:
        self._board.review(self._board.sessions[session_id])

    def _full_over(self, session_id: str) -> None:
        session = self._board.sessions[session_id]
        wait_s = self._board.limits.journal_full_wait_s
        self._board.end(session, Ending.JOURNAL_FULL, f"the journal had no room for {wait_s:g} s")

    def _finish_over(self, link_id: str) -> None:
        """A minimal commander's session is over and its stream is still there."""
        link = self._board.fleet.links.get(link_id)
        if link is not None:
            self._links.cut(link, "CANCELLED" if link.broken_off else "OK", "the session is over")

    def _keep_over(self, session_id: str) -> None:
        self._board.kept_enough(self._board.sessions[session_id])

    # --- operating ---------------------------------------------------------------------------------------

    def _commander_drain_requested(self, event: CommanderDrainRequested) -> None:
        commander = self._board.fleet.commanders.get(event.commander_id)
        if commander is None:
            known = ", ".join(sorted(self._board.fleet.commanders)) or "none"
            message = f"commander_id: there is no commander {event.commander_id!r}; there are: {known}"
            self._board.out.append(Declined("unknown_commander", message))
            return
        self._links.drain(commander, event.reason, event.deadline_s)
        self._board.out.append(Draining(len(commander.slots)))

    def _drain_requested(self, event: DrainRequested) -> None:
        self._board.draining = True
        self._board.out.append(Log("info", f"draining: {event.reason}"))
        self._board.out.append(Draining(self._board.live))
        if self._board.live == 0:
            self._board.out.append(Leave())

    def _journal_changed(self, event: JournalChanged) -> None:
        self._board.stalled = event.is_stalled

    def _limits_changed(self, event: LimitsChanged) -> None:
        self._board.limits = event.limits
        self._board.feed_starved()


def _matches(session: Session, selector: Selector) -> bool:
    if selector.everything:
        return True
    wanted = [
        (selector.user_id, session.user_id),
        (selector.agent, session.agent),
        (selector.commander_id, session.commander_id),
        *((value, session.labels.get(key)) for key, value in selector.labels.items()),
    ]
    return any(want for want, _ in wanted) and all(not want or want == has for want, has in wanted)


def _no_such_agent(event: SessionRequested, agents: list[str]) -> str:
    if event.agent not in agents:
        known = f"there are: {', '.join(agents)}" if agents else "no commander serves any agent now"
        wanted = f"no commander serves {event.agent!r}; " if event.agent else ""
        return f"agent: {wanted}{known}"
    which = [f"version {event.agent_version!r}"] if event.agent_version else []
    which += [f"{key}={value}" for key, value in event.commander_labels.items()]
    return f"agent: {event.agent!r} is served, but not with {', '.join(which)}"
