"""A stop while a model's connection is still being made: its server sees the client leave at once."""

import asyncio
import gc
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop
from commander_here import wait_until
from model_scene import Scene
from silent_server import SilentServer, is_hello

from commander.models.answer import Answer
from commander.outputs import Output

# The library gives a handshake up by itself after 5 s.
SOON_S = 2.0
# As the kernel writes it.
SYN_SENT = "02"
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
MODELS = ["openai-chat:m", "openai:m", "anthropic:m"]


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    """A connection that is closed only because nobody holds it any more is no stop."""
    gc.disable()
    yield
    gc.enable()


async def _begun(answer: Answer, has_come: Callable[[], object]) -> asyncio.Task[Output | str]:
    """The first thing of the answer, waited for; once the server has heard of it."""
    taking: asyncio.Task[Output | str] = asyncio.ensure_future(_first(answer))
    await asyncio.to_thread(has_come)
    return taking


async def _first(answer: Answer) -> Output | str:
    return await anext(answer)


async def _stopped_s(scene: Scene, server: SilentServer, what: Callable[[bytes], bool]) -> float:
    """Seconds from the stop until the client has left."""
    answer = scene.model().stream("Hi")
    taking = await _begun(answer, lambda: server.wait_heard(what))
    began_at = time.monotonic()
    scene.turn.hang_up()
    await asyncio.wait((taking,))
    left_at = await asyncio.to_thread(server.wait_left)
    assert taking.cancelled()
    return left_at - began_at


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("model", MODELS)
def test_a_stop_in_the_middle_of_the_tls_handshake_closes_the_connection(
    model: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with SilentServer() as server, asyncio.Runner(loop_factory=loop) as runner:
        table: dict[str, object] = {"model": model, "base_url": f"https://127.0.0.1:{server.port}/v1"}
        assert runner.run(_stopped_s(Scene({"fast": table}), server, is_hello)) < SOON_S


def test_and_where_a_proxy_has_given_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with SilentServer(greets=True) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        table: dict[str, object] = {"model": "openai-chat:m", "base_url": "https://models.example/v1"}
        assert asyncio.run(_stopped_s(Scene({"fast": table}), proxy, is_hello)) < SOON_S
        assert proxy.heard[0].startswith(b"CONNECT models.example:443 ")


def dialed(port: int) -> int:
    """How many connections to there this machine has begun, and nobody has answered."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    there = f":{port:04X}"
    return sum(
        remote.endswith(there) and state == SYN_SENT for _, _, remote, state, *_ in map(str.split, lines)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="what the system has begun is read from /proc")
@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_a_stop_while_nobody_has_answered_yet_gives_the_connection_up(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def live(scene: Scene, port: int) -> None:
        before = dialed(port)
        taking = asyncio.ensure_future(anext(scene.model().stream("Hi")))
        await asyncio.to_thread(wait_until, lambda: dialed(port) > before)
        scene.turn.hang_up()
        await asyncio.wait((taking,))
        await asyncio.to_thread(wait_until, lambda: dialed(port) == before)

    with ExitStack() as held, asyncio.Runner(loop_factory=loop) as runner:
        listening = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listening.getsockname()[1]
        # More than it lets wait, and it takes none of them.
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        url = f"http://127.0.0.1:{port}/v1"
        runner.run(live(Scene({"fast": {"model": "openai-chat:m", "base_url": url}}), port))


def test_a_first_token_that_does_not_come_in_time_closes_it_as_well() -> None:
    with SilentServer() as server:
        url = f"https://127.0.0.1:{server.port}/v1"
        table: dict[str, object] = {
            "model": "openai-chat:m",
            "base_url": url,
            "first_token_s": 0.2,
            "attempts": 1,
        }
        assert asyncio.run(Scene({"fast": table}).failure()).code == "model_timeout"
        server.wait_left()


def test_other_requests_of_the_same_model_go_on() -> None:
    """What one stop closes is its own."""

    async def live(server: SilentServer) -> None:
        url = f"https://127.0.0.1:{server.port}/v1"
        scene = Scene({"fast": {"model": "openai-chat:m", "base_url": url}})
        first, second = (scene.model().stream("Hi") for _ in range(2))
        takings = [
            await _begun(first, lambda: server.wait_heard(is_hello)),
            await _begun(second, lambda: server.wait_heard(lambda _: len(server.heard) == 2)),
        ]
        await first.aclose()
        await asyncio.to_thread(server.wait_left)
        assert (len(server.left_at), takings[1].done()) == (1, False)
        await second.aclose()
        await asyncio.to_thread(server.wait_left, 2)
        await asyncio.wait(takings)
        assert all(taking.cancelled() for taking in takings)

    with SilentServer() as server:
        asyncio.run(live(server))
