"""Messages of the contract as JSON, for scripts and for HTTP: the same keys every time, whatever is set.

Differs from protobuf's own JSON on purpose: numbers stay numbers (protobuf makes strings of 64-bit ones),
enums are the lower-case words that logs and metrics use, durations are seconds with `_s` in the key, cursors
are `epoch:offset`, unset fields are null instead of absent.
"""

import base64
import math
from typing import Any, TypeAlias

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from southwest.ai.agent.v1 import chat_pb2

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


_Field: TypeAlias = Any  # descriptors come from the C library or from Python, which share no class


def cursor_text(cursor: chat_pb2.Cursor) -> str:
    """`epoch:offset`, the form in which a cursor is typed and printed everywhere."""
    return f"{cursor.epoch}:{cursor.offset}"


def seconds(duration: Duration) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def enum_word(enum: EnumDescriptor, number: int) -> str:
    """`SESSION_ENDING_COMPLETED` as "completed"; a number that this version does not know as "unknown-99"."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    value = enum.values_by_number.get(number)
    return f"unknown-{number}" if value is None else value.name.removeprefix(prefix).lower()


def plain(message: Message) -> dict[str, JsonValue]:
    """A message as JSON's own types, with every field of it as a key."""
    record: dict[str, JsonValue] = {}
    for field in message.DESCRIPTOR.fields:
        is_duration = (
            field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name
        )
        key = f"{field.name}_s" if is_duration else field.name
        if field.has_presence and not message.HasField(field.name):
            record[key] = None
        else:
            record[key] = _field(field, getattr(message, field.name))
    return record


def _field(field: _Field, value: Any) -> JsonValue:  # protobuf's values share no type
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of = field.message_type.fields_by_name["value"]
        return {str(key): _single(of, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: _Field, value: Any) -> JsonValue:
    if isinstance(value, chat_pb2.Cursor):
        return cursor_text(value)
    if isinstance(value, Duration):
        return seconds(value)
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    scalar: bool | int | float | str = value
    return scalar


def event_record(event: chat_pb2.SessionEvent) -> dict[str, JsonValue]:
    """A session's event. `event` names its kind: "unknown" for one that this version does not know."""
    kind = event.WhichOneof("event")
    return {
        "cursor": cursor_text(event.cursor) if event.HasField("cursor") else None,
        "event": kind or "unknown",
        "session_id": event.session_id,
        "attempt": event.attempt,
        "agent": event.agent,
        "timestamp": event.timestamp,
        "fields": {} if kind is None else plain(getattr(event, kind)),
    }
