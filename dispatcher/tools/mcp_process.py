"""An MCP server as a process of ours: its streams for the SDK, its chatter for the log, its end for certain.

The SDK has such a transport as well. This one bounds the length of a message, outlives any amount of noise on the
standard output, says when the process has gone, keeps its chatter within limits, and ends what the process has
started too. Used by `mcp.py` alone, and entered and left in one task.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client import Transport
from mcp.shared.message import SessionMessage
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter

from dispatcher.tools.lines import Chatter, Line, Lines

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 65_536
# Lines in a row that are no messages: who writes more speaks another language.
NOISE_LINES_MAX: Final = 1_000
# Of those, told to the log.
NOISE_LINES_TOLD: Final = 5
# After its standard input was closed, and again after SIGTERM; then it is killed.
LEAVE_S: Final = 2.0
KILLED_S: Final = 2.0
_POLL_S: Final = 0.01
# What a process needs to find its programs and its user's files; the rest is told by the settings or not at all.
INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TERM", "TMPDIR", "TZ", "USER")
_ID: Final = re.compile(rb'"id"\s*:\s*([0-9]{1,18})\s*[,}]')

ToSession = MemoryObjectSendStream[SessionMessage | Exception]
FromSession = MemoryObjectReceiveStream[SessionMessage]


@dataclass(frozen=True)
class Told:
    """What the process is to be."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None
    message_bytes_max: int


def transport(told: Told, gone: Callable[[str], None]) -> Transport:
    """For the SDK's Client. `gone` is told why the process can't be talked to any more, once."""
    return _talking(told, gone)


@contextlib.asynccontextmanager
async def _talking(
    told: Told, gone: Callable[[str], None]
) -> AsyncIterator[
    tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]
]:
    """Raises OSError where the command can't be started."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *told.command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**inherited, **told.env},
        cwd=told.cwd,
        # A group of its own: ended whole, and a Ctrl-C in the dispatcher's terminal is not meant for it.
        start_new_session=True,
        limit=CHUNK_BYTES,
    )
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    pumps = [
        asyncio.create_task(_read(told, process, to_session, gone)),
        asyncio.create_task(_write(process, from_session, to_session, gone)),
        asyncio.create_task(_listen(told.name, process)),
    ]
    try:
        yield from_server, to_server
    finally:
        # Whatever ends us: the process must not outlive it. Every wait in here is bounded.
        with anyio.CancelScope(shield=True):
            await _end(told.name, process)
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps, timeout=LEAVE_S)
            for stream in (from_server, to_server, to_session, from_session):
                stream.close()


async def _read(told: Told, process: Process, to_session: ToSession, gone: Callable[[str], None]) -> None:
    assert process.stdout is not None
    lines, noise = Lines(told.message_bytes_max), _Noise(told.name)
    why = "it has closed its standard output"
    try:
        while chunk := await process.stdout.read(CHUNK_BYTES):
            for line in lines.feed(chunk):
                message = _message(line, told)
                if message is None:
                    noise.heard(line)
                else:
                    noise.over()
                    await to_session.send(message)
    except _NoiseError:
        why = f"it has written {NOISE_LINES_MAX:,} lines that are no messages of MCP"
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
        why = "its streams broke"
    gone(why)
    to_session.close()
    # Nobody reads it any more; it must not wait for anybody who does, or it would never see that it should end.
    while await process.stdout.read(CHUNK_BYTES):  # noqa: ASYNC110 - it waits in its condition
        await asyncio.sleep(0)


class _NoiseError(Exception):
    """Too much that is no message."""


class _Noise:
    """Lines of the standard output that are no messages: a print left behind, a greeting, another protocol."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._in_a_row = 0
        self._told = 0

    def heard(self, line: Line) -> None:
        """Raises _NoiseError when it was too much."""
        if not line.text.strip():
            return
        self._in_a_row += 1
        if self._in_a_row > NOISE_LINES_MAX:
            raise _NoiseError
        if self._told < NOISE_LINES_TOLD:
            self._told += 1
            text = line.text[:200].decode("utf-8", "replace")
            log.warning("%s wrote to its standard output what is no message of MCP: %r", self._name, text)

    def over(self) -> None:
        self._in_a_row = 0


def _message(line: Line, told: Told) -> SessionMessage | None:
    """None for what is no message. One that is too long is answered for, where its number can be seen."""
    if not line.is_whole:
        found = _ID.search(line.text)
        log.warning("%s wrote a message of over %d bytes; it is dropped", told.name, told.message_bytes_max)
        if found is None:
            return None
        error = ErrorData(
            code=INTERNAL_ERROR,
            message=f"its answer is over {told.message_bytes_max:,} bytes, message_bytes_max of {told.name}",
        )
        return SessionMessage(JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=error))
    if not line.text.lstrip().startswith(b"{"):
        return None
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line.text, by_name=False))
    except ValueError:
        return None


async def _write(
    process: Process, from_session: FromSession, to_session: ToSession, gone: Callable[[str], None]
) -> None:
    assert process.stdin is not None
    try:
        async for message in from_session:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            process.stdin.write(text.encode() + b"\n")
            await process.stdin.drain()
    except (OSError, RuntimeError):
        gone("it has closed its standard input")
        to_session.close()


async def _listen(name: str, process: Process) -> None:
    """Its standard error goes to the log."""
    assert process.stderr is not None
    lines, chatter = Lines(CHUNK_BYTES), Chatter(log, name)
    try:
        while chunk := await process.stderr.read(CHUNK_BYTES):
            for line in lines.feed(chunk):
                chatter.tell(line.text)
            await asyncio.sleep(0)
    finally:
        for line in lines.end():
            chatter.tell(line.text)
        chatter.settle()


async def _end(name: str, process: Process) -> None:
    """Asks it to leave, then tells it, then makes it, with all that it has started."""
    if process.stdin is not None:
        process.stdin.close()
    if not await _has_ended(process, LEAVE_S):
        _signal(process, signal.SIGTERM)
        await _has_ended(process, LEAVE_S)
    # What it has started may be there without it.
    _signal(process, signal.SIGKILL)
    if not await _has_ended(process, KILLED_S):
        log.warning("%s: its process %d does not end, even killed", name, process.pid)


async def _has_ended(process: Process, patience_s: float) -> bool:
    """Not `process.wait()`, which waits for its pipes as well: others may have them."""
    deadline = time.monotonic() + patience_s
    while process.returncode is None and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(_POLL_S)
    return process.returncode is not None


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
