"""Sessions that are asked for by sessions: an agent delegates to another, or calls it as it would a tool.

The one below is a session like any other, on any commander, with its own attempts and its own ending. It belongs to a
call of the one above: it inherits whose that is and what may still be used, its events are told there as well, and it
ends when nobody waits for it any more. Its ending answers the call. What is told above while a step goes on stands in
`board.py`; what follows from that between sessions is settled here, at the end of each step.
"""

import json
from dataclasses import replace
from typing import Final

from dispatcher.core.board import Board, failed
from dispatcher.core.endings import Ending
from dispatcher.core.events import Count, Delegated, DelegationRequested, SessionRequested, ToolFinished
from dispatcher.core.intake import PATHS_MAX, Intake
from dispatcher.core.ledger import CallState
from dispatcher.core.packets import AgentTold, Answer, ErrorReport, ToolFailure, ToolOutcome
from dispatcher.core.policy import Budgets
from dispatcher.core.session import Session

# Of an answer, in the event that tells of its end.
SUMMARY_CHARS_MAX: Final = 200
# Of an ending, in a failure that a model reads.
MESSAGE_CHARS_MAX: Final = 1_000

# What a session's ending means to the call that it belongs to; else "failed".
_FAILURE_OF: Final[dict[Ending, str]] = {
    Ending.STOPPED: "cancelled",
    Ending.DETACHED: "cancelled",
    Ending.SHUTDOWN: "cancelled",
    Ending.POLICY_BLOCKED: "denied",
    Ending.DEADLINE_EXCEEDED: "timeout",
}


class Delegation:
    """What becomes of sessions that sessions ask for."""

    def __init__(self, board: Board, intake: Intake) -> None:
        self._board = board
        self._intake = intake

    def requested(self, event: DelegationRequested) -> None:
        """A session asks for another."""
        board, asked, requested = self._board, event.asked, event.requested
        above = board.sessions.get(asked.session_id)
        call = above.ledger.find(asked.attempt, asked.call_id) if above is not None and above.live else None
        if (
            above is None
            or call is None
            or above.attempt != asked.attempt
            or call.state is not CallState.RUNNING
            or asked.call_id in above.children
        ):
            board.out.append(Count("tool_outcomes_dropped"))
            return
        failure = self._refused(above, requested)
        if failure is not None:
            board.out.append(Count("delegations", (failure.code,)))
            self._answer(asked, failed(failure))
            return
        path = _path(above, call.agent, requested.agent)
        above.paths.add(path)
        assert above.guard is not None, above
        left = above.guard.left(board.now - above.opened_at, above.usage.output_tokens)
        # The number of the event that tells of it: no other one's.
        session_id = f"{above.session_id}.{above.offset + 1}"
        session = board.open_session(
            replace(
                requested,
                session_id=session_id,
                user_id=above.user_id,
                labels=above.labels,
                application=above.application,
                budgets=(requested.budgets or Budgets()).within(left),
                delegated=asked._replace(path=path),
            )
        )
        above.children[asked.call_id] = session_id
        board.emit(above, "agent_event", path, "", AgentTold("started"))
        # Somebody waits for it who has a slot already.
        board.place(session, first=True)

    def _refused(self, above: Session, requested: SessionRequested) -> ToolFailure | None:
        board, limits = self._board, self._board.limits
        agents = [above.agent]
        upper: Session | None = above
        while upper is not None and (upper := board.above(upper)) is not None:
            agents.append(upper.agent)
        if requested.agent in agents:
            chain = " → ".join(reversed(agents))
            return ToolFailure(
                "denied", f"agent {requested.agent!r} is asking already: {chain}; ask another one"
            )
        if len(agents) > limits.delegation_levels_max:
            told = (
                f"delegation_levels_max is {limits.delegation_levels_max}, and so many ask each other already"
            )
            return ToolFailure("denied", told)
        if not any(board.fleet.serving(requested.agent, requested.agent_version, {})):
            known = ", ".join(board.fleet.agents()) or "none"
            version = f" in version {requested.agent_version!r}" if requested.agent_version else ""
            return ToolFailure(
                "not_found", f"no commander serves agent {requested.agent!r}{version}; served: {known}"
            )
        if len(above.paths) >= PATHS_MAX:
            return ToolFailure(
                "denied", f"{PATHS_MAX} sub-agents have spoken in this session, and no more may"
            )
        told = ""
        excess = board.quotas.excess(above.user_id, limits)
        if board.stalled:
            told = "the journal can't be written for now"
        elif board.live >= limits.sessions_max:
            told = f"sessions_max is {limits.sessions_max}, and so many run or wait"
        elif excess is not None:
            told = excess.message
        elif board.choose(requested) is None and len(board.queue) >= limits.queue_sessions_max:
            told = f"queue_sessions_max is {limits.queue_sessions_max}, and so many wait already"
        return ToolFailure("failed", f"{told}; try again later", retryable=True) if told else None

    def settle(self) -> None:
        """What the step has left between sessions. Each may leave more."""
        board = self._board
        while board.verdicts_above or board.orphans or board.delegated_over:
            if board.verdicts_above:
                above, verdict = board.verdicts_above.popleft()
                if above.live:
                    board.violated(above, verdict)
            elif board.orphans:
                session_id, ending, message, stop = board.orphans.popleft()
                session = board.sessions.get(session_id)
                if session is not None and session.live:
                    board.end(session, ending, message, stop=stop)
            else:
                self._over(board.delegated_over.popleft())

    def _over(self, session: Session) -> None:
        """It has ended: whoever waits for it is told."""
        board, asked, ending = self._board, session.delegated, session.ending
        above = board.above(session)
        if above is None or asked is None or ending is None or session.ended is None:
            session.answer = None
            return
        for question_id, below in list(above.asked_below.items()):
            if below.session_id == session.session_id:
                self._close_question(above, question_id, asked.path)
        message = session.ended.message
        told, outcome = _told(session, ending, message)
        board.out.append(Count("delegations", ("ok" if outcome.failure is None else outcome.failure.code,)))
        board.emit(above, "agent_event", asked.path, "", told)
        # Only now: until here what it told counted.
        del above.children[asked.call_id]
        session.answer = None
        self._answer(asked, outcome)

    def _close_question(self, above: Session, question_id: str, path: str) -> None:
        """Whoever asked has ended: no answer is waited for, here or further up."""
        board = self._board
        was_held = above.is_held
        del above.asked_below[question_id]
        # Further up it is closed by what is told of this.
        board.emit(above, "answer", path, "", Answer(question_id, None, "agent_ended"))
        if was_held:
            board.await_viewers(above)

    def _answer(self, asked: Delegated, outcome: ToolOutcome) -> None:
        self._intake.answer_call(ToolFinished(asked.session_id, asked.attempt, asked.call_id, outcome))


def _path(above: Session, caller: str, agent: str) -> str:
    """Of the agent in the events above: its name, behind that of the sub-agent that asks, and numbered where there was
    one like it."""
    name = "".join("-" if each in "/ " or not each.isprintable() else each for each in agent)
    first = f"{caller}/{name}" if caller else name
    path, number = first, 1
    while path in above.paths:
        number += 1
        path = f"{first}-{number}"
    return path


def _told(session: Session, ending: Ending, message: str) -> tuple[AgentTold, ToolOutcome]:
    """What viewers are told of its ending, and what the call has come to."""
    if ending is not Ending.COMPLETED:
        told = f"agent {session.agent!r} ended: {ending.value}: {message}"[:MESSAGE_CHARS_MAX]
        failure = ToolFailure(_FAILURE_OF.get(ending, "failed"), told, ending.traits.retryable)
    elif session.answer is None:
        told = f"the answer of agent {session.agent!r} is over {session.answer_bytes_max} bytes"
        failure = ToolFailure("too_large", f"{told}, which delegated_answer_bytes_max allows")
    else:
        text = "".join(session.answer)
        summary = text if len(text) <= SUMMARY_CHARS_MAX else text[: SUMMARY_CHARS_MAX - 1] + "…"
        result = json.dumps({"text": text, "session_id": session.session_id}, ensure_ascii=False)
        return AgentTold("completed", summary), ToolOutcome(result)
    own = session.ended.error if session.ended is not None else None
    report = own or ErrorReport(ending.value, "dispatcher", "agent", message, retryable=failure.retryable)
    return AgentTold("failed", error=report._replace(scope="agent")), failed(failure)
