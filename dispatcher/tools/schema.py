"""A tool's schema: checked once when the tool is loaded, used on each call's arguments before it runs.

Three things `jsonschema` would do by itself are not done here. References are never fetched: what isn't in
the schema doesn't exist. Patterns run on RE2, never on a backtracking engine, because the strings they judge
come from a model. And `uniqueItems` compares fingerprints, not every pair.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from itertools import islice
from typing import Any

import re2
from jsonschema import Draft202012Validator, FormatChecker, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from dispatcher.tools.arguments import PROBLEMS_MAX, at_path, explained, shortened
from dispatcher.tools.contract import ToolArgumentsError, ToolLoadError

# A schema is told to a model with every session.
SCHEMA_BYTES_MAX = 262_144
# Of a tool of somebody else's, who may have a thousand: it takes seconds to check what is much longer.
SOURCE_SCHEMA_BYTES_MAX = 65_536


class TooManyStepsError(Exception):
    """A value took more steps to check than may be."""


class ValueSchema:
    """Any JSON Schema. Raises ToolLoadError that says what is wrong with it; it belongs to whoever gives it, who
    must not change it later. One with `steps_max` comes from somebody who may mean no good: a check that takes more
    steps raises TooManyStepsError."""

    __slots__ = ("_steps_max", "_validator")

    def __init__(self, schema: Any, steps_max: int | None = None) -> None:
        self._steps_max = steps_max
        _check_keywords(schema)
        if isinstance(schema, dict):
            _Walk(schema, checks_references=steps_max is None).run()
        kind = _Validator if steps_max is None else _CountingValidator
        self._validator = kind(schema, registry=EMPTY_REGISTRY)

    def misfit(self, value: object) -> str:
        """What is wrong with a value, and what would be right; empty where it fits."""
        steps = _STEPS_LEFT.set(None if self._steps_max is None else [self._steps_max])
        try:
            errors = list(islice(self._validator.iter_errors(value), PROBLEMS_MAX + 1))
        except RecursionError:
            return "it can't be checked: the schema refers to itself without end"
        except ArithmeticError:
            return "it can't be checked: a number is too large for the schema"
        finally:
            _STEPS_LEFT.reset(steps)
        return explained(errors) if errors else ""


class ArgumentsSchema:
    """What a tool takes. `text` is its JSON, as told to agents."""

    __slots__ = ("_values", "text")

    def __init__(self, tool_name: str, schema: Mapping[str, object] | str) -> None:
        """`schema` may be its text, by `schema_text`. Raises ToolLoadError that names the tool and what is wrong."""
        self.text = schema if isinstance(schema, str) else schema_text(tool_name, schema)
        try:
            own = json.loads(self.text)  # a copy: nobody changes it later, and it will be changed here
            if not isinstance(own, dict) or own.get("type") != "object":
                raise ToolLoadError('its schema is not that of a JSON object; add "type": "object"')
            self._values = ValueSchema(own)
        except ToolLoadError as error:
            raise ToolLoadError(f"tool {tool_name!r}: {error}") from error.__cause__
        except RecursionError:
            raise ToolLoadError(f"tool {tool_name!r}: its schema is nested too deeply") from None

    def check(self, arguments: dict[str, object]) -> None:
        """Raises ToolArgumentsError that says which argument, what was wrong and what would be right."""
        misfit = self._values.misfit(arguments)
        if misfit:
            raise ToolArgumentsError(f"the arguments don't fit: {misfit}")


def schema_text(tool_name: str, schema: Mapping[str, object], bytes_max: int = SCHEMA_BYTES_MAX) -> str:
    """A schema as agents are told it. Quick, beside what it takes to check it. Raises ToolLoadError that names the
    tool."""
    try:
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if len(text.encode("utf-8")) > bytes_max:
            raise ToolLoadError(f"tool {tool_name!r}: its schema is over {bytes_max:,} bytes of JSON")
    except (TypeError, ValueError) as error:
        raise ToolLoadError(f"tool {tool_name!r}: its schema is not JSON: {error}") from error
    except RecursionError:
        raise ToolLoadError(f"tool {tool_name!r}: its schema is nested too deeply") from None
    return text


# --- once, when the tool is loaded -----------------------------------------------------------------------


def _check_keywords(schema: Any) -> None:
    try:
        # Without formats: the one for patterns holds them against Python's own engine.
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError as error:
        raise ToolLoadError(
            "its schema is no valid JSON Schema (Draft 2020-12): "
            f"{at_path(error.absolute_path)}: {error.message[:200]}"
        ) from None


class _Walk:
    """Visits every schema within a schema, wherever a reference leads to included."""

    def __init__(self, schema: dict[str, object], *, checks_references: bool) -> None:
        self._checks_references = checks_references
        root = DRAFT202012.create_resource(schema)
        self._todo: list[tuple[Any, Any]] = [(root, EMPTY_REGISTRY.resolver_with_root(root))]
        self._seen: set[int] = set()
        self._keywords: set[str] = set()

    def run(self) -> None:
        while self._todo:
            resource, resolver = self._todo.pop()
            contents = resource.contents
            if id(contents) in self._seen or not isinstance(contents, dict):
                continue
            self._seen.add(id(contents))
            self._visit(contents, resolver)
            self._todo.extend((each, resolver.in_subresource(each)) for each in resource.subresources())
        if {"patternProperties", "unevaluatedProperties"} <= self._keywords:
            raise ToolLoadError(
                "its schema has both patternProperties and unevaluatedProperties; use additionalProperties"
            )

    def _visit(self, contents: dict[str, Any], resolver: Any) -> None:
        # A "$schema" inside would make jsonschema change to a validator without our changes.
        contents.pop("$schema", None)
        self._keywords.update(contents)
        for pattern in (contents.get("pattern"), *contents.get("patternProperties", ())):
            if isinstance(pattern, str):
                _require_pattern(pattern)
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in contents:
                self._todo.append(self._resolved(keyword, contents[keyword], resolver))

    def _resolved(self, keyword: str, reference: str, resolver: Any) -> tuple[Any, Any]:
        found = _found(keyword, reference, resolver)
        if self._checks_references:
            _check_keywords(found.contents)
        return DRAFT202012.create_resource(found.contents), found.resolver


def _found(keyword: str, reference: str, resolver: Any) -> Any:
    try:
        found = resolver.lookup(reference)
    except (Unresolvable, ValueError, LookupError, TypeError) as error:
        raise ToolLoadError(
            f"its schema has {keyword} {shortened(reference)}, which is not in the schema itself; references "
            'are never fetched: put the part under "$defs" and refer to "#/$defs/<name>"'
        ) from error
    if not isinstance(found.contents, dict | bool):
        raise ToolLoadError(f"its schema has {keyword} {shortened(reference)}, which leads to no schema")
    return found


# --- patterns --------------------------------------------------------------------------------------------

_QUIET = re2.Options()
_QUIET.log_errors = False


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    return re2.compile(pattern, _QUIET)


def _require_pattern(pattern: str) -> None:
    try:
        _compiled(pattern)
    except re2.error as error:
        why = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise ToolLoadError(
            f"its schema has the pattern {shortened(pattern)}, which can't run without backtracking ({why}); "
            "rewrite it without look-around and back-references"
        ) from None


def _matches(pattern: str, text: str) -> bool:
    return _compiled(pattern).search(text) is not None


# --- keywords done our way: signatures are jsonschema's --------------------------------------------------


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{shortened(instance)} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, wanted: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [name for name in instance if name not in known and not any(_matches(p, name) for p in patterns)]
    if wanted is False:
        if extra:
            # What is told about it is the names; see `arguments.py`.
            yield ValidationError(f"{len(extra)} properties are not known", validator_value=extra)
        return
    for name in extra:
        yield from validator.descend(instance[name], wanted, path=name)


def _unique_items(validator: Any, wanted: bool, instance: Any, _: Any) -> Iterator[ValidationError]:
    if wanted and validator.is_type(instance, "array"):
        seen = {json.dumps(_canonical(each), sort_keys=True) for each in instance}
        if len(seen) != len(instance):
            yield ValidationError("an item is given twice")


def _canonical(value: Any) -> Any:
    """The value with equal numbers alike: to JSON Schema, 1 and 1.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    if isinstance(value, dict):
        return {name: _canonical(each) for name, each in value.items()}
    return value


_Validator = validators.extend(  # type: ignore[no-untyped-call]  # untyped in the stubs
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    },
)


# --- schemas of somebody who may mean no good ------------------------------------------------------------

_STEPS_LEFT: ContextVar[list[int] | None] = ContextVar("steps_left", default=None)


def _counted(keyword: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
    def step(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        left = _STEPS_LEFT.get()
        if left is not None:
            left[0] -= 1
            if left[0] < 0:
                raise TooManyStepsError
        yield from keyword(validator, value, instance, schema) or ()

    return step


_CountingValidator = validators.extend(  # type: ignore[no-untyped-call]  # untyped in the stubs
    _Validator, {name: _counted(keyword) for name, keyword in _Validator.VALIDATORS.items()}
)
