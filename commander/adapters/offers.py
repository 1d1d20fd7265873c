"""The dispatcher's tools in the hands of a foreign agent: which it gets, how it calls them, and what it is told.

A call goes through the dispatcher and under its rules, and viewers see it as any other. A failure is for the foreign
agent's model: it may ask in another way, or do without.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from commander.conversation import ToolOffer
from commander.errors import AgentError, QuestionUnanswered, ToolFailed
from commander.models.repair import whole
from commander.turn import Turn

# What a tool returns is shown to the model up to here.
RESULT_CHARS_MAX: Final = 100_000
# Of a call's arguments, in a question to the user and in what viewers see.
SHOWN_CHARS_MAX: Final = 2_000
APPROVE: Final = "approve"
DENY: Final = "deny"


def chosen(turn: Turn, names: Collection[str] | None) -> tuple[ToolOffer, ...]:
    """The tools that the foreign agent gets: of those on offer all, or the named ones. AgentError for one that isn't
    on offer."""
    if names is None:
        return turn.tools
    there = {offer.name for offer in turn.tools}
    if missing := sorted(set(names) - there):
        raise AgentError(
            f"tools: there is no tool {missing[0][:80]!r} on offer; there are {', '.join(sorted(there)) or 'none'}",
            code="tool_not_offered",
        )
    return tuple(offer for offer in turn.tools if offer.name in names)


def schema(offer: ToolOffer) -> dict[str, Any]:
    """Of its arguments, with what every provider insists on."""
    return {"type": "object", "properties": {}, **offer.parameters}


async def called(turn: Turn, name: str, arguments: Mapping[str, Any]) -> str:
    """What the tool returned, as the model is to read it. Raises a ToolFailed."""
    return shown(await turn.call_tool_with(name, arguments))


async def returned(turn: Turn, chosen: Collection[ToolOffer], name: str, arguments_json: str) -> str:
    """The same for a call as a model wrote it. Never fails: what went wrong is what the model reads."""
    known = [offer.name for offer in chosen]
    if name not in known:
        return f"not_found: there is no tool {name!r}; there are {', '.join(known) or 'none'}"
    try:
        arguments = json.loads(arguments_json or "{}")
    except (ValueError, RecursionError) as error:
        return f"invalid_arguments: the arguments are no JSON: {error}"
    if not isinstance(arguments, dict):
        return "invalid_arguments: the arguments should be a JSON object"
    try:
        return await called(turn, name, arguments)
    except ToolFailed as failure:
        return told(failure)


def told(failure: ToolFailed) -> str:
    """A failure in words for the model."""
    again = "; the same call may succeed later" if failure.retryable else ""
    return f"{failure.code}: {failure.message}{again}"


def shown(result: object) -> str:
    return cut(whole(shown_text(result)), RESULT_CHARS_MAX)


def shown_text(value: object) -> str:
    """As JSON, where there is one of it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def cut(text: str, chars_max: int = SHOWN_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]}… (cut: {len(text):,} characters in all)"


async def approved(turn: Turn, tool: str, arguments: object, why: str = "") -> bool:
    """Whether the user lets a tool of the foreign agent run. No answer is no."""
    question = f"May {tool} run with {cut(shown_text(arguments))}?" + (f" {cut(why)}" if why else "")
    try:
        return bool(await turn.ask(whole(question), [APPROVE, DENY]) == APPROVE)
    except QuestionUnanswered:
        return False
