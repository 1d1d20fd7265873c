"""What an agent has asked for and waits for no longer, while its turn goes on.

Whoever waited was cancelled, or gave up. What has not begun never runs, what runs is cancelled, and nobody is asked any
more. Viewers are told how it came out, and so is the commander, as of every call and every question. An agent that runs
the same again, because it was parked, waits again for what it has not waited for, and so gives up again.
"""

from collections.abc import Callable
from typing import Final

from dispatcher.core.board import Board, unanswered
from dispatcher.core.endings import Ending
from dispatcher.core.events import CancelTool, Count, RunTool
from dispatcher.core.ledger import Call, CallState
from dispatcher.core.packets import WITHDRAWN, Answer, Question, ToolOutcome
from dispatcher.core.session import Session

_NOT_BEGUN: Final = unanswered("cancelled", "its caller waits no longer; it did not run")
_BEGUN: Final = unanswered("cancelled", "its caller waits no longer; it may have done part of its work")
_STOPPED: Final = "whoever asked waits no longer"


class Withdrawals:
    """What becomes of calls and questions that nobody waits for. `tell_result` tells viewers and the commander;
    `settle` sees to what is left between sessions, as the end of each step does."""

    def __init__(
        self,
        board: Board,
        tell_result: Callable[[Session, Call, ToolOutcome], None],
        settle: Callable[[], None],
    ) -> None:
        self._board = board
        self._tell_result = tell_result
        self._settle = settle

    def of_call(self, session: Session, call_id: str) -> None:
        """Cancels it, wherever it is. Of one that has an outcome, the agent has not taken that."""
        board, call = self._board, session.ledger.find(session.attempt, call_id)
        if call is None or call.is_withdrawn:
            return
        call.is_withdrawn = True
        if call.state is CallState.ANSWERED:
            session.withdrawn.add(call.told_at)
            return
        board.out.append(Count("withdrawals", ("call",)))
        below = session.children.get(call_id)
        if below is not None:
            # Its ending answers the call, now: the session may go on to its own ending in this step.
            board.end(board.sessions[below], Ending.STOPPED, _STOPPED)
            self._settle()
            return
        for question_id, held in list(session.approvals.items()):
            if held == call_id:
                del session.approvals[question_id]
                board.out.append(Count("approvals", (WITHDRAWN,)))
                self._close(session, session.questions[question_id])
        has_begun = call.state in (CallState.RUNNING, CallState.JUDGED)
        if session.ledger.withdraw(call):
            if self._was_to_run(session, call):
                has_begun = False
            else:
                board.out.append(CancelTool(session.session_id, call.attempt, call_id))
        self._tell_result(session, call, _BEGUN if has_begun else _NOT_BEGUN)

    def of_question(self, session: Session, question_id: str) -> None:
        """Closes it. Of one that was answered, the agent has not taken the answer."""
        question = session.questions.get(question_id)
        if question is None:
            told = [at for asked, _, at in session.answers_told if asked.question_id == question_id]
            session.withdrawn.update(told[-1:])
        elif question_id not in session.approvals:
            self._board.out.append(Count("withdrawals", ("question",)))
            answer = self._close(session, question)
            session.answers_told.append((question, answer, session.offset))
            session.owe(answer, session.offset, self._board.out)

    def _was_to_run(self, session: Session, call: Call) -> bool:
        """Whether it would have begun with this very step; it does not."""
        of = (session.session_id, call.attempt, call.request.call_id)
        for effect in self._board.out:
            if isinstance(effect, RunTool) and (effect.session_id, effect.attempt, effect.call.call_id) == of:
                self._board.out.remove(effect)
                return True
        return False

    def _close(self, session: Session, question: Question) -> Answer:
        board, was_held = self._board, session.is_held
        answer = Answer(question.question_id, None, WITHDRAWN)
        del session.questions[question.question_id]
        board.timers.cancel(("question", session.session_id, question.question_id))
        board.emit(session, "answer", "", "", answer)
        if was_held:
            board.await_viewers(session)
        return answer
