"""What a tool returns becomes JSON within a bound, or is refused with its type and place."""

import dataclasses
import enum
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dispatcher.tools.result import (
    JsonText,
    ResultNotJsonError,
    ResultTooLargeError,
    encode,
    encode_if_short,
)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: object


class Street(BaseModel):
    name: str
    when: datetime


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (Color.RED, "red"),
        ({Color.RED: Level.HIGH}, {"red": 3}),
        (Point(1, Point(2, (3,))), {"x": 1, "y": {"x": 2, "y": [3]}}),
        (
            Street(name="Hof", when=datetime(2026, 1, 2, tzinfo=UTC)),
            {"name": "Hof", "when": "2026-01-02T00:00:00Z"},
        ),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
        (deque([1, True, None]), [1, True, None]),
        (frozenset({7}), [7]),
        ([date(2026, 1, 2), timedelta(seconds=90)], ["2026-01-02", "PT1M30S"]),
        ([Decimal("1.10"), UUID(int=1)], ["1.10", "00000000-0000-0000-0000-000000000001"]),
        (PurePosixPath("a/b"), "a/b"),
        (JsonText('{"made":"before"}'), {"made": "before"}),
        ("half \ud800", "half \ud800"),
        (10**1_000, 10**1_000),
    ],
)
def test_what_has_a_json_form_gets_it(value: object, form: object) -> None:
    text = encode(value, 100_000)
    text.encode("utf-8")
    assert json.loads(text) == form


def deep() -> object:
    value: object = 0
    for _ in range(100):
        value = [value]
    return value


def circle() -> object:
    value: list[object] = []
    value.extend([value, value])
    return value


class Endless(Mapping[str, object]):
    """A mapping that never ends."""

    def __getitem__(self, key: str) -> object:
        return key

    def __iter__(self) -> Iterator[str]:
        number = 0
        while True:
            number += 1
            yield str(number)

    def __len__(self) -> int:
        return 1


def counting() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (object, ResultNotJsonError, "the result is of type object"),
        (lambda: [{"a": len}], ResultNotJsonError, "$[0].a is of type builtin_function_or_method"),
        (lambda: Point(1, complex(1)), ResultNotJsonError, "$.y is of type complex"),
        (counting, ResultNotJsonError, "of type generator"),
        (lambda: Point, ResultNotJsonError, "of type type"),
        (lambda: float("-inf"), ResultNotJsonError, "-inf"),
        (lambda: 10**5_000, ResultNotJsonError, "an integer of 16,610 bits"),
        (lambda: {1: "a", "1": "b"}, ResultNotJsonError, "two keys"),
        (lambda: {None: 1}, ResultNotJsonError, "a key of type NoneType"),
        (deep, ResultNotJsonError, "64 deep"),
        (circle, ResultNotJsonError, "64 deep"),
        (Endless, ResultTooLargeError, "1,000 bytes"),
        (lambda: "x" * 10_000_000, ResultTooLargeError, "1,000 bytes"),
        (lambda: range(10**9), ResultNotJsonError, "of type range"),
        (lambda: [0] * 10_000_000, ResultTooLargeError, "1,000 bytes"),
        (lambda: "\x00" * 900, ResultTooLargeError, "5,402 bytes"),
        (lambda: JsonText("1" * 2_000), ResultTooLargeError, "2,000 bytes"),
    ],
)
def test_what_has_none_or_too_much_is_refused(
    make: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        encode(make(), 1_000)
    assert text in str(caught.value)


def test_a_long_result_is_left_to_somebody_else() -> None:
    assert encode_if_short([1] * 900, 10_000) is not None
    assert encode_if_short([1] * 1_100, 10_000) is None
    assert encode_if_short(JsonText("[1]"), 10_000) == "[1]"
    with pytest.raises(ResultTooLargeError):
        encode_if_short("x" * 20_000, 10_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(JSON, st.integers(-3, 3))
def test_law_what_fits_is_unchanged_and_what_does_not_is_refused(value: Any, room_bytes: int) -> None:
    exact = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    limit_bytes = max(1, len(exact) + room_bytes)
    if len(exact) > limit_bytes:
        with pytest.raises(ResultTooLargeError):
            encode(value, limit_bytes)
    else:
        assert encode(value, limit_bytes).encode() == exact
