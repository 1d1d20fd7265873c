"""The page at `/`: a viewer for people, made of files in this package alone.

Its scripts use the same endpoints as everybody else. Nothing in it is made on the way: what a model says reaches the
page as JSON, and becomes text there.
"""

import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.core.endings import ENDINGS
from dispatcher.edge.problems import ProblemError

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
# What the page may load and whom it may call: itself. And no text of anybody's becomes markup or script in it, even if
# a line of its scripts should try.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Kept by the browser, and asked after each time: so a new version is there at once.
    "cache-control": "no-cache",
}


class _File(NamedTuple):
    content: bytes
    headers: dict[str, str]


class Page:
    """The endpoints `/` and `/page/…`. They are open to whoever may connect: they tell nothing of any session."""

    def __init__(self) -> None:
        contents = {
            each.name: each.read_bytes()
            for each in files(__name__).iterdir()
            if each.is_file() and _suffix(each.name) in _TYPES
        }
        contents["endings.json"] = _endings()
        self._files = {name: _made(name, content) for name, content in contents.items()}

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index, methods=["GET"]),
            Route("/page/{name}", self.file, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        return self._answer(request, request.path_params["name"])

    def _answer(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise ProblemError("not_found", f"the page has no file {name[:80]!r}")
        known = {
            each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")
        }
        if file.headers["etag"] in known:
            return Response(None, 304, file.headers)
        return Response(file.content, 200, file.headers)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _made(name: str, content: bytes) -> _File:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, {**_HEADERS, "etag": etag, "content-type": _TYPES[_suffix(name)]})


def _endings() -> bytes:
    """What the page says of each way a session ends: the words of the one table."""
    return orjson.dumps({ending.value: ending.traits.advice for ending in ENDINGS})
