"""What must hold after every step of sessions that ask others, of calls that somebody has to allow, and of sessions
that wait for people. Called by `laws.Witness` alone."""

import json
from math import inf
from typing import NamedTuple

from dispatcher.core import events
from dispatcher.core.events import Event
from dispatcher.core.ledger import CallState
from dispatcher.core.packets import Answer, SessionEvent, ToolResult
from dispatcher.core.policy import Budgets
from dispatcher.core.router import Router
from dispatcher.core.session import Session, State

# Sums of floats are not exact.
_EXACT_S = 1e-6


class _Call(NamedTuple):
    session_id: str
    attempt: int
    call_id: str


class AskingLaws:
    """What was asked, and what came of it."""

    def __init__(self) -> None:
        # Calls that somebody was asked about: with which arguments each may run, "" where that is not known yet, None
        # where it is not to run any more.
        self._asked: dict[_Call, str | None] = {}
        # By session and question.
        self._questions: dict[tuple[str, str], tuple[_Call, str]] = {}
        # What a step that begins is about.
        self._asks: tuple[_Call, str, str] | None = None
        # Calls that have an outcome.
        self._answered: set[_Call] = set()
        # Since when each session has been left that is to end then.
        self._left_since: dict[str, float] = {}
        self._closed_by_loss: set[str] = set()

    def begin(self, event: Event, router: Router, now: float) -> None:
        """Before a step."""
        self._asks = None
        self._closed_by_loss.clear()
        if isinstance(event, events.ApprovalRequested):
            call = _Call(event.session_id, event.attempt, event.call_id)
            session = router.sessions.get(event.session_id)
            known = session.ledger.find(event.attempt, event.call_id) if session is not None else None
            if known is not None:
                self._asks = call, event.question.question_id, known.request.arguments_json
        elif isinstance(event, events.TimePassed):
            self._left_since = {each: since + event.late_s for each, since in self._left_since.items()}
        elif isinstance(event, events.Restored):
            grace_s = router.limits.detach_grace_s
            self._left_since = {
                kept.requested.session_id: now + grace_s
                for kept in event.sessions
                if kept.requested.stop_when_unwatched_s is not None
            }

    def told(self, session_id: str, event: SessionEvent) -> None:
        """An event that viewers are told."""
        match event.body:
            case Answer() as answer if not event.agent:
                if answer.why == "commander_lost":
                    self._closed_by_loss.add(session_id)
                call, arguments = self._questions.pop((session_id, answer.question_id), (None, ""))
                if call is not None:
                    assert self._asked[call] == "", f"{call} was decided twice"
                    self._asked[call] = _allowed(answer, arguments)
            case ToolResult(call_id=call_id, session_id=""):
                call = _Call(session_id, event.attempt, call_id)
                assert call not in self._answered, f"{call} was answered twice"
                assert self._asked.get(call) != "", f"{call} was answered while somebody is asked about it"
                self._answered.add(call)
        if event.kind == "question" and self._asks is not None and self._asks[0].session_id == session_id:
            call, question_id, arguments = self._asks
            self._asks = None
            assert self._asked.get(call) is None, f"{call}: somebody is asked twice"
            self._asked[call] = ""
            self._questions[session_id, question_id] = call, arguments
        if event.kind == "ended":
            for call in [each for each in self._asked if each.session_id == session_id]:
                self._asked[call] = None

    def runs(self, effect: events.RunTool) -> None:
        """A call is to run."""
        call = _Call(effect.session_id, effect.attempt, effect.call.call_id)
        assert call not in self._answered, f"{call} runs, and has an outcome"
        if call in self._asked:
            may = self._asked[call]
            assert may, f"{call} runs, and nobody has allowed it"
            assert effect.is_approved, f"{call} would be asked about again"
            assert json.loads(effect.call.arguments_json) == json.loads(may), (
                f"{call}: {effect} and not {may}"
            )
        else:
            assert not effect.is_approved, f"{call}: nobody was asked"

    def judge(self, router: Router, now: float) -> None:
        """After a step."""
        for session in router.sessions.values():
            if session.live:
                judge_below(router, session)
                judge_parked(session)
                self._judge_approvals(session)
            else:
                left = (session.children, session.asked_below, session.questions, session.approvals)
                assert not any(left), f"{session!r}: {left}"
            self._judge_left(router, session, now)

    def _judge_approvals(self, session: Session) -> None:
        for question_id, call_id in session.approvals.items():
            assert question_id in session.questions, f"{session!r}: nobody is asked {question_id}"
            call = session.ledger.find(session.attempt, call_id)
            assert call is not None, f"{session!r}: {call_id}"
            assert call.state is CallState.HELD, f"{session!r}: {call}"
            assert self._asked[session.session_id, session.attempt, call_id] == "", call  # type: ignore[index]
        waiting = [
            each for each, may in self._asked.items() if may == "" and each.session_id == session.session_id
        ]
        assert {each.call_id for each in waiting} == set(session.approvals.values()), (
            f"{session!r}: {waiting}"
        )

    def _judge_left(self, router: Router, session: Session, now: float) -> None:
        """One that is to end when nobody watches it does so in time."""
        requested = session.requested
        wait_s = requested.stop_when_unwatched_s if requested is not None else None
        is_left = wait_s is not None and not session.viewers and not session.is_held and session.live
        if not is_left or wait_s is None:
            self._left_since.pop(session.session_id, None)
            return
        # Whoever was asked by an attempt that is lost does not know, and may answer.
        since = inf if session.session_id in self._closed_by_loss else now
        since = self._left_since.setdefault(session.session_id, since)
        assert now - since <= wait_s + _EXACT_S, f"{session!r}: nobody has watched it for {now - since:.3f} s"


def judge_opened(requested: events.SessionRequested, router: Router, now: float) -> None:
    """After the step that has opened a session for another."""
    asked = requested.delegated
    above = router.sessions.get(asked.session_id) if asked is not None else None
    if above is None or above.guard is None:
        return
    has = (above.user_id, dict(above.labels), above.application)
    assert (requested.user_id, dict(requested.labels), requested.application) == has, requested
    agents = [requested.agent]
    upper: Session | None = above
    while upper is not None:
        assert upper.agent not in agents, f"{upper!r} asks {agents} for itself"
        agents.append(upper.agent)
        upper = router.sessions.get(upper.delegated.session_id) if upper.delegated is not None else None
    assert len(agents) <= 1 + router.limits.delegation_levels_max, f"{agents} ask each other"
    left = above.guard.left(now - above.opened_at, above.usage.output_tokens)
    budgets = requested.budgets or Budgets()
    assert budgets.within(left) == budgets, f"{requested.session_id} may use {budgets}, and {left} is left"


def _allowed(answer: Answer, arguments: str) -> str | None:
    """With which arguments a call may run; None: it may not."""
    if answer.value_json is None:
        return None
    match json.loads(answer.value_json):
        case "approve":
            return arguments
        case {"approve": dict(others)}:
            return json.dumps(others)
    return None


def judge_below(router: Router, session: Session) -> None:
    """Sessions and those that they have asked for know of each other, and of each other's questions."""
    asked = session.delegated
    if asked is not None:
        above = router.sessions.get(asked.session_id)
        assert above is not None, f"{session!r}: whoever asked for it is gone"
        assert above.live, f"{session!r} outlives {above!r}"
        assert above.attempt == asked.attempt, (
            f"{session!r} outlives the attempt that asked for it: {above!r}"
        )
        assert above.children.get(asked.call_id) == session.session_id, f"{session!r}: {above.children}"
        call = above.ledger.find(asked.attempt, asked.call_id)
        assert call is not None, f"{session!r}: {asked}"
        assert call.state is CallState.RUNNING, f"{session!r}: {call}"
        lost = set(session.open_questions) - set(above.asked_below)
        assert not lost, f"{session!r} asks {lost}, and {above!r} does not know"
    for call_id, below_id in session.children.items():
        below = router.sessions.get(below_id)
        assert below is not None, f"{session!r}: {below_id}"
        assert below.live, f"{session!r} waits for {below!r}"
        assert below.delegated is not None, below
        assert below.delegated[:3] == (session.session_id, session.attempt, call_id), (
            f"{session!r}: {below!r}"
        )
    for question_id, told in session.asked_below.items():
        below = router.sessions.get(told.session_id)
        assert below is not None, f"{session!r}: {told}"
        assert question_id in below.open_questions, f"{session!r} asks {question_id} for {below!r}"


def judge_parked(session: Session) -> None:
    """One that is parked waits for a person alone, and holds nothing."""
    if session.state is not State.PARKED:
        return
    assert session.questions, f"{session!r} waits for nobody"
    assert session.link is None, session
    assert not session.commander_id, session
    assert not session.children, f"{session!r}: {session.children}"
    assert session.ledger.is_idle, f"{session!r}: {session.ledger!r}"
