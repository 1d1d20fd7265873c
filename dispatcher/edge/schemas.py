"""JSON Schemas of what is answered: of the contract's messages, as `record.py` writes them, and of problems."""

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from southwest.ai.agent.v1 import admin_pb2, chat_pb2

from dispatcher.record import enum_word

Schema = dict[str, Any]
_REF: Final = "#/components/schemas/"

PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "What is wrong with a request (RFC 9457). `code` is stable; `field` names what is wrong in it.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "field": {"type": "string"},
        "retry_after_ms": {"type": "integer"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "problem"],
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "gap": {"type": "object"},
    },
}

OPENAI_ERROR: Final[Schema] = {
    "type": "object",
    "description": "What is wrong, as OpenAI's clients read it. `x-should-retry` says whether to ask again.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


def ref(name: str) -> Schema:
    return {"$ref": f"{_REF}{name}"}


def event_stream() -> Schema:
    """Of each event of a stream, as readers of `text/event-stream` have it."""
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "id": {"type": "string", "description": "the cursor"},
            "event": {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": ref("Event")},
            "retry": {"description": "milliseconds"},
        },
    }


class RecordSchemas:
    """Collects the schemas of messages, each under its name."""

    def __init__(self) -> None:
        self.made: dict[str, Schema] = {}

    def of(self, message: type[Message]) -> Schema:
        return self.described(message.DESCRIPTOR)

    def described(self, descriptor: Any) -> Schema:
        name = descriptor.name
        if name not in self.made:
            self.made[name] = {}  # some hold themselves
            properties = {}
            for each in descriptor.fields:
                is_duration = each.message_type is not None and _is_duration(each.message_type)
                properties[f"{each.name}_s" if is_duration else each.name] = self._field(each)
            self.made[name] = {
                "type": "object",
                "required": sorted(properties),
                "properties": properties,
                "additionalProperties": False,
            }
        return ref(name)

    def _field(self, field: Any) -> Schema:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {
                "type": "object",
                "additionalProperties": self._single(field.message_type.fields_by_name["value"]),
            }
        single = self._single(field)
        if field.is_repeated:
            return {"type": "array", "items": single}
        return {"anyOf": [single, {"type": "null"}]} if field.has_presence else single

    def _single(self, field: Any) -> Schema:
        if field.message_type is not None:
            if field.message_type.full_name == chat_pb2.Cursor.DESCRIPTOR.full_name:
                return {"type": "string", "description": "epoch:offset"}
            if _is_duration(field.message_type):
                return {"type": "number", "description": "seconds"}
            return self.described(field.message_type)
        if field.enum_type is not None:
            words = [enum_word(field.enum_type, value.number) for value in field.enum_type.values]
            return {
                "type": "string",
                "description": f"one of {', '.join(words)}, or unknown-N of a later version",
            }
        return _KINDS[field.cpp_type] if field.type != FieldDescriptor.TYPE_BYTES else _BASE64


# What JSON has no number for is written as a text.
_NUMBER: Final[Schema] = {"anyOf": [{"type": "number"}, {"type": "string"}]}
_BASE64: Final[Schema] = {"type": "string", "description": "base64"}
_KINDS: Final[dict[int, Schema]] = {
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_DOUBLE: _NUMBER,
    FieldDescriptor.CPPTYPE_FLOAT: _NUMBER,
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "integer"},
}


def _is_duration(descriptor: Any) -> bool:
    return bool(descriptor.full_name == Duration.DESCRIPTOR.full_name)


def event(records: RecordSchemas) -> Schema:
    """Of one event: the fields by its kind, and what is said to one viewer alone."""
    kinds = {
        each.name: records.described(each.message_type)
        for each in chat_pb2.SessionEvent.DESCRIPTOR.oneofs_by_name["event"].fields
    }
    return {
        "type": "object",
        "description": "`fields` are those of the schema that `event` names: "
        + ", ".join(kinds)
        + "; or a notice "
        "to this viewer alone: gap, goaway, lag, slow, which has no cursor.",
        "required": ["event", "session_id", "fields"],
        "properties": {
            "cursor": {"type": "string", "description": "epoch:offset; come back with it"},
            "event": {"type": "string"},
            "session_id": {"type": "string"},
            "attempt": {"type": "integer"},
            "agent": {"type": "string", "description": "path of the sub-agent; empty for the root"},
            "timestamp": {"type": "integer", "description": "when it was kept, Unix milliseconds"},
            "fields": {"type": "object"},
        },
    }


def session(records: RecordSchemas) -> Schema:
    """Of a session's state, with where to go on."""
    records.of(admin_pb2.SessionView)
    view = records.made["SessionView"]
    links = {
        "type": "object",
        "required": ["self", "events", "stop"],
        "properties": {name: {"type": "string"} for name in ("self", "events", "stop")},
    }
    return {
        **view,
        "required": sorted([*view["required"], "links"]),
        "properties": {**view["properties"], "links": links},
    }
