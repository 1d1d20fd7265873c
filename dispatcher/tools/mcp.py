"""The tools of one MCP server: found, followed as they change, called, and away while it is.

One task owns the connection: the SDK's client is entered and left in it, and a new one is made each time, because a
client whose server has gone stays broken. Calls await the client beside that task. A server is trusted with nothing
but its tools: what it says is bounded, and what it does wrong costs it its tools and nobody else anything.

The extra `mcp` is needed; `sources.py` imports this when a server is configured.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client import IncomingMessage, Transport
from mcp.client.subscriptions import Subscription, SubscriptionLost
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    PARSE_ERROR,
    RequestParamsMeta,
    ToolListChangedNotification,
)
from mcp_types import Tool as TheirTool
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from dispatcher.tables import McpTable, SecretError, secrets_of
from dispatcher.tools import mcp_http, mcp_process
from dispatcher.tools.bounded import BROKEN
from dispatcher.tools.contract import SourceState, Tool, ToolAway, ToolContext, ToolError, ToolLimits, said
from dispatcher.tools.mcp_results import returned
from dispatcher.tools.stations import Offer, strangers

log = logging.getLogger(__name__)

PAGES_MAX: Final = 100
# A description goes to a model with every session.
DESCRIPTION_CHARS_MAX: Final = 4_096
# However often a server says that its tools have changed: doubled each time, while it goes on saying so.
RELIST_S: Final = 0.2
RELIST_MAX_S: Final = 30.0
_META: Final = "chatstream/"


@dataclass
class _Connection:
    """One life of a client."""

    client: Client | None = None
    # Why it can't be used any more; empty while it can.
    why: str = ""
    # Something happened: it broke, or its tools have changed.
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def lost(self, why: str) -> None:
        self.why = self.why or why
        self.news.set()


class McpServer:
    """A server of the settings' table `[mcp.NAME]`. Made, begun and closed in one event loop."""

    def __init__(self, name: str, table: McpTable, offer: Offer) -> None:
        self.source: Final = f"mcp.{name}"
        self._table = table
        self._prefix = table.prefix_of(name)
        self._offer = offer
        self._connection: _Connection | None = None
        self._why_away = "it was not reached yet"
        self._losses = 0
        self._retry_at = 0.0
        self._listed = asyncio.Event()
        self._problems: list[str] = []
        # What it listed when its tools were last taken.
        self._found: list[TheirTool] = []
        self._scope = anyio.CancelScope()
        self._task: asyncio.Task[None] | None = None
        # The SDK logs a traceback for what is somebody else's mistake; what matters of it is said here.
        logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)
        logging.getLogger("httpx2").setLevel(logging.WARNING)

    def __repr__(self) -> str:
        state = "up" if self._connection else f"away: {self._why_away}"
        return f"<McpServer {self.source} {state}, {self._losses} losses>"

    @property
    def state(self) -> SourceState:
        return SourceState(self.source, self._connection is not None, self._losses)

    @property
    def is_away(self) -> bool:
        return self._connection is None

    def check(self) -> None:
        """Raises SecretError where a secret isn't where the table says."""
        self._secrets()

    async def begin(self) -> None:
        """Returns when its tools are known, or when it was waited for long enough; then they come later."""
        self._task = asyncio.create_task(self._own(), name=self.source)
        try:
            await asyncio.wait_for(self._listed.wait(), self._table.start_wait_s)
        except TimeoutError:
            log.warning("%s is not there yet (%s); its tools come when it is", self.source, self._why_away)

    async def close(self) -> None:
        """Leaves it; a process is ended. Returns when that is done."""
        if self._task is not None:
            self._scope.cancel()
            await asyncio.wait([self._task])

    async def call(
        self, tool: str, arguments: dict[str, object], context: ToolContext, *, is_idempotent: bool
    ) -> object:
        """Raises ToolError. Cancelling it cancels the call on the server."""
        connection = self._connection
        if connection is None or connection.client is None:
            left_s = max(0.1, self._retry_at - time.monotonic())
            raise ToolAway(
                f"{self.source} is away: {self._why_away}; nothing ran: try again in {left_s:.1f} s",
                retry_after_s=left_s,
            )
        told = {
            f"{_META}idempotency_key": context.idempotency_key,
            f"{_META}session_id": context.session_id,
            f"{_META}call_id": context.call_id,
        }
        meta = cast("RequestParamsMeta", told)  # an open map, which the checker does not know yet
        try:
            result = await connection.client.call_tool(
                tool, arguments, meta=meta, progress_callback=_progressing(context)
            )
        except MCPError as error:
            if error.code in (BROKEN, PARSE_ERROR):
                # Its own answer alone broke; asking for its tools shows whether the server is still there.
                connection.news.set()
                text = (
                    f"the server's answer broke: {_shortly(error.message)}; it may have done part of its work"
                )
                raise ToolError(text, retryable=is_idempotent) from None
            if error.code != CONNECTION_CLOSED:
                if error.code == INVALID_REQUEST:
                    # It may have begun anew and know nothing of us: asking for its tools shows it.
                    connection.news.set()
                raise ToolError(f"the server refused the call: {error.message}") from None
            connection.lost(_shortly(error.message))
            raise _torn(self.source, connection.why, is_idempotent=is_idempotent) from None
        except (httpx2.HTTPError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            connection.lost(_shortly(said(error)))
            raise _torn(self.source, connection.why, is_idempotent=is_idempotent) from None
        except (ValidationError, RuntimeError, ValueError) as error:
            raise ToolError(f"the server's answer can't be used: {_shortly(said(error))}") from None
        return returned(result)

    # --- the task that owns it ---------------------------------------------------------------------------

    async def _own(self) -> None:
        """Until it is closed: reach the server, stay, and when it has gone reach it again."""
        failures = 0
        with self._scope:
            while True:
                began_at = time.monotonic()
                connection = _Connection()
                try:
                    await self._live(connection)
                except (SecretError, OSError) as error:
                    connection.lost(f"it can't be started: {_shortly(str(error))}")
                except Exception as error:  # noqa: BLE001 - whatever an SDK raises, the server is away
                    connection.lost(_shortly(_first(error)))
                finally:
                    self._leave(connection)
                # One that stood for long enough may come back at once; one that falls again and again may not.
                stood = time.monotonic() - began_at >= self._table.restart_backoff_max_s
                failures = 0 if stood else failures
                delay_s = self._delay_s(failures)
                failures += 1
                self._retry_at = time.monotonic() + delay_s
                log.warning("%s is away: %s; next try in %.1f s", self.source, self._why_away, delay_s)
                await anyio.sleep(delay_s)

    def _delay_s(self, failures: int) -> float:
        """Full between half and whole, so that many dispatchers don't come back in one moment."""
        t = self._table
        whole_s = min(t.restart_backoff_max_s, t.restart_backoff_s * 2 ** min(failures, 30))
        return float(whole_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads tries, keeps no secret

    def _leave(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._losses += 1
            self._connection = None
        self._why_away = connection.why or "it was left"

    async def _live(self, connection: _Connection) -> None:
        """One life of a client, entered and left here. Returns when the connection is lost."""
        client = Client(
            self._transport(connection), message_handler=lambda message: _heard(connection, message)
        )
        deadline = anyio.current_time() + self._table.connect_s
        # Around all of it: what is entered in a scope has to be left in it.
        with anyio.CancelScope(deadline=deadline) as reaching:
            async with client:
                connection.client = client
                await self._list(client)
                reaching.deadline = math.inf
                self._connection = connection
                self._listed.set()
                log.info("%s is up", self.source)
                await self._stay(client, connection)
        if reaching.cancelled_caught:
            connection.lost(f"it did not answer within {self._table.connect_s:g} s")

    async def _stay(self, client: Client, connection: _Connection) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_follow, client, connection)
            relist_s = RELIST_S
            while await self._is_there(connection):
                try:
                    with anyio.fail_after(self._table.connect_s):
                        await self._list(client)
                except TimeoutError:
                    connection.lost(f"it did not answer within {self._table.connect_s:g} s")
                except MCPError as error:
                    connection.lost(_shortly(error.message))
                await anyio.sleep(relist_s)
                relist_s = min(2 * relist_s, RELIST_MAX_S) if connection.news.is_set() else RELIST_S
            # From now on calls are told that it is away, while those under way learn how theirs ended.
            self._leave(connection)
            tasks.cancel_scope.cancel()

    async def _is_there(self, connection: _Connection) -> bool:
        """True when it is time to ask for its tools, False when it has gone."""
        with anyio.move_on_after(self._table.refresh_s):
            await connection.news.wait()
        if not connection.why:
            connection.news.clear()
        return not connection.why

    async def _list(self, client: Client) -> None:
        """What it offers now, on offer."""
        found: list[TheirTool] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            found += page.tools
            cursor = page.next_cursor
            if cursor is None or len(found) > 10 * self._table.tools_max:
                break
        if found == self._found and self._listed.is_set() and not self._problems:
            return
        problems = await self._offer(self.source, partial(self._chosen, found))
        self._found = found
        if problems != self._problems:
            for problem in problems:
                log.warning("%s: %s", self.source, _shortly(problem))
        self._problems = problems

    def _chosen(self, found: list[TheirTool]) -> tuple[list[Tool], list[str]]:
        """Those that the settings ask for, and what is wrong with the rest."""
        wanted, problems = self._table.tools, []
        names = [each.name for each in found]
        missing = [each for each in wanted if each not in names]
        if missing:
            some = ", ".join(names[:20]) or "none"
            problems.append(f"it has no tool {', '.join(missing)}; it has {some}")
        chosen = [each for each in found if not wanted or each.name in wanted]
        if len(chosen) > self._table.tools_max:
            problems.append(
                f"it has {len(chosen)} tools; the first {self._table.tools_max}, tools_max, are taken: choose by tools"
            )
        offered = chosen[: self._table.tools_max]
        problems += strangers(self._table.idempotent, [each.name for each in offered])
        return [McpTool(self, each, self._prefix, self._table) for each in offered], problems

    def _transport(self, connection: _Connection) -> Transport:
        table, secrets = self._table, self._secrets()
        if table.url is None:
            told = mcp_process.Told(
                self.source,
                table.command,
                secrets,
                table.cwd,
                table.message_bytes_max,
                table.listing_bytes_max,
            )
            return mcp_process.transport(told, connection.lost)
        there = mcp_http.Told(
            self.source, table.url, secrets, table.message_bytes_max, table.listing_bytes_max
        )
        return mcp_http.transport(there, connection.lost)

    def _secrets(self) -> dict[str, str]:
        """Read anew for each connection. Raises SecretError."""
        if self._table.url is None:
            return secrets_of(self._table.env, f"{self.source}.env", is_header=False)
        return secrets_of(self._table.headers, f"{self.source}.headers")


class McpTool:
    """One of a server's tools, as the runner knows tools."""

    def __init__(self, server: McpServer, theirs: TheirTool, prefix: str, table: McpTable) -> None:
        self.name: Final = prefix + theirs.name
        description = (theirs.description or theirs.title or "").strip()
        self.description: Final = description[:DESCRIPTION_CHARS_MAX]
        self.parameters_schema: Final[Mapping[str, object]] = theirs.input_schema
        self.limits: Final = ToolLimits(table.timeout_s, table.output_bytes, table.concurrency)
        self.is_idempotent: Final = theirs.name in table.idempotent
        self.source: Final = server.source
        self._server = server
        self._theirs = theirs.name

    def __repr__(self) -> str:
        return f"<McpTool {self.name} of {self.source}>"

    @property
    def is_away(self) -> bool:
        return self._server.is_away

    async def call(self, arguments: dict[str, object], context: ToolContext) -> object:
        return await self._server.call(self._theirs, arguments, context, is_idempotent=self.is_idempotent)


async def _heard(connection: _Connection, message: IncomingMessage) -> None:
    """What servers of the older protocol say by themselves."""
    if isinstance(message, ToolListChangedNotification):
        connection.news.set()


async def _follow(client: Client, connection: _Connection) -> None:
    """What servers of the newer protocol say when asked to. Where there is nothing to be heard, asking now and then
    has to do."""
    capabilities = client.server_capabilities.tools
    if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or not (
        capabilities and capabilities.list_changed
    ):
        return
    try:
        async with client.listen(tools_list_changed=True) as subscription:
            await _hear(subscription, connection)
    except SubscriptionLost:
        connection.news.set()  # asking it shows whether it is still there
    except MCPError as error:
        log.info("a server tells no changes of its tools: %s", _shortly(error.message))


async def _hear(subscription: Subscription, connection: _Connection) -> None:
    async for _ in subscription:
        connection.news.set()


def _progressing(context: ToolContext) -> ProgressFnT:
    async def told(progress: float, total: float | None, message: str | None) -> None:
        context.progress(message or "", current=progress, total=total)

    return told


def _torn(source: str, why: str, *, is_idempotent: bool) -> ToolError:
    text = f"{source} went away during the call ({why}); it may have done part of its work"
    return ToolError(text, retryable=is_idempotent)


def _first(error: BaseException) -> str:
    """What is said by the first that went wrong, of however many."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, MCPError | TimeoutError) and str(error) else said(error)


def _shortly(text: str) -> str:
    return " ".join(text.split())[:300]
