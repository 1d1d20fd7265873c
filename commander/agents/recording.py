"""Recordings of what an agent said: what their lines look like, and reading them. Pure.

A recording is JSONL, one object a line; empty lines count for nothing. Each line has exactly one of

  {"content": "text"}
  {"thought": ["step", "text"]}
  {"tool_call": {"name": "clock", "arguments": {"time_zone": "UTC"}, "wait": true}}
  {"progress": {"text": "half", "current": 1, "total": 2, "percent": 50}}
  {"question": {"text": "Which?", "options": ["a", "b"], "schema": {}, "expires_in_s": 60}}
  {"artifact": {"name": "a.txt", "mime_type": "text/plain", "text": "…"}}      or "base64" for "text"
  {"embedding": {"values": [0.5, 0.25], "name": "", "model": ""}}
  {"usage": {"input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 0, "model": "m"}}
  {"error": {"code": "rate_limited", "message": "…", "retryable": true, "retry_after_s": 1}}

and may have "after_ms": how long after the line before it, milliseconds; without it, at once. Within a line's
object only the first field shown is needed, and "message" for an error. A call with "wait": false goes on in the
background, otherwise the next line waits for its result; a question's answer is always waited for. An error ends
the turn as failed.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

AFTER_MS_MAX = 3_600_000.0
LINES_MAX = 200_000
LINE_CHARS_MAX = 1_048_576

JsonObject: TypeAlias = dict[str, Any]


class RecordingError(Exception):
    """What is no recording. Names the file, the line, the field, what is wrong, and the mend."""


class WrongLineError(Exception):
    """What is wrong with a line, whichever it is."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `kind` is its key; `value` has every field of that kind, checked, with defaults filled in."""

    after_s: float
    kind: str
    value: Any


def parse(lines: Iterable[str], name: str) -> list[Line]:
    """The lines of the recording called `name`. RecordingError for the first that is wrong."""
    parsed: list[Line] = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        if len(parsed) == LINES_MAX:
            raise RecordingError(f"{name}:{number}: a recording has at most {LINES_MAX:,} lines; split it")
        try:
            parsed.append(_line(text))
        except WrongLineError as error:
            raise RecordingError(f"{name}:{number}: {error}") from None
    if not parsed:
        raise RecordingError(f'{name}: it is empty; a line such as {{"content": "Hello"}} is needed')
    return parsed


# -- one line ------------------------------------------------------------------------------------------------


def _line(text: str) -> Line:
    if len(text) > LINE_CHARS_MAX:
        raise WrongLineError(f"the line has {len(text):,} characters; at most {LINE_CHARS_MAX:,} may be")
    try:
        told: object = json.loads(text, parse_constant=_no_constant)
        # A lone surrogate is no text and could not cross.
        text.encode()
        json.dumps(told, ensure_ascii=False).encode()
    except RecursionError:
        raise WrongLineError("the line is nested too deeply") from None
    except UnicodeEncodeError:
        raise WrongLineError("the line holds half of a surrogate pair, which is no text") from None
    except ValueError as error:
        raise WrongLineError(f"the line is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise WrongLineError(
            f'the line should be an object such as {{"content": "Hello"}}, not {_called(told)}'
        )
    kinds = [key for key in told if key != "after_ms"]
    if len(kinds) != 1 or kinds[0] not in _KINDS:
        named = ", ".join(f'"{key}"' for key in kinds) or "none"
        raise WrongLineError(f"the line should have exactly one of {', '.join(_KINDS)}; it has {named}")
    kind = kinds[0]
    after_ms = _number(told.get("after_ms", 0), "after_ms", 0, AFTER_MS_MAX)
    return Line(after_ms / 1000, kind, _KINDS[kind](told[kind]))


def _content(value: object) -> str:
    return _text(value, "content")


def _thought(value: object) -> tuple[str, str]:
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)):
        raise WrongLineError(f'thought should be two texts such as ["Planning", "Hm."], not {_called(value)}')
    return value[0], value[1]


def _tool_call(value: object) -> JsonObject:
    call = _Fields(value, "tool_call", "name", "arguments", "wait")
    return {
        "name": call.text("name"),
        "arguments": call.mapping("arguments", {}),
        "wait": call.flag("wait", default=True),
    }


def _progress(value: object) -> JsonObject:
    progress = _Fields(value, "progress", "text", "current", "total", "percent")
    return {
        "text": progress.text("text"),
        "current": progress.number("current"),
        "total": progress.number("total"),
        "percent": progress.number("percent", 0, 100),
    }


def _question(value: object) -> JsonObject:
    question = _Fields(value, "question", "text", "options", "schema", "expires_in_s")
    options = question.get("options", [])
    if not (isinstance(options, list) and all(isinstance(each, str) for each in options)):
        raise WrongLineError(f"question.options should be a list of texts, not {_called(options)}")
    return {
        "text": question.text("text"),
        "options": options,
        "schema": question.mapping("schema", None),
        "expires_in_s": question.number("expires_in_s", 0.001, AFTER_MS_MAX / 1000),
    }


def _artifact(value: object) -> JsonObject:
    artifact = _Fields(value, "artifact", "name", "mime_type", "text", "base64")
    if (artifact.get("text") is None) == (artifact.get("base64") is None):
        raise WrongLineError("artifact should have text or base64, one of them")
    if artifact.get("text") is not None:
        content, kind = artifact.text("text").encode(), "text/plain"
    else:
        kind = "application/octet-stream"
        try:
            content = base64.b64decode(artifact.text("base64"), validate=True)
        except (binascii.Error, ValueError) as error:
            raise WrongLineError(f"artifact.base64 is no base64: {error}") from None
    return {
        "name": artifact.text("name"),
        "mime_type": artifact.text("mime_type", kind),
        "content": content,
    }


def _embedding(value: object) -> JsonObject:
    embedding = _Fields(value, "embedding", "values", "name", "model")
    values = embedding.get("values")
    if not isinstance(values, list):
        raise WrongLineError(f"embedding.values should be a list of numbers, not {_called(values)}")
    return {
        "values": [_number(each, f"embedding.values[{at}]") for at, each in enumerate(values)],
        "name": embedding.text("name", ""),
        "model": embedding.text("model", ""),
    }


def _usage(value: object) -> JsonObject:
    usage = _Fields(value, "usage", "input_tokens", "output_tokens", "reasoning_tokens", "model")
    tokens = {name: usage.whole(name) for name in ("input_tokens", "output_tokens", "reasoning_tokens")}
    return {**tokens, "model": usage.text("model", "")}


def _error(value: object) -> JsonObject:
    error = _Fields(value, "error", "code", "message", "retryable", "retry_after_s")
    return {
        "code": error.text("code"),
        "message": error.text("message"),
        "retryable": error.flag("retryable", default=False),
        "retry_after_s": error.number("retry_after_s", 0, AFTER_MS_MAX / 1000),
    }


_KINDS: Mapping[str, Callable[[object], Any]] = {
    "content": _content,
    "thought": _thought,
    "tool_call": _tool_call,
    "progress": _progress,
    "question": _question,
    "artifact": _artifact,
    "embedding": _embedding,
    "usage": _usage,
    "error": _error,
}


class _Fields:
    """The object of one kind: each field of the right type, or a WrongLineError that names it. None counts as unset."""

    def __init__(self, value: object, kind: str, *known: str) -> None:
        if not isinstance(value, dict):
            raise WrongLineError(f"{kind} should be an object with {', '.join(known)}, not {_called(value)}")
        for key in value:
            if key not in known:
                raise WrongLineError(f"{kind}.{key} is not known; {kind} may have {', '.join(known)}")
        self._kind = kind
        self._value = value

    def get(self, name: str, default: object = None) -> object:
        told = self._value.get(name)
        return default if told is None else told

    def text(self, name: str, default: str | None = None) -> str:
        return _text(self.get(name, default), f"{self._kind}.{name}")

    def flag(self, name: str, *, default: bool) -> bool:
        told = self.get(name, default)
        if not isinstance(told, bool):
            raise WrongLineError(f"{self._kind}.{name} should be true or false, not {_called(told)}")
        return told

    def mapping(self, name: str, default: JsonObject | None) -> JsonObject | None:
        told = self.get(name, default)
        if told is not None and not isinstance(told, dict):
            raise WrongLineError(f"{self._kind}.{name} should be an object, not {_called(told)}")
        return cast("JsonObject | None", told)

    def number(self, name: str, least: float = -math.inf, most: float = math.inf) -> float | None:
        told = self.get(name)
        return None if told is None else _number(told, f"{self._kind}.{name}", least, most)

    def whole(self, name: str) -> int:
        told = self.get(name, 0)
        if not isinstance(told, int) or isinstance(told, bool) or not 0 <= told < 2**63:
            raise WrongLineError(f"{self._kind}.{name} should be a whole number from 0, not {_called(told)}")
        return told


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise WrongLineError(f"{field} should be a text, not {_called(value)}")
    return value


def _number(value: object, field: str, least: float = -math.inf, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        bounds = f" from {least:.15g} to {most:.15g}" if math.isfinite(most) else ""
        raise WrongLineError(f"{field} should be a number{bounds}, not {_called(value)}")
    try:
        return float(value)
    except OverflowError:
        raise WrongLineError(f"{field} is too large") from None


def _called(value: object) -> str:
    """A wrong value as it can be found in the line."""
    shown = "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")
