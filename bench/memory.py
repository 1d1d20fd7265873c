"""What sessions take of the dispatcher's memory: finished ones that are kept, live ones, and the events in them; with
the journal in memory, and with one in a file, which is in memory too. Processes of its own for each round, since
memory that was used once is seldom given back."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Final, NamedTuple

from bench.load import Window, ask
from bench.plan import Plan
from bench.rows import Row, row
from bench.scene import Bare, Pair, Scene, bare, pair
from bench.tell import Tell

# Sessions on one Converse stream.
_AT_ONCE: Final = 100
_WARM: Final = 50
# Long answers that are kept, one beside the other.
_LONG: Final = 10
_MB: Final = 1e6
_KB: Final = 1e3


class _Taken(NamedTuple):
    """Bytes: a finished session, a live one, an event of a long answer."""

    finished: float
    live: float
    event: float


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    in_memory: list[_Taken] = []
    in_file: list[_Taken] = []
    theirs: list[_Taken] = []
    for number in range(plan.memory_rounds):
        tell(f"round {number + 1} of {plan.memory_rounds}")
        for is_file, found in ((False, in_memory), (True, in_file)):
            async with pair(keep=True, in_file=is_file, slots=plan.live_sessions) as one:
                found.append(await _pair(one, plan))
        async with bare() as other:
            theirs.append(await _bare(other, plan))
    yield [*_rows(plan, "", in_memory, theirs), *_rows(plan, ", in a file", in_file, theirs)]


def _rows(plan: Plan, where: str, ours: Sequence[_Taken], theirs: Sequence[_Taken]) -> list[Row]:
    live = f"{plan.live_sessions:,} of them, silent after {plan.live_events} events each"
    return [
        row(
            f"per live session{where}",
            "kB",
            [each.live / _KB for each in ours],
            [each.live / _KB for each in theirs],
            note=f"{live}; bare: an open stream, the same texts in a list",
        ),
        row(
            f"per 1,000 finished and kept, {plan.memory_tokens} events each{where}",
            "MB",
            [each.finished * 1000 / _MB for each in ours],
            [each.finished * 1000 / _MB for each in theirs],
            note="bare: the same texts in a list",
        ),
        row(
            f"per event kept{where}",
            "bytes",
            [each.event for each in ours],
            [each.event for each in theirs],
            note=f"answers of {plan.long_events:,} events; bare: the same texts in a list",
        ),
    ]


async def _pair(one: Pair, plan: Plan) -> _Taken:
    await one.host.told("be_plain")
    await _finish(one, _WARM, plan.memory_tokens)
    before = await one.host.told("memory")
    await _finish(one, plan.memory_sessions, plan.memory_tokens)
    finished = await one.host.told("memory")
    await _finish(one, _LONG, plan.long_events)
    long = await one.host.told("memory")
    for number in _portions(plan.live_sessions):
        # Two of the events tell that it was opened, and started.
        watched = await ask(one, "wait", number, Window.soon(0, 0), tokens=plan.live_events - 2)
        await watched.begun()
        await watched.leave()
    live = await one.host.told("memory")
    # Else its processes would wait for them to end.
    await one.viewer.stop_all()
    return _taken(plan, before, finished, long, live)


async def _finish(one: Pair, sessions: int, tokens: int) -> None:
    for number in _portions(sessions):
        watched = await ask(one, "count", number, Window.soon(0, 0), tokens=tokens, alone=1)
        await watched.over()


def _portions(sessions: int) -> Iterator[int]:
    for first in range(0, sessions, _AT_ONCE):
        yield min(_AT_ONCE, sessions - first)


async def _bare(other: Bare, plan: Plan) -> _Taken:
    client, server = other.clients[0], other.server
    await server.told("record")
    await client.told("finish", streams=_WARM, tokens=plan.memory_tokens)
    before = await server.told("memory")
    await client.told("finish", streams=plan.memory_sessions, tokens=plan.memory_tokens, timeout_s=60)
    finished = await server.told("memory")
    await client.told("finish", streams=_LONG, tokens=plan.long_events, timeout_s=60)
    long = await server.told("memory")
    await client.told("hold", streams=plan.live_sessions, tokens=plan.live_events)
    live = await server.told("memory")
    await client.told("let_go")
    return _taken(plan, before, finished, long, live)


def _taken(plan: Plan, before: int, finished: int, long: int, live: int) -> _Taken:
    return _Taken(
        (finished - before) / plan.memory_sessions,
        (live - long) / plan.live_sessions,
        (long - finished) / _LONG / plan.long_events,
    )
