"""Agents that play a script. `commander run faults.agents` serves them, from the folder of the tests."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from commander import Published, ToolOutcomeUnknown, Turn, agent
from commander.outputs import Output
from faults.script import Script, message


@agent("anew", description="Plays a script, and from the beginning after a failover")
async def anew(turn: Turn) -> AsyncIterator[str | Output]:
    async for output in _play(turn, Published("")):
        yield output


@agent("onward", description="Plays a script, and goes on where it was lost", on_restart="continue")
async def onward(turn: Turn) -> AsyncIterator[str | Output]:
    async for output in _play(turn, turn.published or Published("")):
        yield output


async def _play(turn: Turn, before: Published) -> AsyncIterator[str | Output]:
    script = Script.of(turn.text)
    said = 0
    for at in range(len(script.steps)):
        pieces = script.pieces(at)
        if script.steps[at] != "say" and len(before.content) <= said:
            if script.steps[at] == "hear":
                yield turn.progress("listening", current=at)
            pieces = [f"[{await _heard(turn, script, at, before)}] "]
        for piece in pieces:
            # What viewers have is not said again, be it half a word.
            rest = piece[max(0, len(before.content) - said) :]
            said += len(piece)
            if rest:
                yield rest
                await asyncio.sleep(script.pause_s)


async def _heard(turn: Turn, script: Script, at: int, before: Published) -> str:
    """What the step is told: by a tool, or by the user."""
    if script.steps[at] == "call":
        arguments = {"step": at, "gate": script.gate}
        for call in before.calls:
            if json.loads(call.arguments_json) == arguments and call.result_json and call.failure is None:
                return str(json.loads(call.result_json))
        with contextlib.suppress(ToolOutcomeUnknown):
            return str(await turn.call_tool_with("record", arguments))
        # The dispatcher died with it. This is another call.
        return str(await turn.call_tool_with("record", arguments))
    if script.steps[at] == "ask":
        return str(await turn.ask(str(at)))
    if message(at) in [each.text for each in before.messages]:
        return message(at)
    async for each in turn.messages():
        # A user who was not sure of having been heard has said it twice.
        if each.text == message(at):
            return each.text
    raise AssertionError("the user was silent to the end")
