"""A commander of the simulation: the real slots, turns, rotation and codec; its link and its agents are played.

It can be frozen (it does nothing, and what comes waits) and killed (it forgets everything, and comes back as
another instance).
"""

from collections import deque
from collections.abc import Callable
from random import Random

from southwest.ai.agent.v1 import agent_pb2

from commander import codec
from commander.conversation import Request
from commander.core import backoff
from commander.core.batch import Rotation
from commander.core.slots import Abandon, Begin, Cancel, Effect, GiveUp, Release, Send, Slots
from commander.core.turn import Bounds, Credit, Outcome, Signal, Turn
from simulation.agent import Agent
from simulation.asking import ASKING, PARKING, Asker, Wizard
from simulation.clock import Clock
from simulation.wire import Wire

HEARTBEAT_S = 2.0
# How often what an agent says counts as waited for: which packets overtake whom must never matter.
HURRIED_SHARE = 0.3
# How long it has to drain, where nobody says, and to say goodbye.
DRAIN_S = 20.0
GOODBYE_S = 5.0
# The agents that each commander serves, and what they do with a session that another has lost.
AGENTS = {
    "echo": agent_pb2.ON_RESTART_RESTART,
    "saga": agent_pb2.ON_RESTART_CONTINUE,
    "once": agent_pb2.ON_RESTART_NEVER,
}
BOUNDS = Bounds(outbox_packets=32, outbox_bytes=4096, packet_bytes_max=256)


class SimulatedCommander:
    """One worker process, by name. `dial` opens a wire to the dispatcher."""

    def __init__(
        self,
        clock: Clock,
        rng: Random,
        name: str,
        slots: int,
        dial: Callable[[], Wire],
        tell: Callable[[str, object], None],
        *,
        asks: bool = False,
    ) -> None:
        self.name = name
        self.slots_max = slots
        self._offers = AGENTS | ASKING if asks else AGENTS
        # Every agent there ever was here, by session and attempt.
        self.agents: dict[tuple[str, int], Agent] = {}
        # Every Start that ever came, taken or refused.
        self._given: set[tuple[str, int]] = set()
        self._clock = clock
        self._rng = rng
        self._dial = dial
        self._tell = tell
        self._instance = 0
        self._frozen = False
        self._missed: deque[Callable[[], None]] = deque()
        self._born()

    def _born(self) -> None:
        self._instance += 1
        self._slots = Slots(
            tuple((name, "") for name in self._offers),
            self.slots_max,
            BOUNDS,
            stop_grace_s=5.0,
            unlinked_keep_s=60.0,
        )
        self._rotation = Rotation(1 << 16)
        self._by_turn: dict[Turn, Agent] = {}
        self._wire: Wire | None = None
        self._asked: tuple[Turn, ...] = ()
        self._linked = False
        self._writing = False
        self._failures = 0
        self._heard_at = 0.0
        self._deadline: float | None = None
        # It has drained, and goes.
        self._leaving = False
        life = self._instance
        self._clock.after(self._rng.uniform(0, 0.5), lambda: self._alive(life, self._connect))

    @property
    def stuck(self) -> int:
        return self._slots.stuck

    @property
    def running(self) -> int:
        return self._slots.running

    @property
    def is_idle(self) -> bool:
        """It runs nothing and owes nothing, but for stuck agents."""
        return self._slots.is_idle

    def kill(self) -> None:
        """SIGKILL, and a new process after a while."""
        self._tell("!", f"{self.name} killed")
        self._die()

    def _die(self) -> None:
        for agent in self._by_turn.values():
            agent.dead = True
        if self._wire is not None:
            self._wire.cut()
        self._instance += 1
        self._missed.clear()
        self._frozen = False
        self._wire = None
        self._clock.after(self._rng.uniform(0.1, 5.0), self._born)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self._tell("!", f"{self.name} frozen for {seconds:.1f} s")
        self._frozen = True
        self._clock.after(seconds, self._thaw)

    def unplug(self, *, silently: bool) -> None:
        if self._wire is not None:
            self._tell("!", f"{self.name} {'blackholed' if silently else 'cut'}")
            (self._wire.blackhole if silently else self._wire.cut)()

    def redial(self) -> None:
        """It takes its link for lost, which is not: for a while there are two."""
        if self._wire is not None and self._linked:
            self._tell("!", f"{self.name} dials once more")
            self._linked = self._writing = False
            self._wire = None
            self._rotation.unlink(self._slots.turns)
            self._slots.unlinked(self._clock.now)
            self._alive(self._instance, self._connect)

    def _thaw(self) -> None:
        self._frozen = False
        while self._missed and not self._frozen:
            self._missed.popleft()()

    def _alive(self, life: int, act: Callable[[], None]) -> None:
        """Does it in this process's life: not when it died meanwhile, later when it is frozen."""
        if life != self._instance:
            return
        if self._frozen:
            self._missed.append(lambda: self._alive(life, act))
        else:
            act()

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        life = self._instance
        self._clock.after(seconds, lambda: self._alive(life, act))

    # --- the link ----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._leaving:
            self._die()
            return
        wire = self._wire = self._dial()
        life = self._instance
        wire.down = lambda data: self._alive(life, lambda: self._received(wire, data))
        wire.down_ended = lambda orderly: self._alive(life, lambda: self._lost(wire))
        self._asked = self._slots.resumable
        identity = codec.Identity(
            self.name,
            f"{self.name}-{life}",
            "simulated",
            tuple(
                agent_pb2.AgentOffer(name=name, on_restart=how, parks=name in PARKING)
                for name, how in self._offers.items()
            ),
            {},
            self.slots_max,
            HEARTBEAT_S,
            0,
        )
        hello = codec.hello(
            identity, self._asked, self._slots.running, self._slots.stuck, draining=self._slots.is_draining
        )
        wire.send("up", hello.SerializeToString())
        self._heard_at = self._clock.now
        self._later(3 * HEARTBEAT_S, lambda: self._listen(wire))

    def _lost(self, wire: Wire) -> None:
        if self._wire is not wire:
            return
        wire.cut()
        if self._leaving:
            self._die()
            return
        self._wire = None
        self._linked = self._writing = False
        self._rotation.unlink(self._slots.turns)
        self._slots.unlinked(self._clock.now)
        self._failures += 1
        delay = backoff.delay_s(self._failures, first_s=0.2, max_s=5.0, random_unit=self._rng.random())
        self._later(delay, self._connect)

    def _listen(self, wire: Wire) -> None:
        """Is the other side still there? Say that this one is."""
        if self._wire is not wire:
            return
        if self._clock.now - self._heard_at >= 3 * HEARTBEAT_S:
            self._lost(wire)
            return
        if self._linked:
            self._say_load()
            for turn in self._slots.resumable:
                if turn.has_news:
                    self._rotation.signal(codec.turn_heartbeat(turn, turn.phase))
            self._flush()
        self._later(HEARTBEAT_S, lambda: self._listen(wire))

    def _say_load(self) -> None:
        slots = self._slots
        self._rotation.signal(codec.link_heartbeat(slots.running, slots.stuck, draining=slots.is_draining))

    def _drain(self, deadline_s: float) -> None:
        self._slots.drain(deadline_s, self._clock.now)
        self._say_load()
        self._perform([])

    def _leave(self) -> None:
        """It runs nothing any more: says what is left to say, then goodbye, and is another process after a while."""
        self._tell("!", f"{self.name} has drained")
        self._leaving = True
        wire = self._wire
        if wire is None or not self._linked:
            self._die()
            return
        while gathered := self._rotation.gather():
            wire.send("up", codec.message(gathered).SerializeToString())
        wire.send("up", codec.goodbye("drained").SerializeToString())
        wire.end("up")
        self._linked = False
        self._later(GOODBYE_S, self._die)

    def _flush(self) -> None:
        """One write at a time; what gathers meanwhile goes with the next."""
        wire = self._wire
        if wire is None or not self._linked or self._writing:
            return
        gathered = self._rotation.gather()
        if not gathered:
            return
        self._writing = True
        wire.send("up", codec.message(gathered).SerializeToString())

        def written() -> None:
            if self._wire is wire:
                self._writing = False
                self._flush()

        self._later(self._rng.uniform(0, 0.002), written)

    def _received(self, wire: Wire, data: bytes) -> None:
        if self._wire is not wire:
            return
        self._heard_at = self._clock.now
        packet = agent_pb2.DownstreamPacket.FromString(data)
        kind = packet.WhichOneof("signal")
        if kind == "welcome":
            self._linked, self._failures = True, 0
            verdicts = codec.verdicts(packet.welcome)
            self._perform(self._slots.linked(verdicts, self._asked, self._clock.now))
            for turn in self._slots.resumable:
                self._rotation.release(turn)
        elif kind == "ack":
            self._acknowledged(packet)
        elif kind == "start":
            # By what it knows itself, not by what the dispatcher makes of it. One that came before, and whose refusal
            # was lost with the link, may come again.
            given = (packet.session_id, packet.attempt)
            is_new = given not in self._given
            assert not (is_new and self._slots.is_draining), f"{self.name} drains, and is given {packet}"
            self._given.add(given)
            start = codec.start(packet, Credit(64, 1 << 18), self._clock.now)
            self._perform(self._slots.start(start, self._clock.now))
        elif kind == "stop":
            stop = packet.stop
            grace_s = stop.grace_ms / 1000 or None
            self._perform(
                self._slots.stop(
                    packet.session_id, packet.attempt, stop.stop_id, stop.reason, grace_s, self._clock.now
                )
            )
        elif kind in ("tool_result", "answer", "user_message"):
            self._delivered(wire, packet)
        elif kind == "drain":
            told_s = packet.drain.deadline.ToTimedelta().total_seconds()
            self._drain(told_s if packet.drain.HasField("deadline") else DRAIN_S)
        self._flush()

    def _acknowledged(self, packet: agent_pb2.DownstreamPacket) -> None:
        turn = self._slots.find(packet.session_id, packet.attempt)
        if turn is None:
            return
        known = turn.acknowledge(packet.ack.sequence, codec.credit(packet.ack))
        assert known, f"{turn!r}: {packet.ack} acknowledges what was never sent"
        self._rotation.release(turn)
        self._perform(self._slots.delivered(turn, self._clock.now))

    def _delivered(self, wire: Wire, packet: agent_pb2.DownstreamPacket) -> None:
        turn = self._slots.find(packet.session_id, packet.attempt)
        agent = self._by_turn.get(turn) if turn is not None else None
        if turn is None or agent is None:
            return
        judged = turn.receive(packet.sequence)
        if judged is Signal.EARLY:
            self._lost(wire)
        elif judged is Signal.FRESH and packet.HasField("tool_result"):
            if turn.close_call(packet.tool_result.call_id) is not None:
                agent.called(packet.tool_result)
        elif judged is Signal.FRESH and packet.HasField("answer"):
            question_id = packet.answer.question_id
            if turn.close_question(question_id) is not None:
                agent.answered(question_id, packet.answer.value_json)
        elif judged is Signal.FRESH and packet.HasField("user_message"):
            agent.inbox.append((packet.sequence, packet.user_message.message_id))

    # --- the turns ---------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(signal):
                    self._rotation.signal(signal)
                case Begin(turn, agent, request=request):
                    self._begin(turn, agent, request)
                case Cancel(turn):
                    self._by_turn[turn].cancel()
                case Release(turn):
                    self._by_turn.pop(turn, None)
                case Abandon() | GiveUp():
                    pass
        held = self._slots.running + self._slots.stuck
        assert held <= self.slots_max, f"{self.name} holds {held} of {self.slots_max} slots"
        self._arm()
        if self._slots.is_draining and self._slots.is_idle and not self._leaving:
            self._leave()

    def _begin(self, turn: Turn, name: str, request: object) -> None:
        assert isinstance(request, Request)
        kind = Wizard if name in PARKING else Asker if name in ASKING else Agent
        agent = kind(self._later, self._rng, turn, self._wake, self._over, request)
        self._by_turn[turn] = self.agents[turn.session_id, turn.attempt] = agent
        agent.begin()

    def _wake(self, turn: Turn) -> None:
        if not turn.queued:
            self._rotation.mark(turn)
        if self._rng.random() < HURRIED_SHARE:
            self._rotation.hurry(turn)
        self._alive(self._instance, self._flush)

    def _over(self, turn: Turn, outcome: Outcome | None) -> None:
        def ended() -> None:
            self._perform(self._slots.ended(turn, outcome, self._clock.now))
            self._flush()

        self._alive(self._instance, ended)

    def _arm(self) -> None:
        due = self._slots.next_deadline()
        if due is None or (self._deadline is not None and self._deadline <= due):
            return
        self._deadline = due

        def expire() -> None:
            if self._deadline != due:
                return
            self._deadline = None
            self._perform(self._slots.expire(self._clock.now))
            self._arm()
            self._flush()

        self._later(due - self._clock.now, expire)
