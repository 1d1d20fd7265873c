"""What the tests of all adapters share: a foreign agent in a file, served by a real commander to a real dispatcher with
the tools of the demo, its model a scripted server."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from chat_viewer import Conversation, conversing
from commander_process import running_commander
from dispatcher_process import running_dispatcher
from model_server import Call, ModelServer, Pause, Request, Status, Step, calls, says
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import Turn, agent
from commander.agent import AnyAgent
from commander.testing import run_agent, running_agent

# How long a client may take to leave after a stop, on a busy machine; alone it takes milliseconds.
LEAVES_S = 1.0


def script(request: Request) -> list[Step]:
    """Asks for the calculator, and tells what it said; fails, or waits for ever, where it is told to."""
    last = request.messages[-1]
    if last["role"] == "tool":
        return says(f"It is {json.loads(last['content'])['result']}.")
    said = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
    if said == "Fail":
        return [Status(429, "slow down", headers={"Retry-After": "7", "x-should-retry": "false"})]
    if said == "Wait":
        return ["Well", Pause()]
    return calls(Call("calculate", ['{"expression": ', '"6 * 7"}']))


@contextlib.asynccontextmanager
async def served(folder: Path, file: str, name: str) -> AsyncIterator[Conversation]:
    """The agents of this Python text, by real processes."""
    (folder / "mine.py").write_text(file)
    with (
        running_dispatcher("--tools", "demo") as dispatcher,
        running_commander(folder, f"mine.py:{name}", "--dispatcher", dispatcher.address) as commander,
    ):
        await asyncio.to_thread(commander.wait_for, "linked")
        async with conversing(dispatcher.address) as conversation:
            yield conversation
            await conversation.half_close()


async def answers_fails_and_stops(conversation: Conversation, name: str, server: ModelServer) -> None:
    """Through all of it: the tool of the dispatcher, an error of the model, a stop in the middle of its answer."""
    seen = await conversation.ask(name, "What is 6 * 7?", "1")
    assert (await seen.ended()).name == "completed"
    assert seen.text == "It is 42."
    assert (await seen.until("tool_call")).tool_call.tool_name == "calculate"
    used = [event.usage for event in seen.of("usage")]
    assert sum(usage.input_tokens for usage in used) == 14
    assert sum(usage.output_tokens for usage in used) == 6
    failed = await conversation.ask(name, "Fail", "2")
    error = (await failed.ended()).error
    assert (error.code, error.origin) == ("model_rate_limited", pb.ERROR_ORIGIN_LLM)
    assert (error.upstream_status, error.retryable, error.retry_after_ms) == (429, True, 7_000)
    assert "slow down" in error.message
    waits = await conversation.ask(name, "Wait", "3")
    await waits.until_text("Well")
    number = len(server.requests)
    began_at = time.monotonic()
    await conversation.request("3", stop={"reason": "Enough"})
    await waits.ended()
    assert await asyncio.to_thread(server.wait_left, number) - began_at < LEAVES_S


async def closes_its_connection(made: AnyAgent, server: ModelServer, *before: Step) -> None:
    """A stop while the model says nothing, after `before`: nothing at all when it is left out."""
    server.then([*before, Pause()])
    async with running_agent(made, "Hi") as run:
        if before:
            await run.until_text("".join(step for step in before if isinstance(step, str)))
        else:
            await asyncio.to_thread(server.wait_for, 1)
        began_at = time.monotonic()
        run.stop()
        assert (await run.over()).outcome == "stopped"
    assert await asyncio.to_thread(server.wait_left, 1) - began_at < LEAVES_S


async def closes_when_it_is_left(made: AnyAgent, server: ModelServer) -> None:
    """An author who has heard enough of it goes on with other things."""
    server.then(["Well, ", Pause()])

    @agent("leaving")
    async def leaving(turn: Turn) -> AsyncIterator[str]:
        said = made(turn)
        assert await anext(said) == "Well, "
        began_at = time.monotonic()
        await said.aclose()
        assert await asyncio.to_thread(server.wait_left, 1) - began_at < LEAVES_S
        yield "Enough."

    run = await run_agent(leaving, "Hi")
    assert (run.outcome, run.text) == ("completed", "Enough."), run.failure
