"""The smallest agent: a function that yields. A text that it yields is content, and whoever watches sees it at once.
Each command in a terminal of its own:

    dispatcher serve
    commander run examples/hello.py
    dispatcher chat --agent hello "Ada"
"""

from collections.abc import AsyncIterator

from commander import Turn, agent


@agent("hello", description="Says hello")
async def hello(turn: Turn) -> AsyncIterator[str]:
    for word in ("Hello, ", turn.text, "!"):
        yield word
