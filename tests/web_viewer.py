"""A viewer over HTTP: a real client, and a reader of event streams that takes them by the letter."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import httpx
from asynchronous import PATIENCE_S, soon

JSON = {"content-type": "application/json"}


class Told(NamedTuple):
    """One event of a stream as it was sent; `fields` are those of its JSON."""

    id: str
    event: str
    record: Mapping[str, Any]

    @property
    def fields(self) -> Mapping[str, Any]:
        fields: Mapping[str, Any] = self.record["fields"]
        return fields


class EventReader:
    """Reads `text/event-stream` as the standard says: fields by line, an event at each blank one."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.seen: list[Told] = []
        self.comments: list[str] = []
        self.retry_ms: int | None = None
        self._lines = _lines(response)
        # As a browser keeps it: that of the last event that had one.
        self.last_id = ""

    async def next(self) -> Told | None:
        """The next event; None when the stream has ended."""
        return await soon(self._next())

    async def _next(self) -> Told | None:
        name, own_id = "message", ""
        data: list[str] = []
        async for line in self._lines:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if data:
                    told = Told(own_id, name, json.loads("\n".join(data)))
                    self.seen.append(told)
                    return told
                name, data, own_id = "message", [], ""
            elif not field:
                self.comments.append(value)
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                self.last_id = own_id = value
            elif field == "retry":
                self.retry_ms = int(value)
        return None

    async def until(self, kind: str) -> Told:
        """The next event of this kind; those before it are in `seen`."""
        while (told := await self.next()) is not None:
            if told.event == kind:
                return told
        raise AssertionError(f"the stream ended without {kind!r}: {self.kinds}")

    async def rest(self) -> list[Told]:
        """All that is left, until the stream ends."""
        rest = []
        while (told := await self.next()) is not None:
            rest.append(told)
        return rest

    @property
    def kinds(self) -> list[str]:
        return [told.event for told in self.seen]

    @property
    def text(self) -> str:
        return "".join(told.fields["text"] for told in self.seen if told.event == "content")


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """httpx' own lines end at more characters than the standard's."""
    rest = b""
    async for data in response.aiter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode()


@contextlib.asynccontextmanager
async def browsing(url: str, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, **more) as client:
        yield client


@contextlib.asynccontextmanager
async def streaming(
    client: httpx.AsyncClient, method: str, path: str, **more: Any
) -> AsyncIterator[EventReader]:
    """A stream, which must be one."""
    async with client.stream(method, path, **more) as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, (response.status_code, response.text)
        assert response.headers["content-type"].startswith("text/event-stream")
        yield EventReader(response)


@contextlib.asynccontextmanager
async def asking(
    client: httpx.AsyncClient,
    agent: str,
    text: str = "Hi",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> AsyncIterator[EventReader]:
    """Opens a session, and reads its stream."""
    body = {"agent": agent, "input": text, **more}
    async with streaming(client, "POST", "/v1/sessions", json=body, headers=headers) as reader:
        yield reader


async def opened(client: httpx.AsyncClient, agent: str, **more: Any) -> str:
    """Opens a session without watching it. Its id."""
    response = await client.post(
        "/v1/sessions", json={"agent": agent, "input": "Hi", **more}, headers={"prefer": "respond-async"}
    )
    assert response.status_code == 202, response.text
    session_id: str = response.json()["session_id"]
    return session_id


async def sent(host: str, port: int, data: bytes, *, patience_s: float = PATIENCE_S) -> bytes:
    """What a connection answers to these bytes, until it ends."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        await writer.drain()
        return await soon(reader.read(), patience_s)
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
