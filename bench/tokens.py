"""Tokens, made alike for both sides of a comparison, and what is read from them where they arrive.

Where latency is measured a token's text is the time at which it was yielded: `time.monotonic_ns`, which is one
clock for all processes of a machine. Where throughput and CPU are measured it is plain.
"""

import asyncio
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

PLAIN: Final = "token "
_DIGITS: Final = 16
STAMP_CHARS: Final = _DIGITS + 1
NS: Final = 1_000_000_000
_MS: Final = NS // 1_000

_CALLS_APART_NS: Final = NS // 100
_FINISH_APART_NS: Final = NS // 500

# Successive sessions begin so much of an interval apart: it spreads any number of them evenly.
_GOLDEN: Final = 0.618033988749895

# When it arrived, of which session, and its text: as both journals of the bench keep it.
Kept = tuple[int, str, str]


class Latencies(NamedTuple):
    """Of stamped tokens, from yield to arrival. `tokens` and `in_time`, which is how many had arrived by the time
    asked for, count all of them. The percentiles leave out the first and the last ones, as told: connections and
    interpreters warm up, and where a load ends all its sessions finish at once, which no lasting load does."""

    tokens: int
    in_time: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def stamped() -> str:
    """A token that bears the present time."""
    return f"{time.monotonic_ns():0{_DIGITS}x} "


def made_ns(token: str) -> int:
    """When a whole stamped token was made."""
    return int(token[:_DIGITS], 16)


def due_times(start_ns: int, stop_ns: int, per_second: float, index: int) -> Iterator[int]:
    """When the tokens of session number `index` are due. Behind time, it goes on at once; it ends at `stop_ns`."""
    interval_ns = NS / per_second
    due = start_ns + (index * _GOLDEN % 1) * interval_ns
    while due < stop_ns and time.monotonic_ns() < stop_ns:
        yield int(due)
        due += interval_ns


def finish_ns(stop_ns: int, index: int) -> int:
    """When session number `index` of those that flood finishes: one by one, beside those that are left."""
    return stop_ns + index * _FINISH_APART_NS


def call_times(start_ns: int, stop_ns: int, index: int, sessions: int) -> Iterator[int]:
    """When session number `index` of so many that flood calls a tool: all of them together a hundred times a
    second, in turn."""
    due_ns = start_ns + index * _CALLS_APART_NS
    while due_ns < stop_ns:
        yield due_ns
        due_ns = max(due_ns + sessions * _CALLS_APART_NS, time.monotonic_ns())


class _Alarm:
    """Wakes all of one loop that sleep until the same millisecond, with one timer: a timer each would cost a
    commander a third of what it spends on a token, and a model's stream costs none."""

    def __init__(self) -> None:
        self._sleepers: dict[int, list[asyncio.Future[None]]] = {}

    async def until(self, when_ns: int) -> None:
        when_ms = -(-when_ns // _MS)
        loop = asyncio.get_running_loop()
        sleepers = self._sleepers.get(when_ms)
        if sleepers is None:
            sleepers = self._sleepers[when_ms] = []
            loop.call_later((when_ns - time.monotonic_ns()) / NS, self._wake, when_ms)
        sleeper = loop.create_future()
        sleepers.append(sleeper)
        await sleeper

    def _wake(self, when_ms: int) -> None:
        for sleeper in self._sleepers.pop(when_ms):
            if not sleeper.done():
                sleeper.set_result(None)


_alarms: defaultdict[asyncio.AbstractEventLoop, _Alarm] = defaultdict(_Alarm)


async def until(when_ns: int) -> None:
    """Sleeps until then, to the millisecond that event loops know."""
    if when_ns > time.monotonic_ns():
        await _alarms[asyncio.get_running_loop()].until(when_ns)


async def paced(start_ns: int, stop_ns: int, per_second: float, index: int) -> AsyncIterator[str]:
    """Stamped tokens at a rate."""
    for due_ns in due_times(start_ns, stop_ns, per_second, index):
        await until(due_ns)
        yield stamped()


async def flood(start_ns: int, stop_ns: int) -> AsyncIterator[str]:
    """Plain tokens as fast as they are taken."""
    await until(start_ns)
    now = time.monotonic_ns
    while now() < stop_ns:
        yield PLAIN


def latencies(kept: Iterable[Kept], warm_ns: int, cool_ns: int, in_time_ns: int) -> Latencies:
    """Reads stamped tokens, merged and cut as they may be: one has arrived when its last character has. Those
    yielded before `warm_ns`, or at `cool_ns` and later, have no part in the percentiles."""
    rest: dict[str, str] = {}
    found: list[int] = []
    tokens = in_time = 0
    for arrived_ns, session, piece in kept:
        text = rest.get(session, "") + piece
        whole = len(text) - len(text) % STAMP_CHARS
        made = [int(text[at : at + _DIGITS], 16) for at in range(0, whole, STAMP_CHARS)]
        found += [arrived_ns - made_ns for made_ns in made if warm_ns <= made_ns < cool_ns]
        tokens += len(made)
        if arrived_ns <= in_time_ns:
            in_time += len(made)
        rest[session] = text[whole:]
    found.sort()
    if not found:
        return Latencies(tokens, in_time, 0.0, 0.0, 0.0)
    return Latencies(tokens, in_time, *(quantile(found, q) / 1e6 for q in (0.5, 0.99, 1.0)))


def news(kept: Iterable[Kept], since_ns: Sequence[int]) -> list[tuple[int, int]]:
    """For each of these moments, in ascending order: when the first token made since then arrived, and when one of
    each session had that says anything then. Pieces are whole tokens."""
    # By the number of the moment, then by session.
    found: list[dict[str, int]] = [{} for _ in since_ns]
    for arrived_ns, session, piece in kept:
        moment = bisect_right(since_ns, made_ns(piece[-STAMP_CHARS:])) - 1
        if moment >= 0:
            found[moment].setdefault(session, arrived_ns)
    return [(min(each.values()), max(each.values())) for each in found]


def quantile(ordered: list[int] | list[float], q: float) -> float:
    """Of values in ascending order, at least one."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


def p50_p99(values: Iterable[float]) -> tuple[float, float]:
    """Of at least one value, in any order."""
    ordered = sorted(values)
    return quantile(ordered, 0.5), quantile(ordered, 0.99)
