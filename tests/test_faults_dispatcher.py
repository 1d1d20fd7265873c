"""Faults of the dispatcher's own process: with a journal that outlives it all goes on where it stood, and it is the
same attempt, the same cursor and the same text."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest
from asynchronous import asynchronous
from faults.promises import attempts
from faults.scene import commanding, dispatching, sessions_at_their_moments
from tcp_proxy import tcp_proxy

NEVER_S = "600"


@pytest.mark.parametrize(
    ("number", "times"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 4, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
    ],
    ids=["killed", "killed again and again", "told to go"],
)
@asynchronous
async def test_one_that_is_restarted_goes_on(tmp_path: Path, number: signal.Signals, times: int) -> None:
    journal = f"sqlite:{tmp_path / 'journal'}"
    with dispatching(tmp_path, "--journal", journal, "--detach-grace-s", NEVER_S) as place:
        async with (
            tcp_proxy(place.address, dial=place.dial) as door,
            commanding(door.address, "faithful"),
            sessions_at_their_moments(place, door=door) as group,
        ):
            await place.restart(number)
            group.release()
            for _ in range(times - 1):
                await place.restart(number)
        assert attempts(group.users) == {1}
        assert min(user.joins for user in group.users) > 1


@pytest.mark.slow
@asynchronous
async def test_one_that_is_frozen_goes_on(tmp_path: Path) -> None:
    """As does its commander, which has given up the link meanwhile."""
    with dispatching(tmp_path, "--detach-grace-s", NEVER_S) as place:
        async with (
            tcp_proxy(place.address) as link,
            commanding(link.address, "faithful") as commander,
            sessions_at_their_moments(place) as group,
        ):
            group.release()
            place.process.signal(signal.SIGSTOP)
            await asyncio.to_thread(commander.wait_for, "lost link")
            place.process.signal(signal.SIGCONT)
        assert attempts(group.users) == {1}


@pytest.mark.slow
@asynchronous
async def test_one_that_dies_together_with_a_commander_gives_its_sessions_to_another(tmp_path: Path) -> None:
    journal = f"sqlite:{tmp_path / 'journal'}"
    with dispatching(tmp_path, "--journal", journal, "--detach-grace-s", "1") as place:
        async with (
            tcp_proxy(place.address, dial=place.dial) as door,
            contextlib.AsyncExitStack() as heirs,
            commanding(door.address, "mortal") as mortal,
            sessions_at_their_moments(place, door=door) as group,
        ):
            await heirs.enter_async_context(commanding(door.address, "heir"))
            mortal.tell(signal.SIGKILL)
            await place.restart(signal.SIGKILL)
            group.release()
        assert attempts(group.users) == {2}


@pytest.mark.slow
@asynchronous
async def test_one_whose_links_are_gone_when_it_dies_goes_on(tmp_path: Path) -> None:
    """What was said meanwhile is neither with the dead one nor on any link: the commander has it."""
    journal = f"sqlite:{tmp_path / 'journal'}"
    with dispatching(tmp_path, "--journal", journal, "--detach-grace-s", NEVER_S) as place:
        async with (
            tcp_proxy(place.address, dial=place.dial) as link,
            tcp_proxy(place.address, dial=place.dial) as door,
            commanding(link.address, "faithful"),
            sessions_at_their_moments(place, door=door) as group,
        ):
            link.set("blackhole")
            group.release()
            await place.restart(signal.SIGKILL)
            link.cut()
            link.set("pass")
        assert attempts(group.users) == {1}
