"""Over HTTP where little flows: what an idle viewer takes, and how soon a stop and a leaving are noticed."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Final

import httpx

from bench.model import Model, serving
from bench.plan import Plan
from bench.rows import Row, row
from bench.scene import Scene
from bench.tell import Tell
from bench.tokens import PLAIN, p50_p99
from bench.web import DRAIN_S, Web, started, watch

_KB: Final = 1e3


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    async with started() as fresh:
        # Memory that was used once is seldom given back.
        yield await _memory(fresh, plan, tell)
    async with started() as web:
        yield await _stops(web, plan, tell)
        yield await _left(web, plan, tell)


async def _memory(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    """What a viewer of a session that says nothing takes."""
    tell(f"{plan.web_idle_viewers} idle viewers")
    viewers = plan.web_idle_viewers
    watched = web.pair.viewer.watch()
    sessions = -(-viewers // 500)
    for index in range(sessions):
        await watched.ask("wait", {"index": str(index)})
    await watched.begun()
    before = await web.pair.host.told("memory")
    paths = [f"/v1/sessions/{session}/events" for session in watched.sessions] * 500
    await watch(web, web.pair.web, paths[:viewers])
    ours = (await web.pair.host.told("memory") - before) / viewers
    await web.browser.told("leave")
    await watched.leave()
    await web.pair.viewer.stop_all()
    before = await web.bare.told("memory")
    await watch(web, web.bare_address, [f"/relayed/idle-{index}" for index in range(viewers)])
    theirs = (await web.bare.told("memory") - before) / viewers
    await web.browser.told("leave")
    note = f"{viewers:,} of them; bare: starlette's StreamingResponse with a queue"
    return [row("per idle viewer", "kB", [ours / _KB], [theirs / _KB], note=note)]


async def _stops(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    p50s: list[float] = []
    p99s: list[float] = []
    for number in range(plan.web_rounds):
        tell(f"stops over HTTP, round {number + 1} of {plan.web_rounds}")
        p50, p99 = p50_p99(await _stopped(web, plan.web_stops))
        p50s.append(p50 / 1e6)
        p99s.append(p99 / 1e6)
    note = "the viewer's last event, from when the request was made; idle"
    return [
        row("stop over HTTP to the viewer's `ended`, p50", "ms", p50s, note=note),
        row("stop over HTTP to the viewer's `ended`, p99", "ms", p99s, note=note),
    ]


async def _stopped(web: Web, stops: int) -> list[int]:
    """From each stop's request to its viewer's last event, nanoseconds."""
    watched = web.pair.viewer.watch()
    for index in range(stops):
        await watched.ask("wait", {"index": str(index)})
    await watched.opened()
    await watched.begun()
    sessions = list(watched.sessions)
    await watched.leave()
    await watch(web, web.pair.web, [f"/v1/sessions/{session}/events" for session in sessions])
    began: list[int] = []
    async with httpx.AsyncClient(base_url=f"http://{web.pair.web}") as client:
        for session in sessions:
            began.append(time.monotonic_ns())
            (await client.post(f"/v1/sessions/{session}/stop", json={})).raise_for_status()
    await web.browser.told("await_ended", sessions=stops, within_s=DRAIN_S)
    ended = await web.browser.told("endings")
    await web.browser.told("leave")
    return [ended[f"{number}"] - began_ns for number, began_ns in enumerate(began)]


async def _left(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    """A client of OpenAI's form closes its stream in the middle of an answer: when does the model hear of it."""
    ours: list[tuple[float, float]] = []
    alone: list[tuple[float, float]] = []
    async with serving() as model:
        body = json.dumps(
            {"model": "model", "messages": [{"role": "user", "content": model.address}], "stream": True}
        )
        asked = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}"
        )
        bare = f"GET /model?model={model.address} HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for number in range(plan.web_rounds):
            tell(f"clients that leave, round {number + 1} of {plan.web_rounds}")
            for found, address, request in ((ours, web.pair.web, asked), (alone, web.bare_address, bare)):
                waits = [await _left_ns(model, address, request) for _ in range(plan.web_stops)]
                p50, p99 = p50_p99(waits)
                found.append((p50 / 1e6, p99 / 1e6))
    note = "without the grace that is otherwise theirs; bare: (a)"
    return [
        row(
            f"an OpenAI client's close to the close of the model's connection, {name}",
            "ms",
            [each[index] for each in ours],
            [each[index] for each in alone],
            note=note,
        )
        for index, name in enumerate(("p50", "p99"))
    ]


async def _left_ns(model: Model, address: str, request: str) -> int:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request.encode())
        async with asyncio.timeout(DRAIN_S):
            await reader.readuntil(PLAIN.encode())
        closed_ns = time.monotonic_ns()
    finally:
        writer.close()
    return await model.left(DRAIN_S) - closed_ns
