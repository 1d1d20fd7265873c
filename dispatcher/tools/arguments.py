"""What an agent sends as arguments: parsed, bounded, and told apart from what a schema wants.

The texts here are read by a model that will try again, so each names the argument, what was wrong and what
would be right, in few words. Knows schemas only as the errors of `jsonschema`.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from jsonschema.exceptions import ValidationError, relevance

from dispatcher.tools.contract import ToolArgumentsError

# No honest argument nests deeper; jsonschema recurses about ten frames a level.
DEPTH_MAX = 32
PROBLEMS_MAX = 3
VALUE_CHARS_MAX = 60
NAME_CHARS_MAX = 64

_KINDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "an array",
    "object": "an object",
}


def parse(text: str, limit_bytes: int) -> tuple[dict[str, object], int]:
    """The JSON object in `text` (empty: {}) and how many values it has. Raises ToolArgumentsError.

    Stricter than `json`: no NaN, no key twice, no half characters, no number beyond a double, bounded depth.
    """
    # UTF-8 is never shorter than the text has characters: no need to encode what is too large anyway.
    size = len(text) if len(text) > limit_bytes else len(text.encode("utf-8", "replace"))
    if size > limit_bytes:
        raise ToolArgumentsError(f"the arguments have {size:,} bytes; at most {limit_bytes:,} may be")
    if not text.strip():
        return {}, 1
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        near = shortened(text[max(0, error.pos - 10) : error.pos + 20])
        raise ToolArgumentsError(
            f"the arguments are not JSON: {error.msg} at character {error.pos + 1}, near {near}; "
            'a JSON object such as {"name": "value"} is needed'
        ) from None
    except RecursionError:
        raise ToolArgumentsError(f"the arguments are nested more than {DEPTH_MAX} deep") from None
    except ValueError:  # the only one left: an integer of thousands of digits
        raise ToolArgumentsError(_HUGE_NUMBER) from None
    if not isinstance(value, dict):
        raise ToolArgumentsError(f"the arguments are {_kind_of(value)}; a JSON object is needed")
    if "\\u" in text or not text.isascii():
        _require_whole_characters(value)
    return value, _count(value)


def shortened(value: object, chars_max: int = VALUE_CHARS_MAX) -> str:
    """A value as it may stand in a message."""
    if isinstance(value, dict) and value:
        return "an object"
    if isinstance(value, list) and value:
        return f"an array of {len(value)}"
    if isinstance(value, str):
        value = value[: chars_max + 1]
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The names nearest to a wrong one, as the end of a sentence; empty when none is near."""
    # Compared without case, and cut: the comparison is quadratic and the name is anybody's.
    by_folded = {each.casefold(): each for each in names}
    near = get_close_matches(name[:NAME_CHARS_MAX].casefold(), by_folded, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(shortened(by_folded[each]) for each in near)}?" if near else ""


def explained(errors: Iterable[ValidationError]) -> str:
    """The first few errors in words, most of them of the form "$.path: what; what would be right"."""
    texts: list[str] = []
    for error in errors:
        if len(texts) == PROBLEMS_MAX:
            texts.append("and more")
            break
        text = _explain(error)
        if text not in texts:  # "required" gives one error for each missing name, told as one
            texts.append(text)
    return "; ".join(texts)


def at_path(path: Iterable[str | int]) -> str:
    """A place in the arguments: $.items[3].name"""
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:NAME_CHARS_MAX]}" for step in path)
    return f"${steps}"


# --- parsing ---------------------------------------------------------------------------------------------

_HUGE_NUMBER = "a number is beyond what JSON readers agree on (about 1.8e308); send it as a string"


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ToolArgumentsError(f"the key {shortened(twice)} is given twice in one object; give it once")
    return members


def _no_constant(name: str) -> object:
    raise ToolArgumentsError(f"{name} is not JSON; send a number, a string or null")


def _require_whole_characters(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ToolArgumentsError(
            "a string holds half a character (a lone surrogate, \\ud800 to \\udfff)"
        ) from None
    except RecursionError:
        raise ToolArgumentsError(f"the arguments are nested more than {DEPTH_MAX} deep") from None


def _count(arguments: dict[str, object]) -> int:
    count = 0
    level: list[object] = [arguments]
    for _ in range(DEPTH_MAX + 1):
        below: list[object] = []
        count += len(level)
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, int | float) and not _within_double(value):
                raise ToolArgumentsError(_HUGE_NUMBER)
        if not below:
            return count
        level = below
    raise ToolArgumentsError(f"the arguments are nested more than {DEPTH_MAX} deep")


def _within_double(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


# --- explaining ------------------------------------------------------------------------------------------


def _explain(error: ValidationError) -> str:
    while error.validator in ("anyOf", "oneOf") and error.context:
        if all(each.validator == "type" and not each.relative_path for each in error.context):
            needed = _any_of([kind for each in error.context for kind in _kinds(each.validator_value)])
            return f"{at_path(error.absolute_path)}: {_given(error.instance)}; {needed} is needed"
        # The branch that came furthest is the one that was meant.
        error = min(error.context, key=relevance)
    say = _TEXTS.get(str(error.validator))
    text = say(error.validator_value, error.instance, error) if say else error.message[:200]
    return f"{at_path(error.absolute_path)}: {text}"


def _kinds(wanted: object) -> list[str]:
    names = [wanted] if isinstance(wanted, str) else list(wanted) if isinstance(wanted, list) else []
    return [_KINDS.get(str(name), str(name)) for name in names]


def _any_of(texts: list[str]) -> str:
    unique = list(dict.fromkeys(texts))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} or {unique[-1]}"


def _listed(values: object) -> str:
    values = values if isinstance(values, list) else [values]
    texts = [shortened(each) for each in values[:10]]
    return ", ".join(texts) + (", …" if len(values) > 10 else "")


def _type(wanted: object, value: object, _: ValidationError) -> str:
    return f"{_given(value)}; {_any_of(_kinds(wanted))} is needed"


def _given(value: object) -> str:
    speaks_for_itself = value is None or isinstance(value, bool | list | dict)
    return f"{shortened(value)} {'was given' if speaks_for_itself else f'is {_kind_of(value)}'}"


def _required(wanted: list[str], value: dict[str, object], error: ValidationError) -> str:
    properties = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
    missing = []
    for name in [each for each in wanted if each not in value][:10]:
        about = properties.get(name)
        kinds = _kinds(about.get("type")) if isinstance(about, Mapping) else []
        missing.append(shortened(name) + (f" ({_any_of(kinds)})" if kinds else ""))
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"


def _additional(extra: list[str], _: object, error: ValidationError) -> str:
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    known = list(schema.get("properties", ()))
    hint = did_you_mean(extra[0], known) if len(extra) == 1 else ""
    takes = f"; known are {_listed(known)}" if known else "; none is known"
    return f"{_listed(extra)} {'is' if len(extra) == 1 else 'are'} not known{hint or takes}"


def _enum(allowed: list[object], value: object, _: ValidationError) -> str:
    hint = (
        did_you_mean(value, [each for each in allowed if isinstance(each, str)])
        if isinstance(value, str)
        else ""
    )
    return f"{shortened(value)} is not one of {_listed(allowed)}{hint}"


def _bound(words: str) -> Callable[[Any, Any, ValidationError], str]:
    return lambda bound, value, _: f"{shortened(value)} is wrong; {words.format(shortened(bound))} is needed"


# One short sentence for each keyword: (what the schema wants, what was given, the error).
_TEXTS: dict[str, Callable[[Any, Any, ValidationError], str]] = {
    "type": _type,
    "required": _required,
    "additionalProperties": _additional,
    "enum": _enum,
    "const": _bound("{}"),
    "minimum": _bound("at least {}"),
    "maximum": _bound("at most {}"),
    "exclusiveMinimum": _bound("more than {}"),
    "exclusiveMaximum": _bound("less than {}"),
    "multipleOf": _bound("a multiple of {}"),
    "minLength": _bound("a string of at least {} characters"),
    "maxLength": _bound("a string of at most {} characters"),
    "minItems": _bound("an array of at least {}"),
    "maxItems": _bound("an array of at most {}"),
    "uniqueItems": lambda *_: "an item is given twice; each may be given once",
    "pattern": _bound("a string that matches {}"),
}
