"""Whether an answer is one that its question allows. Called by `requests.py`, so every edge asks here.

A question may name options, and a JSON Schema. The schema is an agent's word, maybe a model's, and the loop waits for
the check: what is no schema, is long, or takes many steps can't be held against anybody: then any JSON is an answer.
"""

import json
from typing import Final

from southwest.ai.agent.v1 import agent_pb2

from dispatcher.tools.schema import ValueSchema

# A schema of this length takes 10 to 40 ms to be looked at, with all that can be packed into it; a longer one is none.
SCHEMA_CHARS_MAX: Final = 4_096
VALUE_CHARS_MAX: Final = 65_536
# Of a value, against a schema of that length: about 20 ms.
STEPS_MAX: Final = 2_000
# Of the options, in an error.
_OPTIONS_TOLD_MAX = 10


def misfit(question: agent_pb2.Question, value_json: str) -> str:
    """What is wrong with `value_json`, which is JSON, and what would be right; empty where it fits."""
    value = json.loads(value_json)
    if question.options:
        if value in question.options:
            return ""
        if question.approves_call_id and isinstance(value, dict):
            return _misfit_of_approval(question, value)
        told = ", ".join(
            json.dumps(option, ensure_ascii=False) for option in question.options[:_OPTIONS_TOLD_MAX]
        )
        more = ", …" if len(question.options) > _OPTIONS_TOLD_MAX else ""
        return f"is none of the options; one of {told}{more} is right"
    if len(value_json) > VALUE_CHARS_MAX:
        return ""
    return _misfit_of_schema(question.response_schema_json, value)


def _misfit_of_approval(question: agent_pb2.Question, value: dict[str, object]) -> str:
    """As `misfit`, of an answer that says more than yes or no to a call."""
    match value:
        case {"deny": str()} if len(value) == 1:
            return ""
        case {"approve": dict(arguments)} if len(value) == 1:
            told = _misfit_of_schema(question.response_schema_json, arguments)
            return f"approve: {told}" if told else ""
    return 'has neither other arguments nor a reason; {"approve": {…}} or {"deny": "why"} is right'


def _misfit_of_schema(schema_json: str, value: object) -> str:
    if not 0 < len(schema_json) <= SCHEMA_CHARS_MAX:
        return ""
    try:
        return ValueSchema(json.loads(schema_json), STEPS_MAX).misfit(value)
    except Exception:  # noqa: BLE001 - whatever jsonschema makes of what is no schema
        return ""
