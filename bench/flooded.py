"""Throughput: tokens as fast as they are taken, from `yield` to the journal, and to a viewer's event."""

from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from bench.load import Window, ask, on_bare, unwatched
from bench.plan import Plan
from bench.rows import Goal, Row, row
from bench.scene import Bare, Pair, Scene
from bench.tell import Tell
from bench.tokens import NS, PLAIN

_TO_JOURNAL: Final = Goal("at least", 10)
_WARM_S: Final = 0.1
_WARM_SESSIONS: Final = 20


class _Rate(NamedTuple):
    tokens: float
    packets: float


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    for sessions in plan.flood_sessions:
        kept: list[_Rate] = []
        bare: list[_Rate] = []
        seen: list[float] = []
        for number in range(plan.rounds):
            tell(f"{sessions} sessions, round {number + 1} of {plan.rounds}")
            kept.append(await to_journal(scene.pair, sessions, plan.flood_s))
            bare.append(await _bare(scene.bare, sessions, plan.flood_s))
            seen.append(await _to_viewer(scene.pair, sessions, plan.flood_s))
        who = f"{sessions} session{'s' if sessions > 1 else ''}"
        tokens = [each.tokens for each in bare]
        goal = _TO_JOURNAL if sessions in (1, 100) else None
        yield [
            row(f"{who}: yield to journal", "tokens/s", [each.tokens for each in kept], tokens, goal),
            row(f"{who}: yield to viewer's event", "tokens/s", seen, tokens),
            row(
                f"{who}: yield to journal, packets",
                "packets/s",
                [each.packets for each in kept],
                [each.packets for each in bare],
                note="neighbouring tokens share a packet",
            ),
        ]


async def warm_up(scene: Scene) -> None:
    """So that no measurement is the first thing these processes do."""
    for sessions in (1, _WARM_SESSIONS):
        await to_journal(scene.pair, sessions, _WARM_S)
        await _bare(scene.bare, sessions, _WARM_S)
        await _to_viewer(scene.pair, sessions, _WARM_S)


async def to_journal(pair: Pair, sessions: int, seconds: float) -> _Rate:
    window = Window.soon(sessions, seconds)
    await unwatched(pair, "flood", sessions, window)
    return _rate(await pair.host.told("count"), window)


async def _bare(bare: Bare, sessions: int, seconds: float) -> _Rate:
    window = Window.soon(0, seconds)
    await on_bare(bare, "flood", sessions, window, lambda _: {})
    return _rate(await bare.server.told("count"), window)


async def _to_viewer(pair: Pair, sessions: int, seconds: float) -> float:
    window = Window.soon(sessions, seconds)
    watched = await ask(pair, "flood", sessions, window)
    await watched.over()
    content = [(when, event.content.text) for when, event in watched.events if event.HasField("content")]
    chars = sum(len(text) for _, text in content)
    if not content:
        # On a machine that is busy with other things the load may be over before anything came of it.
        return 0.0
    return chars / len(PLAIN) / ((content[-1][0] - window.start_ns) / NS)


def _rate(count: tuple[int, int, int], window: Window) -> _Rate:
    tokens, packets, last_ns = count
    seconds = (last_ns - window.start_ns) / NS
    return _Rate(tokens / seconds, packets / seconds)
