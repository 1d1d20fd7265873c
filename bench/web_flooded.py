"""Throughput over HTTP: tokens as fast as they are taken, at the viewers."""

from collections.abc import AsyncGenerator
from typing import Final

from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Scene
from bench.tell import Tell
from bench.tokens import NS
from bench.web import Web, on_bare, on_pair, on_relay, started, tokens_per_s

_FLOODED: Final = Goal("at least", 5)
_PUSHED: Final = Goal("at least", 0.7)


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    async with started() as web:
        for sessions in plan.web_flood_sessions:
            yield await _flooded(web, sessions, plan, tell)
        yield await _watched_by_many(web, plan, tell)


async def _flooded(web: Web, sessions: int, plan: Plan, tell: Tell) -> list[Row]:
    ours: list[float] = []
    relayed: list[float] = []
    for number in range(plan.web_rounds):
        tell(f"{sessions} sessions flooding, round {number + 1} of {plan.web_rounds}")
        ours.append(await tokens_per_s(web, await on_pair(web, "flood", sessions, plan.flood_s)))
        relayed.append(await tokens_per_s(web, await on_relay(web, sessions, plan.flood_s)))
    told = f"{sessions} session{'s' if sessions > 1 else ''}, a viewer each: tokens at the viewers"
    return [row(told, "tokens/s", ours, relayed, _FLOODED, "bare: (b) a WebSocket with JSON, and starlette")]


async def _watched_by_many(web: Web, plan: Plan, tell: Tell) -> list[Row]:
    ours: list[float] = []
    bare: list[float] = []
    viewers = plan.web_viewers
    for number in range(plan.web_rounds):
        tell(f"{viewers} viewers of one flooding session, round {number + 1} of {plan.web_rounds}")
        told = {"tokens": plan.web_shared_tokens, "alone": "yes"}
        window = await on_pair(web, "count", 1, 0.0, viewers, "?include_thoughts=true", **told)
        pieces, events, last_ns = await web.browser.told("count")
        assert pieces == plan.web_shared_tokens * viewers, (pieces, events)
        ours.append(pieces / ((last_ns - window.start_ns) / NS))
        bare.append(await tokens_per_s(web, await on_bare(web, "/pushed", viewers, plan.web_shared_s)))
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
