"""Faults between viewers and the dispatcher: whoever comes back with a cursor has each event once, in its place."""

import asyncio
import random
from collections.abc import Iterator

import pytest
from asynchronous import PATIENCE_S, asynchronous
from dialling import dialled
from faults.promises import text_is_kept
from faults.scene import (
    Group,
    Place,
    commanding,
    dispatching,
    sessions_at_their_moments,
    until_dialled_again,
)
from faults.script import Script
from faults.viewers import User, Watcher
from southwest.ai.agent.v1 import chat_pb2_grpc
from tcp_proxy import Mode, TcpProxy, Way, tcp_proxy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with dispatching(tmp_path_factory.mktemp("viewers")) as place:
        yield place


async def _cut_now_and_then(proxy: TcpProxy, group: Group, choice: random.Random) -> None:
    """Whenever one of the viewers has seen some events more."""
    while watching := [user for user in group.users if "ended" not in user.seen.kinds]:
        user = choice.choice(watching)
        seen = len(user.seen.events) + choice.randint(1, 20)
        await user.seen.when(
            lambda user=user, seen=seen: len(user.seen.events) >= seen or "ended" in user.seen.kinds,  # type: ignore[misc]
            f"{seen} events",
        )
        proxy.cut()


@asynchronous
async def test_viewers_who_are_cut_off_at_random_have_it_all(place: Place) -> None:
    async with (
        tcp_proxy(place.address) as proxy,
        commanding(place.address, "steady"),
        sessions_at_their_moments(place, through=proxy) as group,
    ):
        group.release()
        await _cut_now_and_then(proxy, group, random.Random(7))
    assert proxy.accepted > 4
    assert max(user.joins for user in group.users) > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "ways",
    [("there", "back"), ("back",)],
    ids="-".join,
)
@asynchronous
async def test_viewers_who_see_nothing_any_more_notice_and_come_back(
    place: Place, ways: tuple[Way, ...]
) -> None:
    async with (
        tcp_proxy(place.address) as proxy,
        commanding(place.address, "steady"),
        sessions_at_their_moments(place, through=proxy, agents=("anew",)) as group,
    ):
        proxy.set("blackhole", *ways)
        group.release()
        await until_dialled_again(proxy)
        proxy.set("pass")
    assert min(user.joins for user in group.users) > 1


@pytest.mark.slow
@asynchronous
async def test_viewers_who_are_not_heard_any_more_see_it_all(place: Place) -> None:
    async with (
        tcp_proxy(place.address) as proxy,
        commanding(place.address, "steady"),
        sessions_at_their_moments(place, through=proxy, agents=("anew",)) as group,
    ):
        proxy.set("blackhole", "there")
        group.release()
        for user in group.users:
            await user.seen.until("ended")
        proxy.set("pass")


@pytest.mark.parametrize("mode", [pytest.param("trickle", marks=pytest.mark.slow), "split"])
@asynchronous
async def test_viewers_behind_a_poor_connection_have_it_all(place: Place, mode: Mode) -> None:
    async with (
        tcp_proxy(place.address) as proxy,
        commanding(place.address, "steady"),
        sessions_at_their_moments(place, through=proxy, agents=("anew",)),
    ):
        proxy.set(mode)


@asynchronous
async def test_fifty_viewers_come_and_go_between_what_was_and_what_is(place: Place) -> None:
    """Each of them on a whim, while the agent speaks: at the seam of what is read and what comes nothing is lost, and
    nothing doubled."""
    script = Script(1, ("say",), words=800, pause_s=0.001)
    async with (
        commanding(place.address, "steady"),
        dialled(place.address) as one,
        dialled(place.address) as other,
    ):
        chats = [chat_pb2_grpc.ChatStub(channel) for channel in (one, other)]
        asker = User(chats[0], chats[0], "anew", script)
        await asker.ask()
        viewers = [
            Watcher(chats[number % 2], asker.session_id, random.Random(number)) for number in range(50)
        ]
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as running:
            for viewer in (asker, *viewers):
                running.create_task(viewer.run())
        text_is_kept(asker, script)
        for viewer in viewers:
            assert viewer.seen.events == asker.seen.events, viewer
        assert sum(viewer.joins for viewer in viewers) > 3 * len(viewers)
