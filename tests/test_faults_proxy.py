"""The proxy that makes the faults: each of them reaches both ends as it would in a network."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from asynchronous import asynchronous, soon
from tcp_proxy import Mode, TcpProxy, tcp_proxy

DATA = bytes(range(256)) * 40


class Echo:
    """A server that says everything back, and has counted what it was told."""

    def __init__(self) -> None:
        self.heard = 0
        self.news = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._answering:
            task.cancel()
        if self._answering:
            await asyncio.wait(self._answering)

    async def until_heard(self, count: int) -> None:
        async def heard() -> None:
            while self.heard < count:
                self.news.clear()
                await self.news.wait()

        await soon(heard())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            while data := await reader.read(65_536):
                self.heard += len(data)
                self.news.set()
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            return
        finally:
            writer.transport.abort()


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Echo, TcpProxy, Ends]]:
    echo = Echo()
    async with tcp_proxy(await echo.open()) as proxy:
        ends = await dial(proxy)
        try:
            yield echo, proxy, ends
        finally:
            ends[1].transport.abort()
            await echo.close()


async def dial(proxy: TcpProxy) -> Ends:
    host, port = proxy.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def says_back(ends: Ends, data: bytes = DATA) -> None:
    ends[1].write(data)
    assert await soon(ends[0].readexactly(len(data))) == data


@pytest.mark.parametrize("mode", ["pass", "trickle", "split"])
@asynchronous
async def test_what_crumbles_arrives_whole(mode: Mode) -> None:
    async with proxied() as (_, proxy, ends):
        proxy.set(mode)
        await says_back(ends, DATA[:1_000] if mode == "trickle" else DATA)


@asynchronous
async def test_crumbs_have_odd_sizes() -> None:
    async with proxied() as (_, proxy, _ends):
        crumbs, segments = proxy.segments(DATA, "trickle"), proxy.segments(DATA, "split")
        assert b"".join(crumbs) == b"".join(segments) == DATA
        assert 1 < len(set(map(len, crumbs))) <= 12
        assert len(set(map(len, segments))) > 3


@asynchronous
async def test_a_cut_is_a_reset_for_both_ends() -> None:
    async with proxied() as (_, proxy, ends):
        await says_back(ends)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await soon(ends[0].read(1))


@asynchronous
async def test_half_open_is_dead_on_one_way_alone_and_for_ever() -> None:
    async with proxied() as (echo, proxy, ends):
        proxy.set("blackhole", "back")
        ends[1].write(b"one")
        await echo.until_heard(3)
        proxy.set("pass")
        ends[1].write(b"two")
        await echo.until_heard(6)
        # The new connection's answer has had every chance to be overtaken by the old one's.
        again = await dial(proxy)
        await says_back(again)
        with pytest.raises(TimeoutError):
            await soon(ends[0].read(1), 0.05)
        again[1].transport.abort()


@asynchronous
async def test_what_is_stalled_arrives_when_it_goes_on() -> None:
    async with proxied() as (_, proxy, ends):
        proxy.set("stall")
        ends[1].write(DATA)
        with pytest.raises(TimeoutError):
            await soon(ends[0].read(1), 0.05)
        proxy.set("pass")
        assert await soon(ends[0].readexactly(len(DATA))) == DATA


@asynchronous
async def test_a_delay_is_a_delay_each_way() -> None:
    async with proxied() as (_, proxy, ends):
        proxy.delay_s = 0.05
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await says_back(ends, b"x")
        assert loop.time() - begun >= 0.1


@asynchronous
async def test_a_port_that_is_gone_refuses_and_comes_back_where_it_was() -> None:
    async with proxied() as (_, proxy, ends):
        await says_back(ends)
        address = proxy.address
        proxy.close_port()
        with pytest.raises(ConnectionResetError):
            await soon(ends[0].read(1))
        with pytest.raises(ConnectionRefusedError):
            await dial(proxy)
        await proxy.open_port()
        assert proxy.address == address
        again = await dial(proxy)
        await says_back(again)
        again[1].transport.abort()
