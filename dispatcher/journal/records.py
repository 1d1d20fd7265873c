"""What a journal with a file keeps, as bytes and back: JSON, each record with a checksum.

Records lie on shelves, by number: the epoch, commanders, marks of sessions, what they were asked for, and chunks of
events in the order in which they were kept, whichever session's they are. So a commit for a hundred sessions touches
a few pages at the ends of the shelves, and not one in each session. The checksum covers the place, so a record is
only read where it was written. What comes back is checked down to the types: a file may have been changed by anybody.
"""

import contextlib
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, NamedTuple
from zlib import crc32

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json

from dispatcher.core.events import SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import (
    AgentTold,
    Answer,
    Ended,
    Hello,
    Opened,
    Reset,
    Started,
    ToolCall,
    ToolResult,
    UserMessage,
)

# The shelves, in the order in which they are read; each has room for so many numbers.
SHELF_SIZE: Final = 1 << 56
EPOCH, COMMANDERS, MARKS, ASKED, CHUNKS = range(5)

# An entry as it lies in memory: its time, then the fields of its event. A plain tuple of plain values is let
# alone by the garbage collector, which otherwise visits every event kept, again and again.
EntryRow = tuple[Any, ...]


class RecordError(Exception):
    """A record that can't be read; the message says why."""


class Record(NamedTuple):
    """A row of the file."""

    place: int
    crc32: int
    content: bytes


def place(shelf: int, number: int) -> int:
    return shelf * SHELF_SIZE + number


def _plain(value: object) -> object:
    """What JSON has no word for."""
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"a journal has no record for {type(value).__name__}")


# Escapes would double the size of most languages.
_encode: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), check_circular=False, default=_plain
).encode


def seal(at: int, value: object) -> Record:
    """`value` as a record of its place. Halves of surrogate pairs are kept as they are."""
    content = _encode(value).encode("utf-8", "surrogatepass")
    return Record(at, _checksum(at, content), content)


def seal_mark(at: int, mark: Mark) -> Record:
    """As `seal` does, in a third of the time: there is one for each session of each commit."""
    try:
        content = _dump_mark(mark)
    except PydanticSerializationError:
        return seal(at, mark)
    return Record(at, _checksum(at, content), content)


def unseal(record: Record) -> Any:
    """What was sealed, in JSON's own types. Raises RecordError."""
    at, checksum, content = record
    if type(at) is not int or not isinstance(content, bytes) or checksum != _checksum(at, content):
        raise RecordError("it is not as it was written")
    # The quicker of two readers does not know halves of surrogate pairs.
    with contextlib.suppress(ValueError):
        return from_json(content)
    try:
        return json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"it is not JSON: {error}") from None


def _checksum(at: int, content: bytes) -> int:
    return crc32(content, (at ^ at >> 32) & 0xFFFF_FFFF)


# --- events ----------------------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """Events of a session that follow each other, kept at the same time."""

    session: int
    unix_ms: int
    events: Sequence[Any]


def chunk(value: Any) -> Chunk:
    """Raises RecordError."""
    is_chunk = type(value) is list and list(map(type, value)) == [int, int, list]
    _must(is_chunk, "it is no chunk of events")
    return Chunk(*value)


def rows(chunk: Chunk, after: int) -> list[EntryRow]:
    """The entries of a chunk, whose offsets go on from `after`. Raises RecordError."""
    _, unix_ms, events = chunk
    entries: list[EntryRow] = []
    try:
        for offset, kind, attempt, agent, text, told in events:
            after += 1
            _must(offset == after, f"event {offset} is where {after} should be")
            is_typed = type(attempt) is int and type(agent) is str and type(text) is str
            _must(is_typed and type(kind) is str, f"event {offset} is none")
            # One text for all that say the same: there are millions.
            names = sys.intern(kind), sys.intern(agent)
            body = BODIES[kind](told)
            entries.append((unix_ms, offset, names[0], attempt, names[1], text, body))
    except KeyError as error:
        raise RecordError(f"there is no event {error}") from None
    except (TypeError, ValueError) as error:
        raise RecordError(_why(error)) from None
    return entries


def _must(holds: bool, why: str) -> None:
    if not holds:
        raise RecordError(why)


def _typed(body: type) -> Callable[[Any], object]:
    return TypeAdapter(body).validate_python


def _text(told: Any) -> str:
    _must(type(told) is str, "a text is none")
    return sys.intern(told)


def _unopened(told: Any) -> bytes:
    return b64decode(told, validate=True)


def _told(told: Any) -> object:
    """A commander's own word of its sub-agents, or ours of a delegated session."""
    return _unopened(told) if type(told) is str else _AGENT_TOLD.validate_python(told)


def _nothing(told: Any) -> None:
    _must(told is None, "there is a body where none is due")


_AGENT_TOLD: Final = TypeAdapter(AgentTold)

# What the body of each kind is made of.
BODIES: Final[Mapping[str, Callable[[Any], object]]] = {
    "opened": _typed(Opened),
    "started": _typed(Started),
    "thought": _text,
    "content": _nothing,
    "tool_call": _typed(ToolCall),
    "tool_result": _typed(ToolResult),
    "answer": _typed(Answer),
    "user_message": _typed(UserMessage),
    "reset": _typed(Reset),
    "ended": _typed(Ended),
    "error": _unopened,
    "progress": _unopened,
    "question": _unopened,
    "agent_event": _told,
    "artifact": _unopened,
    "embedding": _unopened,
    "usage": _unopened,
}


# --- all else --------------------------------------------------------------------------------------------

_MARK: Final = TypeAdapter(Mark, config=ConfigDict(ser_json_inf_nan="constants"))
_REQUESTED: Final = TypeAdapter(SessionRequested)
_HELLO: Final = TypeAdapter(Hello)
_dump_mark: Final = _MARK.dump_json


def mark(value: Any) -> Mark:
    """Raises RecordError."""
    try:
        return _MARK.validate_python(value)
    except ValidationError as error:
        raise RecordError(_why(error)) from None


def requested(value: Any) -> SessionRequested:
    """Raises RecordError."""
    try:
        request = value["request"]
        return _REQUESTED.validate_python(
            {**value, "request": None if request is None else _unopened(request)}
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(_why(error)) from None


def hello(value: Any) -> Hello:
    """Raises RecordError."""
    try:
        return _HELLO.validate_python(value)
    except ValidationError as error:
        raise RecordError(_why(error)) from None


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"
