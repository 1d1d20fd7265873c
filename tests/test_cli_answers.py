"""What a typed line means as an answer."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2

from dispatcher.console.answers import UnfitError, value_json

CHOICE = agent_pb2.Question(text="Which?", options=["Berlin", "Bern", "3"])
NUMBER = agent_pb2.Question(text="How many?", response_schema_json='{"type": "integer"}')
TEXT = agent_pb2.Question(text="Who?", response_schema_json='{"type": "string"}')
CALL = agent_pb2.Question(text="May pay run?", options=["approve", "deny"], approves_call_id="c1")
FREE = agent_pb2.Question(text="What?")


@pytest.mark.parametrize(
    ("question", "line", "value"),
    [
        (CHOICE, "1", "Berlin"),
        (CHOICE, " bern ", "Bern"),
        (CHOICE, "3", "3"),
        (NUMBER, "17", 17),
        (NUMBER, '{"a": [1, null]}', {"a": [1, None]}),
        (TEXT, "17", "17"),
        (TEXT, '"17"', "17"),
        (CALL, "1", "approve"),
        (CALL, "Deny", "deny"),
        (CALL, "deny too dear", {"deny": "too dear"}),
        (CALL, '{"euros": 3}', {"approve": {"euros": 3}}),
        (CALL, '{"approve": {"euros": 3}}', {"approve": {"euros": 3}}),
        (CALL, '{"approve": true}', {"approve": {"approve": True}}),
        (CALL, '{"deny": "too dear"}', {"deny": "too dear"}),
        (FREE, "17", "17"),
        (FREE, "日本", "日本"),
    ],
)
def test_a_line_that_fits(question: agent_pb2.Question, line: str, value: object) -> None:
    assert json.loads(value_json(question, line)) == value


@pytest.mark.parametrize(
    ("question", "line", "hint"),
    [
        (CHOICE, "4", "a number from 1 to 3 or its text"),
        (CHOICE, "0", "a number from 1 to 3"),
        (CHOICE, "9" * 5000, "a number from 1 to 3"),
        (CHOICE, "", "a number from 1 to 3"),
        (NUMBER, "many", 'fits {"type": "integer"}'),
        (NUMBER, "NaN", "no JSON value"),
        (NUMBER, "[" * 100_000, "no JSON value"),
        (CALL, "{euros: 3}", "these arguments are no JSON"),
        (CALL, "denying it", "none of the options"),
        (FREE, "  ", "empty"),
    ],
)
def test_a_line_that_does_not_says_what_would(question: agent_pb2.Question, line: str, hint: str) -> None:
    with pytest.raises(UnfitError, match=hint.replace("{", r"\{")):
        value_json(question, line)


def test_a_schema_that_is_none_still_takes_json() -> None:
    for schema in ("no schema", "[" * 100_000, "true"):
        assert value_json(agent_pb2.Question(response_schema_json=schema), "1") == "1"


@given(st.text(), st.lists(st.text(), max_size=3), st.sampled_from(["", "{}", '{"type": "string"}']))
def test_an_answer_is_always_json(line: str, options: list[str], schema: str) -> None:
    texts = [text.encode(errors="replace").decode() for text in options]
    question = agent_pb2.Question(options=texts, response_schema_json=schema)
    with contextlib.suppress(UnfitError):
        json.loads(value_json(question, line))
