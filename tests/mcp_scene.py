"""What the tests of MCP share: servers in processes of their own, a runner beside them, what becomes of processes."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asynchronous import eventually

from dispatcher.tables import McpTable
from dispatcher.tools import RunnerLimits, ToolRunner
from dispatcher.tools.sources import Sources, sources_of

BOX = str(Path(__file__).parent / "mcp_box.py")
RAW = str(Path(__file__).parent / "mcp_raw.py")
# Quick to come back, and patient: the machine may be busy.
QUICK: dict[str, Any] = {
    "start_wait_s": 60,
    "connect_s": 60,
    "restart_backoff_s": 0.02,
    "restart_backoff_max_s": 0.2,
    "refresh_s": 0.2,
}


def box(*flags: str, **keys: Any) -> McpTable:
    """The table of a box that speaks over stdio."""
    return McpTable.model_validate({"command": [sys.executable, BOX, *flags], **QUICK, **keys})


def raw(*flags: str, **keys: Any) -> McpTable:
    """The table of a server of bad manners, which starts in no time: without packages."""
    command = [sys.executable, "-I", "-S", RAW, *flags]
    return McpTable.model_validate({"command": command, **QUICK, "message_bytes_max": 100_000, **keys})


@contextlib.contextmanager
def box_over_http(*flags: str) -> Iterator[str]:
    """The address of a box that speaks over HTTP, until the block ends."""
    with subprocess.Popen(
        [sys.executable, BOX, "--http", *flags], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        finally:
            process.kill()


@dataclass
class Scene:
    runner: ToolRunner
    sources: Sources

    @property
    def names(self) -> list[str]:
        return [offer.name for offer in self.runner.offers()]

    async def until_offered(self, name: str) -> None:
        async def names() -> list[str]:
            return self.names

        await eventually(names, lambda names: name in names)

    async def until_up(self, losses: int) -> None:
        async def state() -> tuple[bool, bool]:
            (state,) = self.sources.states()
            return state.is_up, state.losses >= losses

        await eventually(state, lambda seen: seen == (True, True))


@contextlib.asynccontextmanager
async def using(table: McpTable, **limits: Any) -> AsyncIterator[Scene]:
    """A runner with the tools of `[mcp.box]`."""
    runner = ToolRunner([], RunnerLimits(**limits))
    try:
        async with sources_of({"mcp": {"box": table}}, runner) as sources:
            yield Scene(runner, sources)
    finally:
        await runner.close()


def is_running(pid: int) -> bool:
    """Running, not merely unreaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


async def noted(path: Path, text: str) -> list[str]:
    """The lines of a box's state file, once one of them is `text`."""
    return await eventually(lambda: asyncio.to_thread(lines_of, path), lambda lines: text in lines)


def lines_of(path: Path) -> list[str]:
    """Of a file that may not be there yet."""
    return path.read_text().splitlines() if path.exists() else []
