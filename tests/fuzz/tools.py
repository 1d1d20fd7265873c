"""The tools that the fuzzed dispatcher offers: one that answers, one that never does, one that has to be allowed."""

import asyncio


async def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


async def hang() -> None:
    """Nothing, ever."""
    await asyncio.Event().wait()


async def pay(a: int, b: int) -> int:
    """As much as was allowed."""
    return a * b
