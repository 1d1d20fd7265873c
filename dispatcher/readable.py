"""JSON as people come to read it, for policies to judge: `rpc/codec.py` asks for what commanders send, the hub for
what tools answer."""

import json


def readable(text: str) -> str:
    """JSON text as people may come to read it: as it stands, and the strings in it with their escapes resolved."""
    if "\\" not in text:
        return text
    try:
        found = [json.loads(text)]
    except (ValueError, RecursionError):
        return text
    strings = []
    while found:
        value = found.pop()
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict):
            found += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            found += value
    # An escape may be half of a pair, which is no text.
    return "\n".join((text, *strings)).encode(errors="replace").decode()
