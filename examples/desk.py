"""A front agent that asks two others, each on a commander of its own, and answers for both. Through the dispatcher: a
stop of the desk stops them too, and what they say is seen as it comes.

    dispatcher serve --config examples/dispatcher.toml
    commander run examples/desk.py:orders
    commander run examples/desk.py:billing
    commander run examples/desk.py:desk
    dispatcher chat --agent desk "Where is my order 8?"

The settings offer `orders` as the tool `ask_orders` besides, so that a model may ask it:

    python examples/stand_in.py
    commander run assistant --model openai-chat:stand-in --base-url http://127.0.0.1:8000/v1
    dispatcher chat --agent assistant --metadata tools=ask_orders "Where is my order 7?"
"""

import asyncio
import re
from collections.abc import AsyncIterator

from commander import AgentError, ToolFailed, Turn, agent

SENT = {7: "Monday"}
OWED = {8: 30}


@agent("orders", description="Knows where orders are")
async def orders(turn: Turn) -> str:
    number = order_in(turn.text)
    return f"Order {number} was sent on {SENT[number]}." if number in SENT else f"Order {number} is here yet."


@agent("billing", description="Knows what is paid")
async def billing(turn: Turn) -> str:
    number = order_in(turn.text)
    return f"{OWED[number]} euros are owed for it." if number in OWED else "It is paid."


@agent("desk", description="Answers customers; asks orders and billing")
async def desk(turn: Turn) -> AsyncIterator[str]:
    # Both at once. What they say is content of this session already, and need not be said again.
    where, paid = await asyncio.gather(asked(turn, "orders"), asked(turn, "billing"))
    if where is None or paid is None:
        yield "\nNot all of my colleagues are in; please ask again later."
    elif "owed" in paid:
        yield "\nIt leaves as soon as it is paid."
    else:
        yield "\nIs there anything else?"


async def asked(turn: Turn, colleague: str) -> str | None:
    """None: that one can't answer, and we do without."""
    try:
        return await turn.delegate(colleague, turn.text, timeout_s=60)
    except ToolFailed:
        return None


def order_in(text: str) -> int:
    found = re.search(r"\d+", text)
    if found is None:
        raise AgentError("Which order? Its number is missing.", code="no_number")
    return int(found[0])
