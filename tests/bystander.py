"""Another session that runs meanwhile, on a link and a stream of its own, and must not notice anything."""

import contextlib
from collections.abc import AsyncIterator

from chat_viewer import conversing
from scripted_commander import linked, unique


@contextlib.asynccontextmanager
async def undisturbed_neighbour(address: str) -> AsyncIterator[None]:
    agent = unique("neighbour")
    async with linked(address, agent) as link, conversing(address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say("before, ")
        await seen.until_text("before")
        yield
        await turn.say("after")
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "before, after"
        assert (await link.leave()).code.name == "OK"
