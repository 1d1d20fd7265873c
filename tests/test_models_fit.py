"""Whether an answer fits its schema: what is refused at the start, and that neither takes for ever."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from commander.models.fit import Fit, fit_of
from commander.models.nesting import is_deeper, nested

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text("xyz", max_size=3),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.sampled_from("abc"), each, max_size=3),
    max_leaves=12,
)


def within(times: int, key: str = "not") -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(times):
        schema = {key: schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    parts: dict[str, Any] = {
        f"a{level}": {"anyOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": {**parts, f"a{levels}": {"type": "string"}}, "$ref": "#/$defs/a0"}


TREE = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "integre"}, "is no JSON Schema: 'integre'"),
        (doubling(20), "its references multiply"),
        (doubling(40), "its references lead round, or too far"),
        ({"$ref": "#"}, "its references lead round"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#"}}}}, "its references lead round"),
        ({"$ref": "#/nope"}, "the reference '#/nope', which is not in the schema itself"),
        ({"$ref": "http://127.0.0.1:9/x"}, "references are never fetched"),
        ({"$dynamicRef": "#x"}, "the reference '#x'"),
        ({"$ref": "#/x/0", "x": [5]}, "which leads to no schema"),
        ({"$ref": "#/x", "x": {"type": "nonsense"}}, "is no JSON Schema: 'nonsense'"),
        ({"$id": "http://[x", "properties": {"a": {"$id": "b"}}}, "Invalid"),
        ({"$schema": 5}, "is no JSON Schema: 5 is not of type 'string'"),
        ({"const": float("nan")}, "not JSON compliant"),
        ({"const": {1, 2}}, "not JSON serializable"),
        (within(400), "is nested too deeply"),
        (within(100_000), "is nested too deeply"),
        ({"anyOf": [{"type": "string"}] * 20_000}, "is too large to be checked"),
        ({"required": [{"a": number} for number in range(3_000)]}, "is no JSON Schema"),
        ({"pattern": "("}, "a pattern that is no regular expression"),
    ],
)
def test_what_is_no_schema_or_would_take_too_long_is_refused_at_the_start(
    schema: dict[str, Any], why: str
) -> None:
    for make in (Fit, fit_of):
        with pytest.raises(ValueError, match=r"^schema: ") as caught:
            make(schema)
        assert why in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (doubling(8), '"a"', "a"),
        (TREE, '{"kids": [{"kids": []}]}', {"kids": [{"kids": []}]}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "integer"}, "```json\n6\n```", 6),
        ({"$ref": "#/definitions/n", "definitions": {"n": {"type": "integer"}}}, "6", 6),
        (within(40), "6", 6),
    ],
)
def test_what_fits_gives_its_value(schema: dict[str, Any], text: str, value: object) -> None:
    assert Fit(schema).value(text) == value


@pytest.mark.parametrize(
    ("schema", "text", "why"),
    [
        ({}, "nope", "the answer is no JSON"),
        ({}, "[" * 100_000, "the answer is nested too deeply"),
        (doubling(8), "6", "does not fit the schema at $: 6 is not valid"),
        (TREE, '{"kids": [{"kids": [6]}]}', "does not fit the schema at $.kids[0].kids[0]: 6 is not of type"),
        (TREE, '{"kids": [' * 300 + "]}" * 300, "nested too deeply"),
        (
            {"properties": {"x": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "not": {"const": 3}},
            '{"x":' * 22 + "3" + "}" * 22,
            "takes too many steps",
        ),
        ({"allOf": [{"contains": {}}] * 50}, json.dumps([0] * 100_000), "takes too many steps"),
        (
            {"anyOf": [{"type": "string"}] * 500},
            json.dumps(["x" * 1_000] * 10_000),
            "takes too many steps",
        ),
        ({"multipleOf": 1e-320}, "1e300", "the schema"),
        # A "$schema" within does not lead out of the counting.
        (
            {"items": {"$schema": "http://json-schema.org/draft-07/schema#", "uniqueItems": True}},
            "[[1, 1.0]]",
            "an item is given twice",
        ),
    ],
)
def test_what_does_not_fit_is_told(schema: dict[str, Any], text: str, why: str) -> None:
    with pytest.raises(ValueError, match="the answer") as caught:
        Fit(schema).value(text)
    assert why in str(caught.value)


def test_many_items_that_may_not_repeat_are_compared_at_once() -> None:
    items = [{"a": number} for number in range(20_000)]
    fit = Fit({"type": "array", "uniqueItems": True})
    assert fit.value(json.dumps(items)) == items
    with pytest.raises(ValueError, match="an item is given twice"):
        fit.value(json.dumps([*items, {"a": 3.0}]))


def test_an_ordinary_long_answer_fits() -> None:
    names = [f"name_{number}" for number in range(12)]
    schema = {"items": {"required": names, "properties": {name: {"type": "string"} for name in names}}}
    rows = [dict.fromkeys(names, "some words of it") for _ in range(2_000)]
    assert Fit(schema).value(json.dumps(rows)) == rows


@given(JSON)
def test_unique_items_are_those_of_the_library(value: Any) -> None:
    schema = {"uniqueItems": True}
    try:
        Fit(schema).value(json.dumps(value))
        fits = True
    except ValueError:
        fits = False
    assert fits == Draft202012Validator(schema).is_valid(value)


@given(JSON)
def test_the_depth_is_that_of_the_brackets(value: Any) -> None:
    inside, depth, deepest = False, 0, 0
    for character in json.dumps(value):
        inside ^= character == '"'
        depth += 0 if inside else (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    assert max((depth for depth, _ in nested(value)), default=0) == deepest
    assert not is_deeper(value, deepest)
    assert not deepest or is_deeper(value, deepest - 1)
