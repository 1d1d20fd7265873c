"""Links: hello, resume, drain, silence and loss. Decides what becomes of a commander's sessions when its link
comes and goes; called by `router.py` alone."""

from dataclasses import replace
from typing import Final, Literal

from dispatcher.core.board import Board
from dispatcher.core.endings import Ending, of_error
from dispatcher.core.events import (
    CloseLink,
    Count,
    HelloReceived,
    LinkLost,
    LinkOpened,
    Log,
    Measure,
    Remember,
)
from dispatcher.core.fleet import Commander, CommanderState, Link, Slot, SlotState
from dispatcher.core.packets import (
    Drain,
    Goodbye,
    Heartbeat,
    LinkHeartbeat,
    Resume,
    Signal,
    Verdict,
    Welcome,
)
from dispatcher.core.session import Session, State, Step

# Deadlines for what others are to do: time in which nobody here could have heard of it does not count.
_WAITS_FOR_OTHERS: Final = frozenset(
    {"grace", "stop_received", "stop_applied", "unwatched", "mute", "finish"}
)


class Links:
    """What happens to links, and through them to sessions."""

    def __init__(self, board: Board) -> None:
        self._board = board

    # --- coming ------------------------------------------------------------------------------------------

    def opened(self, event: LinkOpened) -> None:
        board = self._board
        board.fleet.link_opened(event.link_id, event.peer, event.session_id, board.now)
        # A minimal commander may think long before it speaks, but not longer than any first token may take.
        board.timers.set(("mute", event.link_id), board.now + board.limits.policy.first_token_s)

    def greeted(self, event: HelloReceived) -> None:
        board = self._board
        link = board.fleet.links.get(event.link_id)
        if link is None:
            return
        hello = event.hello
        if board.leaving:
            # Welcomed, it would take up what is handed over, and hold up the end.
            self.cut(link, "UNAVAILABLE", "the dispatcher goes away; come back when there is another")
            return
        link.heard_at = board.now
        if link.minimal or link.commander is not None:
            self.cut(link, "INVALID_ARGUMENT", "hello: must be the first packet of a link, and came later")
            return
        if 0 < hello.message_bytes_max < board.limits.max_message_bytes:
            message = (
                f"hello.max_message_bytes: is {hello.message_bytes_max}, and messages to it may have "
                f"{board.limits.max_message_bytes}; raise the commander's max_message_bytes, or lower the dispatcher's"
            )
            self.cut(link, "INVALID_ARGUMENT", message)
            return
        known = board.fleet.commanders.get(hello.commander_id)
        if known is not None and known.instance != hello.instance:
            if known.link is not None:
                self.cut(
                    link,
                    "ALREADY_EXISTS",
                    f"hello.commander_id: {hello.commander_id!r} is linked as another process; "
                    "give each process an id of its own",
                )
                return
            self.gone(known, "another process took its place", died=True)
        elif known is not None and known.link is not None:
            self.cut(known.link, "ABORTED", "the same commander has opened a newer link")
        commander = board.fleet.greet(link, hello)
        board.out.append(Remember(hello.commander_id, replace(hello, resumes=())))
        board.timers.cancel(("grace", commander.commander_id))
        verdicts = tuple(self._verdict(commander, link, resume) for resume in hello.resumes)
        welcome = Welcome(board.limits.credit_packets, board.limits.credit_bytes, verdicts)
        board.send(link, Signal(welcome))
        self._settle(commander, link)
        commander.has_stuck(hello.stuck)
        if commander.drain is not None:
            board.send(link, Signal(commander.drain))
        interval = board.limits.heartbeat_interval_s
        board.timers.set(("beat", link.link_id), board.now + interval)
        board.timers.set(("heard", link.link_id), board.now + interval * board.limits.heartbeats_missed)
        agents = ", ".join(sorted(offer.name for offer in hello.agents))
        self._log("info", commander, f"linked from {link.peer}: {hello.slots} slots for {agents}", link)
        board.serve_queue(commander)

    def _verdict(self, commander: Commander, link: Link, resume: Resume) -> Verdict:
        """Judges a session that a returning commander still runs."""
        board = self._board
        session = board.sessions.get(resume.session_id)
        slot = commander.slots.get((resume.session_id, resume.attempt))
        who = (resume.session_id, resume.attempt)
        if session is None:
            verdict = Verdict(*who, "unknown")
        elif session.ending is not None:
            verdict = Verdict(*who, "ended", why=session.ending.value)
        elif slot is None or slot.state is not SlotState.BUSY or session.attempt != resume.attempt:
            session.lives_after_all(resume.attempt, commander.instance)
            is_nobodys = session.state is State.QUEUED
            why = f"attempt {session.attempt} {'is lost' if is_nobodys else 'counts now'}"
            verdict = Verdict(*who, "fenced", why=why)
        elif resume.last_sequence_sent < session.received:
            board.end(
                session,
                Ending.PROTOCOL_ERROR,
                f"resume.last_sequence_sent is {resume.last_sequence_sent}, and {session.received} was received",
            )
            verdict = Verdict(*who, "ended", why=Ending.PROTOCOL_ERROR.value)
        else:
            if session.state is State.DETACHED:
                session.advance(Step.RESUME)
            session.link = link
            session.heard_signals(resume.last_signal_received)
            board.check_room(session)
            ack = session.ack(board.limits.credit_packets, board.limits.credit_bytes)
            # What a policy holds back comes again and is dropped as a repeat: only what is kept is settled.
            verdict = Verdict(*who, "resumed", session.safe + 1, ack.credit, ack.credit_bytes)
        board.out.append(Count("resumes", (verdict.kind,)))
        return verdict

    def _settle(self, commander: Commander, link: Link) -> None:
        """Sends what is owed, and settles the slots that the commander's Hello doesn't mention."""
        board = self._board
        resumed = {(resume.session_id, resume.attempt) for resume in commander.hello.resumes}
        for key, slot in list(commander.slots.items()):
            session = board.sessions.get(slot.session_id)
            if key in resumed:
                if slot.stop is not None:
                    board.send_stop(commander, slot, slot.stop, link)
                elif session is not None:
                    for signal in session.owed:
                        board.send(link, signal)
            elif slot.state is not SlotState.BUSY or session is None:
                board.free_slot(commander, slot)
            elif session.untouched:
                # The Start was lost with the old link: the same attempt, once more.
                if session.state is State.DETACHED:
                    session.advance(Step.RESTART)
                session.link = link
                board.start(session)
            else:
                del commander.slots[key]
                self._attempts_lost([session], "its commander no longer runs it", died=False)

    # --- being there -------------------------------------------------------------------------------------

    def beat(self, link_id: str) -> None:
        """It is time to tell a commander that we are still here."""
        board = self._board
        link = board.fleet.links.get(link_id)
        if link is not None:
            # It says nothing that has to be kept, and a disk that is full is no reason to fall silent.
            board.send(link, Signal(LinkHeartbeat()), urgent=True)
            board.timers.set(("beat", link_id), board.now + board.limits.heartbeat_interval_s)

    def listen(self, link_id: str) -> None:
        """It is time to see whether a commander was heard."""
        board = self._board
        link = board.fleet.links.get(link_id)
        if link is None:
            return
        due = link.heard_at + board.limits.heartbeat_interval_s * board.limits.heartbeats_missed
        if due > board.now:
            board.timers.set(("heard", link_id), due)
        else:
            self.cut(link, "UNAVAILABLE", f"not heard for {board.now - link.heard_at:.1f} s")

    def stood_still(self, seconds: float) -> None:
        """This process did, or its loop: what was said meanwhile is still to be read, so nobody was silent."""
        board = self._board
        for link in board.fleet.links.values():
            link.heard_at = min(board.now, link.heard_at + seconds)
        for session in board.sessions.values():
            if session.live and session.silent_since is not None:
                session.started_at = min(board.now, session.started_at + seconds)
        board.timers.postpone(_WAITS_FOR_OTHERS, seconds)
        board.out.append(Measure("stood_still_s", seconds))

    def mute(self, link_id: str) -> None:
        """It is time to see whether anybody has spoken on a link."""
        link = self._board.fleet.links.get(link_id)
        if link is not None and link.commander is None and not link.minimal:
            wait_s = self._board.limits.policy.first_token_s
            self.cut(link, "DEADLINE_EXCEEDED", f"neither hello nor any packet came within {wait_s:g} s")

    def heartbeat(self, link: Link, heartbeat: Heartbeat) -> None:
        commander = link.commander
        if commander is None:
            return
        if heartbeat.blocked_for_s and not commander.blocked_for_s:
            told = f"has an agent that has blocked its loop for {heartbeat.blocked_for_s:.1f} s"
            self._log("warning", commander, told, link)
        commander.blocked_for_s = heartbeat.blocked_for_s
        # Agents of sessions that this dispatcher has given up on may be stuck as well.
        commander.has_stuck(heartbeat.stuck)
        if heartbeat.draining:
            self.takes_no_more(commander)
        elif heartbeat.running + heartbeat.stuck < commander.hello.slots:
            # It may have refused while it still stopped an agent that nothing here knows of.
            for session in self._board.queue.values():
                session.refused_by.discard(commander.commander_id)
        self._board.serve_queue(commander)

    def takes_no_more(self, commander: Commander) -> None:
        """It says so itself, and never takes that back."""
        if commander.state is CommanderState.READY:
            commander.state = CommanderState.DRAINING
            self._log("info", commander, "takes no more sessions")

    def drain(self, commander: Commander, reason: str, deadline_s: float | None) -> None:
        commander.drain = Drain(reason, deadline_s)
        if commander.state is CommanderState.READY:
            commander.state = CommanderState.DRAINING
        if commander.link is not None:
            self._board.send(commander.link, Signal(commander.drain))
        told = replace(commander.hello, resumes=(), draining=True)
        self._board.out.append(Remember(commander.commander_id, told))

    def goodbye(self, link: Link, goodbye: Goodbye) -> None:
        """The commander leaves on purpose; its stream ends next."""
        link.goodbye = True
        if link.commander is not None:
            link.commander.state = CommanderState.DRAINING
            self._log("info", link.commander, f"says goodbye: {goodbye.reason}", link)

    # --- going -------------------------------------------------------------------------------------------

    def cut(self, link: Link, status: str, message: str) -> None:
        """Ends a link from this side; its sessions are detached."""
        self._board.close_link(link, status, message)
        self.detach(link, message)

    def leave(self, link: Link, message: str) -> None:
        """Ends a link because this dispatcher leaves: its commander is to come back to a life after this one, and its
        sessions are not given up for it."""
        self._board.close_link(link, "UNAVAILABLE", message)
        commander = link.commander
        self.detach(link, message)
        if commander is not None:
            self._board.timers.cancel(("grace", commander.commander_id))

    def lost(self, event: LinkLost) -> None:
        """The stream has ended. Only a Goodbye, or a minimal commander's finish, makes that a clean end."""
        board = self._board
        link = board.fleet.links.get(event.link_id)
        if link is None:
            return
        session = board.sessions.get(link.session_id) if link.minimal else None
        if session is None:
            # A link that said nothing, or whose one session is over and no longer kept, owes nothing.
            clean = link.goodbye or link.commander is None
            status = "OK" if clean and event.half_closed else event.status
            if link.broken_off and event.half_closed:
                status = "CANCELLED"
            board.out.append(CloseLink(link.link_id, status, event.why))
            self.detach(link, event.why)
            return
        if (session.finishing or session.gate) and session.live and event.half_closed:
            # The answer may be over with what waits to be received.
            link.half_closed = True
            return
        status, message = ("OK", "") if event.half_closed else (event.status, event.why)
        if session.ending is None and event.half_closed:
            # A program that knows no scope means its session.
            if session.error is not None and session.error.scope in ("", "session"):
                error = session.error
                board.end(session, of_error(error.origin), error.message, error=error, turn_over=True)
            else:
                status, message = (
                    "INVALID_ARGUMENT",
                    "the stream ended before a content packet with is_finish",
                )
                board.end(session, Ending.INCOMPLETE, message, turn_over=True)
        elif session.ended is not None and event.half_closed and link.broken_off:
            status, message = "CANCELLED", session.ended.message
        board.out.append(CloseLink(link.link_id, status, message))
        self.detach(link, event.why)

    def detach(self, link: Link, why: str) -> None:
        """The link is gone; its sessions wait for the commander to return."""
        board = self._board
        board.fleet.link_lost(link.link_id)
        for timer in ("beat", "heard", "ack", "finish", "mute"):
            board.timers.cancel((timer, link.link_id))
        commander = link.commander
        if commander is None:
            session = board.sessions.get(link.session_id) if link.minimal else None
            if session is not None and session.live:
                board.end(session, Ending.COMMANDER_LOST, why, turn_over=True)
            return
        if commander.link is not None:
            return
        for slot in commander.slots.values():
            self._forget_stop(commander, slot)
            session = board.sessions.get(slot.session_id)
            if session is not None and session.link is link:
                session.advance(Step.DETACH)
                session.link = None
                session.forget_gate()
        if link.goodbye:
            self.gone(commander, "its commander left", died=False)
            return
        board.out.append(Count("links_lost"))
        taken = len(commander.slots)
        self._log("warning", commander, f"lost its link with {taken} of its slots taken: {why}", link)
        board.timers.set(("grace", commander.commander_id), board.now + board.limits.detach_grace_s)

    def grace_over(self, commander_id: str) -> None:
        commander = self._board.fleet.commanders.get(commander_id)
        if commander is not None and commander.link is None:
            why = f"its commander did not return within {self._board.limits.detach_grace_s:g} s"
            self.gone(commander, why, died=True)

    def gone(self, commander: Commander, why: str, *, died: bool) -> None:
        """It will not return: its attempts are lost."""
        board = self._board
        board.timers.cancel(("grace", commander.commander_id))
        board.fleet.remove(commander)
        board.out.append(Remember(commander.commander_id, None))
        slots = list(commander.slots.values())
        commander.slots.clear()
        for slot in slots:
            self._forget_stop(commander, slot)
        self._attempts_lost([s for slot in slots if (s := self._whose(slot)) is not None], why, died=died)
        self._log("warning" if slots else "info", commander, f"is gone with {len(slots)} slots taken: {why}")

    def _log(
        self, level: Literal["info", "warning"], commander: Commander, what: str, link: Link | None = None
    ) -> None:
        told = f"commander {commander.commander_id} {what}"
        link_id = link.link_id if link else ""
        self._board.out.append(Log(level, told, link_id=link_id, commander_id=commander.commander_id))

    def _forget_stop(self, commander: Commander, slot: Slot) -> None:
        """Nobody waits for what a commander without a link says to a stop; it is told again when it is back."""
        for timer in ("stop_received", "stop_applied"):
            self._board.timers.cancel((timer, commander.commander_id, slot.session_id, str(slot.attempt)))

    def _whose(self, slot: Slot) -> Session | None:
        """The session that lives on this slot, if one does."""
        session = self._board.sessions.get(slot.session_id)
        alive = session is not None and session.live and session.attempt == slot.attempt
        # One that is parked, or has been, is nobody's until another attempt begins.
        return session if alive and slot.state is SlotState.BUSY else None

    def _attempts_lost(self, sessions: list[Session], why: str, *, died: bool) -> None:
        """Others take over, each in its order, or they end. One whose asker loses its attempt too is not taken over:
        nobody waits for it any more, and it ends in this step."""
        lost = {session.session_id for session in sessions}
        asked_by = [(session, self._board.above(session)) for session in sessions]
        for session, above in reversed(asked_by):
            if above is None or above.session_id not in lost:
                self._board.attempt_lost(session, why, died=died)
        self._board.serve_queue_by_load()
