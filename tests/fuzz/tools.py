"""The tools that the fuzzed dispatcher offers: one that answers, one that never does."""

import asyncio


async def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


async def hang() -> None:
    """Nothing, ever."""
    await asyncio.Event().wait()
