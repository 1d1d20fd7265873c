"""What sessions take of the dispatcher's memory: finished ones that are kept, and live ones. Processes of its own
for each round, since memory that was used once is seldom given back."""

from collections.abc import Iterator
from typing import Final

from bench.load import Window, ask
from bench.plan import Plan
from bench.rows import Row, row
from bench.scene import Bare, Pair, Scene, bare, pair
from bench.tell import Tell

# Sessions on one Converse stream.
_AT_ONCE: Final = 100
_WARM: Final = 50
_MB: Final = 1e6
_KB: Final = 1e3


async def measure(plan: Plan, scene: Scene, tell: Tell) -> list[Row]:  # noqa: ARG001 - it has its own
    sessions, tokens = plan.memory_sessions, plan.memory_tokens
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for number in range(plan.memory_rounds):
        tell(f"round {number + 1} of {plan.memory_rounds}")
        async with pair(keep=True, slots=sessions) as one:
            ours.append(await _pair(one, sessions, tokens))
        async with bare() as other:
            theirs.append(await _bare(other, sessions, tokens))
    return [
        row(
            "per live session",
            "kB",
            [live / sessions / _KB for _, live in ours],
            [live / sessions / _KB for _, live in theirs],
            note=f"{sessions:,} of them, silent; bare: an open stream",
        ),
        row(
            f"per 1,000 finished and kept, {tokens} events each",
            "MB",
            [finished / sessions * 1000 / _MB for finished, _ in ours],
            [finished / sessions * 1000 / _MB for finished, _ in theirs],
            note="bare: the same texts in a list",
        ),
    ]


async def _pair(one: Pair, sessions: int, tokens: int) -> tuple[float, float]:
    """Bytes that finished sessions take, and live ones."""
    await one.host.told("be_plain")
    await _finish(one, _WARM, tokens)
    before = await one.host.told("memory")
    await _finish(one, sessions, tokens)
    finished = await one.host.told("memory")
    for number in _portions(sessions):
        watched = await ask(one, "wait", number, Window.soon(0, 0))
        await watched.begun()
        await watched.leave()
    live = await one.host.told("memory")
    return finished - before, live - finished


async def _finish(one: Pair, sessions: int, tokens: int) -> None:
    for number in _portions(sessions):
        watched = await ask(one, "count", number, Window.soon(0, 0), tokens=tokens, alone=1)
        await watched.over()


def _portions(sessions: int) -> Iterator[int]:
    for first in range(0, sessions, _AT_ONCE):
        yield min(_AT_ONCE, sessions - first)


async def _bare(other: Bare, sessions: int, tokens: int) -> tuple[float, float]:
    client, server = other.clients[0], other.server
    await server.told("record")
    await client.told("finish", streams=_WARM, tokens=tokens)
    before = await server.told("memory")
    await client.told("finish", streams=sessions, tokens=tokens, timeout_s=60)
    finished = await server.told("memory")
    await client.told("hold", streams=sessions)
    live = await server.told("memory")
    await client.told("let_go")
    return finished - before, live - finished
