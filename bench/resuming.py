"""How soon all goes on when a connection is reset: a commander's link, until new tokens are in the journal again; and
a viewer's, until it sees what it had not seen. Against a bare client of the same dispatcher, with the same options,
that notices the reset and has a connection again.

All three go through a proxy in the process of the bench, in turns, while the same sessions speak.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from grpc import aio
from southwest.ai.agent.v1 import chat_pb2, chat_pb2_grpc

from bench import bare_options
from bench.child import ChildError
from bench.load import Window, ask, ended
from bench.paced import PER_SECOND
from bench.plan import Plan
from bench.proxy import Proxy, proxy
from bench.rows import Row, row
from bench.scene import Pair, Scene, dispatcher, more_workers
from bench.tell import Tell
from bench.tokens import NS, p50_p99, until
from bench.viewer import ViewerError
from commander.settings import Settings as CommanderSettings

# Longer than any round: the sessions are ended when it is over.
_LOAD_S: Final = 60.0
# Beyond this, in seconds, something is broken.
_BACK_S: Final = 10.0
# Between two cuts, so that one is no part of the next; and between a viewer's joining and its cut.
_GAP_S: Final = 0.1
_WATCH_S: Final = 0.03
# A commander waits by lot before it comes back, up to a setting: at its default, and at the least there is, which
# leaves what the resume itself takes.
_WAITS_S: Final = (CommanderSettings.model_fields["reconnect_first_s"].default, 0.01)
# Of the session that the viewer watches, so that it hardly waits for a token.
_WATCHED_PER_SECOND: Final = 1_000.0


class _Round(NamedTuple):
    """p50 and p99, milliseconds, from the cut."""

    first: tuple[float, float]
    all: tuple[float, float]
    viewer: tuple[float, float]
    bare: tuple[float, float]


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    rounds: dict[float, list[_Round]] = {wait_s: [] for wait_s in _WAITS_S}
    async with dispatcher() as pair, proxy(pair.address) as link, proxy(pair.address) as door:
        for number in range(plan.resume_rounds):
            for wait_s, found in rounds.items():
                tell(f"coming back within {wait_s:g} s, round {number + 1} of {plan.resume_rounds}")
                # The longest wait is the first one's: else each cut would count as one more failure.
                flags = (f"--reconnect-first-s={wait_s}", f"--reconnect-max-s={wait_s}")
                async with more_workers(pair, 1, *flags, through=link.address):
                    found.append(await _round(plan, pair, link, door))
    yield [
        *(each for wait_s, found in rounds.items() for each in _link_rows(plan, wait_s, found)),
        *_viewer_rows([each for found in rounds.values() for each in found]),
    ]


def _link_rows(plan: Plan, wait_s: float, found: list[_Round]) -> list[Row]:
    who = f"link cut, reconnect_first_s {wait_s:g}"
    speaking = f"{plan.resume_sessions} × {PER_SECOND:g} tokens/s"
    note = f"{speaking}; it waits by lot, up to {wait_s:g} s; {plan.cuts} cuts; bare: a reconnect"
    rows = []
    for index, name in enumerate(("p50", "p99")):
        bare = [each.bare[index] for each in found]
        first, last = [each.first[index] for each in found], [each.all[index] for each in found]
        rows += [
            row(f"{who}: first new token kept, {name}", "ms", first, bare, note=note),
            row(f"{who}: one of each session, {name}", "ms", last, bare, note=note),
        ]
    return rows


def _viewer_rows(found: list[_Round]) -> list[Row]:
    return [
        row(
            f"viewer cut, back by cursor: first unseen event, {name}",
            "ms",
            [each.viewer[index] for each in found],
            [each.bare[index] for each in found],
            note="bare: a reconnect",
        )
        for index, name in enumerate(("p50", "p99"))
    ]


async def _round(plan: Plan, pair: Pair, link: Proxy, door: Proxy) -> _Round:
    async with _speaking(pair, plan.resume_sessions) as watched:
        viewer = _Viewer(door, watched)
        cuts: list[int] = []
        viewers: list[float] = []
        bare: list[float] = []
        for _ in range(plan.cuts):
            cuts.append(link.cut())
            if not await pair.host.told("await_made", since_ns=cuts[-1], within_s=_BACK_S):
                raise ChildError(f"{pair.workers[0]!r} was not back within {_BACK_S:g} s")
            await asyncio.sleep(_GAP_S)
            bare.append(await _reconnect_ms(door))
            viewers.append(await viewer.rejoin_ms())
    news = await pair.host.told("news", since_ns=cuts)
    return _Round(
        p50_p99((first - cut) / 1e6 for cut, (first, _) in zip(cuts, news, strict=True)),
        p50_p99((last - cut) / 1e6 for cut, (_, last) in zip(cuts, news, strict=True)),
        p50_p99(viewers),
        p50_p99(bare),
    )


@asynccontextmanager
async def _speaking(pair: Pair, sessions: int) -> AsyncIterator[str]:
    """So many sessions at the pace of a model, that nobody watches, and one that is quicker: its id."""
    window = Window.soon(sessions, _LOAD_S)
    watched = await ask(pair, "pace", sessions, window, per_second=PER_SECOND)
    await watched.ask("pace", {**window.metadata, "per_second": str(_WATCHED_PER_SECOND), "index": "0"})
    *_, quick = await watched.opened()
    await watched.leave()
    await until(window.start_ns + NS // 5)
    yield quick
    await pair.viewer.stop_all()
    await ended(pair.host, sessions + 1, Window.soon(0, 0), "stopped")


@asynccontextmanager
async def _dialled(door: Proxy) -> AsyncIterator[Any]:
    """A channel of its own, as a commander has one for each try."""
    async with aio.insecure_channel(door.address, bare_options.client(door.address)) as channel:
        yield channel


async def _reconnect_ms(door: Proxy) -> float:
    """From the cut of a connection to the next one, of a client that has nothing to resume."""
    async with _dialled(door) as channel:
        call = chat_pb2_grpc.ChatStub(channel).Converse()
        reading = asyncio.ensure_future(call.read())
        await channel.channel_ready()
        await asyncio.sleep(_WATCH_S)
        cut_ns = door.cut()
        # It is only to end, whatever it says.
        await asyncio.wait([reading])
        reading.exception()
    async with _dialled(door) as channel:
        await channel.channel_ready()
        return (time.monotonic_ns() - cut_ns) / 1e6


class _Viewer:
    """Watches one session through the door, from where it was; sees to it that nothing is missing or comes twice."""

    def __init__(self, door: Proxy, session_id: str) -> None:
        self._door = door
        self._session_id = session_id
        self._seen = chat_pb2.Cursor()

    async def rejoin_ms(self) -> float:
        """From the cut of its connection to the first event that it had not seen."""
        async with _dialled(self._door) as channel:
            call = self._subscribe(channel)
            await self._read(call)
            reading = asyncio.ensure_future(self._read_on(call))
            await asyncio.sleep(_WATCH_S)
            cut_ns = self._door.cut()
            await reading
        async with _dialled(self._door) as channel:
            await self._read(self._subscribe(channel))
            return (time.monotonic_ns() - cut_ns) / 1e6

    def _subscribe(self, channel: aio.Channel) -> Any:
        cursor = self._seen if self._seen.offset else None
        request = chat_pb2.SubscribeRequest(session_id=self._session_id, cursor=cursor)
        return chat_pb2_grpc.ChatStub(channel).Subscribe(request)

    async def _read_on(self, call: Any) -> None:
        """Until the connection breaks."""
        try:
            while True:
                await self._read(call)
        except aio.AioRpcError:
            pass

    async def _read(self, call: Any) -> None:
        message = await call.read()
        if message is aio.EOF:
            raise ViewerError(f"the session that is watched ended after event {self._seen.offset}")
        for event in message.events:
            if event.cursor.offset != self._seen.offset + 1:
                raise ViewerError(f"event {event.cursor.offset} came after {self._seen.offset}")
            self._seen = event.cursor
