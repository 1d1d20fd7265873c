"""The assistant: a language model with the tools that the dispatcher offers, which the user may steer.

A round is one answer of the model. When it wants tools, they are called, all at once, through the dispatcher and under
its rules; what they return, or why they failed, goes back to the model, with whatever the user has said meanwhile.

What an application may attach to its request:

| metadata  | what it says                                                              | default               |
| --------- | ------------------------------------------------------------------------- | --------------------- |
| `model`   | which of the commander's models, by its name                              | the default one       |
| `system`  | the system prompt                                                         | that of the model     |
| `tools`   | the names of the tools to offer, with commas between; empty: none         | all that are on offer |
| `schema`  | a JSON Schema that the answer has to fit                                  | any text              |

Clients of OpenAI say the last in their own words, which come as `response_format` or, of the responses API, `text`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from commander.agent import agent
from commander.conversation import ToolOffer
from commander.errors import AgentError, ToolFailed
from commander.models import Item, ToolCall, ToolReturn
from commander.models.nesting import is_deeper, nested
from commander.outputs import Output
from commander.turn import Turn

SCHEMA_CHARS_MAX = 16_384
# A model that wants more in one round is told so; the dispatcher runs about as many of a session at once.
CALLS_MAX = 16
ARGUMENTS_DEPTH_MAX = 100
# What a tool returns is shown to the model up to here.
RESULT_CHARS_MAX = 100_000
# Patterns of an application's schema would run on a backtracking engine, in the agents' loop.
_PATTERNS = {"pattern", "patternProperties"}


@agent(
    "assistant",
    description="A language model with the tools on offer. Metadata: model, system, tools, schema",
    accepts=("text/plain", "application/json", "image/*", "audio/*", "application/pdf"),
)
async def assistant(turn: Turn) -> AsyncIterator[Output | str]:
    """Answers the conversation, in as many rounds as it takes, up to the model's limit."""
    model = turn.model(turn.metadata.get("model", ""))
    system = turn.metadata.get("system")
    # In a thread: it may be as long as may be, and others have turns here as well.
    wants_schema = any(turn.metadata.get(name) for name in ("schema", "response_format", "text"))
    schema = await asyncio.to_thread(_schema, turn.metadata) if wants_schema else None
    tools = _tools(turn)
    messages: list[Item] = [*turn.conversation]
    for number in range(1, model.rounds + 1):
        # Nobody would see what the last round's tools return: it has to answer without.
        may_call = number < model.rounds
        answer = model.stream(messages, system=system, schema=schema, tools=tools, may_call=may_call)
        async for output in answer:
            yield output
        messages.append(answer.reply)
        messages += await _returns(turn, answer.calls, tools if may_call else ())
        heard = turn.take_messages()
        messages += heard
        if not (answer.calls or heard):
            if answer.finish_reason == "length":
                yield turn.progress("The answer was cut: the model may say no more tokens.")
            return
        if heard and answer.text and not answer.calls:
            yield "\n\n"
    raise AgentError(
        f"the model {model.name!r} went on for {model.rounds} rounds without an end; raise rounds of its table, or ask"
        " for less at once",
        code="rounds_spent",
    )


async def _returns(turn: Turn, calls: Sequence[ToolCall], tools: Sequence[ToolOffer]) -> list[ToolReturn]:
    """What came of the calls, in their order: all of them at once, none twice."""
    known = {tool.name for tool in tools}
    return list(
        await asyncio.gather(*(_return(turn, call, known, place) for place, call in enumerate(calls)))
    )


async def _return(turn: Turn, call: ToolCall, known: set[str], place: int) -> ToolReturn:
    """Failures are for the model: it may ask in another way, or do without."""
    if place >= CALLS_MAX:
        return ToolReturn(call, f"not called: at most {CALLS_MAX} calls may be made at once", failed=True)
    if call.name not in known:
        there_are = ", ".join(sorted(known)) or "none"
        return ToolReturn(call, f"there is no tool {call.name!r}; there are {there_are}", failed=True)
    try:
        arguments = json.loads(call.arguments_json)
    except ValueError as error:
        return ToolReturn(call, f"the arguments are no JSON: {error}", failed=True)
    except RecursionError:
        arguments = None
        is_deep = True
    else:
        is_deep = is_deeper(arguments, ARGUMENTS_DEPTH_MAX)
    if is_deep:
        told = f"the arguments are nested too deeply: at most {ARGUMENTS_DEPTH_MAX} within each other"
        return ToolReturn(call, told, failed=True)
    if not isinstance(arguments, dict):
        return ToolReturn(call, "the arguments should be a JSON object", failed=True)
    try:
        result = await turn.call_tool_with(call.name, arguments)
    except ToolFailed as failure:
        again = "; the same call may succeed later" if failure.retryable else ""
        return ToolReturn(call, f"{failure.code}: {failure.message}{again}", failed=True)
    return ToolReturn(call, _shown(result))


def _shown(result: object) -> str:
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    if len(text) <= RESULT_CHARS_MAX:
        return text
    return f"{text[:RESULT_CHARS_MAX]}… (cut: {len(text):,} characters in all)"


def _tools(turn: Turn) -> tuple[ToolOffer, ...]:
    """Those on offer that the request wants. AgentError for one that isn't."""
    told = turn.metadata.get("tools")
    if told is None:
        return turn.tools
    wanted = {name.strip() for name in told.split(",") if name.strip()}
    offers = {tool.name: tool for tool in turn.tools}
    if missing := sorted(wanted - offers.keys()):
        there_are = ", ".join(offers) or "none"
        raise AgentError(
            f"metadata tools: there is no tool {missing[0][:80]!r} on offer; there are {there_are}",
            code="invalid_metadata",
        )
    return tuple(offers[name] for name in offers if name in wanted)


def _schema(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """AgentError names the key, what was wrong and what would be right."""
    name, told = _schema_told(metadata)
    if not told:
        return None
    if len(told) > SCHEMA_CHARS_MAX:
        raise _wrong_schema(name, f"has {len(told):,} characters; at most {SCHEMA_CHARS_MAX:,} may be")
    try:
        schema = json.loads(told)
    except (ValueError, RecursionError) as error:
        raise _wrong_schema(name, f"is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise _wrong_schema(name, "should be a JSON Schema, an object")
    if any(isinstance(each, dict) and _PATTERNS & each.keys() for _, each in nested(schema)):
        raise _wrong_schema(
            name, "should have no pattern and no patternProperties: enum, minLength … are right"
        )
    from commander.models.fit import fit_of  # noqa: PLC0415 - few requests have one

    try:
        fit_of(schema)
    except ValueError as error:
        raise _wrong_schema(name, str(error).removeprefix("schema: ")) from None
    return schema


def _schema_told(metadata: Mapping[str, str]) -> tuple[str, str]:
    """Under which name, and the schema as JSON; empty where there is none."""
    if metadata.get("schema"):
        return "schema", metadata["schema"]
    for name, of_chat in (("response_format", True), ("text", False)):
        told = metadata.get(name, "")
        if len(told) > 2 * SCHEMA_CHARS_MAX and told.startswith("{"):
            raise _wrong_schema(name, f"has {len(told):,} characters; at most {SCHEMA_CHARS_MAX:,} may be")
        form = _object(told)
        if not of_chat:
            form = form.get("format")
        match form:
            case {"type": "json_object"}:
                return name, '{"type": "object"}'
            case {"type": "json_schema", "json_schema": {"schema": schema}} if of_chat:
                return name, json.dumps(schema)
            case {"type": "json_schema", "schema": schema}:
                return name, json.dumps(schema)
    return "", ""


def _object(told: str) -> Any:
    """The JSON object; an empty one for anything else: applications may call a text of their own like that."""
    try:
        value = json.loads(told)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _wrong_schema(name: str, why: str) -> AgentError:
    return AgentError(f"metadata {name}: {why}", code="invalid_metadata")
