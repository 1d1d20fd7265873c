"""Reads streams whose events are JSON in `data` alone, as the clients of other people's protocols do."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
from asynchronous import soon

DONE = "[DONE]"


class Frame(NamedTuple):
    """One event; `id` is empty where it has none."""

    id: str
    part: dict[str, Any]


class FrameReader:
    """Takes a stream by the letter, and keeps what it has seen; `is_done`: its `[DONE]` came, and nothing behind it."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.seen: list[Frame] = []
        self.comments = 0
        self.is_done = False
        self.data = b""
        self._chunks = response.aiter_bytes()
        self._rest = b""

    async def next(self) -> Frame | None:
        """The next event; None when the stream has ended."""
        return await soon(self._next())

    async def _next(self) -> Frame | None:
        while True:
            block, blank, rest = self._rest.partition(b"\n\n")
            if blank:
                self._rest = rest
                frame = self._taken(block.decode())
                if frame is not None:
                    self.seen.append(frame)
                    return frame
                continue
            chunk = await anext(self._chunks, b"")
            if not chunk:
                assert not self._rest, self._rest
                return None
            self.data += chunk
            self._rest += chunk

    def _taken(self, block: str) -> Frame | None:
        assert not self.is_done, block
        own_id = ""
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if not field:
                self.comments += 1
                return None
            if field == "id":
                own_id = value
                continue
            assert field == "data", line
            if value == DONE:
                self.is_done = True
                return None
            # Nothing within a line may look like its end to anybody.
            assert len(value.splitlines()) == 1, value
            return Frame(own_id, json.loads(value))
        raise AssertionError(block)

    async def until(self, kind: str) -> dict[str, Any]:
        """The next part of this type; those before it are in `seen`."""
        while (frame := await self.next()) is not None:
            if frame.part["type"] == kind:
                return frame.part
        raise AssertionError(f"the stream ended without {kind!r}: {self.kinds}")

    async def rest(self) -> list[Frame]:
        """All that is left, until the stream ends."""
        rest = []
        while (frame := await self.next()) is not None:
            rest.append(frame)
        return rest

    @property
    def kinds(self) -> list[str]:
        return [frame.part["type"] for frame in self.seen]

    @property
    def parts(self) -> list[dict[str, Any]]:
        return [frame.part for frame in self.seen]


@contextlib.asynccontextmanager
async def framing(
    client: httpx.AsyncClient, method: str, path: str, **more: Any
) -> AsyncIterator[FrameReader]:
    """A stream of such events, which must be one."""
    async with client.stream(method, path, **more) as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, (response.status_code, response.text)
        assert response.headers["content-type"].startswith("text/event-stream")
        yield FrameReader(response)
