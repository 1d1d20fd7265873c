"""A client of other people's making, in a Node process: told what to do, and heard, by lines of JSON."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from asynchronous import soon
from dispatcher_process import ROOT

Said = dict[str, Any]
# A line holds a whole conversation.
_LINE_BYTES_MAX = 16_777_216


class Programs(NamedTuple):
    """`node` runs them, in `folder`."""

    node: Path
    folder: Path

    @contextlib.asynccontextmanager
    async def running(self, name: str, **told: Any) -> AsyncIterator["NodeClient"]:
        """A program until the block ends; `told` is its one argument, as JSON. It must end by itself, and well."""
        process = await asyncio.create_subprocess_exec(
            self.node,
            f"{name}.mjs",
            json.dumps({"root": str(ROOT), **told}),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
        )
        client = NodeClient(process)
        try:
            yield client
            await client.leave()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, client.said


class NodeClient:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[Said] = []

    async def do(self, what: str, **told: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **told}).encode() + b"\n")
        await self._process.stdin.drain()

    async def next(self) -> Said:
        """What it says next."""
        assert self._process.stdout is not None
        line = await soon(self._process.stdout.readline())
        assert line, f"it ended: {self.said[-3:]}"
        said: Said = json.loads(line)
        self.said.append(said)
        assert "crash" not in said, said["crash"]
        return said

    async def until(self, right: str | Callable[[Said], bool]) -> Said:
        """The next thing it says that is right, or has this key."""
        while True:
            said = await self.next()
            if right in said if isinstance(right, str) else right(said):
                return said

    async def leave(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await soon(self._process.wait())
