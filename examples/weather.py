"""A language model that may call a tool, in rounds: it answers, its calls run in the dispatcher, and it goes on with
what they returned. Failures that pass are tried again, and then the spare model is asked: weather.toml says how often.

    dispatcher serve --config examples/dispatcher.toml
    python examples/stand_in.py
    commander run examples/weather.py --config examples/weather.toml
    dispatcher chat --agent weather "Lisbon"

The second command is a stand-in, for want of a model. For a real one change `model` in weather.toml.
"""

import asyncio
import json
from collections.abc import AsyncIterator

from commander import AgentError, Output, ToolFailed, Turn, agent
from commander.models import Item, ToolCall, ToolReturn

SYSTEM = "You are a weather forecaster. Look the weather up, and say in two sentences what to wear."


@agent("weather", description="Looks the weather up, and says what to wear")
async def weather(turn: Turn) -> AsyncIterator[Output | str]:
    model = turn.model()
    messages: list[Item] = [*turn.conversation]
    # Offer what this agent is for, and not all that the dispatcher has.
    tools = [tool for tool in turn.tools if tool.name == "forecast"]
    for _ in range(model.rounds):
        answer = model.stream(messages, system=SYSTEM, tools=tools)
        async for output in answer:
            yield output
        if not answer.calls:
            return
        messages.append(answer.reply)
        messages += await asyncio.gather(*(returned(turn, call) for call in answer.calls))
    raise AgentError(f"no answer in {model.rounds} rounds", code="rounds_spent")


async def returned(turn: Turn, call: ToolCall) -> ToolReturn:
    """Failures go to the model too: it may ask in another way, or say what is wrong."""
    try:
        result = await turn.call_tool_with(call.name, json.loads(call.arguments_json))
    except (ToolFailed, ValueError) as error:
        return ToolReturn(call, str(error), failed=True)
    return ToolReturn(call, json.dumps(result))
