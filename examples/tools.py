"""The tools of these examples: functions, which the dispatcher runs. Their signatures are their schemas."""

import asyncio
from typing import Annotated

from pydantic import Field

from dispatcher.tools import ToolContext, ToolError, tool

SKIES = ("sun", "clouds", "rain", "wind")
DELIVERED: dict[str, str] = {}


def forecast(city: str, days: Annotated[int, Field(ge=1, le=7)] = 1) -> dict[str, object]:
    """The weather of the next days, invented.

    Args:
        city: Its English name.
        days: How many, from tomorrow on.
    """
    return {"city": city, "days": [SKIES[(len(city) + day) % len(SKIES)] for day in range(days)]}


@tool(timeout_s=10, concurrency=8, idempotent=True)
async def send_letter(to: str, context: ToolContext) -> str:
    """Sends a letter.

    Args:
        to: An address with an @.
    """
    if "@" not in to:
        raise ToolError("there is no @ in this address")
    await asyncio.sleep(0.1)  # the post
    # A repeat of the call has the same key, and is no second letter.
    return DELIVERED.setdefault(context.idempotency_key, f"delivered to {to}")


@tool(timeout_s=10, idempotent=True)
async def measure(room: str) -> int:
    """Measures a room, in square metres. It takes a moment."""
    await asyncio.sleep(0.3)
    return 4 * len(room)


TOOLS = [forecast, send_letter, measure]
