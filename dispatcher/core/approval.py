"""Calls that are not to run before somebody has allowed them.

Whoever answers the session's questions is asked, and sees the call with its arguments. It runs as it is, or with other
arguments, or not at all; where nobody answers it does not run. Until then it has not begun, takes no place of those
that run, and waits over a restart as any question does. What asks is a tool's rule, which the core does not know.
"""

import json
from typing import Final

from dispatcher.core.board import Board, unanswered
from dispatcher.core.events import ApprovalRequested, Count, Log, ToolFinished
from dispatcher.core.intake import Intake
from dispatcher.core.ledger import Call
from dispatcher.core.packets import DECLINED, Answer, ToolOutcome
from dispatcher.core.session import Session

APPROVE: Final = "approve"
DENY: Final = "deny"
# Of the reason that somebody gives; a model reads it.
WHY_CHARS_MAX: Final = 1_000


class Approvals:
    """What becomes of calls that wait for somebody."""

    def __init__(self, board: Board, intake: Intake) -> None:
        self._board = board
        self._intake = intake

    def requested(self, event: ApprovalRequested) -> None:
        """A call was about to run, and is not to without a word."""
        board, question = self._board, event.question
        session = board.sessions.get(event.session_id)
        if session is None or not session.live or session.attempt != event.attempt:
            board.out.append(Count("tool_outcomes_dropped"))
            return
        waiting = len(session.approvals)
        if waiting >= board.limits.questions_open_max or question.question_id in session.questions:
            told = f"{waiting} calls wait for somebody already, and questions_open_max allows no more"
            self._finish(event.session_id, event.attempt, event.call_id, unanswered("failed", told))
            return
        call = session.ledger.hold(event.attempt, event.call_id, board.now)
        if call is None:
            board.out.append(Count("tool_outcomes_dropped"))
            return
        session.approvals[question.question_id] = event.call_id
        size = len(question.body) if isinstance(question.body, bytes) else 0
        board.emit(session, "question", call.agent, "", question.body, size)
        session.asked.setdefault(question.question_id, session.attempt)
        board.await_answer(session, question._replace(told_at=session.offset), board.now)
        board.run_owed(session)

    def answered(self, session: Session, call_id: str, answer: Answer, actor: str) -> None:
        """Somebody has decided, or nobody has in time."""
        call = session.ledger.find(session.attempt, call_id)
        assert call is not None, (session, call_id)
        told, arguments_json, why = _decided(answer)
        self._board.out.append(Count("approvals", (told,)))
        by = f" by {actor}" if actor else ""
        said = f"call {call_id} of tool {call.request.tool_name}: {told}{by}"
        self._board.out.append(Log("info", said, session.session_id, session.attempt))
        if why:
            self._refuse(session, call, why)
        else:
            session.ledger.allow(call, arguments_json, self._board.now)
            self._board.run_owed(session)

    def _refuse(self, session: Session, call: Call, why: str) -> None:
        session.ledger.refuse(call)
        self._finish(session.session_id, call.attempt, call.request.call_id, unanswered("denied", why))

    def _finish(self, session_id: str, attempt: int, call_id: str, outcome: ToolOutcome) -> None:
        self._intake.answer_call(ToolFinished(session_id, attempt, call_id, outcome))


def _decided(answer: Answer) -> tuple[str, str | None, str]:
    """In a word for the metrics; with which arguments it runs, where they are others; and why it does not."""
    if answer.value_json is None:
        if answer.why == DECLINED:
            return "denied", None, "the user did not allow it"
        return "expired", None, "nobody has allowed it in time"
    match json.loads(answer.value_json):
        case "approve":
            return "approved", None, ""
        case {"approve": dict(arguments)}:
            return "edited", json.dumps(arguments, ensure_ascii=False), ""
        case {"deny": str(why)} if why:
            return "denied", None, f"the user did not allow it: {why[:WHY_CHARS_MAX]}"
    # What is no word of consent is none.
    return "denied", None, "the user did not allow it"
