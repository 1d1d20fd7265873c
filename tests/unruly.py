"""A hub whose peers are unruly: links, commanders, sessions, packets in and out of order, stops, losses, returns
and time, in any order. Each step is judged by `laws.Witness`; at the end everything must end."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar
from zlib import crc32

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from laws import MARK, Witness

from dispatcher.core import events
from dispatcher.core.events import Effect, Event
from dispatcher.core.limits import Limits
from dispatcher.core.packets import (
    SEQUENCED,
    AgentOffer,
    Detail,
    Done,
    ErrorReport,
    Goodbye,
    Heartbeat,
    Hello,
    OnRestart,
    Origin,
    Packet,
    Question,
    Refused,
    Resume,
    Scope,
    StopAck,
    StopPhase,
    ToolCall,
    ToolFailure,
    ToolOutcome,
    Usage,
    Withdrawal,
)
from dispatcher.core.policy import Budgets, Mode, PolicyLimits
from dispatcher.core.rules import Judges, RuleBook, said_by_agents
from dispatcher.core.session import Session
from dispatcher.patterns import compile_patterns

# Small, so that every bound is reached.
LIMITS = Limits(
    sessions_max=8,
    queue_sessions_max=2,
    queue_wait_s=5.0,
    credit_packets=4,
    credit_bytes=64,
    heartbeat_interval_s=2.0,
    heartbeats_missed=3,
    detach_grace_s=4.0,
    attempts_max=4,
    restart_backoff_s=0.5,
    published_bytes_max=300,
    stop_grace_s=2.0,
    stop_received_s=1.0,
    messages_waiting_max=2,
    questions_open_max=2,
    question_wait_s=6.0,
    park_after_s=1.2,
    delegation_levels_max=2,
    delegated_answer_bytes_max=60,
    session_tools_running_max=1,
    journal_session_bytes=6_000,
    journal_bytes=12_000,
    journal_keep_s=10.0,
    journal_keep_sessions=3,
    journal_full_wait_s=4.0,
    policy=PolicyLimits(
        content_chars_max=150,
        thought_chars_max=60,
        thought_chars_mode=Mode.OBSERVE,
        tool_calls_max=6,
        output_tokens_max=100,
        total_time_s=40.0,
        first_token_s=15.0,
        deny_hold_chars_max=8,
        deny_speakers_max=3,
        rules=RuleBook(
            names=frozenset({"greeting"}),
            marks={"greeting": MARK},
            of_others=said_by_agents(
                Judges(
                    stop=compile_patterns({"secret": "secret", "key": "key=[a-z]+;"}),
                    redact=compile_patterns({"greeting": "o a{1,2}h|ax"}),
                    observe=compile_patterns({"rude": "darn"}),
                )
            ),
        ),
    ),
)
LARGER = Limits(queue_sessions_max=0, journal_keep_sessions=0, heartbeat_interval_s=2.0, credit_packets=1)

TEXTS = ["", "a", "hello ", "sec", "ret", "secret", "key=", "darn", "x;", "y" * 40]
PATHS = ["", "", "insight", "team/insight", "writer"]
# How a packet is addressed: as its session expects it, or wrong in one of the ways there are.
ADDRESSES = ["right"] * 40 + [
    "repeat",
    "hole",
    "unset",
    "stale",
    "stale",
    "ahead",
    "ahead",
    "foreign",
    "unknown",
    "bare",
]
# What is called, with what, and whether it is an agent.
CALLS: list[tuple[str, str, str, int | None, bool]] = [
    ("add", "{}", "", None, False),
    ("search", "{}", "", None, False),
    ("pay", '{"amount": 5}', "", None, False),
    ("pay", '{"amount": 5}', "", 2_000, False),
    ("clerk", "{}", "", None, False),
    *[(agent, "{}", "", None, True) for agent in ("echo", "third", "third", "demo", "nobody")],
]
ANSWERS = ['"yes"', '"approve"', '"approve"', '{"approve": {"amount": 1}}', '{"deny": "no"}', '"deny"', None]
SPOKEN = [*sorted(SEQUENCED), *["content"] * 10, "tool_call", "question", "question", "done"]
SOME = st.integers(0, 1_000)
MUCH = st.integers(0, 2**32)

T = TypeVar("T")


class Choices:
    """Many small choices out of one drawn number: a draw for each would cost more than what is tested, and
    hypothesis likes small numbers, so that most would be the first there is."""

    def __init__(self, number: int) -> None:
        self._random = Random(number)

    def below(self, most: int) -> int:
        return self._random.randrange(most)

    def of(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]


def detail(kind: str, choices: Choices) -> Detail:
    """What a packet of this kind says, as far as the core looks into it."""
    of = choices.of
    some_id = of(["", "1", "2", "3"])
    scopes: list[Scope] = ["", "call", "agent", "session"]
    origins: list[Origin] = ["", "llm", "commander"]
    made: dict[str, Callable[[], Detail]] = {
        "tool_call": lambda: ToolCall(some_id, *of(CALLS)),
        "error": lambda: ErrorReport("broken", of(origins), of(scopes), "it broke"),
        "usage": lambda: Usage(1, choices.below(40)),
        "question": lambda: Question(some_id, of([None, 0.5, 100.0]), b"?"),
        "withdrawal": lambda: Withdrawal(*of([(some_id, ""), ("", some_id)])),
        "heartbeat": lambda: Heartbeat(choices.below(5), of([0.0, 3.0]), 1, choices.below(2)),
        "refused": lambda: Refused(of(["no_slot", "odd"]), "no"),
        "goodbye": lambda: Goodbye("drained"),
    }
    return made[kind]() if kind in made else None


class Unruly(RuleBasedStateMachine):
    """What a hub would do, with peers that keep to the contract or don't; for hypothesis to drive."""

    def __init__(self) -> None:
        super().__init__()
        self.witness = Witness(LIMITS)
        self.router = self.witness.router
        self.now = 0.0
        self.minted = 0
        self.links: list[str] = []
        self.ids: list[str] = ["nobody"]
        # Calls that were to be run; a hub says once of each what it has come to.
        self.runs: list[events.RunTool] = []
        self.watching: list[str] = []
        self.spoken: dict[tuple[str, int], str] = {}

    # --- the hub's part ----------------------------------------------------------------------------------

    def submit(self, event: Event) -> list[Effect]:
        effects = self.witness.step(event, self.now)
        self.perform(effects)
        return effects

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, events.RunTool):
                self.runs.append(effect)
            elif isinstance(effect, events.CancelTools) and self.minted % 4:
                # Else it comes too late.
                who = (effect.session_id, effect.attempt)
                self.runs = [run for run in self.runs if (run.session_id, run.attempt) != who]
            elif isinstance(effect, events.CancelTool) and self.minted % 4:
                of = (effect.session_id, effect.attempt, effect.call_id)
                self.runs = [r for r in self.runs if (r.session_id, r.attempt, r.call.call_id) != of]
            elif isinstance(effect, events.CloseLink):
                self.links.remove(effect.link_id)
            elif isinstance(effect, events.Open) and effect.requested.delegated is not None:
                self.ids.append(effect.requested.session_id)

    def mint(self, kind: str) -> str:
        self.minted += 1
        return f"{kind}{self.minted}"

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.router.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.submit(events.TimePassed())
        self.now = until

    def session(self, choice: int) -> str:
        """Mostly one of the last, for more to happen to them."""
        return self.ids[-1 - choice % min(len(self.ids), 4 if choice % 5 else 50)]

    # --- links -------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.link(0, 2, False)

    @rule(commander=st.integers(0, 2), slots=st.integers(1, 3), new_process=st.booleans())
    def link(self, commander: int, slots: int, new_process: bool) -> None:
        """A commander links, or links anew, and names what it still runs as far as it remembers it right."""
        link_id = self.mint("l")
        self.links.append(link_id)
        self.submit(events.LinkOpened(link_id, "peer", self.mint("m")))
        known = self.router.fleet.commanders.get(f"c{commander}")
        instance = known.instance if known is not None and not new_process else self.mint("i")
        resumes = []
        for session_id, attempt in known.slots if known is not None and not new_process else ():
            session = self.router.sessions.get(session_id)
            received = session.received if session is not None else 0
            lost = self.minted % 4 - 1
            if lost != 2:
                resumes.append(Resume(session_id, attempt, max(0, received + lost), lost))
        # One that comes back has room for what it runs.
        slots = max(slots, len(known.slots) if known is not None and not new_process else 0)
        stuck = 1 if slots > 2 and self.minted % 3 == 0 else 0
        restarts: list[OnRestart] = ["restart", "continue", "never"]
        on_restart = restarts[commander]
        agents = (
            AgentOffer("echo", on_restart=on_restart, parks=commander == 1),
            AgentOffer("third", on_restart=restarts[self.minted % 2], parks=True),
            AgentOffer("demo", "2"),
        )[: 2 if commander else 3]
        labels = {"region": "eu"} if commander == 1 else {}
        hello = Hello(f"c{commander}", instance, "test/1", agents, labels, slots, stuck, tuple(resumes))
        self.submit(events.HelloReceived(link_id, hello))

    @rule(choice=SOME, half_closed=st.booleans())
    def lose(self, choice: int, half_closed: bool) -> None:
        if self.links:
            link_id = self.links[choice % len(self.links)]
            self.submit(events.LinkLost(link_id, half_closed=half_closed, why="gone"))

    @rule(finish=st.booleans(), texts=st.lists(st.sampled_from(TEXTS), max_size=4))
    def minimal(self, finish: bool, texts: list[str]) -> None:
        link_id, session_id = self.mint("l"), self.mint("m")
        if sum(link.minimal for link in self.router.fleet.links.values()) > 2:
            return
        self.links.append(link_id)
        self.submit(events.LinkOpened(link_id, "peer", session_id))
        packets = [Packet("content", "", 0, 0, "", text, False, 0, len(text), None, None) for text in texts]
        if finish:
            packets.append(Packet("content", "", 0, 0, "", "", True, 0, 0, None, None))
        self.submit(events.PacketsReceived(link_id, packets))
        if session_id in self.router.sessions:
            self.ids.append(session_id)

    # --- packets -----------------------------------------------------------------------------------------

    @rule(link=SOME, spoken=st.lists(MUCH, min_size=1, max_size=6))
    def speak(self, link: int, spoken: list[int]) -> None:
        """One message with packets of sessions on this link, most of them right."""
        if not self.links:
            return
        link_id = self.links[link % len(self.links)]
        mine = [s for s in self.router.sessions.values() if s.link is not None and s.link.link_id == link_id]
        due = {session.session_id: session.received for session in mine}
        packets = []
        for number in spoken:
            choices = Choices(number)
            session = choices.of(mine) if mine else self.router.sessions.get(self.session(choices.below(50)))
            if session is not None:
                packets.append(self.packet(choices, session, due))
        if packets:
            self.submit(events.PacketsReceived(link_id, packets))

    def packet(self, choices: Choices, session: Session, due: dict[str, int]) -> Packet:
        kind, address = choices.of(SPOKEN), choices.of(ADDRESSES)
        session_id, attempt = session.session_id, session.attempt
        sequence = due.get(session_id, session.received) + 1
        if address == "right":
            due[session_id] = sequence
        wrong = {"repeat": max(1, sequence - 1), "hole": sequence + 1, "unset": 0, "bare": 0}
        sequence = wrong.get(address, sequence)
        attempt += {"stale": -1, "ahead": 1, "bare": -attempt}.get(address, 0)
        session_id = {"foreign": self.ids[-1], "unknown": "nobody", "bare": ""}.get(address, session_id)
        text = choices.of(TEXTS) if kind in ("content", "thought") else ""
        said = self.spoken.get((session_id, attempt), "")
        if kind == "content" and address == "right":
            self.spoken[session_id, attempt] = said + text
        told = detail(kind, choices)
        # What is asked below is told apart above by its id.
        if isinstance(told, ToolCall) and told.call_id:
            told = told._replace(call_id=session.id_prefix + told.call_id)
        elif isinstance(told, Question) and told.question_id:
            told = told._replace(question_id=session.id_prefix + told.question_id)
        elif isinstance(told, Withdrawal) and told.call_id:
            told = told._replace(call_id=session.id_prefix + told.call_id)
        elif isinstance(told, Withdrawal) and told.question_id:
            told = told._replace(question_id=session.id_prefix + told.question_id)
        if kind == "done":
            crc = crc32(said.encode()) + (choices.below(5) == 0)
            error = ErrorReport("odd", "llm", "session", "it failed")
            told = Done(choices.below(4) > 0, len(said), crc, Usage(1, 1), error)
        body = "plan" if kind == "thought" else b""
        finish = kind == "agent_event" and choices.below(2) == 0
        # One that parks speaks alone.
        path = "" if session.agent == "third" else choices.of(PATHS)
        signals, reads = choices.below(4), choices.below(3)
        size = len(text) or 8
        who = (session_id, max(0, attempt), sequence)
        return Packet(kind, *who, path, text, finish, signals, size, told, body, "", reads)

    @rule(kind=st.sampled_from(["heartbeat", "refused", "goodbye", "stop_ack"]), choice=SOME, number=MUCH)
    def control(self, kind: str, choice: int, number: int) -> None:
        """A packet about a session or a link, from the link it belongs on or from another one."""
        if not self.links or (kind == "goodbye" and choice % 4):
            return
        slots = [
            (commander.link.link_id, slot)
            for commander in self.router.fleet.commanders.values()
            if commander.link is not None
            for slot in commander.slots.values()
        ]
        choices = Choices(number)
        link_id, session_id, attempt = choices.of(self.links), self.session(choice), 1
        if slots and choice % 7:
            link_id, slot = choices.of(slots)
            session_id, attempt = slot.session_id, slot.attempt
        told = detail(kind, choices)
        if kind == "stop_ack":
            phases: list[StopPhase] = ["received", "applied", "applied", "killed", "abandoned", ""]
            told = StopAck(choices.of(phases))
        if kind == "goodbye" or (kind == "heartbeat" and choice % 2):
            session_id, attempt = "", 0
        packet = Packet(kind, session_id, attempt, 0, "", "", False, choice % 4, 4, told, b"")
        self.submit(events.PacketsReceived(link_id, [packet]))

    @rule(number=MUCH)
    def ask_for_something(self, number: int) -> None:
        """A session that runs calls a tool or an agent, or asks the user, as it should; mostly the hub runs that."""
        choices = Choices(number)
        mine = [s for s in self.router.sessions.values() if s.link is not None and not s.link.minimal]
        if not mine:
            self.ask(choices.of(["echo", "third"]), 2)
            return
        session = choices.of(mine[-4:])
        asked_id = f"{session.id_prefix}{session.attempt}.{session.received}"
        kind = choices.of(["tool_call", "tool_call", "tool_call", "question", "question", "content", "done"])
        who = (session.session_id, session.attempt)
        said, text = self.spoken.get(who, ""), "hello " if kind == "content" else ""
        self.spoken[who] = said + text
        told: Detail = None
        if kind == "tool_call":
            told = ToolCall(asked_id, *choices.of(CALLS[2:]))
        elif kind == "question":
            told = Question(asked_id, choices.of([None, 2.0]), b"?")
        elif kind == "done":
            told = Done(True, len(said), crc32(said.encode()), Usage(1, 1), None)
        assert session.link is not None
        packet = Packet(kind, *who, session.received + 1, "", text, False, 0, 8, told, b"")
        self.submit(events.PacketsReceived(session.link.link_id, [packet]))
        if choices.below(4) and self.runs:
            self.finish_call(9 * choices.below(5) + 9 * len(self.runs) - 1, False)

    # --- applications and operators ----------------------------------------------------------------------

    @rule(agent=st.sampled_from(["echo", "echo", "third", "third", "demo", "", "nobody"]), choice=SOME)
    def ask(self, agent: str, choice: int) -> None:
        session_id = self.mint("s")
        keyed = choice % 3 == 0
        event = events.SessionRequested(
            session_id,
            agent,
            b"a request",
            agent_version="2" if choice % 11 == 0 else "",
            user_id=f"u{choice % 2}",
            labels={"team": "a"} if choice % 2 else {},
            commander_labels={"region": "eu"} if choice % 13 == 0 else {},
            affinity_key=f"a{choice % 2}" if keyed else "",
            idempotency_key=f"k{choice % 4}" if keyed else "",
            budgets=Budgets(content_chars=20, total_time_s=8.0) if choice % 7 == 0 else None,
            stop_when_unwatched_s=3.0 if choice % 4 == 0 else None,
            held_by_questions=choice % 8 == 0,
        )
        if any(isinstance(effect, events.Accepted) and not effect.joined for effect in self.submit(event)):
            self.ids.append(session_id)

    @rule(choice=SOME)
    def stop(self, choice: int) -> None:
        codes: Any = ["user_cancel", "admin", "policy_violation", "risk_control", "limit"]
        code = codes[choice % len(codes)]
        grace_s = 1.0 if choice % 3 == 0 else None
        self.submit(
            events.StopRequested(self.session(choice), self.mint("stop"), code, "Why", "alice", grace_s)
        )

    @rule(choice=st.integers(0, 12))
    def stop_many(self, choice: int) -> None:
        selectors = [
            events.Selector(user_id="u1"),
            events.Selector(agent="demo"),
            events.Selector(commander_id="c1"),
            events.Selector(labels={"team": "a"}, user_id="u0"),
            events.Selector(),
        ]
        selector = selectors[choice] if choice < len(selectors) else events.Selector(user_id="nobody")
        selector = events.Selector(everything=True) if choice == 12 else selector
        self.submit(events.StopsRequested(selector, self.mint("stop"), "admin", "Why"))

    @rule(choice=SOME, value=st.sampled_from(ANSWERS))
    def answer(self, choice: int, value: str | None) -> None:
        session = self.router.sessions.get(self.session(choice))
        open_ids = list(session.open_questions) if session is not None else []
        question_id = open_ids[0] if open_ids and choice % 5 else "9"
        self.submit(events.AnswerGiven(self.session(choice), question_id, value))

    @rule(choice=SOME)
    def message(self, choice: int) -> None:
        self.submit(events.MessageGiven(self.session(choice), self.mint("msg"), "more"))

    @rule(choice=SOME, failed=st.booleans())
    def finish_call(self, choice: int, failed: bool) -> None:
        """What a call has come to: a tool's outcome, a session that is asked for, or somebody who is to allow it."""
        if not self.runs:
            return
        run = self.runs[choice % len(self.runs)]
        call, who = run.call, (run.session_id, run.attempt, run.call.call_id)
        if choice % 9:
            self.runs.remove(run)
        if call.to_agent or call.tool_name == "clerk":
            agent = call.tool_name if call.to_agent else "third"
            budgets = Budgets(total_time_s=3.0) if choice % 5 == 0 else None
            requested = events.SessionRequested("", agent, b"a task", budgets=budgets)
            self.submit(events.DelegationRequested(events.Delegated(*who), requested))
        elif call.tool_name == "pay" and not run.is_approved:
            question = Question(
                f"approve-{run.attempt}.{call.call_id}", [None, 2.0][choice % 2], b"May it run?"
            )
            self.submit(events.ApprovalRequested(*who, question))
        else:
            outcome = (
                ToolOutcome('{"error": {}}', ToolFailure("failed", "no")) if failed else ToolOutcome("1")
            )
            self.submit(events.ToolFinished(*who, outcome))

    @rule(choice=SOME)
    def say_progress(self, choice: int) -> None:
        if self.runs:
            run = self.runs[choice % len(self.runs)]
            who = (run.session_id, run.attempt, run.call.call_id)
            self.submit(events.ToolProgressed(*who, "half", b"half"))

    @rule(choice=SOME)
    def come(self, choice: int) -> None:
        if self.session(choice) in self.router.sessions:
            self.watching.append(self.session(choice))
            self.submit(events.ViewerCame(self.session(choice)))

    @rule()
    def leave(self) -> None:
        if self.watching:
            self.submit(events.ViewerLeft(self.watching.pop()))

    @rule(choice=st.integers(0, 30))
    def operate(self, choice: int) -> None:
        if choice < 4:
            self.submit(events.CommanderDrainRequested(f"c{choice}", "AdminDrain", 5.0 if choice else None))
        elif choice < 10:
            self.submit(events.LimitsChanged(LARGER if choice % 2 else LIMITS))
        elif choice == 10:
            self.submit(events.DrainRequested("upgrade"))
        elif choice == 11:
            self.submit(events.ShutdownRequested(self.mint("stop"), "gone"))

    @rule(choice=st.integers(0, 5))
    def restart(self, choice: int) -> None:
        """The dispatcher dies, and another takes up what its journal has kept."""
        if choice == 0:
            self.links.clear()
            self.runs.clear()
            self.watching.clear()
            self.witness.restart()
            self.router = self.witness.router
            self.perform(self.witness.restored(self.now, frozenset({"search"})))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5, 7.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    def teardown(self) -> None:
        """When everybody has fallen silent, everything ends, and nothing is left: no session, no deadline."""
        self.submit(events.LimitsChanged(LIMITS))
        for link_id in list(self.links):
            link = self.router.fleet.links[link_id]
            if link.minimal or link.commander is None:
                self.submit(events.LinkLost(link_id, half_closed=False, why="gone"))
        self.pass_time(10_000.0)
        while self.watching:
            self.submit(events.ViewerLeft(self.watching.pop()))
        assert self.router.next_deadline() is None
        assert self.router.live == self.router.queued == self.router.kept_bytes == 0
        assert not self.router.sessions
        assert not self.router.fleet.commanders
        assert not self.router.fleet.links
