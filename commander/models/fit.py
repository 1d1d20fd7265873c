"""Whether an answer is JSON that fits its schema.

The schema may be an application's that means no good, and the answer is anybody's: both are judged in a bounded number
of steps, and nothing is fetched, whatever a $ref says.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import UnknownType, ValidationError
from jsonschema.protocols import Validator
from jsonschema_specifications import (  # type: ignore[import-untyped]  # which jsonschema itself imports
    REGISTRY as SPECIFICATIONS,
)
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from commander.models.nesting import is_deeper

TOLD_CHARS_MAX: Final = 200
# Lists and objects within each other. The checks recurse, a dozen calls for each.
DEPTH_MAX: Final = 48
# What is checked of one and the same value, references followed: each may lead to several others.
PARTS_MAX: Final = 2_000
# Keywords that are held against a value; 100,000 are a second or two.
SCHEMA_STEPS_MAX: Final = 20_000
ANSWER_STEPS_MAX: Final = 100_000
# A step may look at all of a list, and one that tells of a misfit at the whole answer: it counts once more for so much.
STEP_ITEMS: Final = 4
STEP_CHARS: Final = 20_000
_LISTS: Final = ("allOf", "anyOf", "oneOf")
_SINGLE: Final = ("not", "if", "then", "else")
_REFERENCES: Final = ("$ref", "$dynamicRef")


class _TooManyStepsError(Exception):
    """A value took more steps to check than may be."""


class Fit:
    """A JSON Schema, read as one of Draft 2020-12. ValueError for what is none."""

    def __init__(self, schema: Mapping[str, object]) -> None:
        try:
            own = _copied(schema)
            with _steps(SCHEMA_STEPS_MAX):
                _check_keywords(own)
                _Walk(own).run()
        except _TooManyStepsError:
            raise ValueError("schema: is too large to be checked") from None
        except RecursionError:
            raise ValueError("schema: is nested too deeply") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"schema: {error}") from None
        self._validator: Validator = _Validator(own, registry=EMPTY_REGISTRY)

    def value(self, text: str) -> Any:
        """The value of an answer. ValueError says what is wrong with it."""
        try:
            value: Any = json.loads(_bare(text))
        except ValueError as error:
            raise ValueError(f"the answer is no JSON: {error}") from None
        except RecursionError:
            raise ValueError("the answer is nested too deeply") from None
        try:
            with _steps(ANSWER_STEPS_MAX, 1 + len(text) // STEP_CHARS):
                wrong = next(self._validator.iter_errors(value), None)
        except _TooManyStepsError:
            raise ValueError("the answer takes too many steps to be held against the schema") from None
        except RecursionError:
            raise ValueError("the answer is nested too deeply to be held against the schema") from None
        except (ArithmeticError, Unresolvable, UnknownType) as error:
            raise ValueError(f"the answer can't be held against the schema: {_cut(str(error))}") from None
        if wrong is not None:
            raise ValueError(
                f"the answer does not fit the schema at {wrong.json_path}: {_cut(wrong.message)}"
            )
        return value


def fit_of(schema: Mapping[str, object]) -> Fit:
    """The same, made once: every round of a turn asks for it. ValueError for what is no schema."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return Fit(schema)
    return _fit_of(text)


@functools.lru_cache(maxsize=64)
def _fit_of(text: str) -> Fit:
    return Fit(json.loads(text))


def _cut(text: str) -> str:
    return text[:TOLD_CHARS_MAX]


def _bare(text: str) -> str:
    """JSON without the fence that models like to put around it."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL)
    return fenced[1] if fenced else text


# ---- the schema, once ----


def _copied(schema: Mapping[str, object]) -> dict[str, Any]:
    """One of our own, which is changed here and by nobody else."""
    if is_deeper(schema, DEPTH_MAX):
        raise ValueError(f"is nested too deeply: at most {DEPTH_MAX} lists and objects within each other")
    own: dict[str, Any] = json.loads(json.dumps(dict(schema), allow_nan=False))
    return own


def _check_keywords(schema: object) -> None:
    for error in _Validator(_SCHEMA_OF_SCHEMAS, registry=_SCHEMAS).iter_errors(schema):
        raise ValueError(f"is no JSON Schema: {_cut(error.message)}")


class _Walk:
    """Visits every schema within a schema, and wherever a reference leads."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        # By the identity of a schema: those that are held against the same value as it is.
        self._same: dict[int, list[Any]] = {}
        self._parts: dict[int, int] = {}

    def run(self) -> None:
        """ValueError for what leads nowhere, and for what leads round or multiplies."""
        root = DRAFT202012.create_resource(self._root)
        todo: list[tuple[Any, Any]] = [(root, EMPTY_REGISTRY.resolver_with_root(root))]
        referred: list[Any] = []
        try:
            while todo:
                resource, resolver = todo.pop()
                schema = resource.contents
                if id(schema) in self._same or not isinstance(schema, dict):
                    continue
                for found in self._visit(schema, resolver):
                    todo.append((DRAFT202012.create_resource(found.contents), found.resolver))
                    referred.append(found.contents)
                todo += [(each, resolver.in_subresource(each)) for each in resource.subresources()]
        except (Unresolvable, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"has an $id or $ref that leads nowhere: {_cut(str(error))}") from None
        # A reference may lead to where no schema is expected, and nobody has looked yet.
        for each in {id(each): each for each in referred}.values():
            _check_keywords(each)
        for schema in [self._root, *referred]:
            self._count(schema, 0)

    def _visit(self, schema: dict[str, Any], resolver: Any) -> list[Any]:
        """What its references lead to."""
        # One within would make the library change to a validator that does not count.
        schema.pop("$schema", None)
        for pattern in (schema.get("pattern"), *schema.get("patternProperties", ())):
            _check_pattern(pattern)
        found = [_found(schema[keyword], resolver) for keyword in _REFERENCES if keyword in schema]
        same = [each.contents for each in found]
        same += [each for keyword in _LISTS for each in schema.get(keyword, ())]
        same += [schema[keyword] for keyword in _SINGLE if keyword in schema]
        same += schema.get("dependentSchemas", {}).values()
        self._same[id(schema)] = same
        return found

    def _count(self, schema: Any, depth: int) -> int:
        """How many schemas a value is held against when it is held against this one."""
        if depth > DEPTH_MAX:
            raise ValueError("its references lead round, or too far")
        if id(schema) not in self._parts:
            parts = 1 + sum(self._count(each, depth + 1) for each in self._same.get(id(schema), ()))
            if parts > PARTS_MAX:
                raise ValueError("its references multiply: it refers to the same parts too often")
            self._parts[id(schema)] = parts
        return self._parts[id(schema)]


def _found(reference: Any, resolver: Any) -> Any:
    try:
        found = resolver.lookup(reference)
    except (Unresolvable, LookupError, TypeError, ValueError, AttributeError):
        raise ValueError(
            f"has the reference {_cut(repr(reference))}, which is not in the schema itself; references are"
            ' never fetched: put the part under "$defs" and refer to "#/$defs/NAME"'
        ) from None
    if not isinstance(found.contents, dict | bool):
        told = f"has the reference {_cut(repr(reference))}, which leads to no schema"
        raise ValueError(told)  # noqa: TRY004 - of the schema, as every other fault
    return found


def _check_pattern(pattern: Any) -> None:
    try:
        if isinstance(pattern, str):
            re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"has a pattern that is no regular expression: {error}") from None


# ---- the library's keywords, counted ----

_LEFT: ContextVar[list[int] | None] = ContextVar("steps_left", default=None)


@contextmanager
def _steps(most: int, whole: int = 1) -> Iterator[None]:
    """Within, so many steps may be taken; one that looks at everything counts for `whole`."""
    token = _LEFT.set([most, whole])
    try:
        yield
    finally:
        _LEFT.reset(token)


def _spend(steps: int) -> None:
    left = _LEFT.get()
    if left is not None:
        left[0] -= steps
        if left[0] < 0:
            raise _TooManyStepsError


def _spend_whole() -> None:
    left = _LEFT.get()
    if left is not None:
        _spend(left[1])


def _counted(keyword: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
    def step(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        _spend(1 + (len(instance) // STEP_ITEMS if isinstance(instance, list | dict) else 0))
        for misfit in keyword(validator, value, instance, schema) or ():
            _spend_whole()
            yield misfit

    return step


def _unique_items(validator: Any, wanted: bool, instance: Any, _: Any) -> Iterator[ValidationError]:
    """By what each is as text: the library's own compares every pair."""
    if wanted and validator.is_type(instance, "array"):
        _spend_whole()
        if len({json.dumps(_canonical(each), sort_keys=True) for each in instance}) != len(instance):
            yield ValidationError("an item is given twice")


def _canonical(value: Any) -> Any:
    """With equal numbers alike: to JSON Schema, 1 and 1.0 are the same."""
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
        name: _counted(_unique_items if name == "uniqueItems" else keyword)
        for name, keyword in Draft202012Validator.VALIDATORS.items()
    },
)


def _without_dialect(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {keyword: value for keyword, value in schema.items() if keyword != "$schema"}


# The schema of schemas and its parts, so that the counting goes on in them.
_SCHEMA_OF_SCHEMAS: Final = _without_dialect(Draft202012Validator.META_SCHEMA)
_SCHEMAS: Final[Registry[Any]] = (
    Registry()
    .with_resources(
        (uri, DRAFT202012.create_resource(_without_dialect(SPECIFICATIONS.contents(uri))))
        for uri in SPECIFICATIONS
        if "/draft/2020-12/" in uri
    )
    .crawl()
)
