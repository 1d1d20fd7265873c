"""The HTTP client of a provider, whose connections are closed by a stop while they are still being made.

A cancellation in the middle of a TLS handshake leaves the socket to whoever collects garbage: the library below closes
it for an error alone. It tells each step of a request to the `trace` of its extensions, and there it is closed.

Imported with the adaptor, when a model is first used.
"""

from collections.abc import Mapping
from typing import Protocol, cast

import httpx2
from pydantic_ai.models import create_async_httpx2_client

from commander.models import refusals

# The longest that a connection may take, its handshake too; in each, seconds.
CONNECT_S = 5.0


class _Stream(Protocol):
    async def aclose(self) -> None: ...


async def _watch(request: httpx2.Request) -> None:
    made: _Stream | None = None

    async def heard(step: str, told: Mapping[str, object]) -> None:
        nonlocal made
        # "connection.…", or "proxy.…" for the way through one.
        match step.partition(".")[2]:
            case "connect_tcp.complete":
                made = cast("_Stream", told["return_value"])
            case "start_tls.failed" if made is not None:
                await made.aclose()
            case _:
                pass

    request.extensions = {**request.extensions, "trace": heard}


def client(silence_s: float) -> httpx2.AsyncClient:
    """As pydantic-ai makes its own, proxies of the environment included. It may be silent for `silence_s`, seconds."""
    made = create_async_httpx2_client(timeout=httpx2.Timeout(silence_s, connect=CONNECT_S))
    made.event_hooks["request"].append(_watch)
    made.event_hooks["response"].append(refusals.watch)
    # Tokens are short, and what is compressed comes late; so what comes can be looked at.
    made.headers["Accept-Encoding"] = "identity"
    return made
