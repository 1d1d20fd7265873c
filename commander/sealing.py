"""What an agent says and asks, sealed: each thing as the payload that crosses, bounded, and checked before it goes.

What can't cross fails here, in the agent's own thread and with the name of what was wrong, and nothing of it
has been sent.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander.core.outbox import Sealed, Series, Text
from commander.core.turn import Usage
from commander.errors import AgentFailure, InvalidArguments, Origin, ToolNotFound, ToolTimeout, fit
from commander.outputs import (
    AgentEvent,
    Artifact,
    Began,
    Completed,
    Content,
    Embedding,
    Failed,
    Output,
    Progress,
    Thought,
    Used,
)

# Names go out with each packet that belongs to them.
NAME_BYTES_MAX = 1_024
# The names of tools and the keys of calls: as long as a dispatcher takes them.
NAME_CHARS_MAX = 128
# The longest that a call or a question waits; its fields would hold more.
WAIT_S_MAX: Final = 4_000_000.0
# Of a sub-agent's description and summary.
EVENT_CHARS_MAX = 1_024
_ORIGINS: Final[Mapping[Origin, pb.ErrorOrigin.ValueType]] = {
    "commander": pb.ERROR_ORIGIN_COMMANDER,
    "model": pb.ERROR_ORIGIN_LLM,
}


def item(
    output: Output, packet_bytes_max: int, payload_bytes_max: int, path: str
) -> Text | Sealed | Series | None:
    """What is put into the outbox. None for what says nothing. ValueError for what is too large to cross."""
    match output:
        case Content(text):
            return Text(text, None, path) if text else None
        case Thought(step, text):
            _check_name("the thought's step", step)
            return Text(text, step, path) if text else None
        case Artifact():
            _check_name("the artifact's name", output.name)
            _check_name("the artifact's mime_type", output.mime_type)
            # Its pieces are cut later, when its author may have filled the buffer anew.
            content = bytes(output.content)
            return Series(_artifact_pieces(output, content, packet_bytes_max, path), len(content))
        case Embedding(values, name, model):
            return _sealed(_embedding(values, name, model), "the embedding", payload_bytes_max, path)
        case Progress(_, current, total, percent):
            progress = pb.Progress(text=output.told, current=current, total=total, percent=percent)
            return _sealed(progress, "the progress", payload_bytes_max, path)
        case Used(used):
            _check_name("the usage's model", used.model)
            return _sealed(usage(used), "the usage", payload_bytes_max, path)


def tool_call(
    call_id: str,
    tool: str,
    arguments: Mapping[str, object],
    timeout_s: float | None,
    idempotency_key: str,
    path: str,
    *,
    to_agent: bool = False,
) -> Sealed:
    """A call. ToolNotFound for a name that no tool has; InvalidArguments names the argument that is no JSON;
    ToolTimeout where no time is left. TypeError or ValueError for what no model makes up."""
    _check_call(tool, idempotency_key)
    wait_s = seconds("timeout_s", timeout_s)
    if wait_s is not None and wait_s <= 0:
        raise ToolTimeout(tool, f"timeout_s is {wait_s:g}, so there is no time for it; nothing ran")
    try:
        arguments_json = json.dumps(arguments, allow_nan=False, ensure_ascii=False)
        arguments_json.encode()
    except (TypeError, ValueError, RecursionError):
        raise InvalidArguments(tool, _why_no_json(arguments)) from None
    request = pb.ToolCallRequest(
        tool_name=tool,
        arguments_json=arguments_json,
        call_id=call_id,
        idempotency_key=idempotency_key,
        to_agent=to_agent,
    )
    if wait_s is not None:
        request.timeout_ms = max(1, round(wait_s * 1000))
    return Sealed(request, request.ByteSize(), path)


def withdrawal(call_id: str, question_id: str) -> Sealed:
    """Nobody waits any longer for the call, or for the question where no call is named."""
    told = pb.Withdrawal(call_id=call_id) if call_id else pb.Withdrawal(question_id=question_id)
    return Sealed(told, told.ByteSize())


def asked_with(call: Sealed) -> str:
    """The arguments of a call, as they cross."""
    assert isinstance(call.payload, pb.ToolCallRequest), call
    return call.payload.arguments_json


def _check_call(tool: str, idempotency_key: str) -> None:
    """A model may have made up the name, and the key may be any text; on the wire either would end the session."""
    for what, value in (("the name of a tool or an agent", tool), ("idempotency_key", idempotency_key)):
        if not isinstance(value, str):
            raise TypeError(f"{what} should be a str, not {type(value).__name__}")
    if not 1 <= len(tool) <= NAME_CHARS_MAX:
        why = f"its name has {len(tool)} characters; 1 to {NAME_CHARS_MAX} printable ones are right"
        raise ToolNotFound(tool[:NAME_CHARS_MAX], why)
    if not tool.isprintable():
        raise ToolNotFound(tool, "its name has characters that can't be printed")
    rule = f"up to {NAME_CHARS_MAX} printable characters without blanks are right"
    if len(idempotency_key) > NAME_CHARS_MAX:
        raise InvalidArguments(tool, f"idempotency_key: has {len(idempotency_key)} characters; {rule}")
    if " " in idempotency_key or not idempotency_key.isprintable():
        raise InvalidArguments(tool, f"idempotency_key: has a blank or what can't be printed; {rule}")


def question(
    question_id: str,
    text: str,
    options: Sequence[str],
    schema: Mapping[str, object] | None,
    expires_in_s: float | None,
    payload_bytes_max: int,
    path: str,
) -> Sealed:
    """A question. TypeError or ValueError says what of it can't be asked."""
    _check_question(text, options, schema)
    wait_s = seconds("ask: expires_in_s", expires_in_s)
    asked = pb.Question(question_id=question_id, text=text, options=options)
    if schema is not None:
        try:
            asked.response_schema_json = json.dumps(schema, allow_nan=False)
        except RecursionError:
            raise ValueError("ask: schema is nested too deeply, or within itself") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"ask: schema is no JSON: {error}") from None
    if wait_s is not None:
        # What has passed already has passed at once.
        asked.expires_in.CopyFrom(duration(max(0.0, wait_s)))
    return _sealed(asked, "the question", payload_bytes_max, path)


def seconds(what: str, value: Any) -> float | None:
    """How long somebody waits, seconds; None for no bound of its own. TypeError or ValueError for what is no time."""
    if value is None:
        return None
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number:
        raise TypeError(f"{what} should be a number of seconds, or None, not {type(value).__name__}")
    # Not by `math`: an int may be larger than any float.
    if value != value:
        raise ValueError(f"{what} should be a number of seconds, or None, not nan")
    if not -WAIT_S_MAX < value < WAIT_S_MAX:
        return WAIT_S_MAX if value > 0 else -WAIT_S_MAX
    return float(value)


def _check_question(text: object, options: object, schema: object) -> None:
    _check_line("ask: the question", text)
    # A text is a sequence of texts too, and a mapping one of its keys.
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise TypeError(
            f'ask: options should be a list of str, e.g. ["yes", "no"], not {type(options).__name__}'
        )
    for option in options:
        _check_line("ask: an option", option)
    if schema is not None and not isinstance(schema, Mapping):
        raise TypeError(
            f'ask: schema should be a JSON Schema as a dict, e.g. {{"type": "integer"}}, not {type(schema).__name__}'
        )


def _check_line(what: str, text: object) -> None:
    """Of what people read and answer: some text that can be on the wire."""
    if not isinstance(text, str):
        raise TypeError(f"{what} should be a str, not {type(text).__name__}")
    if not text:
        raise ValueError(f"{what} is empty")
    if not text.isascii():
        _utf8_size(what, text)


def _artifact_pieces(
    artifact: Artifact, content: bytes, packet_bytes_max: int, path: str
) -> Iterator[Sealed]:
    for start in range(0, max(1, len(content)), packet_bytes_max):
        piece = pb.Artifact(
            name=artifact.name,
            mime_type=artifact.mime_type,
            data=content[start : start + packet_bytes_max],
            is_last=start + packet_bytes_max >= len(content),
            artifact_id=artifact.artifact_id,
        )
        yield Sealed(piece, piece.ByteSize(), path)


def _embedding(values: Sequence[float], name: str, model: str) -> pb.Embedding:
    try:
        return pb.Embedding(values=values, name=name, model=model)
    except (TypeError, ValueError) as error:
        raise TypeError(f"embedding: values must be numbers: {error}") from None


def usage(used: Usage) -> pb.Usage:
    """Tokens used, as the wire has them."""
    return pb.Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
        model=used.model,
    )


def _check_name(what: str, name: str) -> None:
    """A name goes out with every packet. ValueError when it is no text, or long."""
    size = _utf8_size(what, name)
    if size > NAME_BYTES_MAX:
        raise ValueError(f"{what} is {size} bytes; at most {NAME_BYTES_MAX} can cross")


def _utf8_size(what: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(
            f"{what} has half characters (lone surrogates), which no text on the wire has"
        ) from None


def _sealed(payload: ProtobufMessage, what: str, payload_bytes_max: int, path: str) -> Sealed:
    size = payload.ByteSize()
    if size > payload_bytes_max:
        raise ValueError(f"{what} is {size} bytes on the wire; at most {payload_bytes_max} can cross")
    return Sealed(payload, size, path)


def _why_no_json(arguments: Mapping[str, object]) -> str:
    for name, value in arguments.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except RecursionError:
            return f"argument {name!r} is nested too deeply, or within itself"
        except (TypeError, ValueError) as error:
            return f"argument {name!r} is no JSON: {error}"
    return "the names of arguments must be text"


def agent_event(event: AgentEvent, path: str) -> Sealed:
    """What became of a sub-agent. What is too long for a line about it is cut."""
    match event:
        case Began(description):
            told = pb.AgentEvent(started=pb.AgentStarted(description=fit(description, EVENT_CHARS_MAX)))
        case Completed(summary):
            told = pb.AgentEvent(completed=pb.AgentCompleted(summary=fit(summary, EVENT_CHARS_MAX)))
        case Failed(failure):
            error = agent_error(failure, pb.ERROR_SCOPE_AGENT)
            told = pb.AgentEvent(failed=pb.AgentFailed(error=error))
    return Sealed(told, told.ByteSize(), path)


def failure_bytes(failure: AgentFailure) -> int:
    """Bytes of it on the wire."""
    return agent_error(failure).ByteSize()


def agent_error(
    failure: AgentFailure, scope: pb.ErrorScope.ValueType = pb.ERROR_SCOPE_SESSION
) -> pb.ErrorSignal:
    """The error that ends a session whose agent failed, or a sub-agent alone."""
    error = pb.ErrorSignal(
        code=failure.code,
        origin=_ORIGINS[failure.origin],
        scope=scope,
        message=failure.message,
        error_type=failure.error_type,
        retryable=failure.retryable,
    )
    if failure.retry_after_s is not None:
        error.retry_after_ms = max(0, round(failure.retry_after_s * 1000))
    if failure.upstream_status is not None:
        error.upstream_status = failure.upstream_status
    return error


def duration(value_s: float) -> Duration:
    """Seconds as the wire has them."""
    whole = int(value_s)
    return Duration(seconds=whole, nanos=int((value_s - whole) * 1e9))
