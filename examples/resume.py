"""An agent that goes on where it stood when its commander was killed: what viewers have is not said again, what tools
have answered is not asked again, and a call that was under way is repeated under its own key.

    dispatcher serve --config examples/dispatcher.toml
    commander run examples/resume.py --commander-id one
    commander run examples/resume.py --commander-id two
    dispatcher chat --agent survey "kitchen hall bath attic cellar"

While it speaks, `dispatcher sessions` says which commander has it: kill that one with `kill -9`, and watch the other.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from commander import Turn, agent


@agent("survey", description="Measures rooms, one after the other", on_restart="continue")
async def survey(turn: Turn) -> AsyncIterator[str]:
    published = len(turn.published.content) if turn.published else 0
    said = 0
    for room in turn.text.split():
        area = await once(turn, "measure", room=room)
        line = f"The {room} has {area} square metres.\n"
        # The death may have come in the middle of a line.
        yield line[max(0, published - said) :]
        said += len(line)


async def once(turn: Turn, tool: str, /, **arguments: object) -> Any:
    """What the tool returns, or has returned to an earlier attempt. Calls with the same arguments are one."""
    # The latest first: an earlier attempt may itself have repeated a call.
    for call in reversed(turn.published.calls if turn.published else ()):
        if (call.tool, json.loads(call.arguments_json)) == (tool, arguments) and call.failure is None:
            if call.result_json is not None:
                return json.loads(call.result_json)
            # Nobody knows whether it ran: under the same key it is the same deed.
            return await turn.call_tool_with(tool, arguments, idempotency_key=call.idempotency_key)
    return await turn.call_tool(tool, **arguments)
