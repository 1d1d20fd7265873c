"""With which status a method may end, read from the comments of the contract, and what no text for a caller holds."""

import re
from pathlib import Path
from typing import Final

import grpc

_PROTO: Final = Path(__file__).parents[2] / "proto" / "southwest" / "ai" / "agent" / "v1"
_NAMES: Final = [code.name for code in grpc.StatusCode]
# Of every method: it was answered; its bytes are no request, or a field of it is wrong; its bytes are too many.
_ALWAYS: Final = frozenset({"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"})

# The parser's words, Python's, and the inside's.
_INSIDE: Final = re.compile(
    r"Traceback|File \"|object at 0x|Error parsing|Wire format|[A-Z]\w+(?:Error|Exception)\b|NoneType"
    r"|its log says why|assert"
)


def methods() -> dict[str, frozenset[str]]:
    """The methods of all services, with the statuses that each may end with."""
    found = {}
    for path in sorted(_PROTO.glob("*.proto")):
        for comment, name in re.findall(r"((?:^  //.*\n)*)^  rpc (\w+)", path.read_text(), re.MULTILINE):
            found[name] = _ALWAYS | {code for code in _NAMES if re.search(rf"\b{code}\b", comment)}
    return found


METHODS: Final = methods()


def improper(method: str, code: str, details: str) -> str:
    """What is wrong with the end of a call; empty where nothing is."""
    if (code, details) == ("INTERNAL", "Internal error from Core"):
        # What gRPC's own client says of a write to a stream that has just been ended; the metrics know better.
        return ""
    if code not in METHODS[method]:
        return f"{method} ended with {code}, which its comment does not list: {details}"
    inside = _INSIDE.search(details)
    return f"{method}: {code} tells of the inside, {inside[0]!r}: {details}" if inside else ""


def indiscreet(text: str) -> bool:
    return _INSIDE.search(text) is not None
