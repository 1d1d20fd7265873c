"""Silence is not death, and death is not silence: long thoughts behind impatient proxies, and peers that freeze
or vanish without a word."""

import asyncio
import signal
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous, eventually
from bystander import undisturbed_neighbour
from chat_viewer import conversing
from dialling import Options, administering
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import commander_process, linked, opened_link, unique
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc
from tcp_proxy import tcp_proxy

# As commanders are to set them: see docs/operating.md.
_COMMANDERS_OPTIONS: Options = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
# By the promise; and how long a busy machine may take to show it.
_FOUND_WITHIN_S = 10.0
_FOUND_WHILE_BUSY_WITHIN_S = 20.0


async def _silence(flags: tuple[str, ...], options: Options, *, idle_drop_s: float, silence_s: float) -> None:
    """A session in which nothing is said for so long, with an impatient proxy on either side."""
    agent = unique("agent")
    with running_dispatcher(*flags) as dispatcher:
        async with (
            tcp_proxy(dispatcher.address, idle_drop_s=idle_drop_s) as below,
            tcp_proxy(dispatcher.address, idle_drop_s=idle_drop_s) as above,
            opened_link(below.address, options=options) as link,
            conversing(above.address) as talk,
        ):
            await link.greet(agent)
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.think("Planning", "let me think")
            await turn.acknowledged(1)
            # The one thing here that is about time passing.
            await asyncio.sleep(silence_s)
            await turn.say("42")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert seen.text == "42"
            assert (below.dropped, above.dropped) == (0, 0)
            assert (await link.leave()).code is grpc.StatusCode.OK


# Heartbeats so rare that pings alone keep the connections.
_PINGS_ALONE = ("--heartbeat-interval-s", "60", "--detach-grace-s", "600")


@asynchronous
async def test_pings_keep_a_silent_session_behind_an_impatient_proxy() -> None:
    flags = ("--keepalive-time-s", "1", "--ping-timeout-s", "1", *_PINGS_ALONE)
    both: Options = (("grpc.keepalive_time_ms", 1_000), *_COMMANDERS_OPTIONS[1:])
    await asyncio.gather(
        _silence(flags, (), idle_drop_s=2.2, silence_s=4.5),
        _silence(flags, both, idle_drop_s=2.2, silence_s=4.5),
        _dropped_without_pings(idle_drop_s=2.2),
    )


async def _dropped_without_pings(idle_drop_s: float) -> None:
    """What the proxies of these tests do where nobody pings."""
    with running_dispatcher("--keepalive-time-s", "600", *_PINGS_ALONE) as dispatcher:
        async with (
            tcp_proxy(dispatcher.address, idle_drop_s=idle_drop_s) as proxy,
            linked(proxy.address, unique("agent")) as link,
        ):
            assert (await link.status()).code is grpc.StatusCode.UNAVAILABLE
            assert proxy.dropped == 1


@pytest.mark.slow
@asynchronous
async def test_a_model_silent_for_forty_seconds_goes_through() -> None:
    await asyncio.gather(
        _silence((), _COMMANDERS_OPTIONS, idle_drop_s=10.0, silence_s=40.0),
        _silence(_PINGS_ALONE, _COMMANDERS_OPTIONS, idle_drop_s=10.0, silence_s=40.0),
        _silence(_PINGS_ALONE, (), idle_drop_s=10.0, silence_s=40.0),
    )


async def _state(admin: "admin_pb2_grpc.AdminAsyncStub", commander_id: str) -> str:
    views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
    return next((view.state for view in views if view.commander_id == commander_id), "gone")


@asynchronous
async def test_frozen_swallowed_and_stalled_peers_are_noticed(dispatcher: DispatcherProcess) -> None:
    await _noticed(dispatcher, _FOUND_WHILE_BUSY_WITHIN_S)


@pytest.mark.slow
@pytest.mark.alone
@asynchronous
async def test_they_are_noticed_in_the_time_that_is_promised(dispatcher: DispatcherProcess) -> None:
    await _noticed(dispatcher, _FOUND_WITHIN_S)


async def _noticed(dispatcher: DispatcherProcess, within_s: float) -> None:
    """With the settings as they are by default; the waits run side by side."""
    agent, frozen, swallowed, stalled = (unique(word) for word in ("a", "frozen", "swallowed", "stalled"))
    with commander_process(dispatcher.address, frozen, unique("agent")) as process:
        async with (
            undisturbed_neighbour(dispatcher.address),
            tcp_proxy(dispatcher.address) as below,
            tcp_proxy(dispatcher.address) as above,
            tcp_proxy(dispatcher.address) as aside,
            administering(dispatcher.address) as admin,
            linked(below.address, agent, commander_id=swallowed) as link,
            linked(aside.address, unique("agent"), commander_id=stalled),
            conversing(above.address) as talk,
        ):
            await talk.ask(agent)
            turn = await link.started()
            request = admin_pb2.GetSessionRequest(session_id=turn.session_id)
            assert (await admin.GetSession(request)).session.viewers == 1
            assert await _state(admin, frozen) == "ready"
            below.set("blackhole")
            above.set("blackhole")
            aside.set("stall")
            process.signal(signal.SIGSTOP)
            await asyncio.gather(
                eventually(lambda: _state(admin, frozen), "detached".__eq__, within_s),
                eventually(lambda: _state(admin, swallowed), "detached".__eq__, within_s),
                eventually(lambda: _state(admin, stalled), "detached".__eq__, within_s),
                eventually(
                    lambda: admin.GetSession(request),
                    lambda got: not got.session.viewers,
                    within_s,
                ),
            )


@asynchronous
async def test_a_cut_connection_is_noticed_at_once_and_resumed(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    async with (
        tcp_proxy(dispatcher.address) as proxy,
        administering(dispatcher.address) as admin,
        opened_link(proxy.address) as link,
    ):
        await link.greet(agent, **me)
        proxy.cut()
        assert (await link.status()).code is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: _state(admin, me["commander_id"]), "detached".__eq__)
        async with opened_link(proxy.address) as again:
            await again.greet(agent, **me)
            assert await _state(admin, me["commander_id"]) == "ready"
