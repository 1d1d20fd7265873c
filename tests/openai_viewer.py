"""What OpenAI's clients do, by hand: requests in their form, and streams of data without names."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from asynchronous import soon

CHAT = "/v1/chat/completions"


class ChunkReader:
    """Reads `data:` lines; `comments` and the end are seen too."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.seen: list[dict[str, Any]] = []
        self.comments: list[str] = []
        self.is_done = False
        self._lines = response.aiter_lines()

    @property
    def session_id(self) -> str:
        return str(self.response.headers["session-id"])

    async def next(self) -> dict[str, Any] | None:
        """The next chunk; None when the stream has ended."""
        return await soon(self._next())

    async def _next(self) -> dict[str, Any] | None:
        async for line in self._lines:
            field, _, value = line.partition(": ")
            if line == "data: [DONE]":
                self.is_done = True
            elif field == "data":
                chunk: dict[str, Any] = json.loads(value)
                self.seen.append(chunk)
                return chunk
            elif line.startswith(":"):
                self.comments.append(value)
        return None

    async def until_text(self) -> str:
        """The next that has content."""
        while (chunk := await self.next()) is not None:
            if text := _delta(chunk).get("content"):
                return str(text)
        raise AssertionError(f"the stream ended: {self.seen}")

    async def rest(self) -> list[dict[str, Any]]:
        while await self.next() is not None:
            pass
        return self.seen

    def joined(self, name: str) -> str:
        return "".join(_delta(chunk).get(name) or "" for chunk in self.seen)

    @property
    def text(self) -> str:
        return self.joined("content")

    @property
    def reasons(self) -> list[str]:
        told = [choice["finish_reason"] for chunk in self.seen for choice in chunk.get("choices", ())]
        return [reason for reason in told if reason]


def _delta(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = chunk.get("choices")
    delta: Mapping[str, Any] = choices[0]["delta"] if choices else {}
    return delta


def said(text: str = "Hi") -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@contextlib.asynccontextmanager
async def chatting(
    client: httpx.AsyncClient, agent: str, headers: Mapping[str, str] | None = None, **more: Any
) -> AsyncIterator[ChunkReader]:
    """A completion as a stream, which must be one."""
    body = {"model": agent, "messages": said(), "stream": True, **more}
    async with client.stream("POST", CHAT, json=body, headers=headers) as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, (response.status_code, response.text)
        assert response.headers["content-type"].startswith("text/event-stream")
        yield ChunkReader(response)
