"""Edits of bytes, as words: `flip 12, cut 3`. Positions are taken modulo what there is, so every edit fits."""

from collections.abc import Callable
from typing import Final

# A varint of ten bytes that holds the most there is, and one that never ends.
HUGE: Final = b"\xff" * 9 + b"\x01"
ENDLESS: Final = b"\xff" * 12


def _flip(data: bytes, at: int) -> bytes:
    """Bit `at`."""
    at %= max(1, len(data) * 8)
    changed = bytearray(data)
    if changed:
        changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def _spliced(insert: bytes, taken: int = 0) -> Callable[[bytes, int], bytes]:
    def splice(data: bytes, at: int) -> bytes:
        at %= len(data) + 1
        return data[:at] + insert + data[at + taken :]

    return splice


def _wire(data: bytes, at: int) -> bytes:
    """Another wire type for what may be a tag."""
    if not data:
        return b"\x0f"
    at %= len(data) * 8
    changed = bytearray(data)
    changed[at // 8] = changed[at // 8] & 0xF8 | at % 8
    return bytes(changed)


EDITS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "flip": _flip,
    "cut": lambda data, at: data[: at % (len(data) + 1)],
    "behead": lambda data, at: data[at % (len(data) + 1) :],
    "twice": lambda data, at: data * (2 + at % 3),
    "drop": _spliced(b"", 1),
    "huge": _spliced(HUGE, 1),
    "endless": _spliced(ENDLESS),
    "long": _spliced(b"\xff\xff\xff\xff\x07", 1),
    "nil": _spliced(b"\x00"),
    "no_utf8": _spliced(b"\xff\xfe", 2),
    "surrogate": _spliced(b"\xed\xa0\x80", 3),
    "wire": _wire,
    # Fields that nobody knows, of each wire type, at the end.
    "unknown": lambda data, at: (
        data + (b"\xf8\x7f\x01", b"\xf9\x7f12345678", b"\xfa\x7f\x02hi", b"\xfb\x7f\xfc\x7f")[at % 4]
    ),
    # A text in a field that nobody knows, of so many bytes: up to the limit of a message, and beyond.
    "pad": lambda data, at: data + b"\xfa\x7f" + _varint(at % 400_000) + b"x" * (at % 400_000),
    "deep": lambda data, at: data + _nested(at % 300),
    "group": lambda data, at: data + b"\xfb\x7f" * (at % 300),
}


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _nested(depth: int) -> bytes:
    """A batch going up (field 11) with a packet in it (field 1) that is such a batch, and so on."""
    data = b""
    for _ in range(depth):
        data = b"\x0a" + _varint(len(data)) + data
        data = b"\x5a" + _varint(len(data)) + data
    return data


def edited(data: bytes, edits: str) -> bytes:
    for edit in filter(None, map(str.strip, edits.split(","))):
        name, at = edit.split()
        data = EDITS[name](data, int(at))
    return data
