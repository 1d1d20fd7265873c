"""Schemas are checked when a tool is loaded, never fetch anything, and explain what doesn't fit."""

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dispatcher.tools import ToolArgumentsError, ToolLoadError
from dispatcher.tools.arguments import did_you_mean, parse
from dispatcher.tools.schema import ArgumentsSchema


def of(properties: dict[str, object], **more: object) -> ArgumentsSchema:
    return ArgumentsSchema("t", {"type": "object", "properties": properties, **more})


def refusal(schema: ArgumentsSchema, arguments: dict[str, object]) -> str:
    with pytest.raises(ToolArgumentsError) as caught:
        schema.check(arguments)
    return caught.value.message


# --- references ------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server that would serve a schema, and the requests it has seen."""
    seen: list[str] = []

    class Serving(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            body = b'{"type": "integer"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serving) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}", seen
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize("where", ["property", "definition", "unknown keyword", "relative to $id"])
def test_a_reference_to_elsewhere_is_refused_and_never_fetched(
    server: tuple[str, list[str]], tmp_path: Path, keyword: str, where: str
) -> None:
    address, seen = server
    file = tmp_path / "integer.json"
    file.write_text('{"type": "integer"}')
    for reference in (f"{address}/integer.json", file.as_uri()):
        away: dict[str, object] = {keyword: reference}
        match where:
            case "property":
                schema: dict[str, object] = {"type": "object", "properties": {"a": away}}
            case "definition":
                schema = {
                    "type": "object",
                    "properties": {"a": {"$ref": "#/$defs/A"}},
                    "$defs": {"A": {"items": away}},
                }
            case "unknown keyword":
                schema = {"type": "object", "properties": {"a": {"$ref": "#/mine"}}, "mine": away}
            case _:
                base, name = reference.rsplit("/", 1)
                schema = {"$id": f"{base}/x", "type": "object", "properties": {"a": {keyword: name}}}
        with pytest.raises(ToolLoadError, match="never fetched"):
            ArgumentsSchema("t", schema)
    assert seen == []


def test_a_reference_within_the_schema_works() -> None:
    schema = of(
        {"tree": {"$ref": "#/$defs/Tree"}},
        **{"$defs": {"Tree": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}},
    )
    schema.check({"tree": [[], [[]]]})
    assert "$.tree[1][0]" in refusal(schema, {"tree": [[], [3]]})


def test_a_reference_to_itself_ends() -> None:
    assert "without end" in refusal(of({"a": {"$ref": "#/properties/a"}}), {"a": 1})


# --- what is refused when it is loaded -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({}, '"type": "object"'),
        ({"type": "array"}, '"type": "object"'),
        ([], '"type": "object"'),
        ({"type": "object", "properties": []}, "$.properties"),
        ({"type": "object", "required": "a"}, "$.required"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "$.properties.a"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}, "#/$defs/A"),
        ({"type": "object", "properties": {"a": {"$ref": "#/title"}}, "title": "x"}, "leads to no schema"),
        ({"type": "object", "properties": {"a": {"$ref": "http://["}}}, "http://["),
        ({"type": "object", "properties": {"a": {"pattern": "(?=a)"}}}, "without backtracking"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "without backtracking"),
        ({"type": "object", "patternProperties": {"(a)\\1": {}}}, "without backtracking"),
        ({"type": "object", "patternProperties": {"a": {}}, "unevaluatedProperties": False}, "both"),
        ({"type": "object", "default": object()}, "is not JSON"),
        ({"type": "object", "default": float("nan")}, "is not JSON"),
        ({"type": "object", "description": "x" * 300_000}, "262,144 bytes"),
    ],
)
def test_a_schema_that_can_not_be_used_is_refused_by_name(schema: Any, text: str) -> None:
    with pytest.raises(ToolLoadError, match=rf"tool 'mine'.*{re.escape(text)}"):
        ArgumentsSchema("mine", schema)


def test_the_schema_is_a_copy() -> None:
    given: dict[str, object] = {"type": "object", "properties": {"a": {"type": "string"}}}
    schema = ArgumentsSchema("t", given)
    given["required"] = ["a"]
    schema.check({})
    assert json.loads(schema.text) == {"type": "object", "properties": {"a": {"type": "string"}}}


# --- patterns and unique items, done our way -------------------------------------------------------------


def test_patterns_run_without_backtracking() -> None:
    """This one takes Python's own engine longer than the test may."""
    schema = of({"a": {"type": "string", "pattern": "^(a+)+$"}})
    schema.check({"a": "a" * 50_000})
    assert 'a string that matches "^(a+)+$" is needed' in refusal(schema, {"a": "a" * 50_000 + "!"})


@pytest.mark.parametrize(
    "declared", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_a_declared_draft_changes_nothing_about_that(declared: str) -> None:
    schema = ArgumentsSchema(
        "t",
        {
            "$schema": declared,
            "type": "object",
            "properties": {"in": {"$ref": "#/$defs/In"}},
            "$defs": {"In": {"$schema": declared, "type": "string", "pattern": "^(a|aa)+$"}},
        },
    )
    assert "$.in" in refusal(schema, {"in": "a" * 5_000 + "!"})


def test_pattern_properties_and_additional_properties() -> None:
    schema = of(
        {"n": {}}, patternProperties={"^x_": {"type": "integer"}}, additionalProperties={"type": "string"}
    )
    schema.check({"x_a": 1, "n": [], "other": "text"})
    assert "$.x_a" in refusal(schema, {"x_a": "1"})
    assert "$.other" in refusal(schema, {"other": 1})
    closed = of({}, patternProperties={"^x_": {}}, additionalProperties=False)
    closed.check({"x_a": 1})
    assert '"y" is not known' in refusal(closed, {"x_a": 1, "y": 1})


def test_unique_items_of_a_long_array() -> None:
    """Compared in pairs, these would take longer than the test may."""
    schema = of({"a": {"type": "array", "uniqueItems": True}})
    items: list[object] = [{"n": number} for number in range(20_000)]
    schema.check({"a": items})
    assert "given twice" in refusal(schema, {"a": [*items, {"n": 19_999.0}]})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5, "", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(st.lists(VALUES, max_size=6))
def test_law_unique_items_are_those_of_json_schema(items: list[object]) -> None:
    keyword = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    ours = True
    try:
        ArgumentsSchema("t", keyword).check({"a": items})
    except ToolArgumentsError:
        ours = False
    assert ours == Draft202012Validator(keyword).is_valid({"a": items})


# --- what is said ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("property_schema", "value", "text"),
    [
        ({"type": "integer"}, "1", '$.a: "1" is a string; an integer is needed'),
        ({"type": ["integer", "null"]}, [1], "$.a: an array of 1 was given; an integer or null is needed"),
        ({"type": "object"}, True, "$.a: true was given; an object is needed"),
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "x",
            '$.a: "x" is a string; an integer or null is needed',
        ),
        ({"anyOf": [{"type": "null"}, {"type": "object", "required": ["b"]}]}, {}, '$.a: "b" is missing'),
        (
            {"enum": ["metric", "imperial"]},
            "metrik",
            'not one of "metric", "imperial"; did you mean "metric"?',
        ),
        ({"enum": list(range(50))}, 99, "9, …"),
        ({"const": 3}, 4, "$.a: 4 is wrong; 3 is needed"),
        ({"minimum": 3}, 2, "2 is wrong; at least 3 is needed"),
        ({"maximum": 3}, 4, "at most 3"),
        ({"exclusiveMinimum": 3}, 3, "more than 3"),
        ({"exclusiveMaximum": 3}, 3, "less than 3"),
        ({"multipleOf": 5}, 3, "a multiple of 5"),
        ({"minLength": 3}, "ab", "a string of at least 3 characters"),
        ({"maxLength": 3}, "abcd", "a string of at most 3 characters"),
        ({"minItems": 1}, [], "[] is wrong; an array of at least 1 is needed"),
        ({"maxItems": 1}, [1, 2], "an array of at most 1"),
        ({"uniqueItems": True}, [1, 1.0], "an item is given twice"),
        ({"pattern": "^a$"}, "b", 'a string that matches "^a$"'),
        ({"items": {"properties": {"b": {"type": "string"}}}}, [{}, {"b": 1}], "$.a[1].b: 1 is a number"),
        ({"type": "integer"}, "x" * 10_000, "…"),
        ({"minProperties": 1}, {}, "$.a: "),
        ({"not": {}}, 1, "$.a: "),
    ],
)
def test_a_problem_says_where_what_and_what_would_be_right(
    property_schema: dict[str, object], value: object, text: str
) -> None:
    said = refusal(of({"a": property_schema}), {"a": value})
    assert text in said
    assert len(said) < 400


def test_only_the_first_few_problems_are_told() -> None:
    said = refusal(of({name: {"type": "string"} for name in "abcdef"}), dict.fromkeys("abcdef", 1))
    assert said.count("is a number") == 3
    assert said.endswith("; and more")


def test_all_that_is_missing_is_told_at_once() -> None:
    schema = of(
        {"a": {"type": "string"}, "b": {"$ref": "#/$defs/B"}}, required=["a", "b"], **{"$defs": {"B": {}}}
    )
    assert refusal(schema, {}) == 'the arguments don\'t fit: $: "a" (a string), "b" are missing'


def test_near_names_are_found_whatever_the_name() -> None:
    assert did_you_mean("Tokio", ["tokyo", "Oslo"]) == '; did you mean "tokyo"?'
    assert did_you_mean("", ["a"]) == did_you_mean("x" * 1_000_000, ["a"]) == did_you_mean("a", []) == ""


def test_empty_arguments_are_an_empty_object() -> None:
    assert parse("", 10) == parse(" \n", 10) == ({}, 1)


def test_arguments_are_measured_in_bytes() -> None:
    assert parse('{"a":"é"}', 10) == ({"a": "é"}, 2)
    with pytest.raises(ToolArgumentsError, match="11 bytes; at most 10"):
        parse('{"a":"漢"}', 10)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200)
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_law_what_json_writes_is_read_back(arguments: dict[str, object]) -> None:
    assert parse(json.dumps(arguments), 1_000_000)[0] == arguments
    assert parse(json.dumps(arguments, ensure_ascii=False), 1_000_000)[0] == arguments


@given(st.text())
def test_law_any_text_is_an_object_or_refused(text: str) -> None:
    with contextlib.suppress(ToolArgumentsError):
        arguments, count = parse(text, 1_000)
        assert isinstance(arguments, dict)
        assert count >= 1
