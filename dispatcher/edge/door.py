"""Who comes in by HTTP: which hosts are served, and pages of which origins may call.

A page of any site can make a browser call a dispatcher on this machine. It can't read the answer without CORS, but it
could act, or be served by a name that now leads here (DNS rebinding): so the Host is one of ours, and the Origin too.
"""

import re
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dispatcher.edge.problems import ProblemError

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


class Doors(NamedTuple):
    """`hosts`: names that are served besides addresses and localhost, None where any is; `origins`: of pages that may
    call besides our own."""

    hosts: frozenset[str] | None
    origins: frozenset[str]


class Door:
    """Around the whole app."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self._require_welcome(scope, Headers(scope=scope))
            except ProblemError as problem:
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _require_welcome(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise ProblemError(
                "host_not_allowed",
                f"host: {host[:256]!r} is not served here; add it to http_hosts if it should be",
                field="host",
            )
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if changes and origin is not None and not self._may_call(origin, host):
            raise ProblemError(
                "origin_not_allowed",
                f"origin: pages of {origin[:256]!r} may not call; add it to http_origins if they should",
                field="origin",
            )

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower().rstrip(".")
        hosts = self._doors.hosts
        return hosts is None or name == "localhost" or name in hosts or _is_address(name)

    def _may_call(self, origin: str, host: str) -> bool:
        if origin in self._doors.origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False


def _is_address(name: str) -> bool:
    """A name can be made to lead anywhere; an address can't."""
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
