"""Reading requests: bodies within a size and a time, and parameters, each with a problem that names it."""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from starlette.requests import ClientDisconnect, Request

from dispatcher.edge.problems import ProblemError

_TRUE: Final = frozenset({"1", "true", "yes"})
_FALSE: Final = frozenset({"", "0", "false", "no"})


# Python itself takes more for a number than JSON does.
_NUMBER: Final = re.compile(r"[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_COUNT: Final = re.compile(r"[0-9]{1,19}")


class BodyLimits(NamedTuple):
    """`seconds`: how long a body may take to arrive."""

    bytes_max: int
    seconds: float


async def json_body(request: Request, limits: BodyLimits) -> bytes:
    """The body as it came. Raises ProblemError for one that is too large, too slow, or says that it is no JSON.

    Pages of other sites can send texts and forms without asking, but no JSON: so nothing else is taken.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limits.bytes_max:
        raise _too_large(limits)
    data = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limits.bytes_max:
                    raise _too_large(limits)
    except TimeoutError:
        raise ProblemError(
            "request_timeout", f"the body did not arrive within {limits.seconds:g} s; send it at once"
        ) from None
    except ClientDisconnect:
        raise asyncio.CancelledError from None
    if data and not (kind == "application/json" or kind.endswith("+json")):
        raise ProblemError(
            "unsupported_media_type",
            f"content-type: is {kind!r}; application/json is right",
            field="content-type",
        )
    return bytes(data)


def _too_large(limits: BodyLimits) -> ProblemError:
    told = f"the body is larger than {limits.bytes_max} bytes, twice the dispatcher's request_bytes_max"
    return ProblemError("too_large", told)


def flag(request: Request, name: str) -> bool:
    """A query parameter that is true or false. Raises ProblemError."""
    text = request.query_params.get(name, "").lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ProblemError("invalid_request", f"{name}: {text[:40]!r} should be true or false", field=name)


def number(request: Request, name: str, default: float, least: float) -> float:
    """A query parameter that is a number, this least or more. Raises ProblemError."""
    text = request.query_params.get(name)
    if text is None:
        return default
    value = float(text) if _NUMBER.fullmatch(text) else least - 1
    if not least <= value < math.inf:
        raise ProblemError(
            "invalid_request", f"{name}: {text[:40]!r} should be a number of {least:g} or more", field=name
        )
    return value


def count(request: Request, name: str, default: int, most: int, least: int = 1) -> int:
    """A query parameter that is a whole number, both bounds included. Raises ProblemError."""
    text = request.query_params.get(name)
    if text is None:
        return default
    value = int(text) if _COUNT.fullmatch(text) else least - 1
    if not least <= value <= most:
        raise ProblemError(
            "invalid_request",
            f"{name}: {text[:40]!r} should be a whole number from {least} to {most}",
            field=name,
        )
    return value


@contextlib.asynccontextmanager
async def leaving(request: Request, tell: Callable[[], None]) -> AsyncIterator["asyncio.Future[None]"]:
    """Notices that the client of a request that has said all has gone: it is done then, and `tell` is called."""
    left = asyncio.ensure_future(_left(request))
    left.add_done_callback(lambda _: tell())
    try:
        yield left
    finally:
        left.cancel()
        await asyncio.wait([left])


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
