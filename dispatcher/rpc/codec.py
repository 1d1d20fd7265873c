"""The wire, in the core's words, and back. The only place that knows both protobuf and `core/packets.py`.

Every oneof case of the contract has its row in a table here, and the tests loop over the contract's
descriptors, so that a case without a row fails by name. Payloads that the core never opens travel as their
serialized bytes: a kept message would keep the memory of the whole batch it came in.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.core import packets as core
from dispatcher.core.endings import traits_of
from dispatcher.journal import Entry
from dispatcher.readable import readable, same_call

PROTOCOL_VERSION: Final = 1
ID_CHARS_MAX: Final = 128
# A session's id is ours, and shorter; what is longer is nobody's, and is told by its beginning.
SESSION_ID_CHARS_MAX: Final = 256
# The path of a sub-agent: goes with each of its packets and events.
PATH_CHARS_MAX: Final = 256
# What people are told about an error: goes into the event, the ending and the log.
MESSAGE_CHARS_MAX: Final = 8_192
AGENTS_MAX: Final = 250
# Of an agent: what is longer is told by its beginning.
DESCRIPTION_CHARS_MAX: Final = 1_024
INPUTS_MAX: Final = 16
LABELS_MAX: Final = 64
MODELS_MAX: Final = 128
MODELS_BYTES_MAX: Final = 131_072
MODEL_CHARS_MAX: Final = 256
SLOTS_MAX: Final = 100_000
_DURATION_S_MAX: Final = 315_576_000_000
_UINT64_MAX: Final = 2**64 - 1

M = TypeVar("M", bound=Message)


class WireError(ValueError):
    """A peer's bytes or fields are wrong; the message names the field and what would be right."""


def parse(message_type: type[M], data: bytes) -> M:
    """Parses bytes from a peer. Raises WireError; the parser's own words stay inside."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        raise WireError(
            f"the message ({len(data)} bytes) is not a protobuf {message_type.DESCRIPTOR.full_name}"
        ) from None


def duration(seconds: float) -> Duration:
    """Cut to what a Duration holds, ten thousand years either way: peers send numbers beyond that."""
    wire = Duration()
    wire.FromNanoseconds(round(max(-_DURATION_S_MAX, min(seconds, _DURATION_S_MAX)) * 1e9))
    return wire


def seconds(wire: Duration) -> float:
    return wire.seconds + wire.nanos / 1e9


def _known(number: int, names: dict[int, str]) -> Any:
    return names.get(number, "")


def _enum_names(enum: Any, prefix: str) -> dict[int, str]:
    """Number to the contract's name in the core's spelling, zero to the empty name."""
    names = {number: name.removeprefix(prefix).lower() for name, number in enum.items()}
    return names | {0: ""}


def _numbers(names: dict[int, str]) -> dict[str, int]:
    return {name: number for number, name in names.items()}


SCOPES: Final = _enum_names(agent_pb2.ErrorScope, "ERROR_SCOPE_")
ORIGINS: Final = _enum_names(agent_pb2.ErrorOrigin, "ERROR_ORIGIN_")
STOP_PHASES: Final = _enum_names(agent_pb2.StopPhase, "STOP_PHASE_")
STOP_CODES: Final = _enum_names(agent_pb2.StopCode, "STOP_CODE_")
TOOL_ERROR_CODES: Final = _enum_names(agent_pb2.ToolErrorCode, "TOOL_ERROR_CODE_")
ON_RESTART: Final = _enum_names(agent_pb2.OnRestart, "ON_RESTART_")
ON_RESTART_NUMBERS: Final[dict[core.OnRestart, agent_pb2.OnRestart.ValueType]] = {
    "restart": agent_pb2.ON_RESTART_RESTART,
    "continue": agent_pb2.ON_RESTART_CONTINUE,
    "never": agent_pb2.ON_RESTART_NEVER,
}
_STOP_CODE_NUMBERS: Final = _numbers(STOP_CODES)
_TOOL_ERROR_NUMBERS: Final = _numbers(TOOL_ERROR_CODES)
_SCOPE_NUMBERS: Final = _numbers(SCOPES)
_ORIGIN_NUMBERS: Final = _numbers(ORIGINS)


# --- up --------------------------------------------------------------------------------------------------


def upstream(data: bytes) -> core.Hello | list[core.Packet]:
    """One gRPC message from a commander: its Hello, or the packets it holds. Raises WireError."""
    wire = parse(agent_pb2.UpstreamPacket, data)
    kind = wire.WhichOneof("payload")
    if kind == "hello":
        return _hello(wire.hello)
    if kind == "batch":
        return [_packet(packet, packet.WhichOneof("payload")) for packet in wire.batch.packets]
    return [_packet(wire, kind)]


def _packet(wire: agent_pb2.UpstreamPacket, kind: str | None) -> core.Packet:
    session_id, agent, flaw = wire.session_id, wire.agent, ""
    if len(session_id) > SESSION_ID_CHARS_MAX:
        session_id = session_id[:SESSION_ID_CHARS_MAX]
    if agent and not _is_name(agent, PATH_CHARS_MAX):
        flaw, agent = f"agent: {_NAME_RULE.format(PATH_CHARS_MAX)}", ""
    # Content first: it is nearly all there is.
    if kind == "content":
        content = wire.content
        text = content.text
        # As `core.Packet(…)`, in less than half of the time: one is made for nearly every token.
        return tuple.__new__(
            core.Packet,
            (
                "content",
                session_id,
                wire.attempt,
                wire.sequence,
                agent,
                text,
                content.is_finish,
                wire.signals_received,
                len(text) if text.isascii() else len(text.encode()),
                None,
                None,
                flaw,
                wire.messages_read,
            ),
        )
    text = ""
    size = 0
    detail: core.Detail = None
    body: object = None
    if kind == "thought":
        text, body = wire.thought.delta, wire.thought.step_name
        size = core.utf8_bytes(text) + core.utf8_bytes(wire.thought.step_name)
    elif kind is None:
        kind = "unknown"
    elif kind in ("hello", "batch"):
        raise WireError(f"{kind}: is not allowed inside a batch; send it as a message of its own")
    else:
        payload: Message = getattr(wire, kind)
        # What this version can't read it can't judge, and so doesn't pass on.
        payload.DiscardUnknownFields()
        if kind in _OURS:
            payload.ClearField(_OURS[kind])
        flaw = flaw or _flawed_id(kind, payload)
        body = payload.SerializeToString()
        size = len(body)
        read = _DETAILS.get(kind)
        if read is not None:
            detail = read(payload)
        if isinstance(detail, core.ToolCall):
            body = same_call(detail.tool_name, detail.arguments_json)
        says = _SAYS.get(kind)
        if says is not None:
            text = core.PART.join(filter(None, says(payload)))
    return core.Packet(
        kind,
        session_id,
        wire.attempt,
        wire.sequence,
        agent,
        text,
        False,
        wire.signals_received,
        size,
        detail,
        body,
        flaw,
        wire.messages_read,
    )


# What the dispatcher alone says: that it asks whether a call may run, and that a tool tells its progress.
_OURS: Final = {"question": "approves_call_id", "progress": "call_id"}
# By kind, the fields by which peers find each other's calls, questions and pieces.
_IDS: Final[dict[str, tuple[str, ...]]] = {
    "tool_call": ("call_id", "idempotency_key"),
    "question": ("question_id",),
    "artifact": ("artifact_id",),
    "error": ("call_id",),
    "withdrawal": ("call_id", "question_id"),
}
_NAME_RULE: Final = "up to {} printable characters without blanks are right"


def _flawed_id(kind: str, payload: Message) -> str:
    """What is wrong with an id in it: such a packet breaks the contract in its session."""
    for name in _IDS.get(kind, ()):
        value = getattr(payload, name)
        if value and not _is_name(value, ID_CHARS_MAX):
            return f"{kind}.{name}: {_NAME_RULE.format(ID_CHARS_MAX)}"
    return ""


def _is_name(text: str, chars_max: int) -> bool:
    return len(text) <= chars_max and text.isprintable() and " " not in text


def shortened(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS_MAX else text[: MESSAGE_CHARS_MAX - 1] + "…"


def _hello(wire: agent_pb2.Hello) -> core.Hello:
    for name, value in (("commander_id", wire.commander_id), ("instance", wire.instance)):
        if not 1 <= len(value) <= ID_CHARS_MAX:
            raise WireError(f"hello.{name}: has {len(value)} characters; 1 to {ID_CHARS_MAX} are right")
    if not 1 <= wire.slots <= SLOTS_MAX:
        raise WireError(f"hello.slots: is {wire.slots}; 1 to {SLOTS_MAX} are right")
    if wire.stuck > SLOTS_MAX:
        raise WireError(f"hello.stuck: is {wire.stuck}; 0 to {SLOTS_MAX} are right")
    if not 1 <= len(wire.agents) <= AGENTS_MAX:
        raise WireError(f"hello.agents: has {len(wire.agents)}; 1 to {AGENTS_MAX} are right")
    for number, agent in enumerate(wire.agents):
        if not 1 <= len(agent.name) <= ID_CHARS_MAX:
            raise WireError(
                f"hello.agents[{number}].name: has {len(agent.name)} characters; 1 to {ID_CHARS_MAX} are right"
            )
        if max(map(len, (agent.version, *agent.accepted_input))) > ID_CHARS_MAX:
            raise WireError(
                f"hello.agents[{number}]: version and accepted_input have up to {ID_CHARS_MAX} characters each"
            )
        if len(agent.accepted_input) > INPUTS_MAX:
            raise WireError(f"hello.agents[{number}].accepted_input: up to {INPUTS_MAX} are right")
    if len(wire.labels) > LABELS_MAX or any(
        len(each) > ID_CHARS_MAX for pair in wire.labels.items() for each in pair
    ):
        raise WireError(
            f"hello.labels: up to {LABELS_MAX} are right, of up to {ID_CHARS_MAX} characters each"
        )
    return core.Hello(
        wire.commander_id,
        wire.instance,
        wire.software_version[:ID_CHARS_MAX],
        tuple(
            core.AgentOffer(
                agent.name,
                agent.version,
                agent.description[:DESCRIPTION_CHARS_MAX],
                tuple(agent.accepted_input),
                _known(agent.on_restart, ON_RESTART) or "restart",
                agent.parks,
            )
            for agent in wire.agents
        ),
        dict(wire.labels),
        wire.slots,
        wire.stuck,
        tuple(
            core.Resume(r.session_id, r.attempt, r.last_sequence_sent, r.last_signal_received)
            for r in wire.resumes
        ),
        wire.draining,
        wire.max_message_bytes,
        _models(wire),
    )


def _models(wire: agent_pb2.Hello) -> tuple[core.ModelOffer, ...]:
    if len(wire.models) > MODELS_MAX:
        raise WireError(f"hello.models: has {len(wire.models)}; at most {MODELS_MAX} are right")
    size = sum(model.ByteSize() for model in wire.models)
    if size > MODELS_BYTES_MAX:
        raise WireError(f"hello.models: has {size} bytes; at most {MODELS_BYTES_MAX} are right")
    names: set[str] = set()
    for number, model in enumerate(wire.models):
        where = f"hello.models[{number}]"
        if not (model.name and _is_name(model.name, ID_CHARS_MAX)):
            raise WireError(
                f"{where}.name: 1 to {ID_CHARS_MAX} printable characters without blanks are right"
            )
        if model.name in names:
            raise WireError(f"{where}.name: {model.name!r} is told twice; each name once is right")
        if len(model.model) > MODEL_CHARS_MAX or not model.model.isprintable():
            raise WireError(f"{where}.model: up to {MODEL_CHARS_MAX} printable characters are right")
        names.add(model.name)
    return tuple(
        core.ModelOffer(
            model.name,
            model.model,
            model.takes_images if model.HasField("takes_images") else None,
            model.takes_files if model.HasField("takes_files") else None,
            model.calls_tools if model.HasField("calls_tools") else None,
            model.structured_output if model.HasField("structured_output") else None,
            model.shows_reasoning if model.HasField("shows_reasoning") else None,
        )
        for model in wire.models
    )


def _tool_call(wire: agent_pb2.ToolCallRequest) -> core.ToolCall:
    return core.ToolCall(
        wire.call_id,
        # Models invent names: one that no tool can have is no tool's, which the agent is told.
        wire.tool_name[:ID_CHARS_MAX],
        wire.arguments_json,
        wire.idempotency_key,
        wire.timeout_ms if wire.HasField("timeout_ms") else None,
        wire.to_agent,
    )


def error_report(wire: agent_pb2.ErrorSignal) -> core.ErrorReport:
    return core.ErrorReport(
        wire.code[:ID_CHARS_MAX],
        _known(wire.origin, ORIGINS),
        _known(wire.scope, SCOPES),
        shortened(wire.message),
        wire.error_type[:ID_CHARS_MAX],
        wire.retryable,
        wire.retry_after_ms if wire.HasField("retry_after_ms") else None,
        wire.upstream_status if wire.HasField("upstream_status") else None,
        wire.call_id,
    )


def _usage(wire: agent_pb2.Usage) -> core.Usage:
    return core.Usage(wire.input_tokens, wire.output_tokens, wire.reasoning_tokens, wire.model)


def _question(wire: agent_pb2.Question) -> core.Question:
    expires_in_s = seconds(wire.expires_in) if wire.HasField("expires_in") else None
    return core.Question(wire.question_id, expires_in_s, wire.SerializeToString())


def _withdrawal(wire: agent_pb2.Withdrawal) -> core.Withdrawal:
    return core.Withdrawal(wire.call_id, wire.question_id)


def _done(wire: agent_pb2.Done) -> core.Done:
    return core.Done(
        wire.outcome == agent_pb2.OUTCOME_COMPLETED,
        wire.content_chars,
        wire.content_crc32,
        _usage(wire.usage) if wire.HasField("usage") else None,
        error_report(wire.error) if wire.HasField("error") else None,
    )


def question(body: object) -> agent_pb2.Question:
    """A question as it was kept."""
    assert isinstance(body, bytes), body
    return parse(agent_pb2.Question, body)


def _stop_ack(wire: agent_pb2.StopAck) -> core.StopAck:
    return core.StopAck(_known(wire.phase, STOP_PHASES))


def _heartbeat(wire: agent_pb2.Heartbeat) -> core.Heartbeat:
    blocked_for_s = seconds(wire.blocked_for) if wire.HasField("blocked_for") else 0.0
    return core.Heartbeat(wire.phase, blocked_for_s, wire.running, min(wire.stuck, SLOTS_MAX), wire.draining)


def _refused(wire: agent_pb2.Refused) -> core.Refused:
    return core.Refused(wire.code[:ID_CHARS_MAX], shortened(wire.why))


def _goodbye(wire: agent_pb2.Goodbye) -> core.Goodbye:
    return core.Goodbye(shortened(wire.reason))


_DETAILS: Final[dict[str, Callable[[Any], core.Detail]]] = {
    "tool_call": _tool_call,
    "error": error_report,
    "usage": _usage,
    "question": _question,
    "withdrawal": _withdrawal,
    "done": _done,
    "stop_ack": _stop_ack,
    "heartbeat": _heartbeat,
    "refused": _refused,
    "goodbye": _goodbye,
}


def _error_says(error: agent_pb2.ErrorSignal) -> Iterable[str]:
    return error.code, error.message, error.error_type, error.call_id


def _event_says(event: agent_pb2.AgentEvent) -> Iterable[str]:
    return event.started.description, event.completed.summary, *_error_says(event.failed.error)


# What people may read in a payload. The bytes of an artifact are not text to anybody here.
_SAYS: Final[dict[str, Callable[[Any], Iterable[str]]]] = {
    "tool_call": lambda call: (
        call.tool_name,
        call.call_id,
        call.idempotency_key,
        readable(call.arguments_json),
    ),
    "error": _error_says,
    "progress": lambda progress: (progress.text,),
    "question": lambda asked: (
        asked.text,
        asked.question_id,
        *asked.options,
        readable(asked.response_schema_json),
    ),
    "withdrawal": lambda withdrawal: (withdrawal.call_id, withdrawal.question_id),
    "agent_event": _event_says,
    "artifact": lambda artifact: (artifact.name, artifact.artifact_id, artifact.mime_type),
    "embedding": lambda embedding: (embedding.name, embedding.model),
    "usage": lambda usage: (usage.model,),
    "done": lambda done: (*_error_says(done.error), done.usage.model),
}


# --- down ------------------------------------------------------------------------------------------------


class Downstream:
    """Makes DownstreamPackets. Holds what every link is told alike."""

    def __init__(
        self,
        *,
        max_message_bytes: int,
        heartbeat_interval_s: float,
        software_version: str,
        instance: str,
        tools: list[agent_pb2.ToolOffer],
    ) -> None:
        self._welcome = agent_pb2.Welcome(
            protocol_version=PROTOCOL_VERSION,
            limits=agent_pb2.LinkLimits(max_message_bytes=max_message_bytes),
            heartbeat_interval=duration(heartbeat_interval_s),
            software_version=software_version,
            dispatcher_instance=instance,
        )
        self._tools = tools
        self._bodies: dict[type[Any], Callable[[agent_pb2.DownstreamPacket, Any], None]] = {
            core.Ack: self._ack,
            core.Stop: self._stop,
            core.ToolResult: self._tool_result,
            core.Welcome: self._welcomed,
            core.Start: self._start,
            core.Answer: self._answer,
            core.UserMessage: self._user_message,
            core.Drain: self._drain,
            core.Goodbye: self._goodbye,
            core.LinkHeartbeat: self._heartbeat,
        }

    def offer(self, tools: list[agent_pb2.ToolOffer]) -> None:
        """What sessions that start from now on are told."""
        self._tools = tools

    def packet(self, signal: core.Signal, unix_ms: int) -> agent_pb2.DownstreamPacket:
        wire = agent_pb2.DownstreamPacket(
            session_id=signal.session_id, timestamp=unix_ms, attempt=signal.attempt, sequence=signal.sequence
        )
        self._bodies[type(signal.body)](wire, signal.body)
        return wire

    def _ack(self, wire: agent_pb2.DownstreamPacket, body: core.Ack) -> None:
        ack = wire.ack
        ack.sequence, ack.credit, ack.credit_bytes = body
        ack.SetInParent()

    def _stop(self, wire: agent_pb2.DownstreamPacket, body: core.Stop) -> None:
        wire.stop.CopyFrom(stop_signal(body))

    def _tool_result(self, wire: agent_pb2.DownstreamPacket, body: core.ToolResult) -> None:
        wire.tool_result.CopyFrom(tool_call_result(body, to_agent=True))

    def _welcomed(self, wire: agent_pb2.DownstreamPacket, body: core.Welcome) -> None:
        welcome = wire.welcome
        welcome.CopyFrom(self._welcome)
        welcome.limits.credit = body.credit
        welcome.limits.credit_bytes = body.credit_bytes
        for verdict in body.verdicts:
            row = welcome.resumes.add(session_id=verdict.session_id, attempt=verdict.attempt)
            if verdict.kind == "resumed":
                row.resumed.next_sequence = verdict.next_sequence
                row.resumed.credit = verdict.credit
                row.resumed.credit_bytes = verdict.credit_bytes
            elif verdict.kind == "fenced":
                row.fenced.why = verdict.why
            elif verdict.kind == "ended":
                row.ended.ending = verdict.why
            else:
                row.unknown.SetInParent()

    def _start(self, wire: agent_pb2.DownstreamPacket, body: core.Start) -> None:
        start = wire.start
        if body.request is not None:
            ask = parse(chat_pb2.Ask, body.request)
            start.messages.extend(ask.messages)
            start.metadata.update(ask.metadata)
            if ask.HasField("budgets"):
                start.budgets.CopyFrom(ask.budgets)
            if ask.HasField("trace_context"):
                start.trace_context.CopyFrom(ask.trace_context)
        start.agent, start.agent_version, start.user_id = body.agent, body.agent_version, body.user_id
        start.credit, start.credit_bytes = body.credit, body.credit_bytes
        start.id_prefix = body.id_prefix
        start.tools.extend(self._tools)
        if body.published is not None:
            start.published.CopyFrom(_published(body.published))
        if body.time_left_s is not None:
            start.time_left.CopyFrom(duration(body.time_left_s))

    def _answer(self, wire: agent_pb2.DownstreamPacket, body: core.Answer) -> None:
        wire.answer.CopyFrom(_answer(body))

    def _user_message(self, wire: agent_pb2.DownstreamPacket, body: core.UserMessage) -> None:
        wire.user_message.message_id, wire.user_message.text = body

    def _drain(self, wire: agent_pb2.DownstreamPacket, body: core.Drain) -> None:
        wire.drain.reason = body.reason
        wire.drain.SetInParent()
        if body.deadline_s is not None:
            wire.drain.deadline.CopyFrom(duration(body.deadline_s))

    def _goodbye(self, wire: agent_pb2.DownstreamPacket, body: core.Goodbye) -> None:
        wire.goodbye.reason = body.reason
        wire.goodbye.SetInParent()

    def _heartbeat(self, wire: agent_pb2.DownstreamPacket, body: core.LinkHeartbeat) -> None:
        wire.heartbeat.SetInParent()


def _published(published: core.Published) -> agent_pb2.Published:
    wire = agent_pb2.Published(content=published.content)
    for call in published.calls:
        row = wire.calls.add()
        row.request.CopyFrom(_tool_call_request(call.request))
        if call.outcome is not None:
            result = core.ToolResult(call.request.call_id, call.request.tool_name, call.outcome)
            row.result.CopyFrom(tool_call_result(result, to_agent=True))
    for message in published.messages:
        wire.messages.add(message_id=message.message_id, text=message.text)
    for answered in published.answers:
        row_of = wire.answers.add()
        row_of.question.CopyFrom(question(answered.question))
        row_of.answer.CopyFrom(_answer(answered.answer))
    wire.parked = published.parked
    return wire


def _tool_call_request(call: core.ToolCall) -> agent_pb2.ToolCallRequest:
    wire = agent_pb2.ToolCallRequest(
        tool_name=call.tool_name,
        arguments_json=call.arguments_json,
        call_id=call.call_id,
        idempotency_key=call.idempotency_key,
        to_agent=call.to_agent,
    )
    if call.timeout_ms is not None:
        wire.timeout_ms = call.timeout_ms
    return wire


def stop_signal(stop: core.Stop) -> agent_pb2.StopSignal:
    return agent_pb2.StopSignal(
        reason=stop.reason or stop.code,
        stop_id=stop.stop_id,
        code=_STOP_CODE_NUMBERS[stop.code],  # type: ignore[arg-type]  # a number of the enum it was made from
        # On the wire 0 is "not said", and whoever reads that gives a grace of its own.
        grace_ms=max(1, stop.grace_ms),
        actor=stop.actor,
        policy=stop.policy,
    )


def tool_call_result(result: core.ToolResult, *, to_agent: bool = False) -> agent_pb2.ToolCallResult:
    """What a call came to, for viewers; or as its agent is told, which may be less."""
    outcome = result.outcome
    result_json = (outcome.told_json if to_agent else "") or outcome.result_json
    wire = agent_pb2.ToolCallResult(
        tool_name=result.tool_name, result_json=result_json, call_id=result.call_id
    )
    failure = result.outcome.failure
    if failure is not None:
        wire.error.code = _TOOL_ERROR_NUMBERS[failure.code]  # type: ignore[assignment]  # likewise
        wire.error.message = failure.message
        wire.error.retryable = failure.retryable
        if failure.retry_after_ms is not None:
            wire.error.retry_after_ms = failure.retry_after_ms
    return wire


def error_signal(report: core.ErrorReport) -> agent_pb2.ErrorSignal:
    wire = agent_pb2.ErrorSignal(
        code=report.code,
        origin=_ORIGIN_NUMBERS[report.origin],  # type: ignore[arg-type]  # likewise
        scope=_SCOPE_NUMBERS[report.scope],  # type: ignore[arg-type]  # likewise
        message=report.message,
        error_type=report.error_type,
        retryable=report.retryable,
        call_id=report.call_id,
    )
    if report.retry_after_ms is not None:
        wire.retry_after_ms = report.retry_after_ms
    if report.upstream_status is not None:
        wire.upstream_status = report.upstream_status
    return wire


def usage(used: core.Usage) -> agent_pb2.Usage:
    # Sums of what a commander sent, which may be anything.
    return agent_pb2.Usage(
        input_tokens=min(used.input_tokens, _UINT64_MAX),
        output_tokens=min(used.output_tokens, _UINT64_MAX),
        reasoning_tokens=min(used.reasoning_tokens, _UINT64_MAX),
        model=used.model,
    )


def _answer(answer: core.Answer) -> agent_pb2.Answer:
    wire = agent_pb2.Answer(question_id=answer.question_id)
    if answer.value_json is None:
        wire.cancelled.why = answer.why
    else:
        wire.value_json = answer.value_json
    return wire


# --- what viewers see ------------------------------------------------------------------------------------


def session_event(session_id: str, epoch: str, entry: Entry) -> chat_pb2.SessionEvent:
    """An event as kept, for any viewer."""
    event = entry.event
    wire = chat_pb2.SessionEvent(
        session_id=session_id, attempt=event.attempt, agent=event.agent, timestamp=entry.unix_ms
    )
    wire.cursor.epoch = epoch
    wire.cursor.offset = event.offset
    kind = event.kind
    if kind == "content":
        wire.content.text = event.text
        wire.content.SetInParent()
    else:
        _EVENTS[kind](wire, event)
    return wire


def gap(session_id: str, epoch: str, requested: chat_pb2.Cursor, available_from: int, reason: str) -> Any:
    """Tells a viewer that part of what it asked for is not kept."""
    wire = chat_pb2.SessionEvent(session_id=session_id)
    wire.gap.requested.CopyFrom(requested)
    wire.gap.available_from.epoch = epoch
    wire.gap.available_from.offset = available_from
    wire.gap.reason = reason
    return wire


def session_ended(ended: core.Ended) -> chat_pb2.SessionEnded:
    traits = traits_of(ended)
    wire = chat_pb2.SessionEnded(
        ending=traits.number,  # type: ignore[arg-type]  # the enum's number, by the table of endings
        name=ended.ending,
        message=ended.message,
        retryable=traits.retryable,
        content_chars=ended.content_chars,
        content_crc32=ended.content_crc32,
        usage=usage(ended.usage),
        unread_message_ids=ended.unread,
    )
    if traits.retry_after_s is not None:
        wire.retry_after_ms = int(traits.retry_after_s * 1000)
    if ended.stop is not None:
        wire.stop.CopyFrom(stop_signal(ended.stop))
    if ended.error is not None:
        wire.error.CopyFrom(error_signal(ended.error))
    return wire


def _opened(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    body = event.body
    assert isinstance(body, core.Opened)
    wire.opened.agent, wire.opened.user_id = body.agent, body.user_id
    wire.opened.labels.update(body.labels)
    wire.opened.parent_session_id = body.parent_session_id


def _started(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    assert isinstance(event.body, core.Started)
    wire.started.commander_id = event.body.commander_id


def _thought(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    wire.thought.step_name, wire.thought.delta = str(event.body), event.text


def _call(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    call = event.body
    assert isinstance(call, core.ToolCall)
    wire.tool_call.CopyFrom(_tool_call_request(call))


def _result(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    assert isinstance(event.body, core.ToolResult)
    wire.tool_result.CopyFrom(tool_call_result(event.body))


def _answered(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    assert isinstance(event.body, core.Answer)
    wire.answer.CopyFrom(_answer(event.body))


def _messaged(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    assert isinstance(event.body, core.UserMessage)
    wire.user_message.message_id, wire.user_message.text = event.body


def _reset(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    assert isinstance(event.body, core.Reset)
    # Of the same epoch as the event itself.
    wire.reset.discard_after.epoch = wire.cursor.epoch
    wire.reset.discard_after.offset = event.body.discard_after
    wire.reset.reason = event.body.reason


def _ended(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    assert isinstance(event.body, core.Ended)
    wire.ended.CopyFrom(session_ended(event.body))


def _agent_told(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    """Of a sub-agent as its commander told it, or of a delegated session."""
    body = event.body
    if not isinstance(body, core.AgentTold):
        _unopened(wire, event)
        return
    told = wire.agent_event
    match body.kind:
        case "started":
            told.started.SetInParent()
        case "completed":
            told.completed.summary = body.text
            told.completed.SetInParent()
        case "failed":
            told.failed.SetInParent()
            if body.error is not None:
                told.failed.error.CopyFrom(error_signal(body.error))


def _unopened(wire: chat_pb2.SessionEvent, event: core.SessionEvent) -> None:
    """A payload as its commander sent it."""
    assert isinstance(event.body, bytes)
    payload: Message = getattr(wire, event.kind)
    payload.SetInParent()
    payload.MergeFromString(event.body)


_EVENTS: Final[dict[str, Callable[[chat_pb2.SessionEvent, core.SessionEvent], None]]] = {
    "opened": _opened,
    "started": _started,
    "thought": _thought,
    "tool_call": _call,
    "tool_result": _result,
    "answer": _answered,
    "user_message": _messaged,
    "reset": _reset,
    "ended": _ended,
    "progress": _unopened,
    "question": _unopened,
    "agent_event": _agent_told,
    "artifact": _unopened,
    "embedding": _unopened,
    "usage": _unopened,
    "error": _unopened,
}
