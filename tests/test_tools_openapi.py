"""OpenAPI documents into operations, and arguments into requests: the pure part, by law and by case."""

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.tools import ToolArgumentsError, ToolLoadError
from dispatcher.tools.openapi import Operation, read
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
    operations = read(document(parameters=[ID, *parameters], **more), [])
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
            {"parameters": [ID], "requestBody": {"required": True, "content": {"image/png": {}}}},
            "its body is image/png",
        ),
    ],
)
def test_what_can_not_be_used_costs_its_operation(operation: dict[str, Any], problem: str) -> None:
    operations = read(document(**operation), [])
    assert not operations.found
    assert problem in operations.problems[0]


def test_aliases_that_multiply_are_refused() -> None:
    levels = "".join(f"l{n}: &l{n} {{properties: {{a: *l{n - 1}, b: *l{n - 1}}}}}\n" for n in range(1, 40))
    text = f"""
l0: &l0 {{type: string}}
{levels}
openapi: 3.1.0
paths:
  /a: {{get: {{operationId: look, parameters: [{{name: q, in: query, schema: *l39}}]}}}}
"""
    operations = read(text.encode(), [])
    assert "nested more than" in operations.problems[0]


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_no_document_does_harm(anything: Any) -> None:
    for told in (
        anything,
        {"openapi": "3.0", "paths": anything},
        {"openapi": "3.0", "paths": {"/a": {"get": anything}}},
    ):
        try:
            read(json.dumps(told).encode(), [])
        except ToolLoadError as error:
            assert str(error)  # noqa: PT017 - one sentence, whatever it was


@given(st.ip_addresses())
def test_what_is_public_is_not_private_by_any_name(address: Any) -> None:
    if is_public(str(address)):
        assert not (address.is_private)
        assert not (address.is_loopback)
        assert not (address.is_link_local)
        assert not (address.is_multicast)


@given(st.ip_addresses(v=4, network="10.0.0.0/8"), st.sampled_from(["::ffff:{}", "64:ff9b::{}", "::{}"]))
def test_a_private_address_in_another_dress_is_private(address: Any, dress: str) -> None:
    assert not is_public(dress.format(address))
