"""Tools for a dispatcher that tests start: `--tools tests.scene_tools:TOOLS`."""

import asyncio


def add(a: int, b: int) -> int:
    return a + b


async def hang() -> None:
    """Never ends by itself."""
    await asyncio.Event().wait()


def shout(text: str) -> str:
    return f"{text}!\u2028\n"


TOOLS = [add, hang, shout]
