"""An MCP server as a process of ours: its streams for the SDK, its chatter for the log, its end for certain.

The SDK has such a transport as well. This one bounds the length of a message, outlives any amount of noise on the
standard output, says when the process has gone, keeps its chatter within limits, and ends what the process has
started too. Used by `mcp.py` alone, and entered and left in one task.
"""

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client import Transport
from mcp.shared.message import SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)

from dispatcher.tools import mcp_launcher
from dispatcher.tools.bounded import LISTING
from dispatcher.tools.lines import HEAD_BYTES, Chatter, Line, Lines
from dispatcher.tools.mcp_asked import Asked, LeaveError, listing_is_long
from dispatcher.tools.mcp_long import UncertainError, call_of

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 65_536
# Lines in a row that are no messages: who writes more speaks another language.
NOISE_LINES_MAX: Final = 1_000
# Of those, told to the log.
NOISE_LINES_TOLD: Final = 5
# After its standard input was closed, and again after SIGTERM; then it is killed.
LEAVE_S: Final = 2.0
KILLED_S: Final = 2.0
# After its end, or the end of what it says, it is waited so long for the other.
LAST_WORDS_S: Final = 0.5
# Of its standard error. Who writes more waits: reading it faster would leave no time for anybody else.
CHATTER_BYTES_PER_S: Final = 1_048_576
# What a process needs to find its programs and its user's files; the rest is told by the settings or not at all.
INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TERM", "TMPDIR", "TZ", "USER")

LAUNCHER: Final = str(Path(mcp_launcher.__file__).resolve())

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
    listing_bytes_max: int


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
    env = {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(told.env)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: _Streams(CHUNK_BYTES, loop),
        *_launched(told, env),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=env,
        cwd=told.cwd,
        # A group of its own: ended whole, and a Ctrl-C in the dispatcher's terminal is not meant for it.
        start_new_session=True,
    )
    process, ended = Process(transport, protocol, loop), protocol.ended
    left = asyncio.Event()
    peer = _Peer(told, process, ended, lambda why: None if left.is_set() else gone(why))
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    reading = asyncio.create_task(peer.read(to_session))
    pumps = [
        reading,
        asyncio.create_task(peer.write(from_session, to_session)),
        asyncio.create_task(peer.watch(reading, to_session)),
        asyncio.create_task(_listen(told.name, process)),
    ]
    try:
        yield from_server, to_server
    finally:
        # What it does from now on is our doing.
        left.set()
        # Whatever ends us: the process must not outlive it. Every wait in here is bounded.
        with anyio.CancelScope(shield=True):
            await _end(told.name, process, ended)
            for pump in pumps:
                pump.cancel()
            # Others may hold the other ends of its streams.
            transport.close()
            await asyncio.wait(pumps, timeout=LEAVE_S)
            for stream in (from_server, to_server, to_session, from_session):
                stream.close()


def _launched(told: Told, env: Mapping[str, str]) -> list[str]:
    """The command, such that the kernel ends it when we are gone, where it can. Raises OSError where there is no such
    program, which would otherwise be told by somebody else, and too late."""
    program = told.command[0]
    place = program if "/" in program else shutil.which(program, path=env.get("PATH"))
    if place is None or not os.access(os.path.join(told.cwd or "", place), os.X_OK):  # noqa: PTH118 - any text
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    if sys.platform != "linux" or not sys.executable:
        return list(told.command)
    # Without what a user may have installed for Python: it needs none of it.
    return [sys.executable, "-I", "-S", LAUNCHER, str(os.getpid()), *told.command]


class _Streams(SubprocessStreamProtocol):
    """As usual, and says when the process has ended. `Process.wait` waits for its streams as well, and others may have
    them: programs that it has started."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self.ended: Final = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.ended.set()


class _Peer:
    """The two streams that the protocol is spoken on, and what is owed on them."""

    def __init__(
        self, told: Told, process: Process, ended: asyncio.Event, gone: Callable[[str], None]
    ) -> None:
        self._told = told
        self._process = process
        self._ended = ended
        self._gone = gone
        self._asked = Asked()
        # Of our requests for its tools, those that it has not answered.
        self._listing: set[RequestId | None] = set()

    async def read(self, to_session: ToSession) -> None:
        assert self._process.stdout is not None
        lines, noise = Lines(self._told.message_bytes_max), _Noise(self._told.name)
        why = ""
        try:
            while chunk := await self._process.stdout.read(CHUNK_BYTES):
                for line in lines.feed(chunk):
                    self._check_listing(line)
                    message = _message(line, self._told)
                    if message is None:
                        noise.heard(line)
                        continue
                    noise.over()
                    self._asked.heard(message.message)
                    if isinstance(message.message, JSONRPCResponse | JSONRPCError):
                        self._listing.discard(message.message.id)
                    await to_session.send(message)
        except LeaveError as error:
            why = str(error)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            why = "its streams broke"
        if not why:
            ended = await _comes(self._ended, LAST_WORDS_S)
            why = _end_of(self._process) if ended else "it has closed its standard output"
        self._gone(why)
        to_session.close()
        # Nobody reads it any more; it must not wait for anybody who does, or it would never see that it should end.
        while await self._process.stdout.read(CHUNK_BYTES):  # noqa: ASYNC110 - it waits in its condition
            await asyncio.sleep(0)

    async def write(self, from_session: FromSession, to_session: ToSession) -> None:
        assert self._process.stdin is not None
        try:
            async for message in from_session:
                if isinstance(message.message, JSONRPCRequest) and message.message.method == LISTING:
                    self._listing.add(message.message.id)
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                self._process.stdin.write(text.encode() + b"\n")
                await self._process.stdin.drain()
                self._asked.told(message.message)
        except (OSError, RuntimeError):
            self._gone("it has closed its standard input")
            to_session.close()

    async def watch(self, reading: asyncio.Task[None], to_session: ToSession) -> None:
        """Its streams tell nothing of its end while others hold them."""
        await self._ended.wait()
        # What it said last may still be on its way.
        await asyncio.wait([reading], timeout=LAST_WORDS_S)
        self._gone(_end_of(self._process))
        to_session.close()

    def _check_listing(self, line: Line) -> None:
        """Raises LeaveError for a list of tools that would hold up everybody while it is read."""
        if not self._listing or len(line.text) <= self._told.listing_bytes_max:
            return
        try:
            is_listing = call_of(line.text[:HEAD_BYTES], line.text[-HEAD_BYTES:]) in self._listing
        except UncertainError:
            # Whose answer it is only reading it would tell.
            is_listing = True
        if is_listing:
            raise LeaveError(listing_is_long(self._told.listing_bytes_max, self._told.name))


class _Noise:
    """Lines of the standard output that are no messages: a print left behind, a greeting, another protocol."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._in_a_row = 0
        self._told = 0

    def heard(self, line: Line) -> None:
        """Raises LeaveError when it was too much."""
        self._in_a_row += 1
        if self._in_a_row > NOISE_LINES_MAX:
            raise LeaveError(f"it has written {NOISE_LINES_MAX:,} lines that are no messages of MCP")
        if line.text.strip() and self._told < NOISE_LINES_TOLD:
            self._told += 1
            text = line.text[:200].decode("utf-8", "replace")
            log.warning("%s wrote to its standard output what is no message of MCP: %r", self._name, text)

    def over(self) -> None:
        self._in_a_row = 0


def _message(line: Line, told: Told) -> SessionMessage | None:
    """None for what is no message. An answer that is too long is its call's error. Raises LeaveError where it can't
    be seen which call that is: to fail another one, or to let this one wait for ever, would be wrong."""
    if not line.is_whole:
        log.warning("%s wrote a message of over %d bytes; it is dropped", told.name, told.message_bytes_max)
        most = f"{told.message_bytes_max:,} bytes, message_bytes_max of {told.name}"
        try:
            number = call_of(line.text, line.tail)
        except UncertainError:
            raise LeaveError(f"its answer is over {most}, and to which call can't be seen") from None
        if number is None:
            return None
        error = ErrorData(code=INTERNAL_ERROR, message=f"its answer is over {most}")
        return SessionMessage(JSONRPCError(jsonrpc="2.0", id=number, error=error))
    if not line.text.lstrip().startswith(b"{"):
        return None
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line.text, by_name=False))
    except ValueError:
        return None


async def _listen(name: str, process: Process) -> None:
    """Its standard error goes to the log."""
    assert process.stderr is not None
    chatter = Chatter(log, name)
    try:
        while chunk := await process.stderr.read(CHUNK_BYTES):
            chatter.hear(chunk)
            await asyncio.sleep(len(chunk) / CHATTER_BYTES_PER_S)
    finally:
        chatter.end()


async def _end(name: str, process: Process, ended: asyncio.Event) -> None:
    """Asks it to leave, then tells it, then makes it, with all that it has started."""
    if process.stdin is not None:
        process.stdin.close()
    if not await _comes(ended, LEAVE_S):
        _signal(process, signal.SIGTERM)
        await _comes(ended, LEAVE_S)
    # What it has started may be there without it.
    _signal(process, signal.SIGKILL)
    if not await _comes(ended, KILLED_S):
        log.warning("%s: its process %d does not end, even killed", name, process.pid)


async def _comes(event: asyncio.Event, patience_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), patience_s)
    except TimeoutError:
        return False
    return True


def _end_of(process: Process) -> str:
    """How it ended."""
    status = process.returncode or 0
    try:
        return (
            f"it was ended by {signal.Signals(-status).name}"
            if status < 0
            else f"it has ended, status {status}"
        )
    except ValueError:
        return f"it was ended by signal {-status}"


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
