"""How the methods of Chat and Admin are served: bytes in, parsed here, errors turned into statuses here.

With bytes at the handler's edge, what is no message gets an answer of ours instead of the parser's, and an
exception that nobody foresaw reaches the client as a generic text and the log as a traceback.
"""

# grpc's handler types take parameters in the stubs alone.
from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from dispatcher.rpc import codec

log = logging.getLogger(__name__)

Request = TypeVar("Request", bound=Message)
# A status travels in the trailers, of which clients take 8 KiB; a message may quote what the caller sent, in
# characters that take nine bytes there.
_MESSAGE_CHARS_MAX: Final = 800
# Of a stop or a drain.
REASON_CHARS_MAX: Final = 1_024
# What they raise once the server has stopped; it has no public name.
_SERVER_STOPPED: Final[tuple[type[Exception], ...]] = tuple(
    kind for kind in aio.BaseError.__subclasses__() if kind.__name__ == "_ServerStoppedError"
)
_CALLER_GONE: Final[tuple[type[Exception], ...]] = (aio.InternalError, *_SERVER_STOPPED)
# What a read, a write or an abort raises on a stream that has ended under it.
STREAM_GONE: Final[tuple[type[Exception], ...]] = (
    aio.UsageError,
    asyncio.InvalidStateError,
    *_CALLER_GONE,
)


class Answered(Exception):  # noqa: N818 - it ends a call with a status, which need not be an error of ours
    """Ends a call with a status. `status` is the name of a gRPC status code."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def bounded(field: str, text: str) -> str:
    """A text for people that goes into events, signals and the log. Raises Answered when it is too long for that."""
    if len(text) > REASON_CHARS_MAX:
        raise Answered(
            "INVALID_ARGUMENT", f"{field}: has {len(text)} characters; at most {REASON_CHARS_MAX} are right"
        )
    return text


def unary(
    request_type: type[Request], answer: Callable[[Request, Any], Awaitable[Message]]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def behaviour(data: bytes, context: Any) -> bytes:
        async def call() -> bytes:
            return (await answer(codec.parse(request_type, data), context)).SerializeToString()

        return await _translated(call, context)

    return grpc.unary_unary_rpc_method_handler(behaviour)


def watched(
    request_type: type[Request], answer: Callable[[Request, Any], Awaitable[None]]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def behaviour(data: bytes, context: Any) -> None:
        await _translated(lambda: answer(codec.parse(request_type, data), context), context)

    return grpc.unary_stream_rpc_method_handler(behaviour)


def conversed(answer: Callable[[Any], Awaitable[None]]) -> grpc.RpcMethodHandler[Any, Any]:
    async def behaviour(_: object, context: Any) -> None:
        await _translated(lambda: answer(context), context)

    return grpc.stream_stream_rpc_method_handler(behaviour)


T = TypeVar("T")
V = TypeVar("V", bound=Message)

# Around a view in its message: its tag and its length.
_VIEW_OVERHEAD_BYTES: Final = 16


def page(views: Iterable[V], bytes_max: int) -> tuple[list[V], bool]:
    """As many as fit into so many bytes, one at least, and whether there are more."""
    taken: list[V] = []
    for view in views:
        bytes_max -= view.ByteSize() + _VIEW_OVERHEAD_BYTES
        if taken and bytes_max < 0:
            return taken, True
        taken.append(view)
    return taken, False


async def _translated(call: Callable[[], Awaitable[T]], context: Any) -> T:
    """Turns what a method raises into its status."""
    try:
        return await call()
    except Answered as answered:
        status, message = grpc.StatusCode[answered.status], str(answered)
    except codec.WireError as error:
        status, message = grpc.StatusCode.INVALID_ARGUMENT, str(error)
    except aio.AbortError:
        raise
    except _CALLER_GONE:
        # What grpc raises where the caller is gone, or the server.
        raise asyncio.CancelledError from None
    except Exception:
        log.exception("a call failed")
        status, message = grpc.StatusCode.INTERNAL, "the dispatcher failed to answer; its log says why"
    await abort(context, status, message)
    raise AssertionError("abort returns")


async def abort(context: Any, status: grpc.StatusCode, message: str) -> None:
    """Ends a call with a status. Always raises. The status waits behind what its caller hasn't read yet; when
    the caller leaves instead, the call is over like any that is cancelled."""
    if len(message) > _MESSAGE_CHARS_MAX:
        half = _MESSAGE_CHARS_MAX // 2
        message = f"{message[:half]} … {message[-half:]}"
    try:
        await context.abort(status, message)
    except STREAM_GONE:
        raise asyncio.CancelledError from None
