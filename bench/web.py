"""The way out over HTTP, from an agent's yield to the bytes at a viewer of server-sent events.

Against two things that are written without the pair: (a) the same agent streamed by plain starlette, in one process and
with no hop at all; (b) the same hop as the pair's, a worker and a relay, by one WebSocket with a JSON message for each
token. Processes of its own.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from bench.child import Child
from bench.load import COOL_S, LEFT_OUT, WARM_S, Window, ask
from bench.model import Model, serving
from bench.paced import PER_SECOND
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Pair, Scene, dispatcher, more_workers
from bench.tell import Tell
from bench.tokens import NS, PLAIN, Latencies, p50_p99

_ADDRESS: Final = r"ready at ([\d.:]+\d)"
# All viewers are there before the load begins: so long for each, in seconds.
_VIEWER_S: Final = 0.003
# Late viewers have so long to be told the rest.
_DRAIN_S: Final = 20.0
_SLACK_NS: Final = NS // 10
_KB: Final = 1e3
_P50: Final = Latencies._fields.index("p50_ms")
_P99: Final = Latencies._fields.index("p99_ms")

_PUSHED, _FLOODED, _SUSTAINED = Goal("at least", 0.7), Goal("at least", 5), Goal("at least", 98, of="value")
_LATE, _CROWD_LATE = Goal("at most", 1), Goal("at most", 60, of="value")


@dataclass
class Web:
    """The pair with its edge, the bare one, each with one worker, and viewers of either."""

    pair: Pair
    bare: Child
    bare_address: str
    worker: Child
    browser: Child


@asynccontextmanager
async def started() -> AsyncIterator[Web]:
    async with AsyncExitStack() as stack:
        flags = (
            "--journal-keep-s=2",
            "--http-address=127.0.0.1:0",
            "--viewer-heartbeat-s=60",
            "--http-left-stop-s=0",
        )
        pair = await stack.enter_async_context(dispatcher(*flags))
        await stack.enter_async_context(more_workers(pair, 1))
        bare = Child("bench.bare_web")
        stack.push_async_callback(bare.end)
        address = await bare.says(_ADDRESS)
        worker = Child("bench.bare_worker", address)
        stack.push_async_callback(worker.end)
        await worker.says("(ready)")
        browser = Child("bench.browser")
        stack.push_async_callback(browser.end)
        await browser.says("(ready)")
        yield Web(pair, bare, address, worker, browser)


async def measure(plan: Plan, scene: Scene, tell: Tell) -> list[Row]:  # noqa: ARG001 - it has its own
    async with started() as fresh:
        # Memory that was used once is seldom given back.
        memory = await _memory(fresh, plan, tell)
    async with started() as web:
        return [
            *await _flooded(web, plan, tell),
            *await _watched_by_many(web, plan, tell),
            *await _paced(web, plan, tell),
            *await _one_for_all(web, plan, tell),
            *await _stops(web, plan, tell),
            *await _left(web, plan, tell),
            *memory,
            *await _crowd(web, plan, tell),
        ]


# --- loads -----------------------------------------------------------------------------------------------


async def _on_pair(
    web: Web, agent: str, sessions: int, seconds: float, viewers_each: int = 1, query: str = "", **told: Any
) -> Window:
    """A load on the pair, each session watched so often; returns when every viewer has seen the ending."""
    viewers = sessions * viewers_each
    window = _window(sessions, viewers, seconds)
    watched = await ask(web.pair, agent, sessions, window, **told)
    await watched.leave()
    paths = [f"/v1/sessions/{session}/events{query}" for session in watched.sessions] * viewers_each
    await _watch(web, web.pair.web, paths)
    await _ended(web, viewers, seconds)
    return window


async def _on_bare(web: Web, path: str, viewers: int, seconds: float, **told: Any) -> Window:
    window = _window(0, viewers, seconds)
    query = "&".join(f"{name}={value}" for name, value in {**window.metadata, **told}.items())
    await _watch(web, web.bare_address, [f"{path}?{query}&index={index}" for index in range(viewers)])
    await _ended(web, viewers, seconds)
    return window


async def _on_relay(web: Web, sessions: int, seconds: float, per_second: float = 0) -> Window:
    window = _window(sessions, sessions, seconds)
    await _watch(web, web.bare_address, [f"/relayed/{index}" for index in range(sessions)])
    told = {"start_ns": window.start_ns, "stop_ns": window.stop_ns, "per_second": per_second}
    await web.worker.told("speak", timeout_s=seconds + _DRAIN_S * 2, sessions=sessions, **told)
    await _ended(web, sessions, seconds)
    return window


def _window(sessions: int, viewers: int, seconds: float) -> Window:
    soon = Window.soon(sessions, seconds)
    later_ns = int(viewers * _VIEWER_S * NS)
    return Window(soon.start_ns + later_ns, soon.stop_ns + later_ns)


async def _watch(web: Web, address: str, paths: list[str]) -> None:
    host, _, port = address.rpartition(":")
    await web.browser.told("record")
    await web.browser.told("watch", host=host, port=int(port), paths=paths)


async def _ended(web: Web, viewers: int, seconds: float) -> None:
    within_s = seconds + viewers * _VIEWER_S + _DRAIN_S
    told = await web.browser.told("await_ended", timeout_s=within_s + 5, sessions=viewers, within_s=within_s)
    await web.browser.told("leave")
    assert told == {"completed": viewers}, told


async def _tokens_per_s(web: Web, window: Window) -> float:
    """As the viewers have it, up to when the last token came."""
    tokens, _, last_ns = await web.browser.told("count")
    return float(tokens / max(1e-9, (last_ns - window.start_ns) / NS))


async def _latencies(web: Web, window: Window) -> Latencies:
    found = await web.browser.told(
        "latencies",
        warm_ns=window.start_ns + int(WARM_S * NS),
        cool_ns=window.stop_ns - int(COOL_S * NS),
        in_time_ns=window.stop_ns + _SLACK_NS,
    )
    return Latencies(*found)


# --- measurements ----------------------------------------------------------------------------------------


async def _flooded(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    rows: list[Row] = []
    for sessions in plan.web_flood_sessions:
        ours: list[float] = []
        relayed: list[float] = []
        for number in range(plan.web_rounds):
            tell(f"{sessions} sessions flooding, round {number + 1} of {plan.web_rounds}")
            ours.append(await _tokens_per_s(web, await _on_pair(web, "flood", sessions, plan.flood_s)))
            relayed.append(await _tokens_per_s(web, await _on_relay(web, sessions, plan.flood_s)))
        told = f"{sessions} session{'s' if sessions > 1 else ''}, a viewer each: tokens at the viewers"
        rows.append(
            row(told, "tokens/s", ours, relayed, _FLOODED, "bare: (b) a WebSocket with JSON, and starlette")
        )
    return rows


async def _watched_by_many(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    ours: list[float] = []
    bare: list[float] = []
    viewers = plan.web_viewers
    for number in range(plan.web_rounds):
        tell(f"{viewers} viewers of one flooding session, round {number + 1} of {plan.web_rounds}")
        told = {"tokens": plan.web_shared_tokens, "alone": "yes"}
        window = await _on_pair(web, "count", 1, 0.0, viewers, "?include_thoughts=true", **told)
        pieces, events, last_ns = await web.browser.told("count")
        assert pieces == plan.web_shared_tokens * viewers, (pieces, events)
        ours.append(pieces / ((last_ns - window.start_ns) / NS))
        bare.append(await _tokens_per_s(web, await _on_bare(web, "/pushed", viewers, plan.web_shared_s)))
    return [
        row(
            f"{viewers} viewers of one session: events delivered",
            "events/s",
            ours,
            bare,
            _PUSHED,
            "an event for each token; bare: starlette's loop pushes a frame that is made already",
        )
    ]


async def _paced(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    sessions = plan.pace_sessions
    ours: list[Latencies] = []
    relayed: list[Latencies] = []
    alone: list[Latencies] = []
    for number in range(plan.web_rounds):
        tell(f"{sessions} sessions paced, round {number + 1} of {plan.web_rounds}")
        window = await _on_pair(web, "pace", sessions, plan.pace_s, per_second=PER_SECOND)
        ours.append(await _latencies(web, window))
        window = await _on_relay(web, sessions, plan.pace_s, PER_SECOND)
        relayed.append(await _latencies(web, window))
        window = await _on_bare(web, "/alone/pace", sessions, plan.pace_s, per_second=PER_SECOND)
        alone.append(await _latencies(web, window))
    who = f"{sessions} × {PER_SECOND:g} tokens/s: yield to the viewer's bytes"
    rows = []
    for name, index in (("p50", _P50), ("p99", _P99)):
        mine, theirs = [each[index] for each in ours], [each[index] for each in relayed]
        rows.append(row(f"{who}, {name}", "ms", mine, theirs, _LATE, f"bare: (b); {LEFT_OUT}"))
        rows.append(
            row(
                f"{who}, {name}, against no hop",
                "ms",
                mine,
                [each[index] for each in alone],
                note="bare: (a)",
            )
        )
    return rows


async def _crowd(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    sessions = plan.crowd_sessions
    found: list[Latencies] = []
    async with more_workers(web.pair, plan.crowd_processes - 1):
        for number in range(plan.web_rounds):
            tell(f"{sessions} sessions, a viewer each, round {number + 1} of {plan.web_rounds}")
            window = await _on_pair(web, "pace", sessions, plan.crowd_s, per_second=PER_SECOND)
            found.append(await _latencies(web, window))
    due = sessions * PER_SECOND * plan.crowd_s
    who = f"{sessions:,} × {PER_SECOND:g} tokens/s, a viewer each"
    return [
        row(
            f"{who}: seen in time, of what was due",
            "%",
            [f.in_time / due * 100 for f in found],
            (),
            _SUSTAINED,
        ),
        row(f"{who}: yield to the viewer's bytes, p50", "ms", [f.p50_ms for f in found], note=LEFT_OUT),
        row(
            f"{who}: yield to the viewer's bytes, p99",
            "ms",
            [f.p99_ms for f in found],
            (),
            _CROWD_LATE,
            LEFT_OUT,
        ),
    ]


async def _one_for_all(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    viewers = plan.crowd_sessions
    found: list[Latencies] = []
    for number in range(plan.web_rounds):
        tell(f"{viewers} viewers of one paced session, round {number + 1} of {plan.web_rounds}")
        window = await _on_pair(web, "pace", 1, plan.crowd_s, viewers, per_second=PER_SECOND)
        found.append(await _latencies(web, window))
    who = f"{viewers:,} viewers of one session at {PER_SECOND:g} tokens/s: yield to a viewer's bytes"
    return [
        row(f"{who}, p50", "ms", [f.p50_ms for f in found], note=LEFT_OUT),
        row(f"{who}, p99", "ms", [f.p99_ms for f in found], note=LEFT_OUT),
    ]


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
    await _watch(web, web.pair.web, [f"/v1/sessions/{session}/events" for session in sessions])
    began: list[int] = []
    async with httpx.AsyncClient(base_url=f"http://{web.pair.web}") as client:
        loop = asyncio.get_running_loop()
        for session in sessions:
            began.append(int(loop.time() * NS))
            (await client.post(f"/v1/sessions/{session}/stop", json={})).raise_for_status()
    await web.browser.told("await_ended", sessions=stops, within_s=_DRAIN_S)
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
        async with asyncio.timeout(_DRAIN_S):
            await reader.readuntil(PLAIN.encode())
        closed_ns = int(asyncio.get_running_loop().time() * NS)
    finally:
        writer.close()
    return await model.left(_DRAIN_S) - closed_ns


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
    await _watch(web, web.pair.web, paths[:viewers])
    ours = (await web.pair.host.told("memory") - before) / viewers
    await web.browser.told("leave")
    await watched.leave()
    await web.pair.viewer.stop_all()
    before = await web.bare.told("memory")
    await _watch(web, web.bare_address, [f"/relayed/idle-{index}" for index in range(viewers)])
    theirs = (await web.bare.told("memory") - before) / viewers
    await web.browser.told("leave")
    note = f"{viewers:,} of them; bare: starlette's StreamingResponse with a queue"
    return [row("per idle viewer", "kB", [ours / _KB], [theirs / _KB], note=note)]
