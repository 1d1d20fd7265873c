"""What has to get through while sessions flood: a tool call, the finish, a stop. Credit is what keeps this short;
on a bare stream at full speed each of them queues behind seconds of tokens."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Final

from bench.load import Window, ask, ended
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Bare, Pair, Scene
from bench.stops import noted
from bench.tell import Tell
from bench.tokens import NS, p50_p99, until

_GOAL: Final = Goal("at most", 10, of="value")
_STOP_GAP_S: Final = 0.005


@dataclass
class _Waits:
    """Milliseconds, all of one round."""

    calls: list[float] = field(default_factory=list)
    finishes: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    for sessions in plan.wait_sessions:
        ours: list[_Waits] = []
        bare: list[_Waits] = []
        for number in range(plan.rounds):
            tell(f"{sessions} sessions, round {number + 1} of {plan.rounds}")
            # So many loads make a round.
            loads = plan.wait_alone if sessions == 1 else 1
            ours.append(await _pair(scene.pair, sessions, loads, plan.wait_s / loads))
            bare.append(await _bare(scene.bare, sessions, loads, plan.wait_s / loads))
        who = f"{sessions} flooding"
        yield [
            _row(f"{who}: tool round trip", [each.calls for each in ours], [each.calls for each in bare]),
            _row(
                f"{who}: last yield to ending in the journal",
                [each.finishes for each in ours],
                [each.finishes for each in bare],
            ),
            _row(f"{who}: stop to the agent's cancellation", [each.stops for each in ours], []),
        ]


def _row(what: str, ours: list[list[float]], bare: list[list[float]]) -> Row:
    number = sum(len(each) for each in ours)
    p50 = p50_p99([value for each in ours for value in each])[0]
    note = f"p50 {p50:.2f}, {number} in all"
    return row(
        f"{what}, p99",
        "ms",
        [p50_p99(each)[1] for each in ours],
        [p50_p99(each)[1] for each in bare],
        _GOAL,
        note,
    )


async def _pair(pair: Pair, sessions: int, loads: int, seconds: float) -> _Waits:
    waits = _Waits()
    await pair.workers[0].told("noted")
    for _ in range(loads):
        window = Window.soon(sessions, seconds)
        watched = await ask(pair, "busy", sessions, window, sessions_in_all=sessions)
        await watched.leave()
        await ended(pair.host, sessions, window)
        told = await pair.workers[0].told("noted")
        _note(waits, told, await pair.host.told("endings"))
        await _stop_all(pair, sessions, seconds, waits)
    return waits


async def _stop_all(pair: Pair, sessions: int, seconds: float, waits: _Waits) -> None:
    """Stops flooding sessions one after the other, each while those that are left go on."""
    window = Window.soon(sessions, seconds + sessions * _STOP_GAP_S * 4 + 5)
    watched = await ask(pair, "stubborn", sessions, window)
    await watched.leave()
    await until(window.start_ns + NS // 20)
    asked: dict[str, int] = {}
    for session in watched.sessions:
        asked[session] = time.monotonic_ns()
        await pair.viewer.stop(session)
        await asyncio.sleep(_STOP_GAP_S)
    await ended(pair.host, sessions, window, "stopped")
    cancelled = await noted(pair, sessions)
    waits.stops += [(when - asked[session]) / 1e6 for session, when in cancelled.items()]


async def _bare(bare: Bare, sessions: int, loads: int, seconds: float) -> _Waits:
    waits = _Waits()
    for _ in range(loads):
        await bare.server.told("record")
        window = Window.soon(0, seconds)
        told = await bare.clients[0].told(
            "busy",
            sessions=sessions,
            start_ns=window.start_ns,
            stop_ns=window.stop_ns,
            timeout_s=40,
        )
        await ended(bare.server, sessions, window)
        _note(waits, told, await bare.server.told("endings"))
    return waits


def _note(waits: _Waits, told: dict[str, Any], kept: dict[str, int]) -> None:
    """What the sessions' side told, and when the server had their ends."""
    waits.calls += [took / 1e6 for took in told["calls"]]
    waits.finishes += [(kept[session] - when) / 1e6 for session, when in told["ended"].items()]
