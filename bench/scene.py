"""Which processes run: the pair, with the bench as its viewer, and the bare peer. Each is ended by its id."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from bench.child import Child
from bench.viewer import Viewer

SLOTS = 300
_READY = r"ready at ([\d.:]+\d)"
_READY_WITH_WEB = r"ready at ([\d.:]+\d(?:; HTTP at http://[\d.:]+\d)?)"
# What a flood of a whole run says is more than a session may by default, and longer kept than is of use here.
_FLAGS = (
    "--grpc-address=127.0.0.1:0",
    "--metrics-address=",
    "--content-chars-max=1000000000",
    "--thought-chars-max=1000000000",
    "--tool-calls-max=1000000",
    "--tool-concurrency=1000",
    "--journal-session-bytes=536870912",
)
_SHORT_LIVED = ("--journal-keep-s=2",)


@dataclass
class Pair:
    """A dispatcher with its commanders."""

    host: Child
    viewer: Viewer
    address: str
    workers: list[Child] = field(default_factory=list)
    # HOST:PORT of HTTP, where it is served.
    web: str = ""


@dataclass
class Bare:
    """A bare server with its clients."""

    server: Child
    address: str
    clients: list[Child] = field(default_factory=list)


@dataclass
class Scene:
    """What most measurements need: one of each."""

    pair: Pair
    bare: Bare


@asynccontextmanager
async def started() -> AsyncIterator[Scene]:
    async with pair() as one, bare() as other:
        yield Scene(one, other)


@asynccontextmanager
async def pair(*, keep: bool = False, in_file: bool = False, slots: int = SLOTS) -> AsyncIterator[Pair]:
    """A dispatcher and a commander. `keep`: finished sessions are kept as long as by default. `in_file`: the journal
    is a file."""
    async with (
        dispatcher(*(() if keep else _SHORT_LIVED), in_file=in_file) as made,
        more_workers(made, 1, f"--slots={slots}"),
    ):
        yield made


@asynccontextmanager
async def dispatcher(*flags: str, in_file: bool = False) -> AsyncIterator[Pair]:
    """A dispatcher that has no commander yet."""
    async with AsyncExitStack() as stack:
        if in_file:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chatstream-bench-"))
            flags += (f"--journal=sqlite:{folder}/journal.db",)
        host = Child("bench.host", *_FLAGS, *flags)
        stack.push_async_callback(host.end)
        address, _, web = (await host.says(_READY_WITH_WEB)).partition("; HTTP at http://")
        viewer = Viewer(address)
        stack.push_async_callback(viewer.close)
        yield Pair(host, viewer, address, web=web)


@asynccontextmanager
async def more_workers(
    made: Pair, number: int, *flags: str, through: str = ""
) -> AsyncIterator[Sequence[Child]]:
    """So many commanders more, for a while. `through`: the address that they dial instead of the dispatcher's."""
    already = len(made.workers)
    told = (f"--dispatcher={through or made.address}", f"--slots={SLOTS}", *flags)
    async with AsyncExitStack() as stack:
        for index in range(already, already + number):
            made.workers.append(Child("bench.worker", *told, f"--commander-id=bench-{index}"))
            stack.push_async_callback(made.workers[-1].end)
        try:
            await made.viewer.linked(already + number)
            yield made.workers[already:]
        finally:
            del made.workers[already:]


@asynccontextmanager
async def bare() -> AsyncIterator[Bare]:
    """A bare server and a client."""
    async with AsyncExitStack() as stack:
        server = Child("bench.bare_server")
        stack.push_async_callback(server.end)
        made = Bare(server, await server.says(_READY))
        await stack.enter_async_context(more_clients(made, 1))
        yield made


@asynccontextmanager
async def more_clients(made: Bare, number: int) -> AsyncIterator[Sequence[Child]]:
    """So many clients more, for a while."""
    already = len(made.clients)
    async with AsyncExitStack() as stack:
        for _ in range(number):
            made.clients.append(Child("bench.bare_client", made.address))
            stack.push_async_callback(made.clients[-1].end)
        try:
            for client in made.clients[already:]:
                await client.says("(ready)")
            yield made.clients[already:]
        finally:
            del made.clients[already:]
