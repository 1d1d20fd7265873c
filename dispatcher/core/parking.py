"""Sessions that wait for a person alone, and whose agents allow it, hold no slot.

Where an agent can be run again with the answers to its questions, the attempt that waits is stopped and its slot goes
to others; the session keeps all it has told. With the last answer that it waits for, a new attempt runs the same again
and is given what the one before was given. Nothing is lost with a parked session's commander, and nobody is told of it.
"""

from typing import Final

from dispatcher.core.board import Board
from dispatcher.core.events import Count, Log
from dispatcher.core.fleet import SlotState
from dispatcher.core.packets import Answer, Stop, utf8_bytes
from dispatcher.core.session import TOLD_OVERHEAD_BYTES, Session, State, Step

# What was not alone is looked at again so much later, at least.
LOOK_AGAIN_S: Final = 1.0
REASON: Final = "a person is asked"
# What an answer in a word takes, bytes.
WORD_BYTES: Final = 64


class Parking:
    """What becomes of sessions that wait for somebody."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def due(self, session_id: str) -> None:
        """It has waited for a while: where it has done nothing else meanwhile, it is parked."""
        session = self._board.sessions[session_id]
        is_held = session.state in (State.RUNNING, State.DETACHED, State.STARTING)
        if not is_held or not session.questions or not session.parks:
            return
        is_quiet = session.state is State.RUNNING and session.quiet_at == session.received
        if is_quiet and self._waits_alone(session):
            self._park(session)
        else:
            self._board.park_later(session, LOOK_AGAIN_S)

    def answered(self, session: Session, answer: Answer) -> None:
        """Its commander is told; of a parked session, the next one, once there is no other answer to wait for."""
        board = self._board
        if session.state is not State.PARKED:
            session.owe(answer, session.offset, board.out)
        elif not session.questions:
            session.advance(Step.WAKE)
            # Somebody waits for it who has waited for a person, and not for a slot.
            session.queue_due = None
            session.refused_by.clear()
            board.keep_mark(session)
            board.place(session, first=True)

    def may_be_told(self, session: Session, value_json: str = "") -> bool:
        """Whether all that it was told can be told again, with this answer to one of its questions and a word to each
        of the others."""
        more = max(0, utf8_bytes(value_json) - WORD_BYTES)
        for question in session.questions.values():
            size = len(question.body) if isinstance(question.body, bytes) else 0
            more += size + utf8_bytes(question.question_id) + WORD_BYTES + TOLD_OVERHEAD_BYTES
        return session.may_continue(more)

    def _waits_alone(self, session: Session) -> bool:
        """Nothing else of it is under way that a new attempt could not be told of."""
        return (
            session.ledger.is_idle
            and not session.children
            and session.safe == session.received
            and not session.gate
            and self.may_be_told(session)
        )

    def _park(self, session: Session) -> None:
        board, link = self._board, session.link
        commander = board.fleet.commanders.get(session.commander_id)
        slot = commander.slots.get((session.session_id, session.attempt)) if commander else None
        if commander is None or slot is None or link is None:
            return
        board.ack(session, link)
        grace_ms = int(board.limits.stop_grace_s * 1000)
        stop = Stop(f"park-{session.session_id}-{session.attempt}", "parked", REASON, grace_ms)
        slot.state, slot.stop, slot.stopped_at = SlotState.STOPPING, stop, board.now
        session.parked = True
        board.give_back(session, Step.PARK)
        board.send_stop(commander, slot, stop, link)
        board.arm_policy(session)
        board.out.append(Count("sessions_parked"))
        told = f"parked: it waits for {len(session.questions)} answers and holds no slot"
        board.out.append(Log("info", told, session.session_id, session.attempt))
