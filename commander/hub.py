"""The one caller of `Slots`: turns what comes down the link into its events, and performs its effects.

Everything here belongs to the link's thread, but for `ended`. There is no opinion here about what a stop, a start
or a lost link means; those are in `core/slots.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final, assert_never

from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import codec, sealing, unsealing
from commander.conversation import Request
from commander.core.batch import Rotation
from commander.core.slots import (
    Abandon,
    Begin,
    Cancel,
    Effect,
    GiveUp,
    Refused,
    Release,
    Send,
    Slots,
    StopStep,
    Verdict,
)
from commander.core.turn import Credit, Numbered, Outcome, Phase, Signal, Turn
from commander.crossing import Crossing, CrossingBounds
from commander.doorbell import Doorbell
from commander.errors import AgentFailure
from commander.logs import about
from commander.metrics import Metrics
from commander.runner import Runner

_LOG = logging.getLogger(__name__)


# What a message adds to the one payload that fills it: its frame, ids and path.
ENVELOPE_BYTES_MAX: Final = 4096


class SignalMissing(Exception):  # noqa: N818 - named for what happened
    """A signal owed to a turn was left out: only a resume brings it."""


class Hub:
    """See the module. `give_up` is called when no slot is left that could ever be filled again."""

    def __init__(
        self,
        slots: Slots,
        rotation: Rotation,
        doorbell: Doorbell,
        bounds: CrossingBounds,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        give_up: Callable[[], None],
    ) -> None:
        self.slots = slots
        self._rotation = rotation
        self._doorbell = doorbell
        self._bounds = bounds
        self._metrics = metrics
        self._loop = loop
        self._give_up = give_up
        self._runner: Runner | None = None
        self._crossings: dict[Turn, Crossing] = {}
        # What each turn's heartbeat said last, so that only news is told.
        self._told_phase: dict[Turn, Phase] = {}
        # Some agent waited for room when the last message was gathered.
        self._is_held_up = False
        self._credit = Credit(0, 0)
        self._timer: asyncio.TimerHandle | None = None
        self._on_idle: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Hub {self.slots!r} {self._rotation!r}>"

    def run_with(self, runner: Runner) -> None:
        """Who runs the agents."""
        self._runner = runner

    @property
    def unacknowledged(self) -> int:
        """Packets kept until the dispatcher has them. Any thread may ask."""
        return sum(turn.unacknowledged for turn in tuple(self._crossings))

    # -- from the turns' threads -----------------------------------------------------------------------------

    def ended(self, crossing: Crossing, outcome: Outcome | None) -> None:
        """The agent has really ended. Any thread may tell."""
        with suppress(RuntimeError):  # the link has left for good: nobody wants to know any more
            self._loop.call_soon_threadsafe(self._ended, crossing, outcome)

    # -- up --------------------------------------------------------------------------------------------------

    @property
    def has_something(self) -> bool:
        return bool(self._rotation)

    @property
    def is_choked(self) -> bool:
        """The other side asks and asks, and does not read the answers."""
        return self._rotation.is_choked

    def gather(self, *, signals_only: bool = False) -> list[object]:
        """What goes into the next message; see `Rotation.gather`."""
        gathered = self._rotation.gather(signals_only=signals_only)
        is_held_up = False
        for each in gathered:
            if isinstance(each, Numbered):
                crossing = self._crossings.get(each.turn)
                if crossing is not None and crossing.tell_room():
                    is_held_up = True
        self._is_held_up = is_held_up
        return gathered

    @property
    def may_pause(self) -> bool:
        """Nobody suffers when more is let gather before the next message."""
        return not (self._is_held_up or self.has_urgent or self._rotation.fills_messages)

    @property
    def has_urgent(self) -> bool:
        return self._rotation.has_signals or self._rotation.has_express

    def beat(self, blocked_for_s: float) -> None:
        """Puts on the link that it lives, and what has become of silent turns since they were last told of."""
        if self._rotation.has_signals:
            # The writer is held up, and what it will send says as much; beats would only pile up.
            return
        self._rotation.signal(self._link_heartbeat(blocked_for_s))
        for turn in self.slots.resumable:
            phase = turn.phase
            if self._told_phase.get(turn) is not phase or turn.has_news:
                self._told_phase[turn] = phase
                self._rotation.signal(codec.turn_heartbeat(turn, phase))
        self._doorbell.ring_here()

    def _link_heartbeat(self, blocked_for_s: float) -> pb.UpstreamPacket:
        slots = self.slots
        return codec.link_heartbeat(slots.running, slots.stuck, blocked_for_s, draining=slots.is_draining)

    # -- the link --------------------------------------------------------------------------------------------

    def linked(self, welcome: pb.Welcome, asked: Iterable[Turn], message_bytes_max: int) -> None:
        """The dispatcher answered the Hello that named the turns `asked`."""
        self._rotation.limit(message_bytes_max)
        payload_bytes_max = message_bytes_max - ENVELOPE_BYTES_MAX
        self._bounds = replace(self._bounds, payload_bytes_max=payload_bytes_max)
        self.slots.limit_packets(min(self._bounds.turn.packet_bytes_max, payload_bytes_max))
        self._credit = codec.credit(welcome.limits)
        verdicts: list[Verdict] = codec.verdicts(welcome)
        self._perform(self.slots.linked(verdicts, asked, self._now()))
        for turn in self.slots.resumable:
            self._rotation.release(turn)
        self._told_phase.clear()
        self._doorbell.ring_here()

    def unlinked(self) -> None:
        """The link is gone. The turns go on, for a while."""
        self._rotation.unlink(self.slots.turns)
        self.slots.unlinked(self._now())
        self._arm()

    def drain(self, deadline_s: float, on_idle: Callable[[], None]) -> None:
        """Takes no more; `on_idle` is called when nothing runs any more."""
        self._on_idle = on_idle
        self.slots.drain(deadline_s, self._now())
        # Whoever asks for a slot is to ask another commander, from now on and not from the next beat.
        self._rotation.signal(self._link_heartbeat(0.0))
        self._perform([])

    # -- down ------------------------------------------------------------------------------------------------

    def received(self, packet: pb.DownstreamPacket) -> None:
        """A packet about a session. SignalMissing when only a resume can help."""
        match packet.WhichOneof("signal"):
            case "ack":
                self._acknowledged(packet)
            case "start":
                self._start(packet)
            case "stop":
                self._stop(packet)
            case "tool_result" | "answer" | "user_message":
                self._deliver(packet)
            case "heartbeat":
                pass
            case strange:
                self._ignore(packet, f"{strange or 'a signal this version does not know'}")

    def _acknowledged(self, packet: pb.DownstreamPacket) -> None:
        turn = self.slots.find(packet.session_id, packet.attempt)
        if turn is None:
            return
        if not turn.acknowledge(packet.ack.sequence, codec.credit(packet.ack)):
            self._ignore(packet, "an acknowledgement of what was never sent")
            return
        if turn.is_delivered:
            self._perform(self.slots.delivered(turn, self._now()))
        elif self._rotation.release(turn):
            self._doorbell.ring_here(urgent=False)

    def _start(self, packet: pb.DownstreamPacket) -> None:
        if not packet.session_id or not packet.attempt:
            self._ignore(packet, "a Start without session_id or attempt")
            return
        start = codec.start(packet, self._credit, self._now())
        self._perform(self.slots.start(start, self._now()))

    def _stop(self, packet: pb.DownstreamPacket) -> None:
        stop = packet.stop
        grace_s = stop.grace_ms / 1000 if stop.grace_ms else None
        effects = self.slots.stop(
            packet.session_id, packet.attempt, stop.stop_id, stop.reason, grace_s, self._now()
        )
        self._perform(effects)

    def _deliver(self, packet: pb.DownstreamPacket) -> None:
        turn = self.slots.find(packet.session_id, packet.attempt)
        crossing = None if turn is None else self._crossings.get(turn)
        if turn is None or crossing is None:
            self._ignore(packet, "a signal for a turn that is over")
            return
        match turn.receive(packet.sequence):
            case Signal.REPEAT:
                self._metrics.packet_ignored("repeat")
                return
            case Signal.EARLY:
                raise SignalMissing(
                    f"signal {turn.last_signal + 1} of session {packet.session_id} is missing before"
                    f" {packet.sequence}"
                )
        if packet.HasField("tool_result"):
            result = packet.tool_result
            wanted = crossing.tell_result(result.call_id, unsealing.tool_answer(result))
        elif packet.HasField("answer"):
            wanted = crossing.tell_answer(packet.answer.question_id, unsealing.user_answer(packet.answer))
        elif crossing.tell_message(unsealing.user_message(packet.user_message), packet.sequence):
            wanted = True
        else:
            self._fail(crossing, crossing.too_many_messages())
            return
        if not wanted:
            self._metrics.packet_ignored("nobody_waits")
        elif self._runner is not None:
            self._runner.hurry()

    def _fail(self, crossing: Crossing, failure: AgentFailure) -> None:
        turn = crossing.turn
        crossing.shut()
        failure_bytes = sealing.failure_bytes(failure)
        self._perform(self.slots.fail(turn, failure.message, failure, failure_bytes, self._now()))
        crossing.rouse()

    def _ignore(self, packet: pb.DownstreamPacket, what: str) -> None:
        self._metrics.packet_ignored("unexpected")
        _LOG.debug("ignored: %s", what, extra=about(packet.session_id, packet.attempt))

    # -- effects ---------------------------------------------------------------------------------------------

    def _ended(self, crossing: Crossing, outcome: Outcome | None) -> None:
        self._perform(self.slots.ended(crossing.turn, outcome, self._now()))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(signal):
                    self._rotation.signal(signal)
                    if isinstance(signal, Refused):
                        self._refused(signal)
                case Begin(turn, agent, version, request):
                    self._begin(turn, (agent, version), request)
                case Cancel(turn, why):
                    self._cancel(turn, why)
                case Abandon(turn, stopping_s):
                    self._abandon(turn, stopping_s)
                case Release():
                    self._release(effect)
                case GiveUp():
                    self._give_up()
                case _:
                    assert_never(effect)
        self._doorbell.ring_here()
        self._arm()
        if self._on_idle is not None and self.slots.is_idle:
            self._on_idle()

    def _begin(self, turn: Turn, agent: tuple[str, str], request: object) -> None:
        assert isinstance(request, Request)
        assert self._runner is not None
        crossing = Crossing(turn, request, self._rotation, self._doorbell, self._bounds)
        self._crossings[turn] = crossing
        self._metrics.turn_started(agent[0])
        _LOG.debug("started: agent %s", " ".join(agent).strip(), extra=about(turn.session_id, turn.attempt))
        self._runner.begin(crossing, agent)

    def _cancel(self, turn: Turn, why: str) -> None:
        assert self._runner is not None
        self._runner.cancel(self._crossings[turn], why)

    def _abandon(self, turn: Turn, stopping_s: float) -> None:
        assert self._runner is not None
        self._runner.insist(self._crossings[turn])
        self._metrics.stop_came_to(StopStep.ABANDONED.value, stopping_s)
        _LOG.error(
            "abandoned: the agent ignored its stop for %.1f s; its slot is stuck until it ends (%d of %d are)",
            stopping_s,
            self.slots.stuck,
            self.slots.slots,
            extra=about(turn.session_id, turn.attempt),
        )

    def _release(self, release: Release) -> None:
        turn = release.turn
        self._crossings.pop(turn, None)
        self._told_phase.pop(turn, None)
        self._metrics.turn_ended(release.agent, release.how)
        if release.stopping_s is not None:
            self._metrics.stop_came_to(StopStep.APPLIED.value, release.stopping_s)
        _LOG.info("ended: %s", release.how, extra=about(turn.session_id, turn.attempt))

    def _refused(self, refused: Refused) -> None:
        self._metrics.start_refused(refused.code.value)
        _LOG.info("refused: %s", refused.why, extra=about(refused.session_id, refused.attempt))

    def _arm(self) -> None:
        """One timer for whatever `Slots` has to do next."""
        deadline = self.slots.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._perform(self.slots.expire(self._now()))

    def _now(self) -> float:
        return self._loop.time()
