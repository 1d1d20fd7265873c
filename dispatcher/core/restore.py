"""Taking up where a life before ended: sessions from their events and marks, commanders from their last Hello. Called
by `router.py` alone, before anything else has happened.

Who was there last counts as detached: commanders return and resume as after a broken link. Tools that ran died with the
process, so nobody knows what they did: those that are declared idempotent run once more. Calls that waited for their
turn have not begun, and run now.
"""

from typing import Final

from dispatcher.core.board import Board, unanswered
from dispatcher.core.endings import Ending
from dispatcher.core.events import Kept, Log, Restored
from dispatcher.core.fleet import Commander, CommanderState, Slot
from dispatcher.core.ledger import CallState
from dispatcher.core.packets import Drain, Question, ToolResult
from dispatcher.core.policy import Guard
from dispatcher.core.session import Session, State, asked_bytes

DIED: Final = unanswered("unknown_outcome", "the dispatcher died while it ran; nobody knows what it did")


class Restoring:
    """What a journal's content means for the board."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def restored(self, event: Restored) -> None:
        board = self._board
        for hello in event.commanders:
            commander = Commander(hello.commander_id, hello.instance, None, hello, CommanderState.DETACHED)
            if hello.draining:
                commander.drain = Drain("it was draining before the dispatcher's restart", None)
            board.fleet.commanders[hello.commander_id] = commander
            board.timers.set(("grace", hello.commander_id), board.now + board.limits.detach_grace_s)
        sessions = [self._put_back(kept, event.unix_ms) for kept in event.sessions]
        live = [session for session in sessions if session.live]
        ended = [session for session in sessions if not session.live]
        for session in sorted(ended, key=lambda session: session.ended_at):
            board.keep(session)
        for session in sessions:
            self._join_above(session)
        for kept, session in zip(event.sessions, sessions, strict=True):
            if session.live and session.delegated is not None and board.above(session) is None:
                told = "the session that asked for it was gone before the dispatcher was back"
                board.end(session, Ending.STOPPED, told, turn_over=True)
            elif session.live:
                self._take_up(session, kept, event)
        if sessions:
            told = f"restored {len(sessions)} sessions, {len(live)} of them live"
            board.out.append(Log("info", f"{told}, and {len(event.commanders)} commanders"))

    def _put_back(self, kept: Kept, unix_ms: int) -> Session:
        """Enters a session as it was; nothing is done about it yet."""
        board, requested, mark = self._board, kept.requested, kept.mark
        # Whatever the wall clock did meanwhile, nothing was kept later than now.
        at = [board.now - max(0.0, (unix_ms - entry[0]) / 1000) for entry in kept.entries]
        events = [entry[1] for entry in kept.entries]
        session = Session(
            requested,
            Guard(board.limits.policy, requested.budgets, requested.agent),
            at[0],
            running_tools_max=board.limits.session_tools_running_max,
            published_bytes_max=board.limits.published_bytes_max,
            answer_bytes_max=board.limits.delegated_answer_bytes_max,
        )
        session.kept_bytes += asked_bytes(requested)
        for event, when in zip(events, at, strict=True):
            session.put_back(event, when)
        loose = session.stand_at(mark, events)
        board.enter(session)
        board.kept_bytes += session.kept_bytes
        for release in loose:
            board.release(session, release)
        if loose and session.guard is not None:
            session.safe = session.guard.safe(session.received)
        if session.live:
            for question_id, told_at, expires_in_s in mark.questions:
                question = Question(question_id, expires_in_s, events[told_at - 1].body, told_at)
                board.await_answer(session, question, at[told_at - 1])
            if requested.affinity_key and session.commander_id:
                board.affinity[requested.affinity_key] = session.commander_id
        return session

    def _join_above(self, session: Session) -> None:
        """Where a session waits for this one, it goes on to, or hears of how it has ended."""
        board, asked = self._board, session.delegated
        above = board.sessions.get(asked.session_id) if asked is not None else None
        if above is not None and asked is not None and above.live and above.attempt == asked.attempt:
            call = above.ledger.find(asked.attempt, asked.call_id)
            if call is not None and call.state is CallState.RUNNING:
                above.children[asked.call_id] = session.session_id
        for question in session.questions.values():
            board.ask_above(session, question, is_told_now=False)
        if asked is not None and not session.live:
            board.delegated_over.append(session)

    def _take_up(self, session: Session, kept: Kept, event: Restored) -> None:
        """Sees to a live session: who runs it, what it waits for, what it is owed."""
        board = self._board
        if not session.can_resume:
            board.end(session, Ending.COMMANDER_LOST, "the dispatcher was started anew", turn_over=True)
            return
        # Its viewers get as long to come back as its commander.
        board.await_viewers(session, board.limits.detach_grace_s)
        board.arm_policy(session)
        dead, again = session.ledger.died(event.idempotent_tools, session.children.keys())
        for call in again:
            board.run_tool(session, call)
        for call in dead:
            result = ToolResult(call.request.call_id, call.request.tool_name, DIED)
            call.outcome = DIED
            board.emit(session, "tool_result", call.agent, "", result)
            call.told_at = session.offset
            session.owe(result, session.offset, board.out)
        board.run_owed(session)
        if session.state is State.PARKED:
            return
        if session.state is State.QUEUED:
            if session.parked:
                # It has waited for a person, and for a slot only since a moment.
                session.queue_due = None
            elif not session.tries:
                session.queue_due = session.opened_at + board.limits.queue_wait_s
            # Its rest began after its last event, so it is over sooner rather than later.
            last = board.now - max(0.0, (event.unix_ms - kept.entries[-1][0]) / 1000)
            board.queue_again(session, since=last)
            return
        if kept.mark.goes_on and session.published is None and session.untouched:
            why = "published_bytes_max is lower now, and its agent can't be told again where to go on"
            board.attempt_lost(session, why, died=False)
            return
        commander = board.fleet.commanders.get(session.commander_id)
        if commander is None or commander.instance != session.instance:
            board.attempt_lost(session, "its commander was gone before the dispatcher was back", died=False)
            return
        key = (session.session_id, session.attempt)
        commander.slots[key] = Slot(*key)
        board.review(session, at_once=True)
