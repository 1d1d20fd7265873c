"""The doorbell between those who have something to send and the writer."""

import asyncio
import threading

import pytest
from asynchronous import asynchronous, soon

from commander.doorbell import Doorbell

# Longer than any test may take: whoever is woken by this has missed something.
NEVER_S = 3_600.0


def nothing() -> bool:
    return False


async def asleep(bell: Doorbell) -> "asyncio.Task[None]":
    sleeper = asyncio.ensure_future(bell.wait(nothing))
    await asyncio.sleep(0)
    return sleeper


async def pausing(bell: Doorbell, seconds: float = NEVER_S) -> "asyncio.Task[None]":
    pauser = asyncio.ensure_future(bell.pause(seconds, nothing))
    await asyncio.sleep(0)
    return pauser


@pytest.mark.parametrize("urgent", [True, False])
@asynchronous
async def test_a_ring_from_another_thread_wakes_the_sleeper(urgent: bool) -> None:
    bell = Doorbell(asyncio.get_running_loop())
    sleeper = await asleep(bell)
    ringer = threading.Thread(target=bell.ring, kwargs={"urgent": urgent})
    ringer.start()
    await soon(sleeper)
    ringer.join()


@pytest.mark.parametrize("urgent", [True, False])
@asynchronous
async def test_a_ring_from_the_same_thread_wakes_the_sleeper(urgent: bool) -> None:
    bell = Doorbell(asyncio.get_running_loop())
    sleeper = await asleep(bell)
    bell.ring_here(urgent=urgent)
    await soon(sleeper)


@asynchronous
async def test_nobody_sleeps_or_pauses_over_what_is_there_already() -> None:
    bell = Doorbell(asyncio.get_running_loop())
    await soon(bell.wait(lambda: True))
    await soon(bell.pause(NEVER_S, lambda: True))


@asynchronous
async def test_only_what_is_urgent_ends_a_pause() -> None:
    bell = Doorbell(asyncio.get_running_loop())
    pauser = await pausing(bell)
    bell.ring()
    bell.ring_here(urgent=False)
    await asyncio.sleep(0)
    assert not pauser.done()
    bell.ring_here()
    await soon(pauser)
    pauser = await pausing(bell)
    bell.ring(urgent=True)
    await soon(pauser)


@asynchronous
async def test_a_pause_ends_by_itself() -> None:
    bell = Doorbell(asyncio.get_running_loop())
    await soon(await pausing(bell, 0.001))


@asynchronous
async def test_a_ring_while_the_writer_is_awake_wakes_nobody_later() -> None:
    bell = Doorbell(asyncio.get_running_loop())
    bell.ring(urgent=True)
    bell.ring_here()
    await asyncio.sleep(0)
    sleeper = await asleep(bell)
    await asyncio.sleep(0)
    assert not sleeper.done()
    bell.ring()
    await soon(sleeper)


def test_a_ring_after_the_loop_has_closed_is_nothing() -> None:
    loop = asyncio.new_event_loop()
    bell = Doorbell(loop)
    sleeper = bell.wait(nothing)
    sleeper.send(None)
    loop.close()
    bell.ring()
    sleeper.close()
