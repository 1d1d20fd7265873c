"""One run: who is there, what happens to them, and what must be true of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from dispatcher.core import events as e
from dispatcher.core.fleet import SlotState
from dispatcher.core.limits import Limits
from dispatcher.core.packets import Ended, SessionEvent
from dispatcher.core.policy import PolicyLimits
from simulation.agent import Agent
from simulation.clock import Clock
from simulation.commander import AGENTS, SimulatedCommander
from simulation.dispatcher import SimulatedDispatcher
from simulation.literal import Literal
from simulation.wire import Wire

# Faults and requests happen up to here; afterwards everything may come to its end.
EVENTFUL_S = 30.0
# Long enough for every deadline there is.
SETTLED_S = 800.0
STEPS_MAX = 400_000

# Every agent here is honest and the network only loses, so nothing may ever look like a breach of contract,
# like an answer that is not whole, or like a session that nobody ended in time.
ENDINGS = {"completed", "stopped", "commander_lost", "poisoned", "queue_timeout"}

LIMITS = Limits(
    sessions_max=40,
    queue_sessions_max=10,
    queue_wait_s=8.0,
    credit_packets=8,
    credit_bytes=2048,
    detach_grace_s=10.0,
    published_bytes_max=2_000,
    question_wait_s=20.0,
    session_tools_running_max=2,
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
        self.dispatcher = SimulatedDispatcher(self.clock, self.rng, LIMITS, self._tell)
        self.links = 0
        self.asked: dict[str, bool] = {}
        self.stopped: dict[str, int] = {}
        self.faults: set[str] = set()
        slots = [self.rng.randint(1, 4) for _ in range(self.rng.randint(1, 3))]
        self.commanders = [
            SimulatedCommander(self.clock, self.rng, f"c{number}", count, self._dial, self._tell)
            for number, count in enumerate(slots)
        ]

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
        self._often(1.5, self._answer)
        self._often(1.5, self._say)
        self._often(self.rng.choice((0.4, 1.0, 4.0, 100.0)), self._fault)
        self.clock.run(SETTLED_S, STEPS_MAX)
        self._check()

    def _often(self, mean_s: float, act: Callable[[], None]) -> None:
        at = self.rng.expovariate(1 / mean_s)
        while at < EVENTFUL_S:
            self.clock.after(at, act)
            at += self.rng.expovariate(1 / mean_s)

    # --- what happens ------------------------------------------------------------------------------------

    def _ask(self) -> None:
        session_id = f"s{len(self.asked)}"
        agent = self.rng.choice((*AGENTS, *AGENTS, *AGENTS, *AGENTS, "nobody"))
        reply = self.dispatcher.submit(e.SessionRequested(session_id, agent, None, user_id="u"))
        assert isinstance(reply, e.Accepted | e.Declined)
        self.asked[session_id] = isinstance(reply, e.Accepted)

    def _some_session(self) -> str | None:
        return self.rng.choice([s for s, taken in self.asked.items() if taken] or [None])

    def _stop(self) -> None:
        session_id = self._some_session()
        if session_id is None:
            return
        stop = e.StopRequested(session_id, f"stop{self.clock.now}", "admin", "simulated")
        reply = self.dispatcher.submit(stop)
        assert isinstance(reply, e.Stopped)
        kept = self.dispatcher.journal[session_id]
        assert kept[-1].kind == "ended", f"{session_id}: stopped, and its viewers don't know"
        self.stopped.setdefault(session_id, len(kept))
        again = self.dispatcher.submit(stop)
        assert isinstance(again, e.Stopped)
        assert again.already_ended

    def _answer(self) -> None:
        for session in list(self.dispatcher.router.sessions.values()):
            for question_id in list(session.questions):
                reply = self.dispatcher.submit(e.AnswerGiven(session.session_id, question_id, '"yes"'))
                assert isinstance(reply, e.Accepted)

    def _say(self) -> None:
        session_id = self._some_session()
        if session_id is not None:
            self.dispatcher.submit(e.MessageGiven(session_id, f"m{self.clock.now}", "and now?"))

    def _fault(self) -> None:
        commander = self.rng.choice(self.commanders)
        fault = self.rng.choice(("cut", "cut", "cut", "cut", "blackhole", "freeze", "kill"))
        self.faults.add(fault)
        match fault:
            case "cut":
                commander.unplug(silently=False)
            case "blackhole":
                commander.unplug(silently=True)
            case "freeze":
                commander.freeze(self.rng.choice((0.5, 3.0, 15.0)))
            case _:
                commander.kill()

    # --- what must be true -------------------------------------------------------------------------------

    def _check(self) -> None:
        router = self.dispatcher.router
        for session_id, accepted in self.asked.items():
            assert accepted == (session_id in self.dispatcher.journal), session_id
            if accepted:
                self._check_session(session_id)
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

    def _check_session(self, session_id: str) -> None:
        kept = self.dispatcher.journal[session_id]
        ended = kept[-1].body
        assert isinstance(ended, Ended), f"{session_id} never ended: {kept[-1]}"
        assert sum(event.kind == "ended" for event in kept) == 1
        assert ended.ending in ENDINGS, f"{session_id}: {ended.ending}: {ended.message}"
        if ended.ending == "commander_lost":
            assert self.faults - {"cut"}, f"{session_id}: lost over cuts alone: {ended.message}"
        if session_id in self.stopped:
            assert len(kept) == self.stopped[session_id], f"{session_id}: something came after the stop"
        if ended.ending == "poisoned":
            assert self.faults & {"kill", "freeze", "blackhole"}, f"{session_id}: {ended.message}"
        self._check_content(session_id, kept, ended)

    def _check_content(self, session_id: str, kept: list[SessionEvent], ended: Ended) -> None:
        """What viewers have in the end, who did as each reset told them."""
        shown: dict[int, str] = {}
        for event in kept:
            if event.kind == "reset":
                shown.clear()
            elif event.kind == "content":
                shown[event.attempt] = shown.get(event.attempt, "") + event.text
            elif event.kind == "started":
                before = "".join(shown.values())
                for agent in self._agents(session_id, event.attempt):
                    assert agent.published == before, (
                        f"{session_id}: viewers have {before!r}: {agent.published!r}"
                    )
        text = "".join(shown.values())
        assert (ended.content_chars, ended.content_crc32) == (len(text), crc32(text.encode()))
        for attempt, part in shown.items():
            agents = self._agents(session_id, attempt)
            assert len(agents) == 1, f"{session_id}: attempt {attempt} ran on {len(agents)} commanders"
            assert agents[0].said.startswith(part), f"{session_id}: viewers have what the agent never said"
            if ended.ending == "completed" and attempt == kept[-1].attempt:
                assert agents[0].said == part, f"{session_id}: completed, and something is missing"

    def _agents(self, session_id: str, attempt: int) -> list[Agent]:
        key = (session_id, attempt)
        return [commander.agents[key] for commander in self.commanders if key in commander.agents]


def run(seed: int) -> None:
    """One run; an error says how to see it step by step."""
    try:
        World(seed).run()
    except BaseException as error:
        error.add_note(f"seed {seed}: see it with: cd tests && python -m simulation {seed}")
        raise
