"""Faults of links and of commanders, with real processes: whatever happens, each session ends once, its viewers have
what its agent meant to the byte, and each call of a tool ran once. Eight sessions at a time are held in the midst of
a stream, of a call, of a question and of a message when it happens, half of them of an agent that continues."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator

import pytest
from asynchronous import asynchronous
from commander_process import CommanderProcess
from faults.promises import attempts
from faults.scene import (
    Group,
    Place,
    commanding,
    dispatching,
    sessions_at_their_moments,
    until_dialled_again,
    until_state,
)
from tcp_proxy import Mode, TcpProxy, tcp_proxy

# What one that has to wait for this would never see: it is longer than any test.
NEVER_S = "600"


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Waits for a commander to come back, and gives its sessions to nobody else."""
    with dispatching(tmp_path_factory.mktemp("patient"), "--detach-grace-s", NEVER_S) as place:
        yield place


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Gives a commander's sessions to another one soon."""
    with dispatching(tmp_path_factory.mktemp("hasty"), "--detach-grace-s", "1") as place:
        yield place


# ---- what becomes of a link ----


async def _cut(proxy: TcpProxy, group: Group, commander: CommanderProcess) -> None:
    for _ in range(3):
        proxy.cut()
        await until_dialled_again(proxy)
        group.release()


async def _stall(proxy: TcpProxy, group: Group, commander: CommanderProcess) -> None:
    proxy.set("stall")
    group.release()
    await noticed(commander)


async def _blackhole(proxy: TcpProxy, group: Group, commander: CommanderProcess) -> None:
    proxy.set("blackhole")
    group.release()
    await noticed(commander)


async def _half_open_up(proxy: TcpProxy, group: Group, commander: CommanderProcess) -> None:
    proxy.set("blackhole", "there")
    group.release()
    await noticed(commander)


async def _half_open_down(proxy: TcpProxy, group: Group, commander: CommanderProcess) -> None:
    proxy.set("blackhole", "back")
    group.release()
    await noticed(commander)


async def _port_gone(proxy: TcpProxy, group: Group, commander: CommanderProcess) -> None:
    proxy.close_port()
    group.release()
    await asyncio.to_thread(commander.wait_for, "Connection refused")
    await until_state(group, "lost", "detached")
    await proxy.open_port()


async def noticed(commander: CommanderProcess) -> None:
    await asyncio.to_thread(commander.wait_for, "lost link")


LINK_FAULTS = {
    "cut": _cut,
    "stalled": _stall,
    "swallowed": pytest.param(_blackhole, marks=pytest.mark.slow),
    "half open, up dead": pytest.param(_half_open_up, marks=pytest.mark.slow),
    "half open, down dead": _half_open_down,
    "port gone": _port_gone,
}
Fault = Callable[[TcpProxy, Group, CommanderProcess], Awaitable[None]]


@pytest.mark.parametrize("fault", LINK_FAULTS.values(), ids=list(LINK_FAULTS))
@asynchronous
async def test_a_link_that_is_lost_is_resumed(patient: Place, fault: Fault) -> None:
    async with (
        tcp_proxy(patient.address) as proxy,
        commanding(proxy.address, "lost") as commander,
        sessions_at_their_moments(patient) as group,
    ):
        await fault(proxy, group, commander)
        proxy.set("pass")
    assert attempts(group.users) == {1}


@pytest.mark.parametrize("mode", [pytest.param("trickle", marks=pytest.mark.slow), "split"])
@asynchronous
async def test_a_link_that_crumbles_carries_all_the_same(patient: Place, mode: Mode) -> None:
    async with (
        tcp_proxy(patient.address) as proxy,
        commanding(proxy.address, "poor") as _,
        sessions_at_their_moments(patient, agents=("anew",)) as group,
    ):
        proxy.set(mode)
    assert attempts(group.users) == {1}


@pytest.mark.slow
@asynchronous
async def test_a_link_that_is_slow_carries_all_the_same(patient: Place) -> None:
    async with (
        tcp_proxy(patient.address) as proxy,
        commanding(proxy.address, "slow") as _,
        sessions_at_their_moments(patient, agents=("onward",)) as group,
    ):
        proxy.delay_s = 0.1
    assert attempts(group.users) == {1}


# ---- what becomes of a commander's process ----


@asynchronous
async def test_one_that_is_frozen_for_a_moment_goes_on(patient: Place) -> None:
    async with (
        commanding(patient.address, "blinks") as commander,
        sessions_at_their_moments(patient) as group,
    ):
        commander.tell(signal.SIGSTOP)
        group.release()
        commander.tell(signal.SIGCONT)
    assert attempts(group.users) == {1}


@pytest.mark.slow
@asynchronous
async def test_one_that_is_frozen_until_it_is_noticed_is_resumed(patient: Place) -> None:
    async with (
        commanding(patient.address, "naps") as commander,
        sessions_at_their_moments(patient) as group,
    ):
        commander.tell(signal.SIGSTOP)
        group.release()
        await until_state(group, "naps", "detached")
        commander.tell(signal.SIGCONT)
    assert attempts(group.users) == {1}


@pytest.mark.slow
@asynchronous
async def test_one_that_is_frozen_for_longer_than_the_grace_is_followed(hasty: Place) -> None:
    async with (
        contextlib.AsyncExitStack() as heirs,
        commanding(hasty.address, "sleeps") as commander,
        sessions_at_their_moments(hasty) as group,
    ):
        await heirs.enter_async_context(commanding(hasty.address, "heir"))
        commander.tell(signal.SIGSTOP)
        group.release()
        await group.until_another_attempt()
        commander.tell(signal.SIGCONT)
    assert attempts(group.users) == {2}


@asynchronous
async def test_one_that_is_killed_is_followed(hasty: Place) -> None:
    async with (
        contextlib.AsyncExitStack() as heirs,
        commanding(hasty.address, "dies") as commander,
        sessions_at_their_moments(hasty) as group,
    ):
        await heirs.enter_async_context(commanding(hasty.address, "heir"))
        commander.tell(signal.SIGKILL)
        group.release()
    assert attempts(group.users) == {2}


@asynchronous
async def test_one_that_drains_past_its_deadline_hands_over(patient: Place) -> None:
    async with (
        contextlib.AsyncExitStack() as heirs,
        commanding(patient.address, "leaves", "--drain-deadline-s", "0.3") as commander,
        sessions_at_their_moments(patient) as group,
    ):
        await heirs.enter_async_context(commanding(patient.address, "heir"))
        commander.tell(signal.SIGTERM)
        assert await asyncio.to_thread(commander.wait) == 0
        await group.until_another_attempt()
    assert attempts(group.users) == {2}
