"""Which answers a question allows, and what is said of the others."""

import json

import pytest
from asynchronous import asynchronous
from chat_viewer import conversing
from dispatcher_process import DispatcherProcess
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.answers import SCHEMA_CHARS_MAX, VALUE_CHARS_MAX, misfit

AGE = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}


def question(schema: object = None, options: tuple[str, ...] = ()) -> agent_pb2.Question:
    text = schema if isinstance(schema, str) else json.dumps(schema) if schema is not None else ""
    return agent_pb2.Question(question_id="q1", text="?", options=options, response_schema_json=text)


@pytest.mark.parametrize("value", ['"yes"', "1", "null", '{"a": [1]}'])
def test_where_nothing_is_asked_for_any_json_is_an_answer(value: str) -> None:
    assert misfit(question(), value) == ""


def test_an_option_is_named_by_its_text() -> None:
    asked = question(options=("yes", "no, “never”"))
    assert misfit(asked, '"yes"') == ""
    assert misfit(asked, '"no, “never”"') == ""
    for wrong in ('"maybe"', '"Yes"', "1", '["yes"]'):
        assert misfit(asked, wrong) == 'is none of the options; one of "yes", "no, “never”" is right'


def test_of_many_options_some_are_told() -> None:
    told = misfit(question(options=tuple(map(str, range(100)))), '"x"')
    assert '"9", … is right' in told


def test_a_schema_is_kept_to() -> None:
    assert misfit(question(AGE), '{"age": 7}') == ""
    assert "age" in misfit(question(AGE), "{}")
    assert "$.age" in misfit(question(AGE), '{"age": "seven"}')
    assert misfit(question({"type": "string", "pattern": "^a+$"}), '"aaa"') == ""
    assert misfit(question({"type": "string", "pattern": "^a+$"}), '"b"')
    assert misfit(question(False), "1")


@pytest.mark.parametrize(
    "schema",
    [
        "no JSON",
        '{"type": "nonsense"}',
        '{"$ref": "http://example.com/schema"}',
        '{"pattern": "(a)\\\\1"}',
        "[" * 100_000,
        "7",
    ],
)
def test_what_is_no_schema_is_held_against_nobody(schema: str) -> None:
    assert misfit(question(schema), '"anything"') == ""


def _bomb(levels: int) -> str:
    """Each part refers twice to the next."""
    parts = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return json.dumps({"$defs": {**parts, f"a{levels}": {"type": "string"}}, "$ref": "#/$defs/a0"})


def test_what_would_take_for_ever_to_check_is_not_checked() -> None:
    """2^40 steps: it would never end."""
    bomb = _bomb(40)
    assert len(bomb) < SCHEMA_CHARS_MAX
    assert misfit(question(bomb), '"it would fit"') == ""
    assert "is a number" in misfit(question(_bomb(3)), "1")
    assert "is a number" in misfit(question(bomb), "1"), "the first few faults are found soon"


def test_a_long_value_is_not_checked() -> None:
    long = json.dumps(["x"] * VALUE_CHARS_MAX)
    assert misfit(question({"type": "string"}), long) == ""


def test_a_long_schema_is_none() -> None:
    schema = {"type": "string", "description": "x" * SCHEMA_CHARS_MAX}
    assert misfit(question(schema), "1") == ""


def test_a_number_beyond_all_bounds_is_told_wrong() -> None:
    schema = {"type": "number", "multipleOf": 0.01}
    assert (
        misfit(question(schema), "1" + "0" * 400)
        == "it can't be checked: a number is too large for the schema"
    )


@asynchronous
async def test_a_wrong_answer_leaves_the_question_open(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent, client_ref="1")
        turn = await link.started()
        await turn.send(question=question(options=("left", "right")))
        await seen.until("question")
        wrong = chat_pb2.AnswerQuestion(question_id="q1", value_json='"up"')
        refused = await talk.request("1", answer=wrong)
        assert refused.error.code == "invalid_request"
        assert 'answer.value_json: is none of the options; one of "left", "right"' in refused.error.message
        right = chat_pb2.AnswerQuestion(question_id="q1", value_json='"right"')
        assert not (await talk.request("1", answer=right)).HasField("error")
        await turn.finish()
        await seen.ended()
        assert seen.kinds.count("answer") == 1
