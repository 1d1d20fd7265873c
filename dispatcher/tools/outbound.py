"""HTTP to servers of others, held off from what is not meant to be reached from here.

A target is refused when its address is not a public one: private, loopback, link-local, multicast, reserved, or where
clouds keep the secrets of their machines; and when it is not https. Hosts that the settings list may be all of it. A
name is resolved once, what it resolved to is judged, and that address is connected to: an answer that changes between
the look and the connection changes nothing. Each redirect is a target like the first.

The extra `http` is needed: httpcore takes the way to connect from whoever uses it.
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from dispatcher.tools.contract import ToolDenied, ToolError

log = logging.getLogger(__name__)

# The addresses of a host and port.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Public by its number, and answers with the secrets of the machine that asks.
METADATA: Final = frozenset({ipaddress.ip_address("168.63.129.16")})
# No public addresses, whatever the library of this version says: protocols' own, relays, old site-local, documentation.
HIDDEN: Final = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20")))
# IPv6 addresses that carry one of IPv4, which is where they lead.
_NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
ADDRESSES_TRIED_MAX: Final = 3
CONNECTIONS_MAX: Final = 100
IDLE_S: Final = 5.0
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class BrokenError(ToolError):
    """The server could not be reached, or broke off. `is_sent`: it may have done part of its work."""

    def __init__(self, message: str, *, is_sent: bool) -> None:
        super().__init__(message, retryable=not is_sent)
        self.is_sent = is_sent


@dataclass(frozen=True)
class Limits:
    """What one exchange may take."""

    connect_s: float
    answer_bytes: int
    redirects: int


@dataclass(frozen=True)
class Answer:
    """What a server said. Header names are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


def is_public(address: str) -> bool:
    """Anybody on the internet may be there, and nobody else."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_is_public(each) for each in (found, *_carried(found)))


def _is_public(found: Address) -> bool:
    if found in METADATA or any(found in network for network in HIDDEN):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _carried(found: Address) -> Iterable[Address]:
    """The addresses of IPv4 that one of IPv6 stands for."""
    if isinstance(found, ipaddress.IPv4Address):
        return
    if found.ipv4_mapped is not None:
        yield found.ipv4_mapped
    if found.sixtofour is not None:
        yield found.sixtofour
    if found.teredo is not None:
        yield from found.teredo
    if any(found in network for network in _NAT64) or int(found) >> 32 == 0:
        yield ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)


async def resolved(host: str, port: int) -> Sequence[str]:
    """By the system, in its order. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Guard(httpcore.AsyncNetworkBackend):
    """The only way out: connects to what it has judged. `listed` hosts may be anywhere."""

    def __init__(
        self,
        listed: Iterable[str],
        resolve: Resolve = resolved,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._listed = frozenset(each.lower() for each in listed)
        self._resolve = resolve
        self._network = network or httpcore.AnyIOBackend()

    def is_listed(self, host: str, port: int) -> bool:
        """By its name, or by name and port."""
        host = host.lower().strip("[]")
        return host in self._listed or f"{host}:{port}" in self._listed

    def judge(self, parts: SplitResult) -> None:
        """Raises ToolDenied for what can be refused before it is resolved."""
        host, port = _place(parts)
        if self.is_listed(host, port):
            return
        if parts.scheme != "https":
            raise ToolDenied(
                f"{parts.scheme}://{host} is not https; only hosts in allow_hosts may be without"
            )

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolves once, judges every address, connects to one of those that were judged."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except (OSError, TimeoutError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} can't be resolved: {error}") from None
        if not self.is_listed(host, port):
            hidden = [each for each in addresses if not is_public(each)]
            if hidden:
                log.warning("refused to connect to %s:%d, which is at %s", host, port, ", ".join(hidden[:3]))
                raise ToolDenied(
                    f"{host} is not a public address; only hosts in allow_hosts may be elsewhere"
                )
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses[:ADDRESSES_TRIED_MAX]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise ToolDenied("no socket of this machine may be reached")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class Outbound:
    """Exchanges with servers, through a guard. Belongs to one event loop; closed by `close`."""

    def __init__(self, guard: Guard, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self._guard = guard
        self._limits = limits
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=CONNECTIONS_MAX,
            keepalive_expiry=IDLE_S,
            network_backend=guard,
        )

    async def close(self) -> None:
        await self._pool.aclose()

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """Raises ToolError: refused, broken, too long. A redirect of what only reads is followed."""
        first = urlsplit(url)
        for _ in range(self._limits.redirects + 1):
            parts = urlsplit(url)
            self._guard.judge(parts)
            same = _place(parts) == _place(first) and parts.scheme == first.scheme
            sent = headers if same else _without_secrets(headers)
            answer = await self._once(method, url, sent, body)
            target = answer.headers.get("location")
            if answer.status not in REDIRECTS or target is None:
                return answer
            if method not in ("GET", "HEAD"):
                if answer.status != 303:
                    raise ToolError(
                        "the server redirects a call that may change something; that is not followed"
                    )
                method, body = "GET", None
            url = _redirected(url, target)
        raise ToolError(f"the server redirects more than {self._limits.redirects} times")

    async def _once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        timeouts = {"connect": self._limits.connect_s, "pool": self._limits.connect_s}
        try:
            async with self._pool.stream(
                method,
                _target(url),
                headers=list({**headers, "Accept-Encoding": "identity"}.items()),
                content=body,
                extensions={"timeout": timeouts},
            ) as response:
                told = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in response.headers
                }
                return Answer(response.status, told, await self._read(response), url)
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
            raise BrokenError(
                f"the server can't be reached: {_words(error)}; nothing ran", is_sent=False
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            text = f"the server broke off: {_words(error)}; it may have done part of its work"
            raise BrokenError(text, is_sent=method not in ("GET", "HEAD")) from None

    async def _read(self, response: httpcore.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._limits.answer_bytes:
                raise ToolError(f"the server's answer is over {self._limits.answer_bytes:,} bytes")
        return bytes(body)


def _redirected(url: str, target: str) -> str:
    """Raises ToolDenied."""
    try:
        url = urljoin(url, target)
        if urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname:
            return url
    except ValueError:
        pass
    raise ToolDenied("the server redirects to what is no address of HTTP")


def _place(parts: SplitResult) -> tuple[str, int]:
    """Host and port. Raises ToolDenied."""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise ToolDenied("the address has no valid port") from None
    return (parts.hostname or "").lower(), port


def _target(url: str) -> httpcore.URL:
    parts = urlsplit(url)
    host, port = _place(parts)
    try:
        name = host.encode("ascii") if host.isascii() else host.encode("idna")
    except UnicodeError:
        raise ToolDenied("the address has no valid host") from None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore.URL(scheme=parts.scheme.encode(), host=name, port=port, target=_escaped(path))


def _escaped(path: str) -> bytes:
    """Whatever a server put into a redirect, as a request's line can carry it."""
    raw = path.encode("utf-8", "replace")
    return b"".join(bytes([each]) if 0x20 < each < 0x7F else b"%%%02X" % each for each in raw)


def _without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    """For another server than the one they were meant for: nothing that the settings told, but what is no secret."""
    kept = ("accept", "content-type", "user-agent")
    return {name: value for name, value in headers.items() if name.lower() in kept}


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
