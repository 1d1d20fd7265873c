"""The bytes of an OpenAPI document as plain values: JSON, or YAML within bounds.

Pure. YAML can say a great deal in few words: aliases that multiply, aliases that hold themselves, thousands of lists
in each other. So its events are counted before anything is made of them.
"""

import json
from typing import Any, Final

from dispatcher.tools.contract import ToolLoadError

# Of lists and objects in each other; libyaml takes a frame of C for each.
DEPTH_MAX: Final = 200
# Values and characters that a document may become, besides twice its own length.
EXPANDED_MAX: Final = 1_000_000


def parsed(document: bytes) -> dict[str, Any]:
    """Raises ToolLoadError."""
    try:
        root = json.loads(document)
    except (ValueError, RecursionError):
        root = _yaml(document)
    if not isinstance(root, dict):
        raise ToolLoadError("it is no OpenAPI document: an object is needed")
    return root


def _yaml(document: bytes) -> object:
    import yaml  # noqa: PLC0415 - of an extra, and most documents of machines are JSON

    try:
        _require_bounds(yaml, document)
        return yaml.load(document, Loader=_plain_loader(yaml))  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ToolLoadError(f"it is neither JSON nor YAML: {' '.join(str(error).split())[:200]}") from None


def _plain_loader(yaml: Any) -> Any:
    """JSON's values alone: a date stays the text that it is. Read in C where that is there, which is ten times as fast;
    put together in Python, because the other threads stand still while C does it."""
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def __init__(self: Any, stream: bytes) -> None:  # noqa: N807 - of the class that is made below
        parser.__init__(self, stream)
        yaml.composer.Composer.__init__(self)

    known = {
        first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in parser.yaml_implicit_resolvers.items()
    }
    bases = (yaml.composer.Composer, parser) if parser is not yaml.SafeLoader else (parser,)
    return type("Plain", bases, {"__init__": __init__, "yaml_implicit_resolvers": known})


def _require_bounds(yaml: Any, document: bytes) -> None:
    """Raises ToolLoadError for what would be too deep, or too much with its aliases in place."""
    left = 2 * len(document) + EXPANDED_MAX
    # Where each list or object that is open began to be counted, and its anchor; and what those that ended came to.
    opened: list[tuple[str | None, int]] = []
    sizes: dict[str | None, int] = {}
    for event in yaml.parse(document, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise ToolLoadError(f"its alias {event.anchor[:100]!r} stands within what it stands for")
            left -= sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value)
            sizes[event.anchor] = size
            left -= size
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, left))
            left -= 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = before - left
        if left < 0:
            raise ToolLoadError(
                "its aliases make too much of it: write out what they stand for, or less of it"
            )
        if len(opened) > DEPTH_MAX:
            raise ToolLoadError(f"it is nested more than {DEPTH_MAX} deep")
