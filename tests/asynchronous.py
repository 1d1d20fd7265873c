"""Async tests without a plugin: each runs in a loop of its own, bounded in time, and waits on what happens."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

# How long a test waits for what must come. Generous: the machine may be busy, and nothing is measured by it.
PATIENCE_S = 60.0
_TEST_S = 200.0
# Only where nothing can be awaited, e.g. a view of another process.
_POLL_S = 0.02

P = ParamSpec("P")
T = TypeVar("T")


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Makes a plain test of an async one. Tasks left behind are cancelled by the loop's end."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(_TEST_S):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


async def soon(awaitable: Awaitable[T], patience_s: float = PATIENCE_S) -> T:
    """What must come within the test's patience. Not for a gRPC read: cancelling one ends its call."""
    async with asyncio.timeout(patience_s):
        return await awaitable


async def eventually(
    look: Callable[[], Awaitable[T]], right: Callable[[T], bool] = bool, patience_s: float = PATIENCE_S
) -> T:
    """Looks until what is seen is right. Fails with the last thing seen."""
    deadline = time.monotonic() + patience_s
    while not right(seen := await look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {patience_s:g} s"
        await asyncio.sleep(_POLL_S)
    return seen
