"""OpenAPI documents into operations, and arguments into requests: the pure part, by law and by case."""

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.tools import ToolArgumentsError, ToolLoadError
from dispatcher.tools.openapi import read
from dispatcher.tools.openapi_request import Operation
from dispatcher.tools.outbound import is_public
from dispatcher.tools.schema import ArgumentsSchema

TEXT: dict[str, Any] = {"type": "string"}


def document(version: str = "3.1.0", **operation: Any) -> bytes:
    path = {"get": {"operationId": "look", **operation}}
    return json.dumps({"openapi": version, "paths": {"/a/{id}/b": path}}).encode()


def parameter(name: str, where: str, schema: Any = TEXT, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": where, "schema": schema, **more}


ID = parameter("id", "path", required=True)


def look(*parameters: dict[str, Any], **more: Any) -> Operation:
    operations = read(document(parameters=[ID, *parameters], **more), [], 100)
    assert not operations.problems
    (operation,) = operations.found
    ArgumentsSchema(operation.name, operation.schema)
    return operation


@given(st.text(min_size=1))
def test_a_path_argument_never_leaves_its_segment(text: str) -> None:
    try:
        target = look().request({"id": text}).target
    except (ToolArgumentsError, UnicodeEncodeError):
        assert text in (".", "..") or not text.isascii()
        return
    parts = urlsplit(target)
    assert (parts.query, parts.fragment) == ("", "")
    empty, a, segment, b = parts.path.split("/")
    assert (empty, a, b) == ("", "a", "b")
    assert unquote(segment) == text
    assert segment not in (".", "..")


@given(st.dictionaries(st.sampled_from(["q", "r"]), st.text(st.characters(codec="utf-8"), min_size=1)))
def test_what_is_in_a_query_comes_out_of_it(given: dict[str, str]) -> None:
    operation = look(parameter("q", "query"), parameter("r", "query"))
    target = operation.request({"id": "1", **given}).target
    assert parse_qs(urlsplit(target).query, keep_blank_values=True) == {
        name: [text] for name, text in given.items()
    }


@pytest.mark.parametrize(
    ("told", "value", "query"),
    [
        ({}, [1, 2], "q=1&q=2"),
        ({"explode": False}, [1, 2], "q=1%2C2"),
        ({"style": "deepObject"}, {"a": 1, "b": True}, "q%5Ba%5D=1&q%5Bb%5D=true"),
        ({}, {"a": 1}, "a=1"),
        ({"explode": False}, {"a": 1, "b": True}, "q=a%2C1%2Cb%2Ctrue"),
        ({"style": "pipeDelimited", "explode": False}, [1, 2], "q=1%7C2"),
        ({"style": "spaceDelimited", "explode": False}, [1, 2], "q=1+2"),
        ({}, False, "q=false"),
        ({}, None, "q="),
    ],
)
def test_values_are_written_as_the_document_says(told: dict[str, Any], value: object, query: str) -> None:
    target = look(parameter("q", "query", {}, **told)).request({"id": "1", "q": value}).target
    assert urlsplit(target).query == query


@pytest.mark.parametrize(
    ("kind", "value", "sent"),
    [
        ("application/vnd.x+json", {"a": "é"}, '{"a": "é"}'.encode()),
        ("application/x-www-form-urlencoded", {"a": "b c", "d": True}, b"a=b+c&d=true"),
        ("text/plain", "héllo", "héllo".encode()),
    ],
)
def test_bodies_are_sent_as_the_document_says(kind: str, value: object, sent: bytes) -> None:
    operation = look(requestBody={"content": {"image/png": {}, kind: {"schema": {}}}})
    request = operation.request({"id": "1", "body": value})
    assert (request.body, request.headers["Content-Type"]) == (sent, kind)
    assert operation.request({"id": "1"}).body is None


def test_arguments_of_one_name_stay_apart() -> None:
    operation = look(parameter("id", "query"), parameter("body", "header"))
    assert operation.schema["properties"] == {"id": TEXT, "query_id": TEXT, "header_body": TEXT}
    request = operation.request({"id": "1", "query_id": "2", "header_body": "3"})
    assert request.target == "/a/1/b?id=2"
    assert request.headers["body"] == "3"


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        ({"parameters": [ID, {"name": "q", "in": "query"}]}, "its parameter 'q' has no schema"),
        ({"parameters": [ID, {"in": "query"}]}, "has no name, or no place"),
        ({"parameters": [ID, parameter("c", "cookie", required=True)]}, "it needs the cookie 'c'"),
        ({"parameters": []}, "its path has {id}, which is no parameter of it"),
        ({"parameters": [{"$ref": "http://evil/x"}]}, "only parts of the same document"),
        ({"parameters": [ID, parameter("q", "query", {"$ref": "#/nope"})]}, "'#/nope', which is not there"),
        (
            {"parameters": [{**ID, "style": "matrix"}]},
            "its parameter 'id' is of style 'matrix'; simple can be",
        ),
        ({"parameters": [ID, parameter("a b", "header", required=True)]}, "it needs the header 'a b'"),
        (
            {"parameters": [ID], "requestBody": {"required": True, "content": {"image/png": {}}}},
            "its body is image/png",
        ),
    ],
)
def test_what_can_not_be_used_costs_its_operation(operation: dict[str, Any], problem: str) -> None:
    operations = read(document(**operation), [], 100)
    assert not operations.found
    assert problem in operations.problems[0]


# Ten million of them, in a few lines.
LEVELS = "l0: &l0 [x]\n" + "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 8))
MERGED = "l0: &l0 {x: 1}\n" + "".join(f"l{n}: &l{n} {{<<: [*l{n - 1}, *l{n - 1}]}}\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("levels", "operation"),
    [
        (LEVELS, "{parameters: [{name: q, in: query, schema: {default: *l7}}]}"),
        (LEVELS, "{parameters: [{name: q, in: query, schema: {enum: *l7}}]}"),
        (LEVELS, "{operationId: *l7}"),
        (LEVELS, "{summary: *l7}"),
        (MERGED, "{}"),
        ("l0: &l0 [*l0]\n", "{}"),
    ],
)
def test_aliases_that_multiply_or_hold_themselves_are_refused(levels: str, operation: str) -> None:
    with pytest.raises(ToolLoadError, match="its alias"):
        read(f"{levels}openapi: 3.1.0\npaths:\n  /a: {{get: {operation}}}\n".encode(), [], 100)


def test_aliases_stand_for_what_they_name() -> None:
    text = """
openapi: 3.1.0
paths:
  /a: {get: {parameters: [{name: q, in: query, schema: &s {enum: [a]}}, {name: r, in: query, schema: *s}]}}
"""
    (operation,) = read(text.encode(), [], 100).found
    assert operation.schema["properties"] == {"q": {"enum": ["a"]}, "r": {"enum": ["a"]}}


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000])
def test_a_document_that_is_too_deep_is_refused(text: str) -> None:
    with pytest.raises(ToolLoadError, match="nested more than"):
        read(text.encode(), [], 100)


def deep(levels: int) -> Any:
    return {"properties": {"a": deep(levels - 1)}} if levels else {}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (deep(40), "its schema is nested more than 64 deep"),
        ({"default": deep(40)}, "its schema is nested more than 64 deep"),
        ({"enum": ["x" * 70_000]}, "its schema is over 65,536 bytes of JSON"),
        ({"properties": {"x" * 70_000: {}}}, "its schema is over 65,536 bytes of JSON"),
        ({"description": "x" * 70_000}, "its schema is over 65,536 bytes of JSON"),
    ],
)
def test_a_schema_that_is_too_much_costs_its_operation(schema: Any, problem: str) -> None:
    operations = read(document(parameters=[ID, parameter("q", "query", schema)]), [], 100)
    assert problem in operations.problems[0]


def test_no_more_is_read_than_may_be_for_all_operations() -> None:
    get = {"get": {"parameters": [{"name": "q", "in": "query", "schema": {"$ref": "#/x"}}]}}
    told = {"openapi": "3.1.0", "x": {"enum": ["x" * 60_000]}, "paths": {f"/{n}": get for n in range(80)}}
    operations = read(json.dumps(told).encode(), [], 100)
    assert len(operations.found) == 69
    assert "with it, the schemas of the document are over" in operations.problems[0]
    few = read(json.dumps(told).encode(), [], 3)
    assert (len(few.found), few.left_out, few.problems) == (3, 77, [])


def test_a_chain_of_references_may_be_long_and_its_end_is_known() -> None:
    chain: dict[str, Any] = {str(n): {"properties": {"n": {"$ref": f"#/x/{n + 1}"}}} for n in range(200)}
    told = json.loads(document(parameters=[ID, parameter("q", "query", {"$ref": "#/x/0"})]))
    operations = read(json.dumps({**told, "x": chain | {"200": TEXT}}).encode(), [], 100)
    (operation,) = operations.found
    assert operation.schema["$defs"]["200"] == TEXT  # type: ignore[index]
    ArgumentsSchema(operation.name, operation.schema)


@pytest.mark.parametrize("reference", ["#/x/1", "#/y/%7Ba%7D~1b"])
def test_a_reference_may_lead_into_a_list_or_be_escaped(reference: str) -> None:
    told = json.loads(document(parameters=[ID, {"$ref": reference}]))
    q = parameter("q", "query")
    operations = read(json.dumps({**told, "x": [None, q], "y": {"{a}/b": q}}).encode(), [], 100)
    assert "q" in operations.found[0].places


def test_no_argument_goes_to_a_header_that_is_not_the_callers() -> None:
    names = [
        "X-Api-KEY",
        "host",
        "Content-Length",
        "TRANSFER-ENCODING",
        "Connection",
        "Cookie",
        "Authorization",
    ]
    names += ["Accept", "content-type", "Idempotency-Key", "bad name", "X-Trace"]
    told = document(parameters=[ID, *(parameter(name, "header") for name in names)])
    (operation,) = read(told, [], 100, {"x-api-key": "hunter2"}).found
    assert list(operation.places) == ["id", "X-Trace"]


SCALARS = st.none() | st.booleans() | st.text() | st.integers() | st.dates()
# Some of the words that a document has, so that what they say is odd.
WORDS = st.sampled_from(
    [
        "parameters",
        "requestBody",
        "content",
        "schema",
        "in",
        "name",
        "query",
        "required",
        "$ref",
        "enum",
        "style",
    ]
)
ANYTHING = st.recursive(
    SCALARS, lambda s: st.lists(s) | st.dictionaries(WORDS | st.text() | st.integers() | st.none(), s)
)


@given(ANYTHING)
def test_no_document_does_harm(anything: Any) -> None:
    for told in (
        anything,
        {"openapi": "3.0", "paths": anything},
        {"openapi": 3.0, "paths": {"/a": {"get": anything}}, "servers": [anything]},
        {"openapi": "3.0", "paths": {"/a": {"get": {"parameters": [anything]}}}},
        {"openapi": "3.0", "paths": {"/a": {"get": {"requestBody": {"content": anything}}}}},
    ):
        try:
            read(yaml.dump(told, Dumper=yaml.CSafeDumper, allow_unicode=True).encode(), [], 100)
        except ToolLoadError as error:
            assert str(error)  # noqa: PT017 - one sentence, whatever it was


@given(st.ip_addresses())
def test_what_is_public_is_not_private_by_any_name(address: Any) -> None:
    if is_public(str(address)):
        assert not (address.is_private)
        assert not (address.is_loopback)
        assert not (address.is_link_local)
        assert not (address.is_multicast)


@pytest.mark.parametrize("address", ["192.0.0.8", "192.0.0.9", "192.88.99.1", "fec0::1", "3fff::1"])
def test_what_some_versions_of_the_library_call_public_is_not(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4, network="10.0.0.0/8"), st.sampled_from(["::ffff:{}", "64:ff9b::{}", "::{}"]))
def test_a_private_address_in_another_dress_is_private(address: Any, dress: str) -> None:
    assert not is_public(dress.format(address))
