"""Messages of the contract, filled in to the last field, so that what a codec forgets is seen as lost."""

from collections.abc import Iterator
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def cases(oneof: Any) -> list[str]:
    """The names of a oneof's cases."""
    return [field.name for field in oneof.fields]


def filled(message: M, choose: str = "") -> M:
    """Sets every field, down to the last; of a oneof the case `choose`, or its first."""
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and not oneof.name.startswith("_"):
            chosen = choose if choose in {each.name for each in oneof.fields} else oneof.fields[0].name
            if field.name != chosen:
                continue
        _fill(message, field)
    return message


def _fill(message: Message, field: Any) -> None:
    value = getattr(message, field.name)
    kind: Descriptor | None = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        value["key"] = "value"
    elif kind is not None and field.is_repeated:
        filled(value.add())
    elif kind is not None:
        _fill_message(value)
    elif field.is_repeated:
        value.append(_scalar(field))
    else:
        setattr(message, field.name, _scalar(field))


def _fill_message(value: Message) -> None:
    if isinstance(value, Duration):
        value.FromMilliseconds(1_500)
    else:
        filled(value)


def _scalar(field: FieldDescriptor) -> object:
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"a-{field.name}"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"bytes"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    return 2.5 if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT) else 7


def unset(message: Message) -> Iterator[str]:
    """The fields, by message and name, that are not set though no other case of a oneof stands for them."""
    present = {field.name for field, _ in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and not oneof.name.startswith("_"):
            if message.WhichOneof(oneof.name) is None:
                yield f"{message.DESCRIPTOR.name}.{oneof.name}"
        elif field.name not in present:
            yield f"{message.DESCRIPTOR.name}.{field.name}"
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.message_type.full_name == "google.protobuf.Duration":
            continue
        for each in value if field.is_repeated else [value]:
            yield from unset(each)
