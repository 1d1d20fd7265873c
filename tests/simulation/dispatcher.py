"""The dispatcher of the simulation: the real router and codec; tools, journal and time are played.

It can be frozen, and it can be killed: then another is started on what the journal has kept.
"""

from collections import deque
from collections.abc import Callable
from random import Random

from asking_laws import judge_opened

from dispatcher.core import events as e
from dispatcher.core.events import Effect, Event, Reply
from dispatcher.core.fleet import CommanderState
from dispatcher.core.limits import Limits
from dispatcher.core.packets import Ended, Hello, Start, Welcome
from dispatcher.core.router import Router
from dispatcher.core.session import State
from dispatcher.rpc import codec
from simulation.audience import Audience
from simulation.calls import check_may_run, come_to, runs_here
from simulation.clock import Clock
from simulation.journal import SimulatedJournal
from simulation.judging import Judging
from simulation.kinship import check_kin
from simulation.wire import Wire

Told = Callable[[Reply | None], None]

# How long one that leaves lets what it said go out.
GOODBYE_S = 0.5


class SimulatedDispatcher:
    """Performs effects as the hub does. `tell` hears every step, for the transcript."""

    def __init__(
        self,
        clock: Clock,
        rng: Random,
        limits: Limits,
        journal: SimulatedJournal,
        tell: Callable[[str, object], None],
        judging: Judging | None = None,
    ) -> None:
        self.router = Router(limits)
        self.journal = journal
        self.counted: dict[str, int] = {}
        self.tool_runs: dict[tuple[int, str, int, str], int] = {}
        # Attempts that a commander was told to start, in whichever life.
        self._started: set[tuple[str, int]] = set()
        # Calls that somebody was asked about.
        self._asked_about: set[tuple[str, int, str]] = set()
        self.is_up = True
        # How often it was started.
        self.lives = 1
        self._audience = Audience(limits.detach_grace_s)
        self._limits = limits
        self._clock = clock
        self._rng = rng
        self._tell = tell
        self._judging = judging
        self._life = 0
        self._frozen_at: float | None = None
        self._missed: deque[Callable[[], None]] = deque()
        self._down = codec.Downstream(
            max_message_bytes=1 << 20,
            heartbeat_interval_s=limits.heartbeat_interval_s,
            software_version="simulated",
            instance="d",
            tools=[],
        )
        self._begin_life()

    def _begin_life(self) -> None:
        self._wires: dict[str, Wire] = {}
        self._cancelled: set[tuple[str, int] | tuple[str, int, str]] = set()
        self._armed_for: float | None = None
        # It takes no commander any more, and how long it is to be away then.
        self._is_leaving = False
        self._away_s = 1.0

    # --- what happens to the process ---------------------------------------------------------------------

    def kill(self, down_s: float) -> None:
        """SIGKILL, and a new process after a while."""
        if not self.is_up:
            return
        self._tell("!", f"the dispatcher is killed, and back in {down_s:.1f} s")
        self.is_up = False
        self._life += 1
        self._missed.clear()
        self._frozen_at = None
        for wire in self._wires.values():
            wire.cut()
        self._begin_life()
        self.journal.crash()
        self._clock.after(down_s, self._born)

    def _born(self) -> None:
        self.router = Router(self._limits)
        self.is_up = True
        self.lives += 1
        if self._judging is not None:
            self._judging.begin_life()
        self.submit(self.journal.restored())

    def drain(self, deadline_s: float, away_s: float) -> None:
        """Admin.Drain, and a new process after a while."""
        if not self.is_up:
            return
        life = self._life

        def told(reply: Reply | None) -> None:
            assert isinstance(reply, e.Draining), reply

        self._tell("!", f"the dispatcher is to leave within {deadline_s:.1f} s")
        self._away_s = away_s
        self.ask(e.DrainRequested("simulated"), told)
        self._clock.after(deadline_s, lambda: self.alive(life, self._shut_down))

    def _shut_down(self) -> None:
        if self._is_leaving:
            return
        self._is_leaving = True
        life = self._life

        def told(reply: Reply | None) -> None:
            # What it has said goes out before it ends.
            self._clock.after(GOODBYE_S, lambda: self.alive(life, lambda: self.kill(self._away_s)))

        hands_over = self.journal.is_lasting
        self.submit(e.ShutdownRequested("shutdown", "simulated", hands_over=hands_over), told)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        if self.is_up and self._frozen_at is None:
            self._tell("!", f"the dispatcher is frozen for {seconds:.1f} s")
            self._frozen_at = self._clock.now
            life = self._life
            self._clock.after(seconds, lambda: self._thaw(life))

    def _thaw(self, life: int) -> None:
        if life != self._life or self._frozen_at is None:
            return
        late_s = self._clock.now - self._frozen_at
        self._frozen_at = None
        # Timers come first when a loop turns again.
        self._armed_for = None
        self.submit(e.TimePassed(late_s))
        while self._missed and self._frozen_at is None:
            self._missed.popleft()()

    def alive(self, life: int, act: Callable[[], None]) -> None:
        """Does it in this process's life: not when it died meanwhile, later when it is frozen."""
        if life != self._life:
            return
        if self._frozen_at is not None:
            self._missed.append(lambda: self.alive(life, act))
        else:
            act()

    def ask(self, event: Event, told: Told) -> None:
        """Somebody asks for something, and is told once a restart can't undo it. Nobody is told by one that is down."""
        if self.is_up:
            self.alive(self._life, lambda: self.submit(event, told))

    # --- the hub -----------------------------------------------------------------------------------------

    def opened(self, wire: Wire) -> None:
        """A commander has dialled."""
        if not self.is_up or self._is_leaving:
            wire.cut()
            return
        life = self._life
        self._wires[wire.link_id] = wire
        wire.up = lambda data: self.alive(life, lambda: self._received(wire, data))
        wire.up_ended = lambda orderly: self.alive(life, lambda: self._ended(wire, orderly))
        self.alive(
            life, lambda: self.submit(e.LinkOpened(wire.link_id, "simulated", f"minimal-{wire.link_id}"))
        )

    def submit(self, event: Event, told: Told | None = None) -> None:
        self._tell(">", event)
        self._audience.heard(event, self._clock.now)
        late: list[Effect] = []
        reply: Reply | None = None
        has_told = False
        for effect in self.router.step(event, self._clock.now):
            self._tell("<", effect)
            match effect:
                # The most frequent ones first.
                case e.Send(urgent=True):
                    self._send(effect)
                case e.Send(signal=signal):
                    if isinstance(signal.body, Start):
                        self._check_start(effect)
                    late.append(effect)
                case e.Measure() | e.Log():
                    pass
                case e.Count(metric, labels):
                    self._count("_".join((metric, *labels)), metric)
                case e.Open(requested):
                    self.journal.open(requested)
                    self._audience.opened(requested, self._clock.now)
                    judge_opened(requested, self.router, self._clock.now)
                case e.Append(session_id, events):
                    has_told = True
                    self.journal.append(session_id, events, self.router.sessions[session_id].mark)
                    for each in events:
                        if self._judging is not None:
                            self._judging.told(session_id, each)
                        if isinstance(each.body, Ended):
                            self._audience.ended(session_id, each.body.ending, self._clock.now)
                        elif each.kind in ("question", "answer"):
                            self._audience.asked(session_id, each, self._clock.now)
                case e.Remember(commander_id, hello):
                    self.journal.remember(commander_id, hello)
                case e.CloseLink() | e.RunTool() | e.CancelTools() | e.CancelTool() | e.Leave():
                    late.append(effect)
                case e.JudgeText():
                    self._judge(effect)
                case e.Forget() | e.Audit():
                    pass
                case _:
                    reply = effect
        if late or told is not None:
            life = self._life
            self.journal.when_kept(lambda: self.alive(life, lambda: self._perform(late, reply, told)))
        self._check_queue()
        if has_told:
            check_kin(self.router)
        self._arm()

    def _perform(self, effects: list[Effect], reply: Reply | None, told: Told | None) -> None:
        for effect in effects:
            match effect:
                case e.Send():
                    self._send(effect)
                case e.CloseLink(link_id):
                    wire = self._wires.pop(link_id, None)
                    if wire is not None:
                        wire.end("down")
                case e.RunTool():
                    self._clock.after(0, self._task(effect))
                case e.CancelTools(session_id, attempt):
                    self._cancelled.add((session_id, attempt))
                case e.CancelTool(session_id, attempt, call_id):
                    self._cancelled.add((session_id, attempt, call_id))
                case e.Leave():
                    self._shut_down()
                case _:
                    raise AssertionError(effect)
        if told is not None:
            told(reply)

    def _judge(self, effect: e.JudgeText) -> None:
        judging = self._judging
        assert judging is not None, effect
        life, (think_s, event) = self._life, judging.asked(effect)

        def answer() -> None:
            judging.answered(effect, event)
            self.submit(event)

        self._clock.after(think_s, lambda: self.alive(life, answer))

    def _send(self, effect: e.Send) -> None:
        wire = self._wires.get(effect.link_id)
        if wire is not None:
            data = self._down.packet(effect.signal, 0).SerializeToString()
            is_first = isinstance(effect.signal.body, Welcome)
            wire.send("down", data, urgent=effect.urgent, first=is_first)

    def _check_start(self, effect: e.Send) -> None:
        """Whoever is known to drain is given nothing new. A Start that may not have come is told again, and refused."""
        key = effect.signal.session_id, effect.signal.attempt
        link = self.router.fleet.links.get(effect.link_id)
        commander = link.commander if link is not None else None
        drains = commander is not None and commander.state is CommanderState.DRAINING
        assert key in self._started or not drains, f"{commander!r} drains, and is given {effect}"
        self._started.add(key)

    def _count(self, *names: str) -> None:
        for name in names:
            self.counted[name] = self.counted.get(name, 0) + 1

    def _check_queue(self) -> None:
        """Nobody waits for a slot that is free."""
        if not self.router.queued:
            return
        sessions = self.router.sessions.values()
        waiting = [s for s in sessions if s.state is State.QUEUED and not self.router.rests(s)]
        for commander in self.router.fleet.commanders.values():
            if commander.state is CommanderState.READY and commander.free:
                for session in waiting:
                    assert commander.commander_id in session.refused_by, f"{session!r} waits, {commander!r}"

    def _task(self, effect: e.RunTool) -> Callable[[], None]:
        """It begins in a later turn of the loop, unless it is cancelled before."""
        life = self._life
        return lambda: self.alive(life, lambda: self._run_tool(effect))

    def _run_tool(self, effect: e.RunTool) -> None:
        key = (effect.session_id, effect.attempt, effect.call.call_id)
        if {key[:2], key} & self._cancelled:
            return
        if runs_here(effect):
            check_may_run(effect, self.journal.logs[effect.session_id].events)
            if self._judging is not None:
                self._judging.runs(effect)
            run = (self.journal.epoch, *key)
            self.tool_runs[run] = self.tool_runs.get(run, 0) + 1
        outcome = come_to(effect, self._rng)
        if isinstance(outcome, e.ApprovalRequested):
            assert key not in self._asked_about, f"somebody was asked before: {effect}"
            self._asked_about.add(key)
        life = self._life

        def finish() -> None:
            if not {key[:2], key} & self._cancelled:
                self.submit(outcome)

        self._clock.after(self._rng.expovariate(1 / 0.2), lambda: self.alive(life, finish))

    def _received(self, wire: Wire, data: bytes) -> None:
        if wire.link_id not in self._wires:
            return
        received = codec.upstream(data)
        if isinstance(received, Hello):
            self.submit(e.HelloReceived(wire.link_id, received))
        else:
            self.submit(e.PacketsReceived(wire.link_id, received))

    def _ended(self, wire: Wire, orderly: bool) -> None:
        if wire.link_id in self._wires:
            self.submit(e.LinkLost(wire.link_id, half_closed=orderly, why="cut" if not orderly else "ended"))

    def _arm(self) -> None:
        due = self.router.next_deadline()
        if due is None or (self._armed_for is not None and self._armed_for <= due):
            return
        self._armed_for = due
        life = self._life
        self._clock.after(due - self._clock.now, lambda: self.alive(life, lambda: self._due(due)))

    def _due(self, at: float) -> None:
        if self._armed_for == at:
            self._armed_for = None
            self.submit(e.TimePassed())
