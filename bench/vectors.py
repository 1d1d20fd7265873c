"""A vector of numbers as Embedding and as JSON text: bytes, the time to write and read it, and both over the same
hop. In this table the column of the bare peer holds JSON; a ratio below one is the Embedding's gain."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from bench import bare_options
from bench.bare_server import ECHO_SERVICE
from bench.load import Window, ask
from bench.plan import Plan
from bench.rows import Row, row
from bench.scene import Bare, Pair, Scene
from bench.tell import Tell
from bench.tokens import p50_p99
from bench.vector import LENGTH, Way, decoded, encoded, numbers

_WAYS: tuple[Way, Way] = ("embedding", "json")


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    values = numbers()
    sizes = [float(len(encoded(way, values))) for way in _WAYS]
    # Alternately, so that both meet the same moments.
    coding: tuple[list[float], list[float]] = ([], [])
    hops: tuple[list[float], list[float]] = ([], [])
    carried: tuple[list[float], list[float]] = ([], [])
    for number in range(plan.rounds):
        tell(f"round {number + 1} of {plan.rounds}")
        for index, way in enumerate(_WAYS):
            coding[index].append(_coding_us(way, values, plan.vectors))
            hops[index].append(await _hop_us(scene.bare, way, values, plan.vectors))
            carried[index].append(await _carried_us(scene.pair, way, values, plan.vectors))
    yield [
        row(f"{LENGTH:,} floats on the wire", "bytes", [sizes[0]], [sizes[1]]),
        row("encode and decode, p50", "µs", *coding),
        row("there and back over a bare stream, coded at each end, p50", "µs", *hops),
        row("yield to numbers at the viewer, through the pair, each", "µs", *carried),
    ]


def _coding_us(way: Way, values: list[float], times: int) -> float:
    took = []
    for _ in range(times):
        began_ns = time.perf_counter_ns()
        decoded(encoded(way, values))
        took.append((time.perf_counter_ns() - began_ns) / 1e3)
    return p50_p99(took)[0]


async def _hop_us(bare: Bare, way: Way, values: list[float], times: int) -> float:
    took = []
    async with _echo(bare) as call:
        for _ in range(times):
            began_ns = time.perf_counter_ns()
            await call.write(encoded(way, values))
            came_back, _ = decoded(await call.read())
            took.append((time.perf_counter_ns() - began_ns) / 1e3)
            assert came_back == way
    return p50_p99(took)[0]


@asynccontextmanager
async def _echo(bare: Bare) -> AsyncIterator[Any]:
    async with aio.insecure_channel(bare.address, bare_options.client(bare.address)) as channel:
        call: Any = channel.stream_stream(f"/{ECHO_SERVICE}/Echo")()
        try:
            yield call
        finally:
            await call.done_writing()
            await call.code()


async def _carried_us(pair: Pair, way: Way, values: list[float], times: int) -> float:
    """Time per vector, from the request to the last number in the viewer's hands."""
    began_ns = time.monotonic_ns()
    watched = await ask(pair, "vectors", 1, Window.soon(0, 0), vectors=times, **{"as": way})
    await watched.over()
    events = [event for _, event in watched.events]
    if way == "embedding":
        found = [list(event.embedding.values) for event in events if event.HasField("embedding")]
    else:
        text = "".join(event.content.text for event in events if event.HasField("content"))
        found = [json.loads(line) for line in text.splitlines()]
    took_us = (time.monotonic_ns() - began_ns) / 1e3 / times
    assert len(found) == times
    assert all(len(each) == len(values) for each in found)
    return took_us
