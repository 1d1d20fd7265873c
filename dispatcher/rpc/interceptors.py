"""What every call passes: the conventional gRPC server metrics.

The names and labels are those that dashboards for other languages use, so they work unchanged. Streams are
counted message by message, by a thin wrapper around the context's read and write.
"""

# grpc's handler types take parameters in the stubs alone.
from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc import aio
from prometheus_client import CollectorRegistry, Counter, Histogram

_LABELS: Final = ["grpc_type", "grpc_service", "grpc_method"]
_KINDS: Final = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class _CountingContext:
    """The context of one call; counts what is read and written through it, hands on everything else."""

    def __init__(self, context: Any, received: Counter, sent: Counter) -> None:
        self._context = context
        self._received = received
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not aio.EOF:
            self._received.inc()
        return message

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        self._sent.inc()


class MetricsInterceptor(aio.ServerInterceptor):
    """Counts calls and messages. One per server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started", "Calls started.", _LABELS, registry=registry)
        self._handled = Counter(
            "grpc_server_handled", "Calls completed, by code.", [*_LABELS, "grpc_code"], registry=registry
        )
        self._received = Counter("grpc_server_msg_received", "Messages received.", _LABELS, registry=registry)
        self._sent = Counter("grpc_server_msg_sent", "Messages sent.", _LABELS, registry=registry)
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "Duration of calls.", [*_LABELS, "grpc_code"], registry=registry
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        # An unknown method has no handler; a label made of what clients send would grow without bound.
        if handler is None:
            return handler
        _, service, method = handler_call_details.method.split("/", 2)
        streams = (bool(handler.request_streaming), bool(handler.response_streaming))
        labels = (_KINDS[streams], service, method)
        if streams == (False, False):
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, labels),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if streams == (False, True):
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, labels, counts_request=True),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if streams == (True, True):
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler.stream_stream, labels, counts_request=False),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return handler

    def _unary(self, behaviour: Any, labels: tuple[str, str, str]) -> Any:
        async def counted(request: Any, context: Any) -> Any:
            self._received.labels(*labels).inc()

            async def call() -> Any:
                response = await behaviour(request, context)
                self._sent.labels(*labels).inc()
                return response

            return await self._observed(call, context, labels)

        return counted

    def _streaming(self, behaviour: Any, labels: tuple[str, str, str], *, counts_request: bool) -> Any:
        received, sent = self._received.labels(*labels), self._sent.labels(*labels)
        if inspect.isasyncgenfunction(behaviour):
            # Reflection is served by a generator over the request iterator.
            async def generated(requests: Any, context: Any) -> Any:
                started = self._begin(labels)
                try:
                    async for response in behaviour(_counted(requests, received), context):
                        sent.inc()
                        yield response
                finally:
                    self._end(context, labels, started)

            return generated

        async def counted(request: Any, context: Any) -> Any:
            if counts_request:
                received.inc()
            counting = _CountingContext(context, received, sent)
            return await self._observed(lambda: behaviour(request, counting), context, labels)

        return counted

    async def _observed(
        self, call: Callable[[], Awaitable[Any]], context: Any, labels: tuple[str, str, str]
    ) -> Any:
        started = self._begin(labels)
        cancelled = False
        try:
            return await call()
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            self._end(context, labels, started, cancelled=cancelled)

    def _begin(self, labels: tuple[str, str, str]) -> float:
        self._started.labels(*labels).inc()
        return time.monotonic()

    def _end(
        self, context: Any, labels: tuple[str, str, str], started: float, *, cancelled: bool = False
    ) -> None:
        code = "CANCELLED" if cancelled else _code_name(context.code())
        self._handled.labels(*labels, code).inc()
        self._seconds.labels(*labels, code).observe(time.monotonic() - started)


async def _counted(requests: Any, received: Counter) -> Any:
    async for request in requests:
        received.inc()
        yield request


def _code_name(code: Any) -> str:
    """The context gives a StatusCode, its number, or None or 0 for a call that ended well."""
    if not code:
        return "OK"
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((each.name for each in grpc.StatusCode if each.value[0] == code), "UNKNOWN")
