"""Whether an answer is one that its question allows. Called by `chat.py`; every edge asks here.

A question may name options, and a JSON Schema. What an agent gives as a schema and is none can't be held against
anybody: then any JSON is an answer.
"""

import json

from southwest.ai.agent.v1 import agent_pb2

from dispatcher.tools.contract import ToolLoadError
from dispatcher.tools.schema import ValueSchema

# Of the options, in an error.
_OPTIONS_TOLD_MAX = 10


def misfit(question: agent_pb2.Question, value_json: str) -> str:
    """What is wrong with `value_json`, which is JSON, and what would be right; empty where it fits."""
    value = json.loads(value_json)
    if question.options:
        if value in question.options:
            return ""
        told = ", ".join(
            json.dumps(option, ensure_ascii=False) for option in question.options[:_OPTIONS_TOLD_MAX]
        )
        more = ", …" if len(question.options) > _OPTIONS_TOLD_MAX else ""
        return f"is none of the options; one of {told}{more} is right"
    if not question.response_schema_json:
        return ""
    try:
        schema = ValueSchema(json.loads(question.response_schema_json))
    except (ToolLoadError, ValueError, RecursionError):
        return ""
    return schema.misfit(value)
