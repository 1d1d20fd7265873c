"""Bad weather for a whole fleet: faults of links, of commanders and of viewers' connections, one after the other and
several at once, drawn by lot."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from commander_process import CommanderProcess
from tcp_proxy import TcpProxy, tcp_proxy

from faults.scene import Place, commanding

# Each fault lasts up to so long, and each second there is another.
_FAULT_S = 3.0
_EVERY_S = 1.0
_FLAGS = ("--slots", "400", "--drain-deadline-s", "1")
# What a commander that is never ended lives through, and what ends one.
_LINK_FAULTS = (
    "cut",
    "stall",
    "swallow",
    "half open up",
    "half open down",
    "crumbs",
    "odd",
    "delay",
    "port gone",
    "freeze",
)
_ENDS = ("kill", "drain")


class Worker:
    """A commander behind a proxy of its own. When its process has ended another is started in its place."""

    def __init__(self, name: str, proxy: TcpProxy, *, is_mortal: bool) -> None:
        self.name = name
        self.proxy = proxy
        self.faults = _LINK_FAULTS + (_ENDS if is_mortal else ())
        self.is_in_trouble = False
        self._life = contextlib.AsyncExitStack()
        self._process: CommanderProcess | None = None

    @property
    def process(self) -> CommanderProcess:
        assert self._process is not None
        return self._process

    async def live(self) -> None:
        self._process = await self._life.enter_async_context(
            commanding(self.proxy.address, self.name, *_FLAGS)
        )

    async def end(self) -> None:
        await self._life.aclose()

    async def suffer(self, fault: str, lasts_s: float) -> None:
        self.is_in_trouble = True
        if fault in _ENDS:
            self.process.tell(signal.SIGKILL if fault == "kill" else signal.SIGTERM)
            await asyncio.to_thread(self.process.wait)
            await self.end()
            await self.live()
        elif fault == "freeze":
            self.process.tell(signal.SIGSTOP)
            await asyncio.sleep(lasts_s)
            self.process.tell(signal.SIGCONT)
        else:
            await trouble(self.proxy, fault, lasts_s)
        self.is_in_trouble = False


async def trouble(proxy: TcpProxy, fault: str, lasts_s: float) -> None:
    """A fault of a proxy, and its end."""
    begin: dict[str, Callable[[], None]] = {
        "cut": proxy.cut,
        "stall": lambda: proxy.set("stall"),
        "swallow": lambda: proxy.set("blackhole"),
        "half open up": lambda: proxy.set("blackhole", "there"),
        "half open down": lambda: proxy.set("blackhole", "back"),
        "crumbs": lambda: proxy.set("trickle"),
        "odd": lambda: proxy.set("split"),
        "delay": lambda: setattr(proxy, "delay_s", 0.1),
        "port gone": proxy.close_port,
    }
    begin[fault]()
    await asyncio.sleep(lasts_s)
    proxy.set("pass")
    proxy.delay_s = 0.0
    if fault == "port gone":
        await proxy.open_port()


class Weather:
    """Three workers, a door for viewers, and what befalls them."""

    def __init__(
        self,
        choice: random.Random,
        workers: list[Worker],
        door: TcpProxy,
        restart: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._choice = choice
        self._workers = workers
        self._restart = restart
        self.door = door
        # So often each fault has been.
        self.had: Counter[str] = Counter()

    @property
    def pids(self) -> dict[str, int]:
        """Of the workers, by name. The first one's process is never ended."""
        return {worker.name: worker.process.pid for worker in self._workers}

    @property
    def proxies(self) -> list[TcpProxy]:
        return [self.door, *(worker.proxy for worker in self._workers)]

    async def rage(self, lasts_s: float) -> None:
        """A fault each second for so long; fair again at its end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + lasts_s
        async with asyncio.TaskGroup() as running:
            while loop.time() < until:
                running.create_task(self._something())
                await asyncio.sleep(_EVERY_S)

    async def _something(self) -> None:
        choice = self._choice
        lasts_s = choice.uniform(0.1, _FAULT_S)
        lot = choice.random()
        calm = [worker for worker in self._workers if not worker.is_in_trouble]
        if self._restart is not None and lot < 0.1:
            self.had["the dispatcher"] += 1
            await self._restart()
        elif lot < 0.3:
            fault = choice.choice(["cut", "stall", "swallow", "half open down", "crumbs", "odd"])
            self.had[f"viewers: {fault}"] += 1
            await trouble(self.door, fault, lasts_s)
        elif calm:
            worker = choice.choice(calm)
            fault = choice.choice(worker.faults)
            self.had[fault] += 1
            await worker.suffer(fault, lasts_s)


@contextlib.asynccontextmanager
async def weather(
    place: Place, choice: random.Random, restart: Callable[[], Awaitable[None]] | None
) -> AsyncIterator[Weather]:
    """A fleet of three, linked. `restart` is drawn too, where there is one."""
    async with contextlib.AsyncExitStack() as proxies:
        door = await proxies.enter_async_context(tcp_proxy(place.address, dial=place.dial))
        workers = []
        for number in range(3):
            proxy = await proxies.enter_async_context(tcp_proxy(place.address, dial=place.dial))
            workers.append(Worker(f"worker-{number}", proxy, is_mortal=number > 0))
        try:
            for worker in workers:
                await worker.live()
            yield Weather(choice, workers, door, restart)
        finally:
            for worker in workers:
                await worker.end()
