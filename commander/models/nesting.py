"""How deeply a value of JSON is nested. By itself, because whatever walks through it recurses."""

from collections.abc import Iterator, Mapping


def nested(value: object) -> Iterator[tuple[int, Mapping[object, object] | list[object]]]:
    """Every list and object within, itself included, with how many it is within, itself counted."""
    todo: list[tuple[int, object]] = [(1, value)]
    while todo:
        depth, each = todo.pop()
        if isinstance(each, Mapping | list):
            yield depth, each
            within = each.values() if isinstance(each, Mapping) else each
            todo += [(depth + 1, child) for child in within]


def is_deeper(value: object, depth_max: int) -> bool:
    return any(depth > depth_max for depth, _ in nested(value))
