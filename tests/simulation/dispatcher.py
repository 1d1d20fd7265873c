"""The dispatcher of the simulation: the real router and codec; tools, journal and time are played."""

from collections.abc import Callable
from random import Random

from dispatcher.core import events as e
from dispatcher.core.events import Event, Reply
from dispatcher.core.fleet import CommanderState
from dispatcher.core.limits import Limits
from dispatcher.core.packets import Hello, SessionEvent, ToolOutcome, Welcome
from dispatcher.core.router import Router
from dispatcher.core.session import State
from dispatcher.rpc import codec
from simulation.clock import Clock
from simulation.wire import Wire


class SimulatedDispatcher:
    """Performs effects as the hub does. `tell` hears every step, for the transcript."""

    def __init__(
        self, clock: Clock, rng: Random, limits: Limits, tell: Callable[[str, object], None]
    ) -> None:
        self.router = Router(limits)
        self.journal: dict[str, list[SessionEvent]] = {}
        self.counted: dict[str, int] = {}
        self.tool_runs: dict[tuple[str, int, str], int] = {}
        self._clock = clock
        self._rng = rng
        self._tell = tell
        self._wires: dict[str, Wire] = {}
        self._cancelled: set[tuple[str, int]] = set()
        self._armed_for: float | None = None
        self._down = codec.Downstream(
            max_message_bytes=1 << 20,
            heartbeat_interval_s=limits.heartbeat_interval_s,
            software_version="simulated",
            instance="d",
            tools=[],
        )

    def opened(self, wire: Wire) -> None:
        """A commander has dialled."""
        self._wires[wire.link_id] = wire
        wire.up = lambda data: self._received(wire, data)
        wire.up_ended = lambda orderly: self._ended(wire, orderly)
        self.submit(e.LinkOpened(wire.link_id, "simulated", f"minimal-{wire.link_id}"))

    def submit(self, event: Event) -> Reply | None:
        self._tell(">", event)
        reply: Reply | None = None
        for effect in self.router.step(event, self._clock.now):
            self._tell("<", effect)
            match effect:
                case e.Append(session_id, events):
                    self._append(session_id, events)
                case e.Send(link_id, signal, urgent):
                    if link_id in self._wires:
                        is_first = isinstance(signal.body, Welcome)
                        data = self._down.packet(signal, 0).SerializeToString()
                        self._wires[link_id].send("down", data, urgent=urgent, first=is_first)
                case e.CloseLink(link_id):
                    wire = self._wires.pop(link_id, None)
                    if wire is not None:
                        wire.end("down")
                case e.RunTool():
                    self._run_tool(effect)
                case e.CancelTools(session_id, attempt):
                    self._cancelled.add((session_id, attempt))
                case e.Count(metric, labels):
                    self._count("_".join((metric, *labels)), metric)
                case e.Open() | e.Remember() | e.Forget() | e.Leave() | e.Measure() | e.Log():
                    pass
                case _:
                    reply = effect
        self._check_queue()
        self._arm()
        return reply

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

    def _append(self, session_id: str, events: list[SessionEvent]) -> None:
        kept = self.journal.setdefault(session_id, [])
        for event in events:
            assert event.offset == len(kept) + 1, f"{session_id}: offset {event.offset} after {len(kept)}"
            assert not kept or kept[-1].kind != "ended", f"{session_id}: {event.kind} after the ending"
            kept.append(event)

    def _run_tool(self, effect: e.RunTool) -> None:
        key = (effect.session_id, effect.attempt, effect.call.call_id)
        self.tool_runs[key] = self.tool_runs.get(key, 0) + 1
        outcome = ToolOutcome(effect.call.arguments_json)

        def finish() -> None:
            if key[:2] not in self._cancelled:
                self.submit(e.ToolFinished(*key, outcome))

        self._clock.after(self._rng.expovariate(1 / 0.2), finish)

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
        self._clock.after(due - self._clock.now, lambda: self._due(due))

    def _due(self, at: float) -> None:
        if self._armed_for == at:
            self._armed_for = None
            self.submit(e.TimePassed())
