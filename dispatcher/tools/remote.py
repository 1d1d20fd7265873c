"""The tools of one gRPC service of somebody else's: its methods, as its server describes them by reflection.

One task owns the description: it asks for it, again now and then, which also shows whether the server is there. Calls
use the one channel. A method is a tool when it takes one message and answers with one.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode, aio

from dispatcher.tables import GrpcTable, SecretError, secrets_of
from dispatcher.tools.call import NoThreadError
from dispatcher.tools.contract import (
    SourceState,
    Tool,
    ToolArgumentsError,
    ToolAway,
    ToolContext,
    ToolDenied,
    ToolError,
    ToolLimits,
    ToolLoadError,
    said,
)
from dispatcher.tools.remote_reflection import STANDARD, described
from dispatcher.tools.remote_schema import pool_of, schema_of
from dispatcher.tools.result import ResultTooLargeError
from dispatcher.tools.stations import Offer, strangers

log = logging.getLogger(__name__)

_DENIED: Final = frozenset({StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED})
# What the library says itself.
_UNREACHED: Final = "failed to connect"
_TOO_LONG: Final = "CLIENT: Received message larger than max"
# A longer message is made and read in a thread: a value takes some 5 µs.
ON_LOOP_BYTES_MAX: Final = 16_384

T = TypeVar("T")
R = TypeVar("R")


class RemoteService:
    """A service of the settings' table `[grpc.NAME]`."""

    def __init__(self, name: str, table: GrpcTable, offer: Offer) -> None:
        self.source: Final = f"grpc.{name}"
        self._table = table
        self._prefix = table.prefix_of(name)
        self._offer = offer
        self._is_up = False
        self._losses = 0
        self._why_away = "it was not reached yet"
        self._known = asyncio.Event()
        # A call has found nobody: time to look.
        self._news = asyncio.Event()
        self._problems: list[str] = []
        # Its description when its tools were last taken.
        self._files: list[bytes] = []
        self._channel: aio.Channel | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<RemoteService {self.source} {'up' if self._is_up else f'away: {self._why_away}'}>"

    @property
    def state(self) -> SourceState:
        return SourceState(self.source, self._is_up, self._losses)

    @property
    def is_away(self) -> bool:
        return not self._is_up

    def check(self) -> None:
        """Raises SecretError."""
        self._metadata()
        self._credentials()

    async def begin(self) -> None:
        self._channel = self._opened()
        self._task = asyncio.create_task(self._follow(self._channel), name=self.source)
        try:
            await asyncio.wait_for(self._known.wait(), self._table.start_wait_s)
        except TimeoutError:
            log.warning("%s is not there yet (%s); its tools come when it is", self.source, self._why_away)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._channel is not None:
            await self._channel.close()

    async def call(
        self, method: MethodDescriptor, request: Message, context: ToolContext, *, is_idempotent: bool
    ) -> bytes:
        """Raises ToolError. Cancelling it cancels the call on the server."""
        if self._channel is None or not self._is_up:
            retry_s = self._table.restart_backoff_s
            raise ToolAway(f"{self.source} is away: {self._why_away}; nothing ran", retry_after_s=retry_s)
        try:
            metadata = (*self._metadata(), ("idempotency-key", _ascii(context.idempotency_key)))
        except SecretError as error:
            log.error("%s", error)  # noqa: TRY400 - a mistake of the settings, not ours
            raise ToolError("a secret that it needs is not there; whoever runs this can see which") from None
        ask: Any = self._channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
        )
        try:
            answer: bytes = await ask(request, timeout=context.time_left_s(), metadata=metadata)
        except aio.AioRpcError as error:
            if error.code() is StatusCode.UNAVAILABLE:
                self._news.set()
            raise _failure(error, self._table.message_bytes_max, is_idempotent=is_idempotent) from None
        return answer

    # --- its description ---------------------------------------------------------------------------------

    async def _follow(self, channel: aio.Channel) -> None:
        """Asks for it until it is left: often while it is away, now and then while it is there."""
        t = self._table
        delay_s = t.restart_backoff_s
        while True:
            try:
                async with asyncio.timeout(t.connect_s):
                    files = await described(channel, t.service, self._metadata(), t.message_bytes_max)
                await self._take(files)
            except Exception as error:  # noqa: BLE001 - whatever it came to, it may be right the next time
                self._lose(_reason(error, t.connect_s), delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, t.restart_backoff_max_s)
            else:
                delay_s = t.restart_backoff_s
                # However many calls fail in the meantime.
                await asyncio.sleep(min(t.restart_backoff_s, t.refresh_s))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), t.refresh_s)
                self._news.clear()

    def _lose(self, why: str, delay_s: float) -> None:
        self._losses += self._is_up
        self._is_up, self._why_away = False, why
        log.warning("%s is away: %s; next try in %.1f s", self.source, why, delay_s)

    async def _take(self, files: list[bytes]) -> None:
        """Raises TypeError, KeyError, DecodeError, ToolLoadError for what is no description of the service."""
        if files != self._files or self._problems:
            problems = await self._offer(self.source, partial(self._made, files))
            self._files = files
            if problems != self._problems:
                for problem in problems:
                    log.warning("%s: %s", self.source, problem[:300])
            self._problems = problems
        if not self._is_up:
            log.info("%s is up", self.source)
        self._is_up = True
        self._known.set()

    def _made(self, files: list[bytes]) -> tuple[Sequence[Tool], list[str]]:
        """In a thread."""
        service: ServiceDescriptor = pool_of(files, STANDARD.get).FindServiceByName(self._table.service)
        wanted, names = self._table.methods, [each.name for each in service.methods]
        problems = [
            f"it has no method {each}; it has {', '.join(names)}" for each in wanted if each not in names
        ]
        tools: list[RemoteTool] = []
        for method in service.methods:
            if wanted and method.name not in wanted:
                continue
            if method.client_streaming or method.server_streaming:
                if wanted:
                    problems.append(
                        f"method {method.name} is a stream, and a tool is asked once and answers once"
                    )
                continue
            tools.append(RemoteTool(self, method, self._prefix, self._table))
        if len(tools) > self._table.tools_max:
            problems.append(
                f"it has {len(tools)} methods; the first {self._table.tools_max}, tools_max, are taken: choose by "
                "methods"
            )
        offered = tools[: self._table.tools_max]
        problems += strangers(self._table.idempotent, [each.method for each in offered])
        return offered, problems

    # --- the way there -----------------------------------------------------------------------------------

    def _opened(self) -> aio.Channel:
        options = [
            ("grpc.max_receive_message_length", self._table.message_bytes_max),
            ("grpc.enable_retries", 0),
            # The settings say it all: a proxy of the environment would read the secrets of a server in the clear.
            ("grpc.enable_http_proxy", 0),
        ]
        credentials = self._credentials()
        if credentials is None:
            return aio.insecure_channel(self._table.address, options)
        return aio.secure_channel(self._table.address, credentials, options)

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if not self._table.tls:
            return None
        ca = self._table.tls_ca
        return grpc.ssl_channel_credentials(None if ca is None else ca.read_bytes())

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Read anew for each call. Raises SecretError."""
        secrets = secrets_of(self._table.headers, f"{self.source}.headers")
        return tuple((name.lower(), value) for name, value in secrets.items())


class RemoteTool:
    """One method, as the runner knows tools."""

    def __init__(
        self, service: RemoteService, method: MethodDescriptor, prefix: str, table: GrpcTable
    ) -> None:
        self.name: Final = prefix + method.name
        self.description: Final = f"The method {method.name} of {method.containing_service.full_name}"
        self.parameters_schema: Final = schema_of(method.input_type)
        self.limits: Final = ToolLimits(table.timeout_s, table.output_bytes, table.concurrency)
        self.is_idempotent: Final = method.name in table.idempotent
        self.source: Final = service.source
        self.method: Final = method.name
        self._service = service
        self._method = method
        self._pool = method.containing_service.file.pool

    def __repr__(self) -> str:
        return f"<RemoteTool {self.name} of {self.source}>"

    @property
    def is_away(self) -> bool:
        return self._service.is_away

    async def call(self, arguments: dict[str, object], context: ToolContext) -> object:
        size = len(json.dumps(arguments))
        request = await _beside(context, size, self._request, arguments)
        answer = await self._service.call(self._method, request, context, is_idempotent=self.is_idempotent)
        return await _beside(context, len(answer), self._value, answer)

    def _request(self, arguments: dict[str, object]) -> Message:
        request = message_factory.GetMessageClass(self._method.input_type)()
        try:
            json_format.ParseDict(arguments, request, descriptor_pool=self._pool)
        except Exception as error:  # noqa: BLE001 - not all that it raises for odd values is an error of its own
            told = str(error) if isinstance(error, json_format.ParseError) else said(error)
            raise ToolArgumentsError(" ".join(told.split())[:300]) from None
        return request

    def _value(self, answer: bytes) -> object:
        try:
            message = message_factory.GetMessageClass(self._method.output_type).FromString(answer)
            return json_format.MessageToDict(
                message, preserving_proto_field_name=True, descriptor_pool=self._pool
            )
        except DecodeError:
            raise ToolError(
                "the server's answer is no message of its method; it may have done its work"
            ) from None
        except Exception as error:  # noqa: BLE001 - not all that it raises for odd values is an error of its own
            raise ToolError(f"the server's answer has no JSON form: {said(error)[:200]}") from None


async def _beside(context: ToolContext, size: int, work: Callable[[T], R], given: T) -> R:
    """In a thread where it would take long."""
    if size <= ON_LOOP_BYTES_MAX:
        return work(given)
    try:
        return await context.in_thread(work, given)
    except NoThreadError:
        return work(given)  # better late than lost


def _failure(error: aio.AioRpcError, bytes_max: int, *, is_idempotent: bool) -> ToolError:
    code, details = error.code(), " ".join((error.details() or "").split())[:500]
    text = f"the server answered {code.name}: {details}"
    if code is StatusCode.INVALID_ARGUMENT:
        return ToolArgumentsError(text)
    if code in _DENIED:
        return ToolDenied(text)
    if code is StatusCode.RESOURCE_EXHAUSTED:
        if _TOO_LONG in details:
            return ResultTooLargeError(f"the server's answer is over {bytes_max:,} bytes, message_bytes_max")
        return ToolError(text, retryable=True)  # refused, before anything was done
    if code is StatusCode.UNAVAILABLE:
        if details.startswith(_UNREACHED):
            return ToolError(f"the server can't be reached: {details}; nothing ran", retryable=True)
        return ToolError(f"{text}; it may have done part of its work", retryable=is_idempotent)
    return ToolError(text)


def _reason(error: Exception, connect_s: float) -> str:
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name}: {' '.join((error.details() or '').split())[:200]}"
    if isinstance(error, TimeoutError):
        return f"it did not answer within {connect_s:g} s"
    if isinstance(error, KeyError):
        return "its reflection does not tell of the service"
    return str(error)[:200] if isinstance(error, ToolLoadError | SecretError) else said(error)[:200]


def _ascii(text: str) -> str:
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in text)
