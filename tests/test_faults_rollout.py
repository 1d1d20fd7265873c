"""A rolling restart under load: three commanders, one after the other, are told to go and started anew. No session is
stopped, lost or even begun a second time."""

import asyncio
import contextlib
import itertools
import signal
from pathlib import Path

import pytest
from asynchronous import asynchronous, eventually
from dialling import dialled
from faults.promises import attempts, counted_once, ended_once, text_is_kept, tools_ran_once
from faults.scene import AGENTS, Place, commanding, dispatching
from faults.script import Script
from faults.viewers import User
from southwest.ai.agent.v1 import chat_pb2_grpc

_AT_ONCE = 12
_COMMANDERS = ("one", "two", "three")


class Load:
    """Sessions that never cease: where one has ended, the next begins."""

    def __init__(self, chat: "chat_pb2_grpc.ChatAsyncStub") -> None:
        self._chat = chat
        self._seeds = itertools.count(1)
        self.users: list[User] = []
        self.is_enough = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as running:
            for number in range(_AT_ONCE):
                running.create_task(self._one_after_the_other(AGENTS[number % 2]))

    async def grows_beyond(self, sessions: int) -> None:
        async def look() -> int:
            return len(self.users)

        await eventually(look, sessions.__lt__)

    async def _one_after_the_other(self, agent: str) -> None:
        while not self.is_enough:
            script = Script(next(self._seeds), ("say", "call", "say", "ask", "hear", "say"), words=40)
            user = User(self._chat, self._chat, agent, script)
            user.may_speak.set()
            await user.ask()
            self.users.append(user)
            await user.run()


@pytest.mark.slow
@asynchronous
async def test_no_session_is_lost_over_a_rolling_restart(tmp_path: Path) -> None:
    with dispatching(tmp_path) as place:
        async with dialled(place.address) as channel, contextlib.AsyncExitStack() as fleet:
            commanders = {
                name: await fleet.enter_async_context(commanding(place.address, name)) for name in _COMMANDERS
            }
            load = Load(chat_pb2_grpc.ChatStub(channel))
            running = asyncio.ensure_future(load.run())
            await load.grows_beyond(_AT_ONCE - 1)
            for name, commander in commanders.items():
                begun = len(load.users)
                commander.tell(signal.SIGTERM)
                assert await asyncio.to_thread(commander.wait) == 0, commander.lines
                # Sessions have begun meanwhile, on the other two.
                await load.grows_beyond(begun)
                await fleet.enter_async_context(commanding(place.address, name))
            await load.grows_beyond(3 * _AT_ONCE)
            load.is_enough = True
            await running
            await _all_is_well(place, load)


async def _all_is_well(place: Place, load: Load) -> None:
    async with dialled(place.address) as channel:
        chat = chat_pb2_grpc.ChatStub(channel)
        for user in load.users:
            text_is_kept(user, user.script)
            await ended_once(chat, user)
    assert attempts(load.users) == {1}
    tools_ran_once(place.runs, {user.session_id: user.script for user in load.users})
    counted_once({}, await asyncio.to_thread(place.process.scrape), len(load.users))
