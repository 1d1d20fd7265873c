"""How soon another commander has taken over from one that was killed, or stopped like a frozen machine: from the
signal until the first token of the second attempt is kept.

A dispatcher waits for a lost commander to come back, and for a silent one to be heard, as long as its settings say. So
the column of the bare peer holds what these allow; what takes longer is the product's own.
"""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from bench.child import ChildError
from bench.load import Window, ask, ended
from bench.paced import PER_SECOND
from bench.plan import Plan
from bench.rows import Row, row
from bench.scene import Pair, Scene, dispatcher, more_workers
from bench.tell import Tell
from bench.tokens import NS, p50_p99, until

# Shorter than by default, so that there can be rounds; what comes on top of them is the same.
_GRACE_S: Final = 1.0
_INTERVAL_S: Final = 0.25
_MISSED: Final = 3
_SILENCE: Final = f"heartbeat_interval_s {_INTERVAL_S:g} × heartbeats_missed {_MISSED}"
_FLAGS: Final = (
    f"--detach-grace-s={_GRACE_S}",
    f"--heartbeat-interval-s={_INTERVAL_S}",
    f"--heartbeats-missed={_MISSED}",
)
# Longer than any round: the sessions are ended when it is over.
_LOAD_S: Final = 60.0
# Beyond this, in seconds, something is broken.
_TAKEN_S: Final = 20.0
_LOOK_S: Final = 0.05


class _Case(NamedTuple):
    """A way to go, what the settings allow until it counts as gone, and by which of them."""

    what: str
    number: signal.Signals
    bound_s: float
    settings: str


_CASES: Final = (
    _Case("commander killed", signal.SIGKILL, _GRACE_S, f"detach_grace_s {_GRACE_S:g}"),
    _Case(
        "commander frozen",
        signal.SIGSTOP,
        _GRACE_S + _INTERVAL_S * _MISSED,
        f"{_SILENCE} + detach_grace_s {_GRACE_S:g}",
    ),
)


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    rounds: dict[_Case, list[list[float]]] = {case: [] for case in _CASES}
    async with dispatcher(*_FLAGS) as pair:
        for number in range(plan.failover_rounds):
            for case, found in rounds.items():
                tell(f"{case.what}, round {number + 1} of {plan.failover_rounds}")
                found.append(await _taken_over_ms(pair, plan.failover_sessions, case.number))
    yield [each for case, found in rounds.items() for each in _rows(plan, case, found)]


def _rows(plan: Plan, case: _Case, found: list[list[float]]) -> list[Row]:
    who = f"{case.what}, {plan.failover_sessions} sessions"
    bound_ms = case.bound_s * 1e3
    note = f"bare: what the settings allow, {case.settings}"
    rows = []
    for what, pick in (("p50", lambda took: p50_p99(took)[0]), ("the last", max)):
        picked = [pick(took) for took in found]
        rows += [
            row(f"{who}: attempt 2's first token, {what}", "ms", picked, [bound_ms] * len(found), note=note),
            row(f"{who}: beyond the settings, {what}", "ms", [each - bound_ms for each in picked]),
        ]
    return rows


async def _taken_over_ms(pair: Pair, sessions: int, number: signal.Signals) -> list[float]:
    """Milliseconds from the signal, of each session."""
    async with more_workers(pair, 1) as (lost,):
        window = Window.soon(sessions, _LOAD_S)
        watched = await ask(pair, "pace", sessions, window, per_second=PER_SECOND)
        await watched.leave()
        # It comes when all of them run elsewhere.
        async with more_workers(pair, 1):
            await until(window.start_ns + NS // 2)
            signalled_ns = lost.signal(number)
            retried = await _retried(pair, watched.sessions)
            await pair.viewer.stop_all()
            await ended(pair.host, sessions, Window.soon(0, 0), "stopped")
            # One that is frozen would not hear of its end.
            lost.signal(signal.SIGKILL)
    return [(retried[session] - signalled_ns) / 1e6 for session in watched.sessions]


async def _retried(pair: Pair, sessions: list[str]) -> dict[str, int]:
    """When the first token of each session's second attempt was kept, once all are."""
    deadline = time.monotonic() + _TAKEN_S
    while True:
        found: dict[str, int] = await pair.host.told("retried")
        if found.keys() >= set(sessions):
            return found
        if time.monotonic() > deadline:
            left = len(set(sessions) - found.keys())
            raise ChildError(f"{left} of {len(sessions)} sessions were not taken over within {_TAKEN_S:g} s")
        await asyncio.sleep(_LOOK_S)
