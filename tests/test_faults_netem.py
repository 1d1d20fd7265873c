"""Two machines and a bad network between them: loss, delay, and partitions short and long. Needs root, `ip` and `tc`;
loss and delay need a kernel with netem. Where something is missing the test says so and is skipped."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import pytest
from asynchronous import asynchronous
from commander_process import CommanderProcess, running_commander
from faults.namespaces import Namespaces, namespaces, why_not
from faults.promises import attempts
from faults.scene import (
    TESTS,
    Place,
    dispatching,
    sessions_at_their_moments,
    until_state,
)
from tcp_proxy import TcpProxy, tcp_proxy

pytestmark = pytest.mark.slow


@cache
def _why_not() -> str:
    return why_not()


@pytest.fixture
def network() -> Iterator[Namespaces]:
    if why := _why_not():
        pytest.skip(why)
    with namespaces() as made:
        yield made


@contextlib.contextmanager
def _place(network: Namespaces, folder: Path, grace_s: str) -> Iterator[Place]:
    """A dispatcher on its own machine."""
    flags = ("--insecure", "--grpc-address", f"{network.dispatcher_host}:0", "--detach-grace-s", grace_s)
    dispatcher = dispatching(folder, *flags, "--metrics-address", "")
    place = network.inside(network.dispatcher, dispatcher.__enter__)
    with contextlib.ExitStack() as leaving:
        leaving.push(dispatcher.__exit__)
        yield place


@contextlib.asynccontextmanager
async def _commander(
    network: Namespaces, place: Place, machine: str, name: str
) -> AsyncIterator[CommanderProcess]:
    told = (
        "--dispatcher",
        place.address,
        "--commander-id",
        name,
        "--reconnect-max-s",
        "0.5",
        "--connect-timeout-s",
        "3",
    )
    started = running_commander(TESTS, "faults.agents", *told)
    commander = await asyncio.to_thread(network.inside, machine, started.__enter__)
    with contextlib.ExitStack() as leaving:
        leaving.push(started.__exit__)
        await asyncio.to_thread(commander.wait_for, "linked to")
        yield commander


@contextlib.asynccontextmanager
async def _door(network: Namespaces, place: Place) -> AsyncIterator[TcpProxy]:
    """By which this machine sees the dispatcher's; it is never parted."""
    async with tcp_proxy(place.address, dial=network.dialling(place.address)) as door:
        yield door


NETEM = {
    "5 % lost": ("loss", "5%"),
    "100 ms, give or take 50": ("delay", "100ms", "50ms"),
    "both": ("loss", "5%", "delay", "100ms", "50ms"),
}


@pytest.mark.parametrize("what", NETEM.values(), ids=list(NETEM))
@asynchronous
async def test_a_bad_network_carries_all_the_same(
    network: Namespaces, tmp_path: Path, what: tuple[str, ...]
) -> None:
    try:
        network.netem(*what)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"`{' '.join(error.cmd[4:])}`: {error.stderr.strip()}")
    with _place(network, tmp_path, "600") as place:
        async with (
            _door(network, place) as door,
            _commander(network, place, network.commander, "far"),
            sessions_at_their_moments(place, door=door),
        ):
            pass


@asynchronous
async def test_a_partition_of_four_seconds_is_bridged(network: Namespaces, tmp_path: Path) -> None:
    with _place(network, tmp_path, "600") as place:
        async with (
            _door(network, place) as door,
            _commander(network, place, network.commander, "far") as far,
            sessions_at_their_moments(place, door=door) as group,
        ):
            network.part()
            group.release()
            # It is about time passing.
            await asyncio.sleep(4)
            await asyncio.to_thread(far.wait_for, "lost link")
            await until_state(group, "far", "detached")
            network.join()
        assert attempts(group.users) == {1}


@asynchronous
async def test_a_partition_longer_than_the_grace_is_a_lost_commander(
    network: Namespaces, tmp_path: Path
) -> None:
    with _place(network, tmp_path, "1") as place:
        async with (
            _door(network, place) as door,
            contextlib.AsyncExitStack() as heirs,
            _commander(network, place, network.commander, "far") as far,
            sessions_at_their_moments(place, door=door) as group,
        ):
            await heirs.enter_async_context(_commander(network, place, network.dispatcher, "near"))
            network.part()
            await group.until_another_attempt()
            network.join()
            await asyncio.to_thread(far.wait_for, "cancelled: fenced")
            group.release()
        assert attempts(group.users) == {2}
