"""What OpenAI's clients say of an answer's form, as the edge hands it on, and what the assistant makes of it."""

import asyncio
import json

import pytest

from commander.agents.assistant import assistant
from commander.testing import AgentRun, run_agent

PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": PLACE}}
RESPONSES = {"format": {"type": "json_schema", "name": "place", "schema": PLACE}, "verbosity": "low"}


def run(answer: str, **metadata: object) -> AgentRun:
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    return asyncio.run(run_agent(assistant, metadata=told, models={"fast": [answer]}))


@pytest.mark.parametrize(
    "metadata", [{"response_format": CHAT}, {"text": RESPONSES}], ids=["chat", "responses"]
)
def test_a_schema_is_heeded(metadata: dict[str, object]) -> None:
    fits = run('{"city": "Lisbon"}', **metadata)
    assert (fits.outcome, fits.model_requests[0].schema) == ("completed", PLACE)
    failure = run('{"town": 1}', **metadata).failure
    assert failure is not None
    assert failure.code == "model_schema_mismatch"


@pytest.mark.parametrize(
    "metadata",
    [{"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}],
    ids=["chat", "responses"],
)
def test_any_object_will_do(metadata: dict[str, object]) -> None:
    assert run('{"any": 1}', **metadata).outcome == "completed"
    assert run("[1]", **metadata).outcome == "failed"


@pytest.mark.parametrize(
    "metadata",
    [
        {"response_format": {"type": "text"}},
        {"text": {"format": {"type": "text"}}},
        {"text": {"verbosity": "low"}},
        {"text": "a text of the application"},
        {"text": "[1]"},
        {"response_format": "[" * 10_000},
    ],
)
def test_all_else_is_any_text(metadata: dict[str, object]) -> None:
    ended = run("Hello", **metadata)
    assert (ended.text, ended.model_requests[0].schema) == ("Hello", None)


def test_our_own_word_goes_first() -> None:
    assert run("5", schema={"type": "integer"}, response_format=CHAT).outcome == "completed"


@pytest.mark.parametrize(
    ("schema", "right"),
    [
        ({"type": "integre"}, "is no JSON Schema"),
        ([], "should be a JSON Schema"),
        ({"pattern": "a"}, "no pattern"),
    ],
)
def test_what_is_wrong_is_told_by_its_name(schema: object, right: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    failure = run("x", response_format=form).failure
    assert failure is not None
    assert failure.message.startswith("metadata response_format: ")
    assert right in failure.message


def test_one_that_is_too_long_is_not_read() -> None:
    failure = run("x", response_format={"type": "json_schema", "filler": "x" * 40_000}).failure
    assert failure is not None
    assert "at most 16,384 may be" in failure.message
