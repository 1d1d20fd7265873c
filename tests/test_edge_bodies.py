"""Bodies full of what is wrong, or of too much: each is answered by what is wrong first, and costs no more than it
weighs."""

import json
import sys
from typing import Any

import pytest
from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from web_viewer import browsing

from dispatcher.edge import agui_bodies, openai_bodies, responses_bodies, vercel_bodies
from dispatcher.edge.bodies import MESSAGES_MAX, PARTS_MAX, AskBody, parsed, problem_of
from dispatcher.edge.problems import ProblemError

DISPATCHER_FLAGS = ("--http-address", "127.0.0.1:0", "--request-bytes-max", "900000")
MANY = 200_000
USER = {"role": "user", "content": "x"}
SPOKEN = {"role": "user", "parts": [{"type": "text", "text": "x"}]}
RUN = {"threadId": "t", "runId": "r"}

# Where it is sent, of which kind it is, where its messages are, and one that is right.
BODIES: list[tuple[str, type[BaseModel], dict[str, Any], str, dict[str, Any]]] = [
    ("/v1/sessions", AskBody, {}, "messages", USER),
    ("/v1/chat/completions", openai_bodies.ChatBody, {}, "messages", USER),
    ("/v1/responses", responses_bodies.ResponseBody, {}, "input", USER),
    ("/api/chat", vercel_bodies.ChatBody, {"id": "c"}, "messages", SPOKEN),
    ("/ag-ui", agui_bodies.RunBody, RUN, "messages", USER),
]


def _mistakes(kind: type[BaseModel], body: dict[str, Any]) -> int:
    try:
        kind.model_validate_json(json.dumps(body))
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize(("path", "kind", "more", "name", "right"), BODIES)
def test_a_list_of_wrong_items_is_looked_at_up_to_the_first(
    path: str, kind: type[BaseModel], more: dict[str, Any], name: str, right: dict[str, Any]
) -> None:
    part = "parts" if "parts" in right else "content"
    for wrong in (1, {}, {"role": 1}, {**right, part: [1] * 1_000}, {**right, part: [{}] * 1_000}):
        assert _mistakes(kind, {**more, name: [wrong] * 1_000}) <= 10, wrong
    for field in ("metadata", "labels", "modalities", "tools", "context", "resume"):
        for filled in ([1] * 1_000, {str(number): number for number in range(1_000)}):
            assert _mistakes(kind, {**more, name: [right], field: filled}) <= 10, field


@pytest.mark.parametrize(("path", "kind", "more", "name", "right"), BODIES)
@asynchronous
async def test_a_body_of_many_wrong_items_is_answered_with_the_first(
    path: str,
    kind: type[BaseModel],
    more: dict[str, Any],
    name: str,
    right: dict[str, Any],
    dispatcher: DispatcherProcess,
) -> None:
    async with browsing(dispatcher.url) as client:
        answer = await client.post(path, json={**more, name: [1] * MANY})
        assert answer.status_code == 400, answer.text
        told = answer.json()
        field = told["error"]["param"] if "error" in told else told["field"]
        # Some count before they look.
        assert field in (name, f"{name}[0]")


@pytest.mark.parametrize(("path", "kind", "more", "name", "right"), BODIES)
@asynchronous
async def test_too_many_messages_or_parts_are_refused_with_the_number_that_is_right(
    path: str,
    kind: type[BaseModel],
    more: dict[str, Any],
    name: str,
    right: dict[str, Any],
    dispatcher: DispatcherProcess,
) -> None:
    part = "parts" if "parts" in right else "content"
    short = {**right, part: [{"type": "text", "text": "x"}]}
    several = {**right, part: [{"type": "text", "text": "x"}] * 101}
    async with browsing(dispatcher.url) as client:
        for messages, most in (([short] * (MESSAGES_MAX + 1), MESSAGES_MAX), ([several] * 100, PARTS_MAX)):
            data = json.dumps({**more, name: messages}, separators=(",", ":"))
            answer = await client.post(path, content=data, headers={"content-type": "application/json"})
            assert answer.status_code == 400, answer.text
            told = answer.json().get("error", answer.json())
            assert (told.get("field") or told["param"]) == name
            assert str(most) in (told.get("detail") or told["message"])
        schema = (await client.get("/openapi.json")).json()
    sent = json.dumps(schema["paths"][path]["post"]["requestBody"])
    described = schema["components"]["schemas"][sent.partition("schemas/")[2].partition('"')[0]]
    assert f'"maxItems": {MESSAGES_MAX}' in json.dumps(described["properties"][name])


def test_as_many_as_are_right_are_asked() -> None:
    body = parsed(AskBody, json.dumps({"messages": [USER] * MESSAGES_MAX}).encode())
    assert len(body.ask().messages) == MESSAGES_MAX


def test_so_many_unknown_fields_are_counted_and_not_told_one_by_one() -> None:
    unknown = {f"field{number}": 1 for number in range(5_000)}
    with pytest.raises(ProblemError, match="5000 mistakes"):
        parsed(AskBody, json.dumps({"input": "x", **unknown}).encode())
    few = dict(list(unknown.items())[:50])
    with pytest.raises(ProblemError, match="field0: there is no such field") as told:
        parsed(AskBody, json.dumps({"input": "x", **few}).encode())
    assert len(told.value.more["errors"]) == 10


def _lines_run(count: int) -> int:
    """How many lines it takes to tell of so many mistakes."""
    body = {f"field{number}": 1 for number in range(count)}
    try:
        AskBody.model_validate_json(json.dumps(body))
    except ValidationError as error:
        ran = 0

        def traced(frame: Any, event: str, _: Any) -> Any:
            nonlocal ran
            ran += event == "line"
            return traced

        before = sys.gettrace()
        sys.settrace(traced)
        try:
            problem_of(error)
        finally:
            sys.settrace(before)
        return ran
    raise AssertionError("all was right")


def test_telling_of_twice_as_many_mistakes_is_at_most_twice_the_work() -> None:
    assert _lines_run(800) < 2.5 * _lines_run(400)


@given(st.text(min_size=1, max_size=20), st.integers(1, 1_000))
def test_a_field_is_told_in_few_characters(key: str, times: int) -> None:
    with pytest.raises(ProblemError) as told:
        parsed(AskBody, json.dumps({"input": "x", "z" + key * times: 1}).encode())
    assert len(told.value.field) <= 256
