"""Over HTTP, from an agent's yield to the bytes at a viewer of server-sent events: the processes, and loads on them.

Against two things that are written without the pair: (a) the same agent streamed by plain starlette, in one process and
with no hop at all; (b) the same hop as the pair's, a worker and a relay, by one WebSocket with a JSON message for each
token. web_flooded.py, web_paced.py, web_crowd.py and web_idle.py measure, each with processes of its own.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from bench.child import Child
from bench.load import COOL_S, WARM_S, Window, ask
from bench.scene import Pair, dispatcher, more_workers
from bench.tokens import NS, Latencies

# Late viewers have so long to be told the rest.
DRAIN_S: Final = 20.0
_ADDRESS: Final = r"ready at ([\d.:]+\d)"
# All viewers are there before the load begins: so long for each, in seconds.
_VIEWER_S: Final = 0.003
_SLACK_NS: Final = NS // 10


@dataclass
class Web:
    """The pair with its edge, the bare one, each with one worker, and viewers of either."""

    pair: Pair
    bare: Child
    bare_address: str
    worker: Child
    browser: Child


@asynccontextmanager
async def started() -> AsyncIterator[Web]:
    async with AsyncExitStack() as stack:
        flags = (
            "--journal-keep-s=2",
            "--http-address=127.0.0.1:0",
            "--viewer-heartbeat-s=60",
            "--http-left-stop-s=0",
        )
        pair = await stack.enter_async_context(dispatcher(*flags))
        await stack.enter_async_context(more_workers(pair, 1))
        bare = Child("bench.bare_web")
        stack.push_async_callback(bare.end)
        address = await bare.says(_ADDRESS)
        worker = Child("bench.bare_worker", address)
        stack.push_async_callback(worker.end)
        await worker.says("(ready)")
        browser = Child("bench.browser")
        stack.push_async_callback(browser.end)
        await browser.says("(ready)")
        yield Web(pair, bare, address, worker, browser)


async def on_pair(
    web: Web, agent: str, sessions: int, seconds: float, viewers_each: int = 1, query: str = "", **told: Any
) -> Window:
    """A load on the pair, each session watched so often; returns when every viewer has seen the ending."""
    viewers = sessions * viewers_each
    window = _window(sessions, viewers, seconds)
    watched = await ask(web.pair, agent, sessions, window, **told)
    await watched.leave()
    paths = [f"/v1/sessions/{session}/events{query}" for session in watched.sessions] * viewers_each
    await watch(web, web.pair.web, paths)
    await _ended(web, viewers, seconds)
    return window


async def on_bare(web: Web, path: str, viewers: int, seconds: float, **told: Any) -> Window:
    window = _window(0, viewers, seconds)
    query = "&".join(f"{name}={value}" for name, value in {**window.metadata, **told}.items())
    await watch(web, web.bare_address, [f"{path}?{query}&index={index}" for index in range(viewers)])
    await _ended(web, viewers, seconds)
    return window


async def on_relay(web: Web, sessions: int, seconds: float, per_second: float = 0) -> Window:
    window = _window(sessions, sessions, seconds)
    await watch(web, web.bare_address, [f"/relayed/{index}" for index in range(sessions)])
    told = {"start_ns": window.start_ns, "stop_ns": window.stop_ns, "per_second": per_second}
    await web.worker.told("speak", timeout_s=seconds + DRAIN_S * 2, sessions=sessions, **told)
    await _ended(web, sessions, seconds)
    return window


def _window(sessions: int, viewers: int, seconds: float) -> Window:
    soon = Window.soon(sessions, seconds)
    later_ns = int(viewers * _VIEWER_S * NS)
    return Window(soon.start_ns + later_ns, soon.stop_ns + later_ns)


async def watch(web: Web, address: str, paths: list[str]) -> None:
    host, _, port = address.rpartition(":")
    await web.browser.told("record")
    await web.browser.told("watch", host=host, port=int(port), paths=paths)


async def _ended(web: Web, viewers: int, seconds: float) -> None:
    within_s = seconds + viewers * _VIEWER_S + DRAIN_S
    told = await web.browser.told("await_ended", timeout_s=within_s + 5, sessions=viewers, within_s=within_s)
    await web.browser.told("leave")
    assert told == {"completed": viewers}, told


async def tokens_per_s(web: Web, window: Window) -> float:
    """As the viewers have it, up to when the last token came."""
    tokens, _, last_ns = await web.browser.told("count")
    return float(tokens / max(1e-9, (last_ns - window.start_ns) / NS))


async def latencies_of(web: Web, window: Window) -> Latencies:
    found = await web.browser.told(
        "latencies",
        warm_ns=window.start_ns + int(WARM_S * NS),
        cool_ns=window.stop_ns - int(COOL_S * NS),
        in_time_ns=window.stop_ns + _SLACK_NS,
    )
    return Latencies(*found)
