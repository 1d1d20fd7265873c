"""One run: what happens is drawn from a seed, what must be true is checked at the end."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import gettempdir

from dispatcher.core import events as e
from dispatcher.core.events import Reply
from dispatcher.core.fleet import SlotState
from dispatcher.core.limits import Limits
from dispatcher.core.policy import PolicyLimits
from simulation.agent import Agent
from simulation.asking import ASKING
from simulation.clock import Clock
from simulation.commander import AGENTS, SimulatedCommander
from simulation.dispatcher import SimulatedDispatcher
from simulation.ended import check_content, check_ending, check_messages
from simulation.journal import Log, SimulatedJournal
from simulation.judging import Judging, rule_book
from simulation.kinship import check_log, check_questions
from simulation.literal import Literal
from simulation.people import People
from simulation.silence import check_silence
from simulation.viewer import SimulatedViewer
from simulation.wire import Wire

# Things happen for so long; then the network is well, and all is given time to come to its end.
EVENTFUL_S = 30.0
SETTLED_S = 900.0
# A run in which nothing lives any more goes on for so long: longer than any wait that is not a session's own, of which
# `first_token_s` is the longest. Behind that, only heartbeats follow. Whether anything lives is looked at so often.
REST_S = 210.0
LOOK_S = 10.0
# Of a transcript, with an error.
TOLD_LINES = 40
STEPS_MAX = 400_000
# What may befall a run, and how often; each run has its own mood.
COMMANDER_FAULTS = ("cut", "cut", "cut", "cut", "redial", "blackhole", "freeze", "kill")
# Every third run also has these: commanders and dispatchers that are told to go, and sessions that are to end when
# nobody watches them.
GOING_SEEDS = 3
# Every other run has agents that ask others, calls that somebody has to allow, and sessions that wait for people.
ASKING_SEEDS = 2
# And of six runs that differ in these, every other six have services that judge what is said.
JUDGED_SEEDS = GOING_SEEDS * ASKING_SEEDS
DISPATCHER_FAULTS = ("crash", "crash amid a commit", "crash amid a commit", "stall", "jump")

LIMITS = Limits(
    sessions_max=40,
    queue_sessions_max=10,
    queue_wait_s=8.0,
    credit_packets=8,
    credit_bytes=2048,
    detach_grace_s=10.0,
    published_bytes_max=2_000,
    question_wait_s=20.0,
    park_after_s=1.0,
    delegation_levels_max=2,
    session_tools_running_max=2,
    messages_waiting_max=3,
    journal_keep_s=1000.0,
    # Never matches and often might: what looks like its begin is held back.
    policy=PolicyLimits(
        total_time_s=400.0, first_token_s=200.0, deny=Literal(" 1.x"), deny_hold_chars_max=16
    ),
)


@dataclass
class World:
    """A run of one seed. `transcript` is everything that happened, when asked for."""

    seed: int
    keeps_transcript: bool = False
    transcript: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.clock = Clock()
        self.wall_s = 1_000_000.0
        self.has_goers = self.seed % GOING_SEEDS == 2
        self.has_askers = self.seed % ASKING_SEEDS == 1
        self.has_judges = self.seed // JUDGED_SEEDS % 2 == 1
        is_lasting = self.rng.random() < 0.7
        self.journal = SimulatedJournal(self.clock, self.rng, self._unix_s, is_lasting=is_lasting)
        limits, judging = LIMITS, None
        if self.has_judges:
            rules = rule_book(self.rng, LIMITS.policy.deny)
            limits = replace(limits, policy=replace(LIMITS.policy, rules=rules), review_chars_max=200)
            judging = Judging(self.rng, rules, self.journal)
        self.dispatcher = SimulatedDispatcher(self.clock, self.rng, limits, self.journal, self._tell, judging)
        self.people = People(self.rng, self.dispatcher, self.journal)
        self.links = 0
        self.minted = 0
        # What the world was told: the epoch in which a session was accepted, the events it had when it was stopped,
        # messages that were accepted.
        self.accepted: dict[str, int] = {}
        self.declined: set[str] = set()
        self.stopped: dict[str, int] = {}
        self.said: dict[str, list[str]] = {}
        self.viewers: list[SimulatedViewer] = []
        self.faults: set[str] = set()
        slots = [self.rng.randint(1, 4) for _ in range(self.rng.randint(1, 3))]
        self.commanders = [
            SimulatedCommander(
                self.clock, self.rng, f"c{number}", count, self._dial, self._tell, asks=self.has_askers
            )
            for number, count in enumerate(slots)
        ]

    def _unix_s(self) -> float:
        return self.wall_s + self.clock.now

    def _tell(self, mark: str, what: object) -> None:
        if self.keeps_transcript:
            self.transcript.append(f"{self.clock.now:8.3f} {mark} {what}")

    def _dial(self) -> Wire:
        self.links += 1
        wire = Wire(self.clock, self.rng, f"l{self.links}")
        wire.begin(lambda: self.dispatcher.opened(wire))
        return wire

    def run(self) -> None:
        """Lets it happen, then looks. AssertionError when a promise was broken."""
        self._often(0.8, self._ask)
        self._often(2.0, self._stop)
        if self.has_askers:
            self._often(self.rng.choice((0.4, 2.0, 8.0)), self.people.answer)
            self._often(2.0, self.people.answer_wrongly)
        else:
            self._often(1.5, self._answer)
        self._often(1.5, self._say)
        self._often(1.5, self._watch)
        self._often(self.rng.choice((0.4, 1.0, 4.0, 100.0)), self._trouble_commander)
        self._often(self.rng.choice((4.0, 15.0, 1000.0)), self._trouble_dispatcher)
        if self.has_goers:
            self._often(6.0, self._drain_commander)
            self._often(self.rng.choice((15.0, 1000.0)), self._drain_dispatcher)
        self._settle()
        self._check()
        check_silence(self.dispatcher.router, self.clock.now)

    def _settle(self) -> None:
        steps = STEPS_MAX
        rested_s = 0.0
        while self.clock.now < SETTLED_S and rested_s < REST_S:
            steps -= self.clock.run(self.clock.now + LOOK_S, steps)
            rested_s = rested_s + LOOK_S if self._rests() else 0.0

    def _rests(self) -> bool:
        router = self.dispatcher.router
        return (
            self.clock.now > EVENTFUL_S
            and self.dispatcher.is_up
            and not router.live
            and not router.queued
            and all(commander.is_idle for commander in self.commanders)
            and all(viewer.is_done for viewer in self.viewers)
        )

    def _often(self, mean_s: float, act: Callable[[], None]) -> None:
        at = self.rng.expovariate(1 / mean_s)
        while at < EVENTFUL_S:
            self.clock.after(at, act)
            at += self.rng.expovariate(1 / mean_s)

    def _mint(self, kind: str) -> str:
        self.minted += 1
        return f"{kind}{self.minted}"

    # --- what happens ------------------------------------------------------------------------------------

    def _ask(self) -> None:
        session_id = self._mint("s")
        agents = (*AGENTS, *AGENTS, *AGENTS, *AGENTS, "nobody")
        if self.has_askers:
            agents = (*AGENTS, *ASKING, *ASKING, *ASKING, "nobody")
        agent = self.rng.choice(agents)

        def told(reply: Reply | None) -> None:
            if isinstance(reply, e.Accepted):
                self.accepted[session_id] = self.journal.epoch
                if stop_after_s is None or self.rng.random() < 0.8:
                    self._watch(session_id)
            else:
                assert isinstance(reply, e.Declined), reply
                self.declined.add(session_id)

        is_left = self.has_goers or self.has_askers
        stop_after_s = self.rng.choice((None, 0.0, 1.0, 5.0)) if is_left else None
        is_held = self.has_askers and stop_after_s is not None and self.rng.random() < 0.7
        requested = e.SessionRequested(
            session_id,
            agent,
            b"",
            user_id="u",
            stop_when_unwatched_s=stop_after_s,
            held_by_questions=is_held,
        )
        self.dispatcher.ask(requested, told)

    def _some_session(self) -> str | None:
        here = [s for s, epoch in self.accepted.items() if epoch == self.journal.epoch]
        if self.has_askers:
            # Those below, too, and mostly one that is still there.
            sessions = self.dispatcher.router.sessions
            live = [s for s in self.journal.logs if s in sessions and sessions[s].live]
            here = live if live and self.rng.random() < 0.7 else list(self.journal.logs)
        return self.rng.choice(here or [None])

    def _watch(self, session_id: str | None = None) -> None:
        session_id = session_id or self._some_session()
        if session_id is not None and self.dispatcher.is_up:
            self.viewers.append(SimulatedViewer(self.clock, self.rng, self.dispatcher, session_id))

    def _stop(self) -> None:
        session_id = self._some_session()
        if session_id is None:
            return
        stop = e.StopRequested(session_id, self._mint("stop"), "admin", "simulated")

        def told(reply: Reply | None) -> None:
            assert isinstance(reply, e.Stopped), reply
            kept = self.journal.logs[session_id].events
            assert kept[-1].kind == "ended", f"{session_id}: stopped, and its viewers don't know"
            self.stopped.setdefault(session_id, len(kept))

        self.dispatcher.ask(stop, told)
        # Once more: the first has it ended already.
        self.dispatcher.ask(stop, told)

    def _answer(self) -> None:
        for session in list(self.dispatcher.router.sessions.values()):
            for question_id in list(session.questions):
                answer = e.AnswerGiven(session.session_id, question_id, '"yes"')
                self.dispatcher.ask(answer, lambda reply: None)

    def _say(self) -> None:
        session_id = self._some_session()
        if session_id is None:
            return
        message_id = self._mint("m")

        def told(reply: Reply | None) -> None:
            if isinstance(reply, e.Accepted):
                self.said.setdefault(session_id, []).append(message_id)

        self.dispatcher.ask(e.MessageGiven(session_id, message_id, "and now?"), told)

    def _trouble_commander(self) -> None:
        commander = self.rng.choice(self.commanders)
        fault = self.rng.choice(COMMANDER_FAULTS)
        self.faults.add(fault)
        match fault:
            case "cut":
                commander.unplug(silently=False)
            case "redial":
                commander.redial()
            case "blackhole":
                commander.unplug(silently=True)
            case "freeze":
                commander.freeze(self.rng.choice((0.5, 3.0, 15.0)))
            case _:
                commander.kill()

    def _trouble_dispatcher(self) -> None:
        fault = self.rng.choice(DISPATCHER_FAULTS)
        self.faults.add(fault)
        match fault:
            case "crash":
                self.dispatcher.kill(self.rng.choice((0.1, 1.0, 8.0)))
            case "crash amid a commit":
                down_s = self.rng.choice((0.1, 1.0, 8.0))
                self.journal.amid_next_commit(lambda: self.dispatcher.kill(down_s))
            case "stall":
                self.dispatcher.freeze(self.rng.choice((0.1, 1.0, 12.0)))
            case _:
                self.wall_s += self.rng.choice((-3600.0, -1.0, 0.7, 10.0))

    def _drain_commander(self) -> None:
        """Of the ones that the dispatcher may know, by an operator."""
        commander_id = self.rng.choice(self.commanders).name
        deadline_s = self.rng.choice((None, 0.0, 2.0, 10.0))

        def told(reply: Reply | None) -> None:
            assert isinstance(reply, e.Draining | e.Declined), reply
            if isinstance(reply, e.Draining):
                self.faults.add("drain")

        self.dispatcher.ask(e.CommanderDrainRequested(commander_id, "simulated", deadline_s), told)

    def _drain_dispatcher(self) -> None:
        self.faults.add("leave")
        self.dispatcher.drain(self.rng.choice((0.0, 3.0, 20.0)), self.rng.choice((0.1, 1.0, 8.0)))

    # --- what must be true -------------------------------------------------------------------------------

    def _check(self) -> None:
        router = self.dispatcher.router
        for session_id, epoch in self.accepted.items():
            if epoch == self.journal.epoch:
                assert session_id in self.journal.logs, f"{session_id} was accepted, and is not there"
        assert not self.declined & set(self.journal.logs)
        for session_id, log in self.journal.logs.items():
            self._check_session(session_id, log)
            if self.has_askers:
                check_log(session_id, log, self.journal.logs)
                check_questions(session_id, log.events)
        self.people.check()
        assert router.live == 0, f"somebody hangs: {router!r}"
        assert router.queued == 0
        if not self.faults:
            assert not self.dispatcher.counted.get("starts_refused"), "a slot was taken that was not free"
            assert not self.dispatcher.counted.get("packets_dropped_repeat")
        for key, runs in self.dispatcher.tool_runs.items():
            assert runs == 1, f"{key} ran {runs} times"
        for commander in self.commanders:
            known = router.fleet.commanders[commander.name]
            assert known.count(SlotState.BUSY) == 0, known
            assert known.count(SlotState.STOPPING) == 0, known
            stuck = known.count(SlotState.STUCK) + known.stuck_elsewhere
            assert stuck == commander.stuck, (
                f"{known!r} says {stuck} are stuck, {commander.name} {commander.stuck}"
            )
            assert commander.running == 0, f"{commander.name} still runs {commander.running}"
        for viewer in self.viewers:
            self._check_viewer(viewer)

    def _check_viewer(self, viewer: SimulatedViewer) -> None:
        assert viewer.is_done, f"{viewer!r} never saw an end, and was not told why"
        if viewer.epoch == self.journal.epoch:
            assert not viewer.was_told_of_gap, f"{viewer!r} was told of a gap"
            assert viewer.seen == self.journal.logs[viewer.session_id].events, (
                f"{viewer!r} saw something else"
            )
        else:
            kept = self.journal.lost[viewer.epoch][viewer.session_id].events
            assert viewer.seen == kept[: len(viewer.seen)], f"{viewer!r} saw something else"

    def _check_session(self, session_id: str, log: Log) -> None:
        kept = log.events
        check_ending(session_id, log, self.faults)
        if session_id in self.stopped:
            assert len(kept) == self.stopped[session_id], f"{session_id}: something came after the stop"
        agents = {each.attempt: self._agents(session_id, each.attempt) for each in kept}
        check_content(session_id, kept, agents)
        is_here = self.accepted.get(session_id) == self.journal.epoch
        check_messages(session_id, kept, self.said.get(session_id, []) if is_here else [], agents)

    def _agents(self, session_id: str, attempt: int) -> list[Agent]:
        key = (session_id, attempt)
        return [commander.agents[key] for commander in self.commanders if key in commander.agents]


def run(seed: int) -> None:
    """One run. An error brings the end of its transcript, and says where all of it is and how to see it again."""
    try:
        World(seed).run()
    except BaseException as error:
        world = World(seed, keeps_transcript=True)
        with suppress(BaseException):
            world.run()
        path = Path(gettempdir()) / f"simulation-{seed}.txt"
        path.write_text("\n".join(world.transcript) + "\n")
        error.add_note("\n".join(world.transcript[-TOLD_LINES:]))
        error.add_note(
            f"seed {seed}: all of it in {path}; again with: cd tests && python -m simulation {seed}"
        )
        raise
