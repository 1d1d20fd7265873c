"""What a tool returned, as JSON within a bound.

The bound holds before the text is made: a tool that returns a gigabyte is refused after looking at no more of
it than the limit. Knows nothing of tools or calls.
"""

import dataclasses
import enum
import json
import math
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from dispatcher.tools.contract import FailureCode, ToolError

# Deeper than any result that is read by somebody; well below where recursion ends.
DEPTH_MAX = 64
# About 4,000 digits, the length Python itself is willing to print.
INTEGER_BITS_MAX = 13_000

# A value takes about 1 µs: up to so many are made into text on the loop.
SHORT_VALUES_MAX = 1_000

_LEAVES = (datetime, date, time, timedelta, UUID, Decimal)


@dataclasses.dataclass(frozen=True, slots=True)
class JsonText:
    """A result that is JSON already, made where its making blocks nobody."""

    text: str


class _LongError(Exception):
    """More values than were to be looked at."""


class ResultTooLargeError(ToolError):
    """The result is over the tool's limit."""

    code: ClassVar[FailureCode] = "too_large"


class ResultNotJsonError(ToolError):
    """The result has no JSON form. The message names the type and the place."""


def encode_if_short(value: object, limit_bytes: int) -> str | None:
    """As `encode`; None for what would take too long to be made on an event loop."""
    if isinstance(value, JsonText):
        return encode(value, limit_bytes)
    try:
        return _text(_Plainer(limit_bytes, SHORT_VALUES_MAX).convert(value), limit_bytes)
    except _LongError:
        return None


def encode(value: object, limit_bytes: int) -> str:
    """The value as JSON text that UTF-8 can carry in at most `limit_bytes`.

    Takes None, bool, int, float, str, list, tuple, set, dict, and also dataclasses, pydantic models, enums,
    dates, durations, UUIDs, paths and decimals. Raises ResultTooLargeError, ResultNotJsonError.
    """
    if isinstance(value, JsonText):
        return _bounded(value.text, len(value.text.encode("utf-8")), limit_bytes)
    return _text(_Plainer(limit_bytes, sys.maxsize).convert(value), limit_bytes)


def _text(form: object, limit_bytes: int) -> str:
    text = json.dumps(form, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        # Half a character somewhere. JSON can escape it, UTF-8 can't carry it.
        text = json.dumps(form, separators=(",", ":"), allow_nan=False)
        size = len(text)
    return _bounded(text, size, limit_bytes)


def _bounded(text: str, size: int, limit_bytes: int) -> str:
    if size > limit_bytes:
        raise ResultTooLargeError(f"the result has {size:,} bytes as JSON; at most {limit_bytes:,} may be")
    return text


class _Plainer:
    """One conversion to None, bool, int, float, str, list and dict: what is left of its limits, where it is.

    It stops as soon as the value can't fit.
    """

    def __init__(self, limit_bytes: int, values_max: int) -> None:
        self._limit_bytes = limit_bytes
        self._left = limit_bytes
        self._values_left = values_max
        self._path: list[object] = []

    def convert(self, value: object) -> object:
        self._values_left -= 1
        if self._values_left < 0:
            raise _LongError
        if value is None or isinstance(value, bool):
            self._spend(4)
            return value
        if isinstance(value, enum.Enum):
            return self.convert(value.value)
        if isinstance(value, str):
            self._spend(len(value) + 2)
            return value
        if isinstance(value, int | float):
            return self._number(value)
        return self._structure(value)

    def _number(self, value: float) -> float:
        self._spend(1)
        if isinstance(value, int):
            if value.bit_length() > INTEGER_BITS_MAX:
                raise ResultNotJsonError(
                    f"{self._place()} is an integer of {value.bit_length():,} bits; return it as text"
                )
            self._spend(max(0, value.bit_length() - 1) // 4)  # a digit takes less than four bits
        elif not math.isfinite(value):
            raise ResultNotJsonError(
                f"{self._place()} is {value}, which JSON doesn't have; return None or text"
            )
        return value

    def _structure(self, value: object) -> object:
        if isinstance(value, Mapping):
            return self._object(value.items())
        if isinstance(value, list | tuple | set | frozenset | deque):
            return self._array(value)
        if isinstance(value, BaseModel):
            return self.convert(self._by_pydantic(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._object((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
        if isinstance(value, PurePath):
            return self.convert(str(value))
        if isinstance(value, _LEAVES):
            return self.convert(self._by_pydantic(value))
        mend = (
            "return text (base64, say)"
            if isinstance(value, bytes | bytearray | memoryview)
            else ("return text, numbers, lists, dicts, dataclasses or pydantic models")
        )
        raise ResultNotJsonError(f"{self._place()} is of type {type(value).__qualname__}, not JSON; {mend}")

    def _by_pydantic(self, value: object) -> object:
        try:
            return to_jsonable_python(value)
        except ValueError as error:  # PydanticSerializationError is one
            raise ResultNotJsonError(
                f"{self._place()} of type {type(value).__qualname__} is not JSON: {error}"
            ) from error

    def _object(self, items: Iterable[tuple[object, object]]) -> dict[str, object]:
        form: dict[str, object] = {}
        self._spend(2)
        for key, item in items:
            if isinstance(key, enum.Enum):
                key = key.value  # noqa: PLW2901 - the same key, in plain
            if isinstance(key, int | float) and not isinstance(key, bool):
                key = str(key)  # noqa: PLW2901 - as json itself does it
            if not isinstance(key, str):
                raise ResultNotJsonError(
                    f"{self._place()} has a key of type {type(key).__qualname__}; keys are text in JSON"
                )
            if key in form:
                raise ResultNotJsonError(f"{self._place()} has two keys that are {key!r} in JSON")
            self._spend(len(key) + (4 if form else 3))
            form[key] = self._inside(key, item)
        return form

    def _array(self, items: Iterable[object]) -> list[object]:
        self._spend(2)
        form: list[object] = []
        for index, item in enumerate(items):
            self._spend(1 if form else 0)
            form.append(self._inside(index, item))
        return form

    def _inside(self, step: object, item: object) -> object:
        if len(self._path) >= DEPTH_MAX:
            raise ResultNotJsonError(
                f"the result is nested more than {DEPTH_MAX} deep or contains itself; return a flatter one"
            )
        self._path.append(step)
        form = self.convert(item)
        self._path.pop()
        return form

    def _spend(self, least_bytes: int) -> None:
        """Counts what the value takes at least, so that what is refused is surely too large."""
        self._left -= least_bytes
        if self._left < 0:
            raise ResultTooLargeError(
                f"the result has over {self._limit_bytes:,} bytes as JSON; at most that many may be"
            )

    def _place(self) -> str:
        if not self._path:
            return "the result"
        return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self._path)
