"""The tools of one HTTP service, by its OpenAPI document: each operation that is asked for is a tool.

The document is a file, read before anything starts, or at an address, read when it can be. What is sent goes out by
`outbound.py`, which holds off what is not meant to be reached. The extra `http` is needed.
"""

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final
from urllib.parse import urljoin, urlsplit

from dispatcher.tables import HttpTable, SecretError, secrets_of
from dispatcher.tools.call import NoThreadError
from dispatcher.tools.contract import (
    SourceState,
    Tool,
    ToolArgumentsError,
    ToolContext,
    ToolDenied,
    ToolError,
    ToolLimits,
    ToolLoadError,
    said,
)
from dispatcher.tools.openapi import Operations, read
from dispatcher.tools.openapi_request import Operation
from dispatcher.tools.outbound import Answer, BrokenError, Guard, Limits, Outbound
from dispatcher.tools.result import ResultTooLargeError
from dispatcher.tools.stations import Offer, strangers

log = logging.getLogger(__name__)

# A longer answer is read in a thread.
READ_ON_LOOP_BYTES_MAX: Final = 65_536
# Whatever else an answer says that it is, is read as UTF-8: of the many that Python knows, some take hours.
CHARSETS: Final = frozenset(
    [
        *("us-ascii", "utf-8", "utf-16", "utf-16le", "utf-16be", "latin-1", "iso-8859-1", "iso-8859-2"),
        *(
            "iso-8859-15",
            "windows-1250",
            "windows-1251",
            "windows-1252",
            "koi8-r",
            "shift_jis",
            "euc-jp",
            "euc-kr",
        ),
        *("gb2312", "gbk", "big5"),
    ]
)
# Who says a year means to be left alone, and may have changed its mind by tomorrow.
RETRY_AFTER_S_MAX: Final = 86_400.0
# What of an answer that is an error is told to the agent.
TOLD_CHARS_MAX: Final = 500


class HttpApi:
    """A service of the settings' table `[http.NAME]`."""

    def __init__(
        self, name: str, table: HttpTable, offer: Offer, guard: Callable[[list[str]], Guard] = Guard
    ) -> None:
        self.source: Final = f"http.{name}"
        self._table = table
        self._prefix = table.prefix_of(name)
        self._offer = offer
        self._guard = guard(table.allow_hosts)
        self._outbound: Outbound | None = None
        # Of a document in a file, which was read before anything starts.
        self._operations: Operations | None = None
        self._server = ""
        self._is_up = False
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<HttpApi {self.source} {'up' if self._is_up else 'not there yet'}, {self._server or 'no server'}>"

    @property
    def state(self) -> SourceState:
        return SourceState(self.source, self._is_up)

    def check(self) -> None:
        """Raises SecretError, and ToolLoadError for a document in a file that can't be used."""
        self.headers()
        if "://" in self._table.openapi:
            return
        try:
            with open(self._table.openapi, "rb") as file:  # noqa: PTH123 - reads no more than may be
                document = file.read(self._table.document_bytes_max + 1)
        except OSError as error:
            raise ToolLoadError(
                f"{self.source}.openapi: {self._table.openapi!r} can't be read: {error.strerror}"
            ) from None
        self._operations = self._read(document)

    async def begin(self) -> None:
        t = self._table
        tls = ssl.create_default_context(cafile=str(t.tls_ca)) if t.tls_ca else None
        self._outbound = Outbound(self._guard, Limits(t.connect_s, t.answer_bytes_max, t.redirects_max), tls)
        if self._operations is not None:
            known = self._operations
            await self._take(lambda: known)
            return
        self._task = asyncio.create_task(self._fetch(tls), name=self.source)
        try:
            await asyncio.wait_for(self._known.wait(), t.start_wait_s)
        except TimeoutError:
            log.warning("%s: its OpenAPI document is not there yet; its tools come when it is", self.source)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._outbound is not None:
            await self._outbound.close()

    def headers(self) -> dict[str, str]:
        """Read anew for each request. Raises SecretError."""
        return secrets_of(self._table.headers, f"{self.source}.headers")

    async def exchange(self, operation: Operation, arguments: Mapping[str, object], key: str) -> Answer:
        """Raises ToolError."""
        assert self._outbound is not None, "it has begun"
        request = operation.request(arguments)
        try:
            secrets = self.headers()
        except SecretError as error:
            log.error("%s", error)  # noqa: TRY400 - a mistake of the settings, not ours
            raise ToolError("a secret that it needs is not there; whoever runs this can see which") from None
        theirs = {name.lower() for name in secrets}
        headers = {
            name: each for name, each in request.headers.items() if name.lower() not in theirs
        } | secrets
        if not operation.is_reading:
            headers["Idempotency-Key"] = key
        return await self._outbound.exchange(
            request.method, self._server + request.target, headers, request.body
        )

    # --- its document ------------------------------------------------------------------------------------

    async def _fetch(self, tls: ssl.SSLContext | None) -> None:
        """Until it is there."""
        t = self._table
        way = Outbound(self._guard, Limits(t.connect_s, t.document_bytes_max, t.redirects_max), tls)
        delay_s = t.restart_backoff_s
        try:
            while True:
                try:
                    async with asyncio.timeout(t.connect_s):
                        answer = await way.exchange(
                            "GET", t.openapi, {"Accept": "application/json, */*;q=0.5"}
                        )
                    if answer.status != 200:
                        raise ToolError(f"the answer is {answer.status}")
                    return await self._take(partial(self._read, answer.body))
                except TimeoutError:
                    why = f"{self.source}.openapi: no answer within {t.connect_s:g} s"
                except ToolLoadError as error:
                    why = str(error)  # which names its key
                except Exception as error:  # noqa: BLE001 - whatever it came to, it may be right the next time
                    told = str(error) if isinstance(error, ToolError) else said(error)
                    why = f"{self.source}.openapi: {told[:300]}"
                log.warning("%s; next try in %.1f s", why, delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, t.restart_backoff_max_s)
        finally:
            await way.close()

    def _read(self, document: bytes) -> Operations:
        """Raises ToolLoadError."""
        if len(document) > self._table.document_bytes_max:
            raise ToolLoadError(f"{self.source}.openapi: it is over {self._table.document_bytes_max:,} bytes")
        try:
            operations = read(document, self._table.operations, self._table.tools_max, self._table.headers)
        except ToolLoadError as error:
            raise ToolLoadError(f"{self.source}.openapi: {error}") from None
        operations.server = self._server_of(operations.server)
        return operations

    def _server_of(self, told: str) -> str:
        """Where its operations are, without a slash at the end. Raises ToolLoadError."""
        base = self._table.openapi if "://" in self._table.openapi else ""
        try:
            server = (self._table.server or urljoin(base, told)).rstrip("/")
            parts = urlsplit(server)
            is_one = parts.scheme in ("http", "https") and parts.hostname and "{" not in server
        except ValueError:
            is_one = False
        if not is_one:
            raise ToolLoadError(
                f"{self.source}.server: the document has {told[:200]!r}, which is no address; "
                "give the address of the service"
            )
        try:
            self._guard.judge(parts)
        except ToolDenied as error:
            raise ToolLoadError(f"{self.source}.allow_hosts: {error}") from None
        return server

    async def _take(self, read_it: Callable[[], Operations]) -> None:
        """`read_it` is called in a thread, and so is what is made of it. Raises ToolLoadError."""
        problems = await self._offer(self.source, lambda: self._made(read_it()))
        for problem in problems:
            log.warning("%s: %s", self.source, problem[:300])
        self._is_up = True
        self._known.set()

    def _made(self, operations: Operations) -> tuple[list[Tool], list[str]]:
        problems = list(operations.problems)
        if operations.left_out:
            count = len(operations.found) + operations.left_out
            problems.append(
                f"it has {count} operations; the first {self._table.tools_max}, tools_max, are taken: choose by "
                "operations"
            )
        known = {name for each in operations.found for name in each.known_as}
        problems += strangers(self._table.idempotent, known)
        # Of the tools that are made here, and before any of them may be called.
        self._server = operations.server
        return [HttpTool(self, each, self._prefix, self._table) for each in operations.found], problems


class HttpTool:
    """One operation, as the runner knows tools."""

    def __init__(self, api: HttpApi, operation: Operation, prefix: str, table: HttpTable) -> None:
        self.name: Final = prefix + operation.name
        self.description: Final = operation.description
        self.parameters_schema: Final = operation.schema
        self.limits: Final = ToolLimits(table.timeout_s, table.output_bytes, table.concurrency)
        self.is_idempotent: Final = operation.is_reading or not operation.known_as.isdisjoint(
            table.idempotent
        )
        self.source: Final = api.source
        self._api = api
        self._operation = operation

    def __repr__(self) -> str:
        return f"<HttpTool {self.name}: {self._operation.method} {self._operation.path} of {self.source}>"

    async def call(self, arguments: dict[str, object], context: ToolContext) -> object:
        try:
            answer = await self._api.exchange(self._operation, arguments, context.idempotency_key)
        except BrokenError as error:
            if self.is_idempotent and not error.retryable:
                raise ToolError(error.message, retryable=True) from None
            raise
        if 200 <= answer.status < 300:
            return await _value(answer, context)
        raise _failure(answer, can_repeat=self.is_idempotent)


async def _value(answer: Answer, context: ToolContext) -> object:
    """JSON as its value, text as text. Raises ToolError for what is neither, or longer than may be told."""
    kind, _, more = answer.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if not answer.body:
        return None
    if kind == "application/json" or kind.endswith("+json"):
        if len(answer.body) <= READ_ON_LOOP_BYTES_MAX:
            return _json(answer.body)
        try:
            return await context.in_thread(_json, answer.body)
        except NoThreadError:
            return _json(answer.body)  # it was answered: better late than lost
    if kind.startswith("text/") or not kind or kind.endswith("xml"):
        # No character of the charsets below has more than two bytes there, and one has one at least when it is told.
        if len(answer.body) > 2 * context.output_bytes:
            size, most = len(answer.body), context.output_bytes
            raise ResultTooLargeError(f"the server's answer has {size:,} bytes; at most {most:,} may be")
        told = re.search(r"charset=[\s\"']*([\w.:-]+)", more, re.IGNORECASE)
        charset = told[1].lower() if told else ""
        return answer.body.decode(charset if charset in CHARSETS else "utf-8", "replace")
    raise ToolError(f"the server's answer is {kind[:100]}, which is neither JSON nor text")


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ToolError("the server's answer says that it is JSON, and is not") from None


def _failure(answer: Answer, *, can_repeat: bool) -> ToolError:
    told = " ".join(answer.body[: 4 * TOLD_CHARS_MAX].decode("utf-8", "replace").split())[:TOLD_CHARS_MAX]
    text = f"the server answered {answer.status}" + (f": {told}" if told else "")
    if answer.status in (401, 403):
        return ToolDenied(text)
    if answer.status in (400, 422):
        return ToolArgumentsError(text)
    # Refused before anything was done, so anything may be sent again.
    if answer.status in (429, 503):
        return ToolError(text, retryable=True, retry_after_s=_retry_after_s(answer))
    return ToolError(text, retryable=answer.status >= 500 and can_repeat)


def _retry_after_s(answer: Answer) -> float | None:
    told = answer.headers.get("retry-after", "")
    try:
        if told.isdigit():
            return min(float(told[:9]), RETRY_AFTER_S_MAX)
        left_s = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, left_s), RETRY_AFTER_S_MAX)
