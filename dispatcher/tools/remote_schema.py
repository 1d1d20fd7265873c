"""Messages of protobuf as JSON Schema, and a service's description put together from what its server tells.

Pure: descriptors in, schemas out. Fields have their names of the .proto file; what is JSON of which type is protobuf's
own mapping.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

# Of those that come with protobuf; more than there are.
STANDARD_FILES_MAX: Final = 100
_F = FieldDescriptor
_WHOLE: Final = {"type": "integer"}
# JSON readers lose digits of these, so protobuf writes them as text and takes both.
_LONG: Final = {"type": ["integer", "string"], "pattern": "^-?[0-9]+$"}
_SCALARS: Final[dict[int, dict[str, Any]]] = {
    _F.TYPE_DOUBLE: {"type": "number"},
    _F.TYPE_FLOAT: {"type": "number"},
    _F.TYPE_INT32: _WHOLE,
    _F.TYPE_SINT32: _WHOLE,
    _F.TYPE_SFIXED32: _WHOLE,
    _F.TYPE_UINT32: {**_WHOLE, "minimum": 0},
    _F.TYPE_FIXED32: {**_WHOLE, "minimum": 0},
    _F.TYPE_INT64: _LONG,
    _F.TYPE_SINT64: _LONG,
    _F.TYPE_SFIXED64: _LONG,
    _F.TYPE_UINT64: _LONG,
    _F.TYPE_FIXED64: _LONG,
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    # What is none is read as nothing by some readers, without a word.
    _F.TYPE_BYTES: {"type": "string", "description": "base64", "pattern": "^[A-Za-z0-9+/_-]*={0,2}$"},
}
# What protobuf writes in a way of its own.
_KNOWN: Final[dict[str, dict[str, Any]]] = {
    "google.protobuf.Timestamp": {"type": "string", "description": "RFC 3339, e.g. 2026-01-31T12:00:00Z"},
    "google.protobuf.Duration": {"type": "string", "description": "seconds, e.g. 1.5s"},
    "google.protobuf.FieldMask": {"type": "string", "description": "names of fields, with commas"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Any": {"type": "object", "required": ["@type"]},
}
_WRAPPERS: Final = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)


def schema_of(message: Descriptor) -> dict[str, object]:
    """A schema that stands alone."""
    writing = _Writing()
    schema = writing.message(message)
    writing.define()
    return {**schema, "$defs": writing.definitions} if writing.definitions else schema


class _Writing:
    def __init__(self) -> None:
        self.definitions: dict[str, object] = {}
        # Named, and not yet written: one after the other, however long the chain of them is.
        self._undefined: list[Descriptor] = []

    def define(self) -> None:
        while self._undefined:
            kind = self._undefined.pop()
            self.definitions[kind.full_name] = self.message(kind)

    def message(self, message: Descriptor) -> dict[str, object]:
        return {
            "type": "object",
            "properties": {field.name: self._field(field) for field in message.fields},
            "required": [field.name for field in message.fields if field.is_required],
            "additionalProperties": False,
        }

    def _field(self, field: FieldDescriptor) -> dict[str, Any]:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._value(kind.fields_by_name["value"])}
        value = self._value(field)
        return {"type": "array", "items": value} if field.is_repeated else value

    def _value(self, field: FieldDescriptor) -> dict[str, Any]:
        if field.enum_type is not None:
            return {"enum": [value.name for value in field.enum_type.values]}
        kind = field.message_type
        if kind is None:
            return dict(_SCALARS[field.type])
        if kind.full_name in _KNOWN:
            return dict(_KNOWN[kind.full_name])
        if kind.full_name in _WRAPPERS:
            return {"anyOf": [self._value(kind.fields_by_name["value"]), {"type": "null"}]}
        if kind.full_name not in self.definitions:
            self.definitions[kind.full_name] = {}
            self._undefined.append(kind)
        return {"$ref": f"#/$defs/{kind.full_name}"}


def pool_of(files: Iterable[bytes], standard: Callable[[str], bytes | None]) -> DescriptorPool:
    """The files, and what they need. `standard` gives the files that come with protobuf, which few servers tell of.
    Raises TypeError for what doesn't fit together."""
    told = {each.name: each for each in map(FileDescriptorProto.FromString, files)}
    pool = DescriptorPool()
    added: set[str] = set()
    waiting: list[FileDescriptorProto] = [*told.values()][::-1]
    while waiting:
        file = waiting[-1]
        needed = [name for name in file.dependency if name not in added]
        if file.name in added or not needed:
            waiting.pop()
            if file.name not in added:
                added.add(file.name)
                pool.Add(file)
            continue
        if len(waiting) > 2 * len(told) + STANDARD_FILES_MAX:
            raise TypeError(f"{file.name} needs itself, by way of {needed[0]}")
        waiting.append(_file(needed[0], told, standard))
    return pool


def _file(
    name: str, told: Mapping[str, FileDescriptorProto], standard: Callable[[str], bytes | None]
) -> FileDescriptorProto:
    known = standard(name)
    if known is not None:
        return FileDescriptorProto.FromString(known)
    if name not in told:
        raise TypeError(f"the server tells nothing of {name}")
    return told[name]
