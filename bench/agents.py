"""The agents that are measured. What they are to do is in the request's metadata, as text.

What an agent can't say in its session, because that is over, it notes here; `worker.py` tells it when asked.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from bench.model import spoken
from bench.tokens import PLAIN, call_times, due_times, finish_ns, p50_p99, stamped, until
from bench.vector import numbers
from commander import Output, Turn, agent

# By session: when its agent was cancelled, or returned; and how long its tool calls took.
_ended_ns: dict[str, int] = {}
_calls_ns: list[int] = []


def noted() -> dict[str, Any]:
    """What was noted since last asked: when agents ended, by session, and how long calls took, nanoseconds."""
    told = {"ended": dict(_ended_ns), "calls": list(_calls_ns)}
    _ended_ns.clear()
    _calls_ns.clear()
    return told


@agent("flood")
async def flood(turn: Turn) -> AsyncIterator[str]:
    """Plain tokens as fast as they are taken, for a time."""
    stop_ns = int(turn.metadata["stop_ns"])
    await until(int(turn.metadata["start_ns"]))
    now = time.monotonic_ns
    while now() < stop_ns:
        yield PLAIN


@agent("pace")
async def pace(turn: Turn) -> AsyncIterator[str]:
    """Stamped tokens at a rate, for a time."""
    told = turn.metadata
    due = due_times(
        int(told["start_ns"]), int(told["stop_ns"]), float(told["per_second"]), int(told["index"])
    )
    for due_ns in due:
        await until(due_ns)
        yield stamped()


@agent("count")
async def count(turn: Turn) -> AsyncIterator[str | Output]:
    """So many plain tokens as fast as they are taken; in packets of their own where asked."""
    alone = "alone" in turn.metadata
    await until(int(turn.metadata.get("start_ns", 0)))
    for number in range(int(turn.metadata["tokens"])):
        # Neighbours of different steps are never merged.
        yield turn.thought("even" if number % 2 else "odd", PLAIN) if alone else PLAIN


@agent("wait")
async def wait(turn: Turn) -> AsyncIterator[str | Output]:
    """One token or so many, each in a packet of its own, then silence until it is stopped, of which it notes the
    time."""
    try:
        for number in range(1, int(turn.metadata.get("tokens", 1))):
            yield turn.thought("even" if number % 2 else "odd", PLAIN)
        yield PLAIN
        await asyncio.Event().wait()
    finally:
        _ended_ns[turn.session_id] = time.monotonic_ns()


@agent("model")
async def model(turn: Turn) -> AsyncIterator[str]:
    """What a model says, whose address is the question."""
    async for token in spoken(turn.text):
        yield token


@agent("stubborn")
async def stubborn(turn: Turn) -> AsyncIterator[str]:
    """Floods until it is stopped, notes the time, and says one thing more than it should."""
    stop_ns = int(turn.metadata["stop_ns"])
    await until(int(turn.metadata["start_ns"]))
    try:
        while time.monotonic_ns() < stop_ns:
            yield PLAIN
    except asyncio.CancelledError:
        _ended_ns[turn.session_id] = time.monotonic_ns()
        yield "too late "


@agent("busy")
async def busy(turn: Turn) -> AsyncIterator[str]:
    """Floods for a time and calls a tool meanwhile, again and again; notes how long each call takes and when
    it finishes."""
    told = turn.metadata
    stop_ns = finish_ns(int(told["stop_ns"]), int(told["index"]))
    await until(int(told["start_ns"]))
    calling = asyncio.ensure_future(_call(turn, stop_ns))
    while time.monotonic_ns() < stop_ns or not calling.done():
        yield PLAIN
    calling.result()
    _ended_ns[turn.session_id] = time.monotonic_ns()


async def _call(turn: Turn, stop_ns: int) -> None:
    told = turn.metadata
    for due_ns in call_times(
        int(told["start_ns"]), stop_ns, int(told["index"]), int(told["sessions_in_all"])
    ):
        await until(due_ns)
        began_ns = time.monotonic_ns()
        await turn.call_tool("nothing", text="x")
        _calls_ns.append(time.monotonic_ns() - began_ns)


@agent("calls")
async def calls(turn: Turn) -> AsyncIterator[str]:
    """One tool call after the other; says p50 and p99 in nanoseconds."""
    took = []
    for _ in range(int(turn.metadata["calls"])):
        began_ns = time.monotonic_ns()
        await turn.call_tool("nothing", text="x")
        took.append(time.monotonic_ns() - began_ns)
    yield json.dumps(p50_p99(took))


@agent("vectors")
async def vectors(turn: Turn) -> AsyncIterator[str | Output]:
    """So many vectors, as embeddings or as JSON."""
    values = numbers()
    for _ in range(int(turn.metadata["vectors"])):
        yield json.dumps(values) + "\n" if turn.metadata["as"] == "json" else turn.embedding(values)
