"""Stopping: from the admin's call to the agent's cancellation, and to the last event at a viewer, idle and beside
busy sessions; against a signal down a bare stream and its acknowledgement back up. And that nothing comes after
an ending, from agents that flood and from one that speaks when it was cancelled."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from bench.child import ChildError
from bench.load import Window, ask, ended
from bench.paced import PER_SECOND
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Bare, Pair, Scene
from bench.tell import Tell
from bench.tokens import NS, p50_p99, until

_GAP_S: Final = 0.008
# Longer than any round: the busy sessions are ended when it is over.
_BUSY_S: Final = 60.0
_P50, _P99 = Goal("at most", 3), Goal("at most", 5)
_NEVER: Final = Goal("at most", 0, of="value")
_STUBBORN: Final = 10
_NOTED_S: Final = 5.0


class Stops(NamedTuple):
    """p50 and p99, milliseconds, from the call; and events that came behind an ending."""

    cancelled: tuple[float, float]
    seen: tuple[float, float]
    after_ending: int


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    after_ending = 0
    for busy in plan.stop_busy:
        ours: list[Stops] = []
        bare: list[tuple[float, float]] = []
        for number in range(plan.rounds):
            tell(f"{busy} busy sessions, round {number + 1} of {plan.rounds}")
            ours.append(await on_pair(scene.pair, plan.stops, busy))
            bare.append(await _bare(scene.bare, plan.stops, busy))
        after_ending += sum(each.after_ending for each in ours)
        yield _rows(f"{busy} busy", ours, bare, has_goal=busy > 0)
    tell("agents that speak when they were stopped")
    after_ending += await _stubborn(scene.pair)
    after_ending += await scene.pair.host.told("after_ending")
    stops = plan.stops * plan.rounds * len(plan.stop_busy) + _STUBBORN
    yield [row(f"events after an ending, {stops:,} stops", "", [after_ending], goal=_NEVER)]


def _rows(who: str, ours: list[Stops], bare: list[tuple[float, float]], *, has_goal: bool) -> list[Row]:
    rows = []
    for index, (name, goal) in enumerate((("p50", _P50), ("p99", _P99))):
        theirs = [each[index] for each in bare]
        note = "bare: a signal's round trip"
        rows += [
            row(
                f"{who}: stop call to agent's cancellation, {name}",
                "ms",
                [each.cancelled[index] for each in ours],
                theirs,
                goal if has_goal else None,
                note,
            ),
            row(
                f"{who}: stop call to viewer's last event, {name}",
                "ms",
                [each.seen[index] for each in ours],
                theirs,
                note=note,
            ),
        ]
    return rows


async def on_pair(pair: Pair, stops: int, busy: int) -> Stops:
    async with _busy(pair, busy):
        await pair.workers[0].told("noted")
        watched = await ask(pair, "wait", stops, Window.soon(0, 0))
        await watched.begun()
        asked: dict[str, int] = {}
        for session in watched.sessions:
            await asyncio.sleep(_GAP_S)
            asked[session] = time.monotonic_ns()
            await pair.viewer.stop(session)
        await watched.over()
        cancelled = await noted(pair, stops)
    return Stops(
        p50_p99((cancelled[session] - when) / 1e6 for session, when in asked.items()),
        p50_p99((watched.ended[session][0] - when) / 1e6 for session, when in asked.items()),
        watched.after_ending,
    )


@asynccontextmanager
async def _busy(pair: Pair, sessions: int) -> AsyncIterator[None]:
    """So many sessions at the pace of a model, that nobody watches."""
    if not sessions:
        yield
        return
    window = Window.soon(sessions, _BUSY_S)
    watched = await ask(pair, "pace", sessions, window, per_second=PER_SECOND)
    await watched.leave()
    await until(window.start_ns + NS // 5)
    yield
    await pair.host.told("record")
    await pair.viewer.stop_all()
    await ended(pair.host, sessions, Window.soon(0, 0), "stopped")


async def noted(pair: Pair, sessions: int) -> dict[str, int]:
    """When each agent ended, once all have: a stop ends the session before it reaches the agent."""
    found: dict[str, int] = {}
    deadline = time.monotonic() + _NOTED_S
    while len(found) < sessions:
        found |= (await pair.workers[0].told("noted"))["ended"]
        if time.monotonic() > deadline:
            raise ChildError(f"{len(found)} of {sessions} agents noted their end within {_NOTED_S:g} s")
    return found


async def _bare(bare: Bare, signals: int, busy: int) -> tuple[float, float]:
    client = bare.clients[0]
    await client.told("listen")
    window = Window.soon(0, signals * _GAP_S * 1.5 + 0.5)
    async with asyncio.TaskGroup() as tasks:
        if busy:
            load = client.told(
                "pace",
                sessions=busy,
                first=0,
                start_ns=window.start_ns,
                stop_ns=window.stop_ns,
                per_second=PER_SECOND,
            )
            tasks.create_task(load)
            await until(window.start_ns + NS // 5)
        took = await bare.server.told("signal", times=signals, gap_ns=int(_GAP_S * NS))
    await client.told("let_go")
    return p50_p99(each / 1e6 for each in took)


async def _stubborn(pair: Pair) -> int:
    """Stops agents that flood and say one thing more. How many events viewers saw behind an ending."""
    window = Window.soon(_STUBBORN, _BUSY_S)
    watched = await ask(pair, "stubborn", _STUBBORN, window)
    await until(window.start_ns + NS // 10)
    for session in watched.sessions:
        await pair.viewer.stop(session)
    await watched.over()
    await noted(pair, _STUBBORN)
    return watched.after_ending
