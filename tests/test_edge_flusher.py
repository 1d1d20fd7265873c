"""When viewers are written to: together, once a turn, all of them whatever becomes of one, spaced out under load."""

import asyncio
import logging
from typing import Any

import pytest
from asynchronous import asynchronous, eventually

from dispatcher.edge.flusher import SPACING_S_MAX, Flusher


class Clock:
    """Stands still, unless somebody is slow."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Viewer:
    def __init__(self, clock: Clock, log: list[str], name: str, takes_s: float = 0.0) -> None:
        self._clock, self._log, self._name, self._takes_s = clock, log, name, takes_s
        self.breaks = False
        self.shared: dict[Any, Any] = {}

    def flush(self, shared: dict[Any, Any]) -> None:
        self._clock.now += self._takes_s
        self.shared = shared
        if self.breaks:
            raise ValueError("broken")
        self._log.append(self._name)

    def fail(self) -> None:
        self._log.append(f"{self._name} failed")


@asynchronous
async def test_all_with_news_are_written_to_once_a_turn() -> None:
    clock = Clock()
    log: list[str] = []
    flusher = Flusher(clock)
    viewers = [Viewer(clock, log, f"{number}") for number in range(3)]
    for _ in range(5):
        for viewer in viewers:
            flusher.news(viewer)
    assert log == []
    await asyncio.sleep(0)
    assert log == ["0", "1", "2"]
    assert viewers[0].shared is viewers[2].shared
    flusher.news(viewers[1])
    flusher.news(viewers[0])
    flusher.forget(viewers[1])
    await asyncio.sleep(0)
    assert log == ["0", "1", "2", "0"]


@asynchronous
async def test_one_that_fails_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log: list[str] = []
    flusher = Flusher(clock)
    viewers = [Viewer(clock, log, f"{number}") for number in range(3)]
    viewers[1].breaks = True
    for viewer in viewers:
        flusher.news(viewer)
    with caplog.at_level(logging.ERROR):
        await asyncio.sleep(0)
    assert log == ["0", "1 failed", "2"]
    assert "could not write to" in caplog.text
    flusher.news(viewers[2])
    await asyncio.sleep(0)
    assert log[-1] == "2"


@asynchronous
async def test_under_load_flushes_are_spaced_out_and_never_beyond_the_bound() -> None:
    clock = Clock()
    log: list[str] = []
    flusher = Flusher(clock)
    slow = Viewer(clock, log, "slow", takes_s=1.0)

    async def flushed() -> int:
        return len(log)

    assert flusher.spacing_s == 0
    spacings = []
    for count in range(1, 8):
        flusher.news(slow)
        await eventually(flushed, lambda now, count=count: now == count)  # type: ignore[misc]
        spacings.append(flusher.spacing_s)
    assert spacings[0] > 0
    assert max(spacings) == SPACING_S_MAX
    quick = Viewer(clock, log, "quick")
    for count in range(8, 80):
        # What was due is past by then.
        clock.now += 1.0
        flusher.news(quick)
        await eventually(flushed, lambda now, count=count: now == count)  # type: ignore[misc]
    assert flusher.spacing_s == 0
