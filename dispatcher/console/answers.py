"""What a typed line means as the answer to a question. Pure."""

import json
from typing import NoReturn

from southwest.ai.agent.v1 import agent_pb2

from dispatcher.console.escaping import safe_line
from dispatcher.core.approval import APPROVE, DENY


class UnfitError(Exception):
    """The line is no answer to the question. The text says what would be one."""


def value_json(question: agent_pb2.Question, line: str) -> str:
    """The answer as JSON: an option's text, a JSON value where a schema asks for one, else the line as text.

    Raises UnfitError.
    """
    line = line.strip()
    if question.approves_call_id and (more := _approval(line)) is not None:
        return json.dumps(more, ensure_ascii=False)
    if question.options:
        return json.dumps(_option(list(question.options), line), ensure_ascii=False)
    if question.response_schema_json:
        return _fitting(question.response_schema_json, line)
    if not line:
        raise UnfitError("the answer is empty: type a text")
    return json.dumps(line, ensure_ascii=False)


def _approval(line: str) -> dict[str, object] | None:
    """What is said to a call besides yes and no: other arguments, or why not. None: it is neither."""
    if line.startswith("{"):
        try:
            arguments = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise UnfitError(
                'these arguments are no JSON: type an object such as {"name": "value"}'
            ) from None
        # As it is answered everywhere else; an argument of such a name is told within another "approve".
        is_whole = isinstance(arguments, dict) and (
            (arguments.keys() == {APPROVE} and isinstance(arguments[APPROVE], dict))
            or (arguments.keys() == {DENY} and isinstance(arguments[DENY], str))
        )
        return arguments if is_whole else {APPROVE: arguments}
    word, _, why = line.partition(" ")
    return {DENY: why.strip()} if word.casefold() == DENY and why.strip() else None


def _option(options: list[str], line: str) -> str:
    # The text goes before the number: options may be numbers themselves.
    for option in options:
        if line.casefold() == option.strip().casefold():
            return option
    if line.isascii() and line.isdecimal() and 1 <= int(line[:9]) <= len(options) and len(line) < 9:
        return options[int(line) - 1]
    raise UnfitError(
        f"{safe_line(line)!r} is none of the options: type a number from 1 to {len(options)} or its text"
    )


def _fitting(schema_json: str, line: str) -> str:
    if _wants_string(schema_json) and not line.startswith('"'):
        return json.dumps(line, ensure_ascii=False)
    try:
        return json.dumps(json.loads(line, parse_constant=_no_constant), ensure_ascii=False)
    except (ValueError, RecursionError):
        raise UnfitError(
            f"the answer is no JSON value: type one that fits {safe_line(schema_json)}, "
            'a text in quotes such as "yes"'
        ) from None


def _wants_string(schema_json: str) -> bool:
    try:
        schema = json.loads(schema_json)
    except (ValueError, RecursionError):
        return False
    return isinstance(schema, dict) and schema.get("type") == "string"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
