"""Between the core's words and the wire's: the only place that knows both.

Nothing here decides anything. What comes from a peer is read leniently (what is not known is passed over, and an
enum's stranger means "not said"); what goes out is complete.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from google.protobuf.message import Message as ProtobufMessage
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import unsealing
from commander.agent import OnRestart
from commander.core.outbox import Text
from commander.core.slots import Lost, Refused, Resumed, Start, StopAck, StopStep, Verdict
from commander.core.turn import Credit, Done, Numbered, Outcome, Phase, Turn
from commander.errors import AgentFailure
from commander.logs import about
from commander.sealing import agent_error, duration, usage

_LOG = logging.getLogger(__name__)

PROTOCOL_VERSION: Final = 1

STEPS: Final = {
    StopStep.RECEIVED: pb.STOP_PHASE_RECEIVED,
    StopStep.APPLIED: pb.STOP_PHASE_APPLIED,
    StopStep.ABANDONED: pb.STOP_PHASE_ABANDONED,
}
PHASES: Final = {
    Phase.WAITING_FIRST_TOKEN: pb.HEARTBEAT_PHASE_WAITING_FIRST_TOKEN,
    Phase.GENERATING: pb.HEARTBEAT_PHASE_GENERATING,
    Phase.WAITING_TOOL: pb.HEARTBEAT_PHASE_WAITING_TOOL,
    Phase.WAITING_ANSWER: pb.HEARTBEAT_PHASE_WAITING_ANSWER,
}
OUTCOMES: Final = {
    Outcome.COMPLETED: pb.OUTCOME_COMPLETED,
    Outcome.FAILED: pb.OUTCOME_FAILED,
}
ON_RESTART: Final[Mapping[OnRestart, pb.OnRestart.ValueType]] = {
    "restart": pb.ON_RESTART_RESTART,
    "continue": pb.ON_RESTART_CONTINUE,
    "never": pb.ON_RESTART_NEVER,
}
# By type of payload, the name of its field in UpstreamPacket.
_FIELDS: Final[Mapping[type[ProtobufMessage], str]] = {
    pb.ToolCallRequest: "tool_call",
    pb.Progress: "progress",
    pb.Question: "question",
    pb.Artifact: "artifact",
    pb.Embedding: "embedding",
    pb.Usage: "usage",
    pb.AgentEvent: "agent_event",
    pb.Withdrawal: "withdrawal",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a Hello says of its commander, besides what runs."""

    commander_id: str
    instance: str
    software_version: str
    agents: tuple[pb.AgentOffer, ...]
    labels: Mapping[str, str]
    slots: int
    heartbeat_interval_s: float
    max_message_bytes: int
    models: tuple[pb.ModelOffer, ...] = ()


# ---- Up ----


def message(gathered: Sequence[object]) -> pb.UpstreamPacket:
    """One gRPC message of all these: a single packet as it is, several in a batch."""
    now_ms = time.time_ns() // 1_000_000
    packet = pb.UpstreamPacket()
    if len(gathered) == 1:
        _fill(packet, gathered[0], now_ms)
        return packet
    packet.timestamp = now_ms
    add = packet.batch.packets.add
    for each in gathered:
        _fill(add(), each, now_ms)
    return packet


def hello(
    identity: Identity, resumable: Iterable[Turn], running: int, stuck: int, *, draining: bool
) -> pb.UpstreamPacket:
    """The first packet of a link."""
    packet = pb.UpstreamPacket(timestamp=time.time_ns() // 1_000_000)
    packet.hello.CopyFrom(
        pb.Hello(
            commander_id=identity.commander_id,
            instance=identity.instance,
            software_version=identity.software_version,
            agents=identity.agents,
            labels=identity.labels,
            models=identity.models,
            slots=identity.slots,
            running=running,
            stuck=stuck,
            heartbeat_interval=duration(identity.heartbeat_interval_s),
            resumes=[_resume(turn) for turn in resumable],
            protocol_version=PROTOCOL_VERSION,
            draining=draining,
            max_message_bytes=identity.max_message_bytes,
        )
    )
    return packet


def link_heartbeat(
    running: int, stuck: int, blocked_for_s: float = 0.0, *, draining: bool
) -> pb.UpstreamPacket:
    """Still here. `blocked_for_s` of 0: the agents' loop turns."""
    packet = pb.UpstreamPacket(heartbeat=pb.Heartbeat(running=running, stuck=stuck, draining=draining))
    if blocked_for_s > 0:
        packet.heartbeat.blocked_for.CopyFrom(duration(blocked_for_s))
    return packet


def turn_heartbeat(turn: Turn, phase: Phase) -> pb.UpstreamPacket:
    """A silent turn is still here, and in which phase."""
    signals_received, messages_read = turn.news()
    return pb.UpstreamPacket(
        session_id=turn.session_id,
        attempt=turn.attempt,
        signals_received=signals_received,
        messages_read=messages_read,
        heartbeat=pb.Heartbeat(phase=PHASES[phase]),
    )


def goodbye(reason: str) -> pb.UpstreamPacket:
    """The last packet of a link that ends on purpose."""
    return pb.UpstreamPacket(goodbye=pb.Goodbye(reason=reason))


def _fill(packet: pb.UpstreamPacket, said: object, now_ms: int) -> None:
    try:
        _fill_in(packet, said, now_ms)
    except (TypeError, ValueError, OverflowError):
        if not isinstance(said, Numbered):
            raise
        # What can't be sent fails its own session, once; it would break the link for all, again and again.
        _LOG.exception("a packet can't be sent", extra=about(said.turn.session_id, said.turn.attempt))
        signals_received, messages_read = packet.signals_received, packet.messages_read
        packet.Clear()
        packet.signals_received, packet.messages_read = signals_received, messages_read
        packet.session_id, packet.attempt = said.turn.session_id, said.turn.attempt
        packet.sequence, packet.timestamp = said.packet.sequence, now_ms
        failure = AgentFailure("unsendable", "the agent said something that can't be sent")
        packet.done.CopyFrom(pb.Done(outcome=pb.OUTCOME_FAILED, error=agent_error(failure)))


def _fill_in(packet: pb.UpstreamPacket, said: object, now_ms: int) -> None:
    if isinstance(said, Numbered):
        turn = said.turn
        packet.session_id = turn.session_id
        packet.attempt = turn.attempt
        packet.sequence = said.packet.sequence
        if turn.has_news:
            packet.signals_received, packet.messages_read = turn.news()
        fill_payload(packet, said.packet.payload, said.packet.path)
    elif isinstance(said, pb.UpstreamPacket):
        packet.CopyFrom(said)
    elif isinstance(said, StopAck):
        packet.session_id = said.session_id
        packet.attempt = said.attempt
        packet.messages_read = said.messages_read
        packet.stop_ack.CopyFrom(
            pb.StopAck(
                stop_id=said.stop_id,
                phase=STEPS[said.step],
                last_sequence=said.last_sequence,
                usage=usage(said.usage),
            )
        )
    elif isinstance(said, Refused):
        packet.session_id = said.session_id
        packet.attempt = said.attempt
        packet.refused.CopyFrom(pb.Refused(code=said.code.value, why=said.why))
    else:
        raise TypeError(f"nothing on the wire for {said!r}")
    packet.timestamp = now_ms


def fill_payload(packet: pb.UpstreamPacket, payload: object, path: str) -> None:
    """Puts in what a turn has said."""
    if path:
        packet.agent = path
    if isinstance(payload, Text):
        if payload.step is None:
            packet.content.text = payload.text
        else:
            packet.thought.step_name = payload.step
            packet.thought.delta = payload.text
    elif isinstance(payload, Done):
        packet.done.CopyFrom(_done(payload))
    else:
        sealed = cast("ProtobufMessage", payload)
        getattr(packet, _FIELDS[type(sealed)]).CopyFrom(sealed)


def fill_ending(packet: pb.UpstreamPacket, done: Done) -> None:
    """Puts in the end of a turn as a minimal peer knows it."""
    if done.outcome is Outcome.COMPLETED:
        packet.content.is_finish = True
    elif isinstance(done.error, AgentFailure):
        packet.error.CopyFrom(agent_error(done.error))


def _done(done: Done) -> pb.Done:
    wire = pb.Done(
        outcome=OUTCOMES[done.outcome],
        content_chars=done.content_chars,
        content_crc32=done.content_crc32,
        usage=usage(done.usage),
    )
    if isinstance(done.error, AgentFailure):
        wire.error.CopyFrom(agent_error(done.error))
    elif done.error is not None:
        wire.error.CopyFrom(agent_error(AgentFailure("resume_failed", str(done.error))))
    return wire


def _resume(turn: Turn) -> pb.Resume:
    return pb.Resume(
        session_id=turn.session_id,
        attempt=turn.attempt,
        last_sequence_sent=turn.last_sequence,
        last_signal_received=turn.last_signal,
        open_call_ids=turn.open_call_ids,
        open_question_ids=turn.open_question_ids,
    )


# ---- Down ----


def start(packet: pb.DownstreamPacket, link_credit: Credit, now: float) -> Start:
    """What to run. `link_credit` is Welcome's, for a Start that names none. `now` is monotonic seconds."""
    wire = packet.start
    named = wire.credit or wire.credit_bytes
    return Start(
        session_id=packet.session_id,
        attempt=packet.attempt,
        agent=wire.agent,
        agent_version=wire.agent_version,
        credit=Credit(wire.credit, wire.credit_bytes) if named else link_credit,
        request=unsealing.request(packet, now),
    )


def verdicts(welcome: pb.Welcome) -> list[Verdict]:
    """What becomes of each turn that the Hello named."""
    return [_verdict(verdict) for verdict in welcome.resumes]


def credit(ack: pb.Ack | pb.Resumed | pb.LinkLimits) -> Credit:
    """How much may be under way."""
    return Credit(ack.credit, ack.credit_bytes)


def _verdict(verdict: pb.ResumeVerdict) -> Verdict:
    session_id, attempt = verdict.session_id, verdict.attempt
    match verdict.WhichOneof("verdict"):
        case "resumed":
            return Resumed(session_id, attempt, verdict.resumed.next_sequence, credit(verdict.resumed))
        case "fenced":
            return Lost(session_id, attempt, f"fenced: {verdict.fenced.why or 'a newer attempt runs'}")
        case "ended":
            return Lost(session_id, attempt, f"it has ended: {verdict.ended.ending or 'in a way not told'}")
        case _:
            return Lost(session_id, attempt, "the dispatcher does not know it")
