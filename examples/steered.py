"""An agent that listens while it works, and puts its things away when it is stopped. What the user says is taken
between two steps, when it is about to be heeded; a stop cancels the agent where it stands.

    dispatcher serve
    commander run examples/steered.py
    dispatcher chat --agent tour "Lisbon"

Type `Porto` while it speaks, then `enough`; or end it with Ctrl-C, and see what its commander says.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from commander import Turn, agent


@agent("tour", description="Tells of a place until it is told 'enough'; any other word is the next place")
async def tour(turn: Turn) -> AsyncIterator[str]:
    place = turn.text
    async with seat(turn):
        for step in range(1, 1_001):
            for message in turn.take_messages():
                if message.text == "enough":
                    yield "As you like."
                    return
                place = message.text
                yield f"On to {place}!\n"
            yield f"{step}. Another street of {place}.\n"
            await asyncio.sleep(0.1)  # a step of real work; a stop interrupts it


@asynccontextmanager
async def seat(turn: Turn) -> AsyncIterator[None]:
    """Something that has to be given back, however the turn ends."""
    print(f"tour: took a seat for {turn.session_id}", flush=True)
    try:
        yield
    finally:
        # Stopped, one may still await, but call no tool: there are stop_grace_s for it.
        await asyncio.sleep(0)
        print(f"tour: gave back the seat of {turn.session_id}", flush=True)
