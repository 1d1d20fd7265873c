"""A commander dies, is told to go, or freezes: what its viewers see of the next attempt, with real processes."""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from asynchronous import asynchronous
from chat_viewer import Conversation, Seen, conversing
from commander_process import CommanderProcess, running_commander
from dispatcher_process import DispatcherProcess, running_dispatcher
from southwest.ai.agent.v1 import chat_pb2

# The first attempt speaks until it is ended; the next one says what it was told, and waits for a word to end.
AGENTS = """
import asyncio
from commander import agent

@agent("saga", on_restart="continue")
async def saga(turn):
    before = turn.published
    if before is None:
        answer = await turn.call_tool("calculate", expression="6 * 7")
        async for message in turn.messages():
            yield f"{message} {answer['result']} "
            break
        while True:
            yield "."
            await asyncio.sleep(0.01)
    calls = [call.result_json for call in before.calls]
    said = [message.text for message in before.messages]
    yield f"[{turn.attempt} {len(before.content)} {len(calls)} {said}]"
    answer = await turn.call_tool("calculate", expression="1 + 1")
    async for message in turn.messages():
        yield f" {answer['result']} {message}"
        break
"""
# What one that has to wait for this would never see: it is longer than any test.
NEVER_S = "600"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_agents.py").write_text(AGENTS)
    return tmp_path


def dispatching(detach_grace_s: str) -> contextlib.AbstractContextManager[DispatcherProcess]:
    flags = ("--heartbeat-interval-s", "1", "--detach-grace-s", detach_grace_s)
    return running_dispatcher("--tools", "demo", *flags)


@contextlib.contextmanager
def commanding(folder: Path, dispatcher: DispatcherProcess, name: str) -> Iterator[CommanderProcess]:
    flags = ("--dispatcher", dispatcher.address, "--commander-id", name, "--drain-deadline-s", "0.2")
    with running_commander(folder, "my_agents", *flags) as commander:
        commander.wait_for("linked to")
        yield commander


@contextlib.asynccontextmanager
async def begun(dispatcher: DispatcherProcess) -> AsyncIterator[tuple[Conversation, Seen]]:
    """A session that has asked a tool, has read a message of the user, and speaks."""
    async with conversing(dispatcher.address) as conversation:
        seen = await conversation.ask("saga")
        await conversation.request("1", message=chat_pb2.AddMessage(text="hello"))
        await seen.until_text("...")
        yield conversation, seen


async def goes_on(conversation: Conversation, seen: Seen) -> None:
    """The next attempt goes on from exactly what viewers have, and ends when it is told to."""
    await seen.until_text("]")
    await conversation.request("1", message=chat_pb2.AddMessage(text="enough"))
    ended = await seen.ended()
    assert ended.ending == chat_pb2.SESSION_ENDING_COMPLETED, ended
    assert list(ended.unread_message_ids) == []
    assert not seen.of("reset")
    told = re.fullmatch(r"(hello 42 \.+)\[2 (\d+) 1 \['hello'\]\] 2 enough", seen.text)
    assert told is not None, seen.text
    assert int(told[2]) == len(told[1])
    # Neither viewers nor tools take two calls for one.
    calls = [event.tool_call.call_id for event in seen.of("tool_call")]
    assert len(set(calls)) == len(calls) == 2


@asynchronous
async def test_one_that_is_killed_is_followed_by_one_that_goes_on(folder: Path) -> None:
    with dispatching("4") as dispatcher, commanding(folder, dispatcher, "first") as first:
        async with begun(dispatcher) as (conversation, seen):
            with commanding(folder, dispatcher, "second"):
                first.tell(signal.SIGKILL)
                await goes_on(conversation, seen)


@pytest.mark.parametrize("signals", [1, 2])
@asynchronous
async def test_one_that_is_told_to_go_hands_over_at_once(folder: Path, signals: int) -> None:
    with dispatching(NEVER_S) as dispatcher, commanding(folder, dispatcher, "first") as first:
        async with begun(dispatcher) as (conversation, seen):
            with commanding(folder, dispatcher, "second"):
                for _ in range(signals):
                    first.tell(signal.SIGTERM)
                    first.wait_for("draining")
                await goes_on(conversation, seen)
                assert first.wait() == (0 if signals == 1 else 128 + signal.SIGTERM)


@asynchronous
async def test_one_that_was_frozen_is_fenced_and_nothing_it_says_counts(folder: Path) -> None:
    with dispatching("4") as dispatcher, commanding(folder, dispatcher, "first") as first:
        async with begun(dispatcher) as (conversation, seen):
            with commanding(folder, dispatcher, "second"):
                first.tell(signal.SIGSTOP)
                await seen.until_text("]")
                first.tell(signal.SIGCONT)
                await asyncio.to_thread(first.wait_for, "cancelled: fenced")
                await asyncio.to_thread(first.wait_for, "ended: lost")
                await goes_on(conversation, seen)
