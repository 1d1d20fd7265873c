"""A session as it should be, again and again: what is fuzzed beside it must not touch a byte of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from chat_viewer import conversing
from scripted_commander import Link, Turn, linked, unique

_WORDS = ("One and one ", "make 2 – 🌍", ".")
_KINDS = ["opened", "started", "content", "tool_call", "tool_result", "content", "content", "ended"]


class Canary:
    """A commander that is linked all the time. `sing` asks it, over a stream of its own."""

    def __init__(self, address: str, link: Link, agent: str) -> None:
        self.commander_id = link.commander_id
        self._address = address
        self._link = link
        self._agent = agent
        self._turns: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                turn = await self._link.started()
                task = asyncio.ensure_future(self._run(turn))
                self._turns.add(task)
                task.add_done_callback(self._turns.discard)

    async def _run(self, turn: Turn) -> None:
        """A case that names no agent may get it too, and stop it."""
        stop = asyncio.ensure_future(self._link.heard("stop", turn.session_id))
        speak = asyncio.ensure_future(self._speak(turn))
        await asyncio.wait([stop, speak], return_when=asyncio.FIRST_COMPLETED)
        if stop.done() and stop.exception() is None:
            await turn.acknowledge_stop(stop.result().stop)
        for task in (stop, speak):
            task.cancel()
        await asyncio.wait([stop, speak])

    async def _speak(self, turn: Turn) -> None:
        await turn.say(_WORDS[0])
        await turn.call("add", '{"a": 1, "b": 1}', "sum")
        assert (await turn.result()).result_json == "2"
        for words in _WORDS[1:]:
            await turn.say(words)
        await turn.finish()

    async def sing(self) -> None:
        async with conversing(self._address) as talk:
            seen = await talk.ask(self._agent)
            ended = await seen.ended()
            assert ended.name == "completed", ended
            assert seen.text == "".join(_WORDS), seen.text
            assert seen.kinds == _KINDS, seen.kinds
            assert seen.of("tool_result")[0].tool_result.result_json == "2"
            await talk.half_close()
            status = await talk.status()
            assert status.code.name == "OK", status


@contextlib.asynccontextmanager
async def canary(address: str) -> AsyncIterator[Canary]:
    agent = unique("canary")
    async with linked(address, agent, slots=64) as link:
        bird = Canary(address, link, agent)
        work = asyncio.ensure_future(bird.work())
        try:
            yield bird
        finally:
            work.cancel()
            await asyncio.wait([work])
