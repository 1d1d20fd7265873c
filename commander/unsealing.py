"""What an agent is asked and told, made of the wire's words: the way back of `sealing`.

All of it is read leniently: what is not known is passed over, and an enum's stranger means "not said".
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from google.protobuf.duration_pb2 import Duration
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander.conversation import (
    Blob,
    JsonPart,
    Message,
    Part,
    Published,
    PublishedAnswer,
    PublishedCall,
    Request,
    Role,
    ToolAnswer,
    ToolFailure,
    ToolOffer,
    UserAnswer,
    UserMessage,
)

TOOL_ERROR_CODES: Final[Mapping[int, str]] = {
    pb.TOOL_ERROR_CODE_NOT_FOUND: "not_found",
    pb.TOOL_ERROR_CODE_INVALID_ARGUMENTS: "invalid_arguments",
    pb.TOOL_ERROR_CODE_DENIED: "denied",
    pb.TOOL_ERROR_CODE_TIMEOUT: "timeout",
    pb.TOOL_ERROR_CODE_FAILED: "failed",
    pb.TOOL_ERROR_CODE_CANCELLED: "cancelled",
    pb.TOOL_ERROR_CODE_TOO_LARGE: "too_large",
    pb.TOOL_ERROR_CODE_UNKNOWN_OUTCOME: "unknown_outcome",
}
# Ids have up to 128 characters, of which ours take the rest.
_PREFIX_CHARS_MAX: Final = 64
ROLES: Final[Mapping[int, Role]] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}


def request(packet: pb.DownstreamPacket, now: float) -> Request:
    """What a Start asks. `now` is monotonic seconds."""
    wire = packet.start
    published = _published(wire.published) if wire.HasField("published") else None
    return Request(
        session_id=packet.session_id,
        attempt=packet.attempt,
        messages=tuple(_message(each) for each in wire.messages),
        tools=tuple(_tool(each.name, each.description, each.parameters_schema_json) for each in wire.tools),
        metadata=dict(wire.metadata),
        user_id=wire.user_id,
        deadline=now + seconds(wire.time_left) if wire.HasField("time_left") else None,
        published=published if not wire.published.parked else None,
        rerun=published if wire.published.parked else None,
        traceparent=wire.trace_context.traceparent,
        tracestate=wire.trace_context.tracestate,
        id_prefix=wire.id_prefix[:_PREFIX_CHARS_MAX],
    )


def tool_answer(result: pb.ToolCallResult) -> ToolAnswer:
    """What a tool answered. Of a bare result only its JSON can say that the call failed."""
    if result.HasField("error"):
        error = result.error
        return ToolAnswer(
            result.result_json,
            ToolFailure(
                TOOL_ERROR_CODES.get(error.code, "failed"),
                error.message or "it says no more",
                error.retryable,
                error.retry_after_ms / 1000 if error.HasField("retry_after_ms") else None,
            ),
        )
    return ToolAnswer(result.result_json, None if result.call_id else _bare_failure(result.result_json))


def user_answer(answer: pb.Answer) -> UserAnswer:
    """What the user answered."""
    if answer.HasField("cancelled"):
        return UserAnswer("", answer.cancelled.why or "cancelled")
    return UserAnswer(answer.value_json)


def user_message(said: pb.UserMessage) -> UserMessage:
    """What the user says in between."""
    return UserMessage(said.text, said.message_id)


def seconds(duration: Duration) -> float:
    """A duration in seconds; what is negative or absurd is bounded."""
    return min(max(duration.seconds + duration.nanos / 1e9, 0.0), 1e9)


def _message(wire: pb.Message) -> Message:
    parts = tuple(part for part in map(_part, wire.parts) if part is not None)
    return Message(ROLES.get(wire.role, "user"), parts)


def _part(wire: pb.ContentPart) -> Part | None:
    match wire.WhichOneof("part"):
        case "text":
            return wire.text
        case "blob":
            return Blob(wire.blob.mime_type, wire.blob.data, wire.blob.uri, wire.blob.name)
        case "json":
            return JsonPart(wire.json)
        case _:
            return None


# The same few tools come with every Start.
@lru_cache(maxsize=256)
def _tool(name: str, description: str, schema_json: str) -> ToolOffer:
    try:
        schema = json.loads(schema_json or "{}")
    except ValueError:
        schema = {}
    return ToolOffer(name, description, schema if isinstance(schema, dict) else {})


def _published(wire: pb.Published) -> Published:
    calls = tuple(map(_published_call, wire.calls))
    answers = (
        PublishedAnswer(each.question.text, tuple(each.question.options), user_answer(each.answer))
        for each in wire.answers
    )
    return Published(wire.content, calls, tuple(map(user_message, wire.messages)), tuple(answers))


def _published_call(wire: pb.PublishedCall) -> PublishedCall:
    answer = tool_answer(wire.result) if wire.HasField("result") else None
    return PublishedCall(
        wire.request.tool_name,
        wire.request.arguments_json,
        None if answer is None else answer.result_json,
        None if answer is None else answer.failure,
        wire.request.idempotency_key,
    )


def _bare_failure(result_json: str) -> ToolFailure | None:
    if '"error"' not in result_json:
        return None
    try:
        result = json.loads(result_json)
    except ValueError:
        return None
    match result:
        case {"error": {"code": str(code), "message": str(told)}} if len(result) == 1:
            return ToolFailure(code if code in TOOL_ERROR_CODES.values() else "failed", told)
    return None
