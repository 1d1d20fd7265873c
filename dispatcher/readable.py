"""JSON as people come to read it, and what makes two calls the same, for policies to judge: `rpc/codec.py` asks for
what commanders send, the hub for what tools answer.

Resolves escapes without parsing: what one parser refuses, for its depth or its numbers, another one reads, and of a
key that stands twice each may show another value.
"""

import json
import re
from hashlib import sha256
from typing import Final

_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_SHORT: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def readable(text: str) -> str:
    """The text as it stands, and once more with its escapes resolved where it has any."""
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_resolved, text)
    # Two escapes may make one character; one that lacks its other half is none.
    plain = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return f"{text}\n{plain}"


def _resolved(escape: re.Match[str]) -> str:
    if escape[1] is not None:
        return chr(int(escape[1], 16))
    return _SHORT.get(escape[2], escape[2])


def same_call(tool_name: str, arguments_json: str) -> str:
    """The same for the same tool with the same arguments, however they are written: in any order of keys, with any
    blanks and escapes."""
    try:
        arguments = json.dumps(json.loads(arguments_json), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        arguments = arguments_json
    return sha256(f"{tool_name}\0{arguments}".encode(errors="surrogatepass")).hexdigest()[:32]
