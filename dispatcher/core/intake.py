"""What comes up a link: fenced by attempt, put in order by sequence, judged by policies, kept, acted upon.

The hot path of the core: a token passes through `received` and `_content`. Called by `router.py` alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from dispatcher.core.board import ALL, LAST, NONE, Board, unanswered
from dispatcher.core.endings import Ending, of_error
from dispatcher.core.events import (
    Count,
    LinkLost,
    Log,
    Measure,
    PacketsReceived,
    SessionRequested,
    TextJudged,
    ToolFinished,
    ToolProgressed,
)
from dispatcher.core.fleet import Link, SlotState
from dispatcher.core.ledger import Asked, Call, CallState
from dispatcher.core.links import Links
from dispatcher.core.packets import (
    PART,
    SEQUENCED,
    Done,
    ErrorReport,
    Goodbye,
    Heartbeat,
    Packet,
    Question,
    Refused,
    Signal,
    Stop,
    StopAck,
    ToolCall,
    ToolOutcome,
    ToolResult,
    Usage,
    Withdrawal,
)
from dispatcher.core.policy import PASS, Guard, Mode, Verdict
from dispatcher.core.rules import Judged, Kind
from dispatcher.core.session import EVENT_OVERHEAD_BYTES, Session, State, Step
from dispatcher.core.withdrawal import Withdrawals

# How many strays of one link are answered with a stop; the rest are only counted.
FENCED_TOLD_MAX: Final = 1_024
# The reasons that the contract names.
REFUSED_CODES: Final = frozenset({"no_slot", "no_such_agent", "draining", "stopped"})
# Sub-agents of one session.
PATHS_MAX: Final = 1_000
# What a stream without Hello may begin with: the fixed table, what one turn may say besides, what is not known yet.
MINIMAL_KINDS: Final = SEQUENCED - {"done"}
# What is not received before all text in front of it was judged.
GATED: Final = frozenset({"tool_call", "question", "done", "error"})
# The agent's name of a commander that sent no Hello and so named none.
MINIMAL_AGENT: Final = "minimal"


class Intake:
    """What becomes of packets."""

    def __init__(self, board: Board, links: Links) -> None:
        self._board = board
        self._links = links
        self._kinds: dict[str, Callable[[Session, Packet, Link], None]] = {
            "content": self._content,
            "thought": self._thought,
            "tool_call": self._tool_call,
            "question": self._question,
            "error": self._error,
            "usage": self._usage,
            "progress": self._progress,
            "done": self._done,
            "withdrawal": self._withdrawal,
            # Its windows stay as they are: it may speak on, and viewers see its words side by side.
            "agent_event": self._pass_on,
            "artifact": self._pass_on,
            "embedding": self._pass_on,
            "unknown": self._unknown,
        }
        self._withdrawals: Withdrawals | None = None

    def settle_by(self, settle: Callable[[], None]) -> None:
        """What sees to all that is left between sessions."""
        self._withdrawals = Withdrawals(self._board, self._tell_result, settle)

    def received(self, event: PacketsReceived) -> None:
        board = self._board
        link = board.fleet.links.get(event.link_id)
        if link is None:
            return
        link.heard_at = board.now
        if link.commander is None and not link.minimal and not self._admit_minimal(link, event.packets):
            return
        self._receive(link, event.packets)

    def _receive(self, link: Link, packets: Sequence[Packet], *, have_waited: bool = False) -> None:
        """Takes what came up a link. What `have_waited` was within the credit when it came."""
        board, minimal = self._board, link.minimal
        sessions, kinds = board.sessions, self._kinds
        ack_packets = max(1, board.limits.credit_packets // 2)
        ack_bytes = board.limits.credit_bytes // 2
        for packet in packets:
            session = sessions.get(link.session_id if minimal else packet.session_id)
            if (
                session is None
                or session.link is not link
                or (packet.attempt != session.attempt and not minimal)
                or packet.kind not in SEQUENCED
            ):
                self._other(link, session, packet)
                continue
            due = session.received + 1
            if session.gate:
                due += len(session.gate)
            if packet.sequence != due and not (minimal and packet.sequence == 0):
                self._out_of_order(link, session, packet, due)
                continue
            may_be_beyond = packet.sequence > session.allowed or session.starved is not None
            if may_be_beyond and not (minimal or have_waited) and self._beyond_credit(session, packet):
                self._breach(session, link, f"{packet.kind}: came beyond the credit; wait for the next ack")
                continue
            if minimal and not self._is_of_minimal(session, link, packet):
                continue
            if (
                session.is_reviewed
                and (session.gate or packet.kind in GATED)
                and self._waits(session, packet)
            ):
                continue
            is_new = packet.flaw or (packet.agent and packet.agent not in session.paths)
            if is_new and not self._may_speak(session, link, packet):
                continue
            session.received = due
            if due == 1:
                session.parked = False
            session.unacked_bytes += packet.size
            if session.state is State.STARTING:
                session.advance(Step.SPEAK)
            if packet.signals_received:
                session.heard_signals(packet.signals_received)
            if packet.messages_read:
                session.heard_reads(packet.messages_read)
            kinds[packet.kind](session, packet, link)
            if session.link is not link:
                continue
            if session.safe != due:
                session.hold(packet.size)
            if due - session.granted >= ack_packets or session.unacked_bytes >= ack_bytes:
                board.ack(session, link)
                if minimal and session.starved is not None:
                    # It knows no credit, so it can't be made to wait.
                    board.end(session, Ending.JOURNAL_FULL, "the journal has no room for more")
                elif minimal and board.is_choked(session):
                    most = board.limits.review_chars_max
                    told = f"more than review_chars_max, {most} characters, wait for services to judge them"
                    board.end(session, Ending.LIMIT_EXCEEDED, told)
            else:
                link.ack_due.add(session.session_id)
        if link.ack_due:
            board.timers.set_if_absent(("ack", link.link_id), board.now + board.limits.ack_interval_s)

    def ack_due(self, link_id: str) -> None:
        """It is time to acknowledge what was not worth an Ack of its own."""
        board = self._board
        link = board.fleet.links.get(link_id)
        if link is None:
            return
        for session_id in sorted(link.ack_due):
            session = board.sessions.get(session_id)
            if session is not None and session.link is link:
                board.ack(session, link)
        link.ack_due.clear()

    # --- services that judge -----------------------------------------------------------------------------

    def _waits(self, session: Session, packet: Packet) -> bool:
        """Whether a packet is not to be received yet, or not any more."""
        if packet is session.let_through:
            session.let_through = None
            return False
        if not session.gate and not self._must_wait(session, packet):
            return not session.live
        session.gate.append(packet)
        session.gate_bytes += packet.size + EVENT_OVERHEAD_BYTES
        most = self._board.limits.credit_bytes
        if session.link is not None and session.link.minimal and session.gate_bytes > most:
            # It knows no credit.
            told = f"more than credit_bytes, {most} bytes, wait for services to judge what came before them"
            self._board.end(session, Ending.LIMIT_EXCEEDED, told)
        return True

    def _must_wait(self, session: Session, packet: Packet) -> bool:
        """Whether services have to judge it, or text in front of it; they are asked."""
        guard = session.guard
        assert guard is not None, session
        if guard.reviews is None:
            return False
        detail = packet.detail
        if isinstance(detail, ErrorReport) and detail.scope != "session":
            return False
        if packet.kind in ("done", "error"):
            self._judged(session, guard.finish())
            if not session.live:
                return False
        guard.reviews.close()
        self._board.review(session, at_once=True)
        session.gate_review = self._review_packet(session, packet)
        return bool(session.gate_review) or guard.reviews.is_waiting

    def _review_packet(self, session: Session, packet: Packet) -> str:
        """Asks about what comes whole; empty: nobody judges it, or rules stop it anyway."""
        guard, detail = session.guard, packet.detail
        assert guard is not None, session
        kind = _whole(packet)
        if packet.kind in ("done", "error") or guard.would_stop(packet.text, packet.agent, kind):
            return ""
        if isinstance(detail, ToolCall):
            text = guard.rewrite(detail.arguments_json, packet.agent, kind, is_json=True)[0] or "{}"
            return self._board.review_whole(session, kind, packet.agent, text, detail.tool_name)
        return self._board.review_whole(session, kind, packet.agent, packet.text.replace(PART, "\n"))

    def text_judged(self, event: TextJudged) -> None:
        """Services have judged a text: it goes on, or what waits for that."""
        board = self._board
        session = board.sessions.get(event.session_id)
        if session is None or not session.has_attempt or session.attempt != event.attempt:
            return
        guard = session.guard
        assert guard is not None, session
        if event.review_id in session.results:
            self._result_judged(session, session.results.pop(event.review_id), event.judged)
        elif event.review_id == session.gate_review and session.gate:
            head, session.gate_review = session.gate[0], ""
            verdict = guard.judged(event.judged, _whole(head), head.agent)
            session.denied = _why_denied(verdict)
            board.violated(session, verdict)
        else:
            self._judged(session, guard.answered(event.review_id, event.judged))
        if session.live and session.gate:
            self._let_through(session)
        if session.live and session.finishing and session.link is not None:
            self.finish_minimal(session, session.link)
        if session.live and session.link is not None:
            # It was kept waiting for its credit.
            board.ack(session, session.link)

    def _let_through(self, session: Session) -> None:
        """What waited is received, once it waits for nothing."""
        reviews, link = session.reviews, session.link
        if link is None or session.gate_review:
            return
        if reviews is not None and reviews.is_waiting:
            self._board.review(session, at_once=True)
            return
        packets = list(session.gate)
        session.gate.clear()
        session.let_through = packets[0]
        session.gate_bytes = 0
        self._receive(link, packets, have_waited=True)
        if link.half_closed and session.live and not session.gate and not session.finishing:
            # Its minimal commander had left before all that it said was received.
            self._links.lost(LinkLost(link.link_id, half_closed=True, why="ended"))

    # --- not a session's content -------------------------------------------------------------------------

    def _admit_minimal(self, link: Link, packets: list[Packet]) -> bool:
        """The first packet was no Hello: this is a link with one session."""
        board = self._board
        first = packets[0] if packets else None
        if first is None:
            return False
        is_minimal = first.kind in MINIMAL_KINDS
        if not is_minimal or first.attempt or first.session_id in board.sessions:
            self._links.cut(
                link,
                "FAILED_PRECONDITION",
                f"{first.kind}: came before hello"
                + (", and it names an attempt or a session of a managed link" if is_minimal else "")
                + "; send hello first",
            )
            return False
        refusal = board.refusal()
        if refusal is not None:
            board.out.append(Count("sessions_refused", (refusal.value,)))
            self._links.cut(link, refusal.traits.grpc, f"{refusal.value}: {refusal.traits.advice}")
            return False
        link.minimal = True
        # Viewers see it; a name has no blanks, and nothing that must not leave.
        is_name = first.session_id.isprintable() and " " not in first.session_id
        if is_name and first.session_id:
            is_name = Guard(board.limits.policy).statement(first.session_id, 0).stop is None
        labels = {"peer_session_id": first.session_id} if first.session_id and is_name else {}
        session = board.open_session(
            SessionRequested(link.session_id, MINIMAL_AGENT, None, labels=labels, user_id="")
        )
        session.advance(Step.TAKE)
        session.begin_attempt("", link, board.now)
        board.out.append(Log("info", f"a minimal commander from {link.peer}", session.session_id))
        return True

    def _other(self, link: Link, session: Session | None, packet: Packet) -> None:
        """Control, or a packet that doesn't count here."""
        detail = packet.detail
        if isinstance(detail, Heartbeat):
            if packet.session_id and session is not None and session.link is link:
                session.phase = detail.phase
                if packet.attempt == session.attempt:
                    session.heard_signals(packet.signals_received)
                    session.heard_reads(packet.messages_read)
            else:
                self._links.heartbeat(link, detail)
        elif isinstance(detail, StopAck):
            self._stop_ack(link, packet, detail)
        elif isinstance(detail, Refused):
            self._refused(link, session, packet, detail)
        elif isinstance(detail, Goodbye):
            self._links.goodbye(link, detail)
        elif packet.kind in SEQUENCED and not _unknown_control(packet):
            self._stray(link, session, packet)
        else:
            self._board.out.append(Count("packets_dropped", ("unknown",)))

    def _stray(self, link: Link, session: Session | None, packet: Packet) -> None:
        """A packet of no session, of another link's, of an old attempt, or after the ending."""
        board = self._board
        if link.minimal:
            reason = "ended"
        elif session is None:
            reason = "unknown_session"
        elif session.ending is not None:
            reason = "ended"
        elif packet.attempt != session.attempt or session.state is State.PARKED:
            reason = "stale_attempt"
        else:
            reason = "foreign_session"
        board.out.append(Count("packets_dropped", (reason,)))
        who = (packet.session_id, packet.attempt)
        # Behind an ending packets are under way for a while, and their commander was told already. One that has said
        # that its agent has ended, and goes on, is told again.
        is_obeying = link.commander is None or who in link.commander.slots
        slot = link.commander.slots.get(who) if link.commander is not None else None
        is_parked = slot is not None and slot.stop is not None and slot.stop.code == "parked"
        if (
            (reason == "ended" and is_obeying)
            or is_parked
            or who in link.fenced_told
            or len(link.fenced_told) >= FENCED_TOLD_MAX
        ):
            return
        link.fenced_told.add(who)
        message = {
            "unknown_session": f"session_id: there is no session {packet.session_id!r}",
            "stale_attempt": f"attempt: is {packet.attempt}, and {session.attempt if session else 0} counts now",
            "foreign_session": f"session_id: session {packet.session_id!r} is not on this link",
            "ended": f"session_id: session {packet.session_id!r} has ended, and its agent too, it was said",
        }[reason]
        told = f"dropped a {packet.kind} of {link.whose}: {message}"
        board.out.append(
            Log("warning", told, packet.session_id, packet.attempt, link.link_id, link.commander_id)
        )
        stop = Stop(f"fence-{packet.session_id}-{packet.attempt}", "fenced", message, 0)
        board.send(link, Signal(stop, packet.session_id, packet.attempt), urgent=True)

    def _out_of_order(self, link: Link, session: Session, packet: Packet, due: int) -> None:
        """Drops a repeat, and acknowledges it again; a hole ends the session, and no other."""
        board = self._board
        if 0 < packet.sequence < due:
            board.out.append(Count("packets_dropped", ("repeat",)))
            link.ack_due.add(session.session_id)
            # What its envelope tells is told once on each link, and may be told by this one.
            session.heard_signals(packet.signals_received)
            session.heard_reads(packet.messages_read)
            return
        if _unknown_control(packet):
            board.out.append(Count("packets_dropped", ("unknown",)))
            return
        board.out.append(Count("packets_dropped", ("hole",)))
        what = f"is {packet.sequence}" if packet.sequence else "is not set"
        self._breach(session, link, f"{packet.kind}: sequence {what} where {due} is due")

    def _beyond_credit(self, session: Session, packet: Packet) -> bool:
        """Whether its commander sends more than it may, so that the journal's bound would be no bound. What
        was under way when the room was gone is let through: one credit in bytes, and the packet that ended it."""
        if session.starved is not None:
            session.starved_bytes += packet.size
            if session.starved_bytes - packet.size > self._board.limits.credit_bytes:
                return True
        return packet.sequence > session.allowed

    def _is_of_minimal(self, session: Session, link: Link, packet: Packet) -> bool:
        """Whether a packet counts that came on a stream for one session."""
        if session.finishing:
            self._board.out.append(Count("packets_dropped", ("ended",)))
            return False
        if packet.session_id and packet.session_id != link.named:
            if link.named:
                said = "session_id: is another than this stream began with; open a stream for each session"
                self._breach(session, link, said)
                return False
            link.named = packet.session_id
        return True

    def _may_speak(self, session: Session, link: Link, packet: Packet) -> bool:
        """Judges the names in a packet, the path of a sub-agent once for all its packets."""
        if packet.flaw:
            self._breach(session, link, packet.flaw)
        elif len(session.paths) >= PATHS_MAX:
            self._breach(session, link, f"agent: {PATHS_MAX} sub-agents have spoken, and no more may")
        elif self._board.may_pass(session, packet.agent, ""):
            session.paths.add(packet.agent)
            # What sub-agents say beside each other could not be told from what they say when they are run again.
            session.parks = False
        return session.live

    def _breach(self, session: Session, link: Link, message: str) -> None:
        """Its commander broke the contract in this session; its other sessions go on."""
        self._board.end(session, Ending.PROTOCOL_ERROR, message)
        if link.minimal:
            self._links.cut(link, "INVALID_ARGUMENT", message)

    def _refused(self, link: Link, session: Session | None, packet: Packet, refused: Refused) -> None:
        board = self._board
        commander = link.commander
        if (
            commander is None
            or session is None
            or session.link is not link
            or packet.attempt != session.attempt
            or session.state is not State.STARTING
        ):
            board.out.append(Count("packets_dropped", ("stale_attempt",)))
            return
        # A label made of what peers send would grow without bound.
        reason = refused.code if refused.code in REFUSED_CODES else "other"
        board.out.append(Count("starts_refused", (reason,)))
        told = f"refused by commander {commander.commander_id}: {refused.code or reason}: {refused.why}"
        board.out.append(
            Log("info", told, session.session_id, session.attempt, commander_id=commander.commander_id)
        )
        board.give_back(session, Step.REFUSE)
        session.refused_by.add(commander.commander_id)
        if refused.code == "draining":
            self._links.takes_no_more(commander)
        slot = commander.slots.pop((session.session_id, session.attempt), None)
        if session.queue_due is None:
            session.queue_due = board.now + board.limits.queue_wait_s
        if session.queue_due <= board.now:
            board.waited_enough(session)
        else:
            board.place(session, first=True)
        if slot is not None:
            board.serve_queue(commander)

    def _stop_ack(self, link: Link, packet: Packet, ack: StopAck) -> None:
        """How far a stop has come on its commander's side."""
        board = self._board
        commander = link.commander
        slot = commander.slots.get((packet.session_id, packet.attempt)) if commander else None
        if commander is None or slot is None or slot.state is SlotState.BUSY:
            board.out.append(Count("packets_dropped", ("stop_ack",)))
            return
        key = (commander.commander_id, slot.session_id, str(slot.attempt))
        board.out.append(Measure("stop_step_s", board.now - slot.stopped_at, (ack.phase,)))
        slot.stop_received = True
        board.timers.cancel(("stop_received", *key))
        if ack.phase in ("applied", "killed"):
            board.free_slot(commander, slot)
        elif ack.phase == "abandoned" and slot.state is SlotState.STOPPING:
            self.stuck(*key)

    def stuck(self, commander_id: str, session_id: str, attempt: str) -> None:
        """An agent ignored its stop: the slot is not filled again while that lasts."""
        board = self._board
        commander = board.fleet.commanders.get(commander_id)
        slot = commander.slots.get((session_id, int(attempt))) if commander else None
        if commander is None or slot is None or slot.state is not SlotState.STOPPING:
            return
        board.timers.cancel(("stop_applied", commander_id, session_id, attempt))
        slot.state = SlotState.STUCK
        board.out.append(Count("slots_stuck"))
        told = f"an agent on commander {commander_id} ignored its stop; its slot is stuck"
        board.out.append(Log("error", told, session_id, slot.attempt, commander_id=commander_id))

    # --- a session's content -----------------------------------------------------------------------------

    def _content(self, session: Session, packet: Packet, link: Link) -> None:
        text = packet.text
        if text:
            if session.first_content_at is None:
                self._first_content(session)
            guard = session.guard
            assert guard is not None, session
            verdict = guard.content(text, session.received, packet.agent)
            if verdict is PASS:
                session.safe = guard.safe(session.received)
                session.passed_on(text)
                self._board.emit(session, "content", packet.agent, text, None)
            else:
                session.sent(text)
                self._judged(session, verdict)
        else:
            self._settle(session)
        if packet.is_finish and link.minimal and session.live:
            session.finishing = True
            self.finish_minimal(session, link)

    def _thought(self, session: Session, packet: Packet, link: Link) -> None:
        text, step = packet.text, str(packet.body)
        session.thought_chars += len(text)
        if session.first_token_at is None:
            self._board.first_token(session)
        guard = session.guard
        assert guard is not None, session
        if step != session.step:
            session.step = step
            if not self._board.may_pass(session, step, packet.agent):
                return
        verdict = guard.thought(text, session.received, packet.agent, step)
        if verdict is PASS:
            session.safe = guard.safe(session.received)
            self._board.emit(session, "thought", packet.agent, text, step)
        else:
            self._judged(session, verdict)

    def _settle(self, session: Session) -> None:
        """All that was received is kept, but for what policies hold back."""
        guard = session.guard
        session.safe = session.received if guard is None else guard.safe(session.received)

    def _judged(self, session: Session, verdict: Verdict) -> None:
        """Publishes what a policy lets through, tells what it found, and ends what it stops."""
        board = self._board
        self._settle(session)
        for release in verdict.releases:
            board.release(session, release)
        board.violated(session, verdict)
        if session.is_reviewed:
            board.review(session)

    def _first_content(self, session: Session) -> None:
        board = self._board
        if session.first_token_at is None:
            board.first_token(session)
        session.first_content_at = board.now
        board.out.append(Measure("first_content_s", board.now - session.started_at))

    def _tool_call(self, session: Session, packet: Packet, link: Link) -> None:
        board = self._board
        detail = packet.detail
        assert isinstance(detail, ToolCall)
        why, session.denied = session.denied, ""
        self._settle(session)
        session.tool_calls += 1
        guard = session.guard
        assert guard is not None, session
        self._judged(session, guard.tool_call())
        rewritten = LAST if detail.arguments_json else NONE
        if not session.live or not board.may_pass(session, packet.text, packet.agent, "tool_call", rewritten):
            return
        arguments = board.rewrite(session, detail.arguments_json, packet.agent, "tool_call")
        if arguments != detail.arguments_json:
            # Run again, its agent would not find the call that it has made.
            session.parks = False
        call = session.ledger.named(detail._replace(arguments_json=arguments), session.session_id)
        if session.ledger.find(session.attempt, call.call_id) is None and self._is_loop(session, packet):
            return
        asked = session.ledger.ask(session.attempt, packet.agent, call)
        if asked is Asked.CONFLICT:
            self._breach(session, link, "tool_call: its call_id was used for another call")
            return
        known = session.ledger.find(session.attempt, call.call_id)
        assert known is not None
        if asked is Asked.ANSWERED and known.outcome is not None:
            session.owe(ToolResult(call.call_id, call.tool_name, known.outcome), known.told_at, board.out)
            return
        if asked is Asked.REPEATED:
            return
        board.emit(session, "tool_call", packet.agent, "", call)
        if why:
            session.ledger.refuse(known)
            denied = ToolFinished(session.session_id, known.attempt, call.call_id, unanswered("denied", why))
            self.answer_call(denied)
        elif asked is Asked.RUN:
            board.run_tool(session, known)

    def _is_loop(self, session: Session, packet: Packet) -> bool:
        """Whether a call that is none sent again is one too many of the same, and has ended its session."""
        if session.guard is not None:
            self._board.violated(session, session.guard.repeated(str(packet.body), packet.agent))
        return not session.live

    def answer_call(self, event: ToolFinished) -> None:
        """A call has come to something: viewers and its agent are told, and what waited for its place runs."""
        board = self._board
        session = board.sessions.get(event.session_id)
        call = None
        if session is not None and session.live:
            call = session.ledger.finish(event.attempt, event.call_id, event.outcome)
        if session is None or call is None or event.attempt != session.attempt:
            board.out.append(Count("tool_outcomes_dropped"))
            return
        outcome = self._judged_outcome(session, call.agent, event)
        if outcome is None:
            return
        review_id = ""
        if session.is_reviewed and event.text:
            # Of what failed, the message.
            text = outcome.result_json if outcome.failure is None else outcome.failure.message
            review_id = board.review_whole(session, "tool_result", call.agent, text, call.request.tool_name)
        if review_id:
            session.ledger.judge(call)
            session.results[review_id] = replace(event, outcome=outcome)
            board.run_owed(session)
        else:
            self._tell_result(session, call, outcome)

    def _result_judged(self, session: Session, event: ToolFinished, judged: tuple[Judged, ...]) -> None:
        """What a tool has answered goes on, or something in its place, or its session ends."""
        call, guard = session.ledger.judged(event.attempt, event.call_id, event.outcome), session.guard
        if call is None or guard is None:
            return
        verdict = guard.judged(judged, "tool_result", call.agent)
        self._board.violated(session, verdict)
        if session.live:
            why = _why_denied(verdict)
            self._tell_result(session, call, unanswered("denied", why) if why else event.outcome)

    def _tell_result(self, session: Session, call: Call, outcome: ToolOutcome) -> None:
        """Viewers and its agent are told, and what waited for its place runs."""
        board, call_id = self._board, call.request.call_id
        call.outcome = outcome
        result = ToolResult(call_id, call.request.tool_name, outcome)
        board.emit(session, "tool_result", call.agent, "", result)
        call.told_at = session.offset
        if call.is_withdrawn:
            session.withdrawn.add(session.offset)
        session.owe(result, session.offset, board.out)
        board.run_owed(session)
        if session.finishing and session.link is not None:
            self.finish_minimal(session, session.link)

    def tell_progress(self, event: ToolProgressed) -> None:
        """How far a call is: viewers are told, and nobody else."""
        board = self._board
        session = board.sessions.get(event.session_id)
        call = session.ledger.find(event.attempt, event.call_id) if session is not None else None
        is_running = call is not None and call.state is CallState.RUNNING
        if session is None or call is None or not session.live or event.attempt != session.attempt:
            return
        if is_running and board.has_room(session) and board.may_pass(session, event.text, call.agent):
            board.emit(session, "progress", call.agent, "", event.body, len(event.body))

    def _judged_outcome(self, session: Session, agent: str, event: ToolFinished) -> ToolOutcome | None:
        """What may go on of what a tool has answered; None: nothing, and the session was ended."""
        board, outcome, failure = self._board, event.outcome, event.outcome.failure
        if not board.may_pass(session, event.text, agent, "tool_result", ALL):
            return None
        result_json = board.rewrite(session, outcome.result_json, agent, "tool_result")
        if failure is not None:
            message = board.rewrite(session, failure.message, agent, "tool_result", is_json=False)
            failure = failure._replace(message=message)
        told_json = outcome.told_json
        if told_json:
            told_json = board.rewrite(session, told_json, agent, "tool_result")
        return outcome._replace(result_json=result_json, failure=failure, told_json=told_json)

    def _question(self, session: Session, packet: Packet, link: Link) -> None:
        board = self._board
        question = packet.detail
        assert isinstance(question, Question)
        self._settle(session)
        if not question.question_id or question.question_id in session.questions:
            self._breach(session, link, "question: its question_id is empty or open already")
            return
        asked = len(session.questions) - len(session.approvals)
        if asked >= board.limits.questions_open_max:
            told = f"question: {asked} are open, and questions_open_max allows no more"
            board.end(session, Ending.LIMIT_EXCEEDED, told)
            return
        if not board.may_pass(session, packet.text, packet.agent, "question"):
            return
        board.emit(session, "question", packet.agent, "", question.body, packet.size)
        session.asked.setdefault(question.question_id, session.attempt)
        board.await_answer(session, question._replace(told_at=session.offset), board.now)

    def _withdrawal(self, session: Session, packet: Packet, link: Link) -> None:
        self._settle(session)
        withdrawal = packet.detail
        assert isinstance(withdrawal, Withdrawal)
        assert self._withdrawals is not None, self
        if withdrawal.call_id:
            self._withdrawals.of_call(session, withdrawal.call_id)
        elif withdrawal.question_id:
            self._withdrawals.of_question(session, withdrawal.question_id)

    def _error(self, session: Session, packet: Packet, link: Link) -> None:
        error = packet.detail
        assert isinstance(error, ErrorReport)
        self._settle(session)
        if not self._board.may_pass(session, packet.text, packet.agent):
            return
        session.error = error
        self._board.emit(session, "error", packet.agent, "", packet.body, packet.size)
        if error.scope == "session":
            ending = of_error(error.origin)
            self._board.end(session, ending, error.message, error=error)

    def _usage(self, session: Session, packet: Packet, link: Link) -> None:
        usage = packet.detail
        assert isinstance(usage, Usage)
        self._pass_on(session, packet, link)
        if session.live and session.guard is not None:
            session.usage = session.usage.plus(usage)
            if session.delegated is not None:
                self._board.tell_usage(session)
            self._board.spend(session, usage)
            if session.guard is not None:
                self._judged(session, session.guard.used(session.usage.output_tokens))

    def _progress(self, session: Session, packet: Packet, link: Link) -> None:
        self._pass_on(session, packet, link)
        if session.live:
            session.progress = packet.body

    def _pass_on(self, session: Session, packet: Packet, link: Link) -> None:
        self._settle(session)
        if self._board.may_pass(session, packet.text, packet.agent):
            self._board.emit(session, packet.kind, packet.agent, "", packet.body, packet.size)

    def _unknown(self, session: Session, packet: Packet, link: Link) -> None:
        """A newer commander says what this version doesn't know: its number counts, the rest doesn't."""
        self._settle(session)
        self._board.out.append(Count("packets_dropped", ("unknown",)))

    def _done(self, session: Session, packet: Packet, link: Link) -> None:
        done = packet.detail
        assert isinstance(done, Done)
        may_pass = self._board.may_pass(session, packet.text, packet.agent)
        if may_pass and done.usage is not None:
            told = session.usage
            session.usage = session.usage_before.plus(session.usage_below).plus(done.usage)
            more = session.usage.beyond(told)._replace(model=done.usage.model)
            self._board.spend(session, more, is_over=True)
        if not may_pass:
            pass
        elif not done.completed:
            error = done.error or ErrorReport("agent_failed", "commander", "session", "the agent failed")
            self._release(session)
            if session.live:
                ending = of_error(error.origin)
                self._board.end(session, ending, error.message, error=error, turn_over=True)
        elif (done.content_chars, done.content_crc32) != (session.sent_chars, session.sent_crc32):
            message = (
                f"done says {done.content_chars} characters with CRC-32 {done.content_crc32:08x}, and "
                f"{session.sent_chars} with {session.sent_crc32:08x} arrived"
            )
            self._board.end(session, Ending.INCOMPLETE, message, turn_over=True)
        else:
            self._finish(session)
        # The commander may let go of the turn: all of it is settled, even where the session ended otherwise.
        session.safe = session.received
        self._board.ack(session, link)

    def _finish(self, session: Session) -> None:
        """The turn is over, well: what policies held back is judged, then it is complete."""
        self._release(session)
        if session.live:
            self._board.end(session, Ending.COMPLETED, "the agent finished", turn_over=True)

    def finish_minimal(self, session: Session, link: Link) -> None:
        """A minimal commander has said its last. It may have asked for a tool in the same breath, and gets the result
        first."""
        if not session.ledger.is_idle:
            return
        if session.is_reviewed:
            self._release(session)
            reviews = session.reviews
            if session.live and reviews is not None and reviews.is_waiting:
                reviews.close()
                self._board.review(session, at_once=True)
                return
        if session.live:
            self._finish(session)
        if link.half_closed:
            self._links.cut(link, "OK", "the session is over")
        else:
            due = self._board.now + self._board.limits.stop_grace_s
            self._board.timers.set(("finish", link.link_id), due)

    def _release(self, session: Session) -> None:
        guard = session.guard
        assert guard is not None, session
        self._judged(session, guard.finish())


def _whole(packet: Packet) -> Kind:
    """What services call a packet that they judge whole."""
    return "tool_call" if packet.kind == "tool_call" else "question"


def _why_denied(verdict: Verdict) -> str:
    """What an agent is told of a call that comes to nothing."""
    return next((one.message for one in verdict.violations if one.mode is Mode.DENY), "")


def _unknown_control(packet: Packet) -> bool:
    """A newer commander says something that this version doesn't know and that is no part of the content."""
    return packet.kind == "unknown" and packet.sequence == 0
