"""One load on one side: so many sessions that speak between two moments, and what that cost the server."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from bench.child import Child, ChildError
from bench.scene import Bare, Pair
from bench.tokens import NS, Latencies, until
from bench.viewer import Watched

# The sessions are opened before the load begins; this long is enough for it, in seconds.
_LEAD_S: Final = 0.15
_LEAD_PER_SESSION_S: Final = 0.002
# What was yielded in time has arrived in time when it came no later than this behind it.
_SLACK_NS: Final = NS // 10
# Percentiles leave out tokens yielded in the first and in the last moments of a load, on both sides alike. The first
# tell of connections that open and interpreters that warm up; the last of all its sessions finishing at once.
WARM_S: Final = 0.3
COOL_S: Final = 0.3
LEFT_OUT: Final = f"without the first {WARM_S:g} s and the last {COOL_S:g} s"
# A server that is far behind has so long to read the rest.
_DRAIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Window:
    """When the load begins and ends, on the clock of the machine."""

    start_ns: int
    stop_ns: int

    @classmethod
    def soon(cls, sessions: int, seconds: float) -> Self:
        start_ns = time.monotonic_ns() + int((_LEAD_S + _LEAD_PER_SESSION_S * sessions) * NS)
        return cls(start_ns, start_ns + int(seconds * NS))

    @property
    def metadata(self) -> dict[str, str]:
        return {"start_ns": str(self.start_ns), "stop_ns": str(self.stop_ns)}


class Clock:
    """The processor time of some processes since the load began."""

    def __init__(self, *processes: Child) -> None:
        self._processes = processes
        self._began_s: list[float] = []

    async def begin(self, when_ns: int) -> None:
        await until(when_ns)
        self._began_s = [await each.told("cpu") for each in self._processes]

    async def used_s(self) -> list[float]:
        """Of each process, in the order given."""
        now_s = [await each.told("cpu") for each in self._processes]
        return [now - began for now, began in zip(now_s, self._began_s, strict=True)]


async def ask(pair: Pair, agent: str, sessions: int, window: Window, **metadata: Any) -> Watched:
    """Opens the sessions of a load, which wait for its begin; they are watched."""
    await pair.host.told("record")
    watched = pair.viewer.watch()
    common = {**window.metadata, **{key: str(value) for key, value in metadata.items()}}
    for index in range(sessions):
        await watched.ask(agent, {**common, "index": str(index)})
    await watched.opened()
    return watched


async def unwatched(pair: Pair, agent: str, sessions: int, window: Window, **metadata: Any) -> list[float]:
    """Runs a load that nobody watches. The processor time of the dispatcher and of each commander, seconds."""
    watched = await ask(pair, agent, sessions, window, **metadata)
    await watched.leave()
    clock = Clock(pair.host, *pair.workers)
    await clock.begin(window.start_ns)
    await ended(pair.host, sessions, window)
    return await clock.used_s()


async def on_bare(
    bare: Bare, order: str, sessions: int, window: Window, told: Callable[[int], dict[str, Any]]
) -> list[float]:
    """Runs a load on the bare peer: gives each client its order, whose further arguments are `told` of the number
    of its first session. The processor time of the server, seconds; clients can't be asked while they work."""
    await bare.server.told("record")
    clock = Clock(bare.server)
    each = sessions // len(bare.clients)
    async with asyncio.TaskGroup() as tasks:
        for number, client in enumerate(bare.clients):
            arguments = {"sessions": each, "start_ns": window.start_ns, "stop_ns": window.stop_ns}
            arguments |= told(number * each)
            tasks.create_task(client.told(order, timeout_s=_DRAIN_S * 2, **arguments))
        await clock.begin(window.start_ns)
    await ended(bare.server, each * len(bare.clients), window)
    return await clock.used_s()


async def ended(server: Child, sessions: int, window: Window, ending: str = "completed") -> None:
    """Waits until the server has seen the end of so many sessions. ChildError where one ended in another way."""
    left_s = max(0.0, (window.stop_ns - time.monotonic_ns()) / NS) + _DRAIN_S
    seen = await server.told("await_ended", timeout_s=left_s + 5, sessions=sessions, within_s=left_s)
    if seen != {ending: sessions}:
        raise ChildError(f"{server!r}: {sessions} sessions should be {ending}; after {left_s:.0f} s: {seen}")


async def latencies(server: Pair | Bare, window: Window) -> Latencies:
    """Of the stamped tokens of the last load; the percentiles `LEFT_OUT`."""
    child = server.host if isinstance(server, Pair) else server.server
    found = await child.told(
        "latencies",
        warm_ns=window.start_ns + int(WARM_S * NS),
        cool_ns=window.stop_ns - int(COOL_S * NS),
        in_time_ns=window.stop_ns + _SLACK_NS,
    )
    return Latencies(*found)
