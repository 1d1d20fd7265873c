"""What must hold of the dispatcher's core after every step, whoever drives it.

`Witness` stands before a Router, hands it events and looks at what comes out: first at the effects, in their
order, with a memory of its own of what was asked, sent, kept and acknowledged; then at the state that views
see. It knows the promises and nothing of how they are kept. Transcripts and the state machine both step
through it, so each transcript is a test of every law as well.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final
from zlib import crc32

from asking_laws import AskingLaws, judge_opened
from fleet_laws import idle_slots, judge_fleet

from dispatcher.core import events
from dispatcher.core.endings import Ending
from dispatcher.core.events import Effect, Event
from dispatcher.core.ledger import CallState
from dispatcher.core.limits import Limits
from dispatcher.core.mark import Mark
from dispatcher.core.packets import (
    SEQUENCED,
    Ack,
    Answer,
    Done,
    Ended,
    Hello,
    Packet,
    SessionEvent,
    Signal,
    Start,
    Stop,
    ToolResult,
    UserMessage,
    Welcome,
)
from dispatcher.core.router import Router
from dispatcher.core.session import EVENT_OVERHEAD_BYTES, Session, State

# What stands for text that was redacted, in whatever is played here.
MARK: Final = "[mark]"
# What each event is answered with: exactly one of these, or nothing.
REPLIES: Final[dict[type[Any], tuple[type[Any], ...]]] = {
    events.SessionRequested: (events.Accepted, events.Declined),
    events.StopRequested: (events.Stopped, events.Declined),
    events.StopsRequested: (events.StoppedMany,),
    events.AnswerGiven: (events.Accepted, events.Declined),
    events.MessageGiven: (events.Accepted, events.Declined),
    events.CommanderDrainRequested: (events.Draining, events.Declined),
    events.DrainRequested: (events.Draining,),
    events.ShutdownRequested: (events.StoppedMany,),
}
REPLY_TYPES: Final = (
    events.Accepted,
    events.Declined,
    events.Stopped,
    events.StoppedMany,
    events.Draining,
)

_OWED = (ToolResult, Answer, UserMessage)


def _texts(body: object) -> Iterator[str]:
    """All that is text in what an event holds."""
    if isinstance(body, str):
        yield body
    elif isinstance(body, Mapping):
        yield from _texts(tuple(body.items()))
    elif isinstance(body, tuple):
        for each in body:
            yield from _texts(each)


@dataclass
class _Attempt:
    """One attempt as its commander's link saw it."""

    packets: dict[int, Packet] = field(default_factory=dict)  # what came up, by number
    acked: int = 0
    owed: dict[int, Signal] = field(default_factory=dict)
    # The highest signal that the commander says it has; one that lies gets no others.
    claimed: int = 0
    calls: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    # Calls that have run, and that nobody was told of yet.
    untold: set[str] = field(default_factory=set)
    interrupted: set[str] = field(default_factory=set)
    # Calls that agents answer.
    delegated: set[str] = field(default_factory=set)


@dataclass
class _Story:
    """One session as its viewers saw it."""

    offset: int = 0
    attempt: int = 0
    ended: bool = False
    forgotten: bool = False
    crc32: int = 0
    texts_bytes: int = 0
    # By attempt and by the path of who speaks: what one says may be held back while another goes on.
    content: dict[tuple[int, str], str] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    # What the user has said, by id, and whether any commander was ever told.
    messages: dict[str, bool] = field(default_factory=dict)
    # Its commander says that it has what it was never sent.
    is_lied_about: bool = False

    def reset(self) -> None:
        """What viewers are told to discard."""
        self.content.clear()
        self.pieces.clear()
        self.crc32 = 0


class Witness:
    """A router under observation. A law that is broken raises AssertionError in the step that breaks it."""

    def __init__(self, limits: Limits) -> None:
        self.router = Router(limits)
        self.seen: set[type[Any]] = set()  # types of events and effects that occurred
        self._limits = limits
        self._now = -inf
        self._stories: dict[str, _Story] = {}
        self._attempts: dict[tuple[str, int], _Attempt] = {}
        self._open_links: set[str] = set()
        self._asked: set[str] = set()
        # Sessions that had ended when the step under way began.
        self._over: set[str] = set()
        self._fences: set[tuple[str, str, int]] = set()
        # Owed signals that the step under way sends.
        self._sent: list[Signal] = []
        # Links that were welcomed: managed ones.
        self._welcomed: set[str] = set()
        # Attempts that were told to stop, by link.
        self._stops: set[tuple[str, str, int]] = set()
        # How many packets of each session the step under way brings: amid several, nobody outside can tell
        # which of them an Ack knows of.
        self._brought: Counter[str] = Counter()
        # A link's own session, should it turn out to be a minimal commander's.
        self._own: dict[str, str] = {}
        # What a journal with a file has kept.
        self._requested: dict[str, events.SessionRequested] = {}
        self._kept: dict[str, list[tuple[int, SessionEvent]]] = {}
        self._marks: dict[str, Mark] = {}
        self._commanders: dict[str, Hello] = {}
        self._idempotent_tools: frozenset[str] = frozenset()
        self._asking = AskingLaws()
        self._laws: dict[type[Any], Callable[[Any], None]] = {
            events.Open: self._open,
            events.Append: self._append,
            events.Remember: self._remember,
            events.Send: self._send,
            events.RunTool: self._run_tool,
            events.CancelTools: self._cancel_tools,
            events.CancelTool: self._cancel_tool,
            events.CloseLink: self._close_link,
            events.Forget: self._forget,
            events.Leave: self._leave,
        }

    def __repr__(self) -> str:
        return f"<Witness of {self.router!r}>"

    def step(self, event: Event, now: float) -> list[Effect]:
        """One step, judged."""
        assert now >= self._now, "time went backwards: the test is wrong"
        self._now = now
        self.seen.add(type(event))
        self._brought.clear()
        self._over = {session_id for session_id, story in self._stories.items() if story.ended}
        self._note(event)
        self._asking.begin(event, self.router, now)
        self._sent.clear()
        idle = idle_slots(self.router) if isinstance(event, events.TimePassed) else set()
        live = self.router.live or isinstance(event, events.DrainRequested)
        effects = self.router.step(event, now)
        for effect in effects:
            self.seen.add(type(effect))
            law = self._laws.get(type(effect))
            if law is not None:
                law(effect)
        for effect in effects:
            if isinstance(effect, events.Append) and effect.session_id in self.router.sessions:
                self._marks[effect.session_id] = self.router.sessions[effect.session_id].mark()
            elif isinstance(effect, events.Open):
                judge_opened(effect.requested, self.router, now)
        self._judge_reply(event, effects)
        closed = {effect.link_id for effect in effects if isinstance(effect, events.CloseLink)}
        if isinstance(event, events.HelloReceived):
            self._judge_welcome(event)
        elif isinstance(event, events.PacketsReceived):
            # What one session breaks costs the others nothing.
            assert not closed & self._welcomed, f"{closed} closed"
        if live and self.router.draining and not self.router.live:
            assert any(isinstance(effect, events.Leave) for effect in effects), "nobody is told to leave"
        if isinstance(event, events.TimePassed):
            due = self.router.next_deadline()
            assert due is None or due > now, f"a deadline that was due at {due} is still there at {now}"
            # Time alone frees no slot whose agent may still run, unless its commander is given up.
            lost = {
                slot for slot in idle - idle_slots(self.router) if slot[0] in self.router.fleet.commanders
            }
            assert not lost, f"{lost} are free, and nobody said so"
        self._judge_state()
        self._asking.judge(self.router, now)
        return effects

    # --- another life ------------------------------------------------------------------------------------

    def restart(self, limits: Limits | None = None) -> None:
        """The process dies, and with it all but what is kept; the next one may have other limits."""
        self._limits = limits or self._limits
        self.router = Router(self._limits)
        for (session_id, number), attempt in self._attempts.items():
            # What a tool has said and services still judge is lost, as if it ran yet.
            attempt.interrupted = attempt.running | attempt.untold
            attempt.running, attempt.untold = set(), set()
            mark = self._marks.get(session_id)
            if mark is not None and mark.attempt == number:
                # What came after the last mark was never acknowledged, and will come again.
                for sequence in [each for each in attempt.packets if each > mark.received]:
                    del attempt.packets[sequence]
        self._open_links.clear()
        self._welcomed.clear()

    def restored(self, now: float, idempotent_tools: frozenset[str] = frozenset()) -> list[Effect]:
        """Another takes that up: each session stands where it stood when something of it was last kept."""
        forgotten = {session_id for session_id, story in self._stories.items() if story.forgotten}
        sessions = [
            events.Kept(requested, self._marks[session_id], self._kept[session_id])
            for session_id, requested in self._requested.items()
            if session_id not in forgotten
        ]
        before = {kept.requested.session_id: kept.mark for kept in sessions}
        commanders = tuple(self._commanders.values())
        self._idempotent_tools = idempotent_tools
        effects = self.step(events.Restored(sessions, commanders, int(now * 1000), idempotent_tools), now)
        for session_id, session in self.router.sessions.items():
            mark = before[session_id]
            told = self._kept[session_id][-1][1].offset if self._kept[session_id] else 0
            if session.state is State.DETACHED and told == session.offset and session.attempt == mark.attempt:
                # But for what died with the process, and was told.
                assert session.mark().received == mark.received, session
            if not session.live and self._stories[session_id].ended:
                assert session.ended is not None
        return effects

    # --- what was asked ----------------------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        if isinstance(event, events.LinkOpened):
            self._open_links.add(event.link_id)
            self._own[event.link_id] = event.session_id
        elif isinstance(event, events.LimitsChanged):
            self._limits = event.limits
        elif isinstance(event, events.HelloReceived):
            for resume in event.hello.resumes:
                self._claims(resume.session_id, resume.attempt, resume.last_signal_received)
        elif isinstance(event, events.PacketsReceived):
            for packet in event.packets:
                self._claims(packet.session_id, packet.attempt, packet.signals_received)
                self._came(event.link_id, packet)
        elif isinstance(event, events.ToolFinished):
            attempt = self._attempts.get((event.session_id, event.attempt))
            if attempt is not None and event.call_id in attempt.running:
                attempt.running.discard(event.call_id)
                attempt.untold.add(event.call_id)
        elif isinstance(event, events.DelegationRequested):
            asked = event.asked
            attempt = self._attempts.setdefault((asked.session_id, asked.attempt), _Attempt())
            attempt.delegated.add(asked.call_id)
        elif isinstance(event, events.ApprovalRequested):
            # It has not begun after all.
            attempt = self._attempts.setdefault((event.session_id, event.attempt), _Attempt())
            attempt.running.discard(event.call_id)
            if (session := self.router.sessions.get(event.session_id)) is not None and session.live:
                call = session.ledger.find(event.attempt, event.call_id)
                if call is not None and call.state is CallState.RUNNING:
                    attempt.calls.discard(event.call_id)

    def _claims(self, session_id: str, attempt: int, signals: int) -> None:
        claiming = self._attempts.setdefault((session_id, attempt), _Attempt())
        claiming.claimed = max(claiming.claimed, signals)
        if session_id in self._stories and signals > max(claiming.owed, default=0):
            self._stories[session_id].is_lied_about = True

    def _came(self, link_id: str, packet: Packet) -> None:
        """Remembers a packet that is to be taken: of this link's session and attempt, and the next in order."""
        link = self.router.fleet.links.get(link_id)
        if link is None or packet.kind not in SEQUENCED:
            return
        minimal = link.commander is None
        who = (self._own[link_id], 1) if minimal else (packet.session_id, packet.attempt)
        session = self.router.sessions.get(who[0])
        on_link = session is not None and session.link is link and session.attempt == who[1]
        if on_link or (minimal and session is None):
            packets = self._attempts.setdefault(who, _Attempt()).packets
            due = len(packets) + 1
            if packet.sequence == due or (minimal and packet.sequence == 0):
                packets[due] = packet
                self._brought[who[0]] += 1

    # --- effects -----------------------------------------------------------------------------------------

    def _open(self, effect: events.Open) -> None:
        requested = effect.requested
        assert requested.session_id not in self._requested, effect
        self._requested[requested.session_id] = requested
        self._kept[requested.session_id] = []

    def _remember(self, effect: events.Remember) -> None:
        if effect.hello is None:
            self._commanders.pop(effect.commander_id, None)
        else:
            assert not effect.hello.resumes, effect
            self._commanders[effect.commander_id] = effect.hello

    def _append(self, effect: events.Append) -> None:
        self._kept[effect.session_id].extend((int(self._now * 1000), event) for event in effect.events)
        story = self._stories.setdefault(effect.session_id, _Story())
        for event in effect.events:
            assert not story.ended, f"{effect.session_id}: {event} after the ending"
            assert not story.forgotten, f"{effect.session_id}: {event} after it was forgotten"
            assert event.offset == story.offset + 1, f"{effect.session_id}: {event} after {story.offset}"
            assert (event.kind == "opened") == (event.offset == 1), event
            assert event.attempt >= story.attempt, f"{effect.session_id}: {event} of an older attempt"
            self._asking.told(effect.session_id, event)
            story.offset, story.attempt = event.offset, event.attempt
            story.ended = event.kind == "ended"
            if isinstance(event.body, UserMessage):
                story.messages[event.body.message_id] = False
            elif isinstance(event.body, Ended):
                self._judge_unread(event.body, story)
            story.texts_bytes += sum(
                len(text.encode()) for text in _texts((event.agent, event.text, event.body))
            )
            if isinstance(event.body, ToolResult) and not event.body.session_id:
                own = self._attempts.setdefault((effect.session_id, event.attempt), _Attempt())
                own.untold.discard(event.body.call_id)
                if event.body.call_id in own.delegated:
                    own.running.discard(event.body.call_id)
            if event.kind == "reset":
                assert event.attempt > 1, event
                story.reset()
            elif event.kind == "content":
                who = (event.attempt, event.agent)
                story.content[who] = story.content.get(who, "") + event.text
                story.pieces.append(event.text)
                story.crc32 = crc32(event.text.encode(), story.crc32)

    def _judge_unread(self, ended: Ended, story: _Story) -> None:
        """What the user said is given back, unless an agent took it."""
        given = list(story.messages)
        assert sorted(ended.unread, key=given.index) == list(ended.unread), ended
        never_sent = {message_id for message_id, was_sent in story.messages.items() if not was_sent}
        assert story.is_lied_about or never_sent <= set(ended.unread), (
            f"{never_sent} were not given back: {ended}"
        )

    def _send(self, effect: events.Send) -> None:
        signal, link_id = effect.signal, effect.link_id
        body = signal.body
        assert link_id in self._open_links, f"{signal} to {link_id}, which is gone"
        attempt = self._attempts.setdefault((signal.session_id, signal.attempt), _Attempt())
        assert (signal.sequence > 0) == isinstance(body, _OWED), signal
        if isinstance(body, Ack):
            self._judge_ack(signal, body, attempt)
        elif isinstance(body, Stop):
            assert effect.urgent, f"{signal} waits behind others"
            assert body.reason, signal
            told = (link_id, signal.session_id, signal.attempt)
            self._stops.add(told)
            if body.stop_id.startswith("fence-"):
                assert told not in self._fences, f"{signal} was told before"
                self._fences.add(told)
        elif isinstance(body, Start):
            session = self.router.sessions[signal.session_id]
            assert session.attempt == signal.attempt, signal
            content = "".join(self._stories[signal.session_id].pieces)
            # An agent is told all that viewers have, or they have nothing.
            assert content == (body.published.content if body.published else ""), signal
        elif isinstance(body, _OWED):
            before = attempt.owed.get(signal.sequence)
            assert before in (None, signal), f"{signal} was {before} before"
            assert signal.sequence <= max(0, attempt.claimed, *attempt.owed) + 1, f"{signal} leaves a hole"
            attempt.owed[signal.sequence] = signal
            if isinstance(body, UserMessage):
                self._stories[signal.session_id].messages[body.message_id] = True
            self._sent.append(signal)
        elif isinstance(body, Welcome):
            self._welcomed.add(link_id)

    def _judge_ack(self, signal: Signal, ack: Ack, attempt: _Attempt) -> None:
        assert ack.sequence <= len(attempt.packets), f"{signal}: only {len(attempt.packets)} packets came"
        assert ack.sequence >= attempt.acked, f"{signal} after {attempt.acked} was acknowledged"
        attempt.acked = ack.sequence
        story = self._stories[signal.session_id]
        for number, packet in attempt.packets.items():
            if number <= ack.sequence and packet.kind == "content" and not story.ended:
                shown = story.content.get((signal.attempt, packet.agent), "")
                assert packet.text in shown or MARK in shown, f"{signal}, and {packet} was not kept"
        session = self.router.sessions.get(signal.session_id)
        if session is None or not session.live or self._brought[signal.session_id] > 1:
            return
        if session.starved is not None:
            assert (ack.credit, ack.credit_bytes) == (0, 0), f"{signal} while it starves"
            return
        # What was received and can't be acknowledged yet must not eat up the credit: nobody would go on.
        beyond = [
            packet for number, packet in attempt.packets.items() if ack.sequence < number <= session.received
        ]
        assert ack.credit >= self._limits.credit_packets + len(beyond), f"{signal}: {len(beyond)} are held"
        held_bytes = sum(packet.size for packet in beyond)
        assert ack.credit_bytes >= self._limits.credit_bytes + held_bytes, (
            f"{signal}: {held_bytes} B are held"
        )

    def _run_tool(self, effect: events.RunTool) -> None:
        attempt = self._attempts.setdefault((effect.session_id, effect.attempt), _Attempt())
        assert effect.call.call_id, effect
        assert effect.call.idempotency_key, effect
        call = effect.call
        # In another life an idempotent one may run once more, when nobody knows what it did.
        is_harmless = call.to_agent or call.tool_name in self._idempotent_tools
        may_again = is_harmless and call.call_id in attempt.interrupted
        assert may_again or call.call_id not in attempt.calls, f"{effect} ran before"
        self._asking.runs(effect)
        attempt.interrupted.discard(call.call_id)
        attempt.calls.add(effect.call.call_id)
        assert effect.session_id not in self._over, f"{effect} after the ending"
        attempt.running.add(effect.call.call_id)

    def _cancel_tools(self, effect: events.CancelTools) -> None:
        attempt = self._attempts[effect.session_id, effect.attempt]
        assert attempt.running or attempt.delegated, f"{effect}: nothing runs"
        attempt.running.clear()

    def _cancel_tool(self, effect: events.CancelTool) -> None:
        attempt = self._attempts[effect.session_id, effect.attempt]
        assert effect.call_id in attempt.running, f"{effect}: it does not run"
        attempt.running.remove(effect.call_id)

    def _close_link(self, effect: events.CloseLink) -> None:
        assert effect.link_id in self._open_links, f"{effect}: it is closed"
        self._open_links.remove(effect.link_id)

    def _forget(self, effect: events.Forget) -> None:
        story = self._stories[effect.session_id]
        assert story.ended, f"{effect}: it has not ended"
        assert not story.forgotten, f"{effect}: once more"
        story.forgotten = True

    def _leave(self, effect: events.Leave) -> None:
        assert self.router.draining
        assert self.router.live == 0

    def _judge_reply(self, event: Event, effects: list[Effect]) -> None:
        replies = [effect for effect in effects if isinstance(effect, REPLY_TYPES)]
        wanted = REPLIES.get(type(event))
        if wanted is None:
            assert not replies, f"{event} is not to be answered, and was: {replies}"
            return
        assert len(replies) == 1, f"{event} is to be answered once, and was: {replies}"
        assert isinstance(replies[0], wanted), f"{event} was answered by {replies[0]}"
        reply = replies[0]
        if isinstance(event, events.SessionRequested) and isinstance(reply, events.Accepted):
            self._asked.add(reply.session_id)
        if isinstance(reply, events.Declined):
            assert reply.code, reply
            assert reply.message, reply

    def _judge_welcome(self, event: events.HelloReceived) -> None:
        """What the commander says is stuck is not filled, whoever's it was; what it is owed is sent again."""
        link, hello = self.router.fleet.links.get(event.link_id), event.hello
        if link is not None and link.commander is not None:
            assert hello.slots - link.commander.free >= min(hello.stuck, hello.slots), link.commander
            for session in self.router.sessions.values():
                if session.link is link:
                    missing = [signal for signal in session.owed if signal not in self._sent]
                    assert not missing, f"{session!r} is owed {missing}"

    # --- state -------------------------------------------------------------------------------------------

    def _judge_state(self) -> None:
        router = self.router
        assert repr(router)
        for session in router.sessions.values():
            self._judge_session(session)
            kept = session.kept_bytes - session.offset * EVENT_OVERHEAD_BYTES
            told = self._stories[session.session_id].texts_bytes
            assert kept >= told, f"{session!r}: {told} bytes of text are kept, and {kept} counted"
        for session_id in self._asked:
            known = session_id in router.sessions or self._stories[session_id].forgotten
            assert known, f"{session_id} was asked for, and is neither live, nor ended, nor forgotten"
        live = [session for session in router.sessions.values() if session.live]
        assert router.live == len(live)
        assert router.queued == sum(session.state is State.QUEUED for session in live)
        assert router.kept_bytes == sum(session.kept_bytes for session in router.sessions.values())
        assert set(router.fleet.links) == self._open_links
        judge_fleet(router, live, self._stops)

    def _below(self, session_id: str, path: str) -> str | None:
        """What a delegated session has told whose agent has this path, or one above it; None: there is none."""
        for requested in self._requested.values():
            asked = requested.delegated
            if asked is None or asked.session_id != session_id or not f"{path}/".startswith(f"{asked.path}/"):
                continue
            rest = path[len(asked.path) + 1 :]
            content = self._stories[requested.session_id].content
            return "".join(text for (_, agent), text in content.items() if agent == rest)
        return None

    def _judge_done(self, session: Session) -> None:
        """Complete is only what arrived as it was sent."""
        packets = self._attempts.get((session.session_id, session.attempt), _Attempt()).packets
        last = packets[max(packets)].detail if packets else None
        if session.ending is Ending.COMPLETED and isinstance(last, Done):
            sent = "".join(packet.text for packet in packets.values() if packet.kind == "content")
            assert (last.content_chars, last.content_crc32) == (len(sent), crc32(sent.encode())), session

    def _judge_session(self, session: Session) -> None:
        story = self._stories[session.session_id]
        assert repr(session)
        assert repr(session.ledger)
        assert (session.ending is not None) == (not session.live) == story.ended, session
        assert session.offset == story.offset, session
        assert not story.forgotten, session
        assert 0 <= session.safe <= session.received, session
        assert session.viewers >= 0, session
        for (attempt, agent), shown in story.content.items():
            if (below := self._below(session.session_id, agent)) is not None:
                assert below.startswith(shown), f"{session!r}: {shown!r} of {below!r}"
                continue
            said = self._attempts.get((session.session_id, attempt), _Attempt()).packets.values()
            # Of what was said, in order and once; what a policy cut off or holds back may be missing at its end.
            all_of_it = "".join(p.text for p in said if p.kind == "content" and p.agent == agent)
            # A mark stands for what was redacted, something at least.
            right = ".+".join(map(re.escape, shown.split(MARK)))
            assert re.match(right, all_of_it, re.DOTALL), f"{session!r}: {shown!r} of {all_of_it!r}"
        if not session.live:
            assert session.ended is not None
            assert session.ended.content_chars == sum(map(len, story.content.values())), session
            assert session.ended.content_crc32 == story.crc32, session
            assert session.starved is None, session
            self._judge_done(session)
            assert session.link is None, session
            calls = self._attempts.get((session.session_id, session.attempt), _Attempt()).running
            assert not calls, f"{session!r}: {calls} still run"
            return
        # Nobody hangs: what is live has a link, or a deadline that ends or moves it.
        linked = session.link is not None
        assert linked or self.router.next_deadline() is not None, f"{session!r} hangs"
        assert linked == (session.state in (State.STARTING, State.RUNNING)), session
        if session.link is not None:
            assert session.link.link_id in self._open_links, session
