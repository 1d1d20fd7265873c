"""The app: which path leads where, and what becomes of errors."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatcher.core.events import Count
from dispatcher.edge.door import Door, Doors
from dispatcher.edge.guard import Callers, Guard, Users
from dispatcher.edge.openai_errors import TheirForm
from dispatcher.edge.problems import ProblemError
from dispatcher.metrics import Metrics
from dispatcher.requests import WrongError

log = logging.getLogger(__name__)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What a page of another origin may read, where it may call at all. It may send any header: clients of others add their
# own, and pages that are listed are trusted with tokens.
_READ: Final = [
    "location",
    "preference-applied",
    "retry-after",
    "retry-after-ms",
    "session-id",
    "x-request-id",
    "x-should-retry",
    "x-vercel-ai-ui-message-stream",
]
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")


def application(
    routes: Sequence[Route | WebSocketRoute],
    doors: Doors,
    metrics: Metrics,
    callers: Callers,
    users: Users,
    open_paths: Collection[str],
) -> ASGIApp:
    """`open_paths` are for everybody: see `Guard`."""
    paths = {route.endpoint: route.path for route in routes}
    middleware = [
        Middleware(Tally, metrics=metrics, paths=paths),
        Middleware(TheirForm),
        Middleware(Door, doors=doors),
    ]
    if doors.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=sorted(doors.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_READ,
            max_age=600,
        )
        middleware.insert(0, cors)
    middleware.append(Middleware(Guard, callers=callers, users=users, open_paths=open_paths))
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            ProblemError: _problem,
            WrongError: _wrong,
            HTTPException: Unknown(routes),
            Exception: _failed,
        },
    )
    return Typed(app)


class Typed:
    """Around all, failures included: what is answered is of the type that it says, and of no other that a browser may
    guess from what users and agents have written."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def typed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [each for each in message["headers"] if each[0].lower() != _NO_SNIFFING[0]]
                message["headers"] = [*headers, _NO_SNIFFING]
            await send(message)

        await self._app(scope, receive, typed if scope["type"] == "http" else send)


class Tally:
    """Counts requests by route and status, when their response begins."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Mapping[Any, str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A label made of what clients send would grow without bound.
                route = self._paths.get(scope.get("endpoint"), "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.count(Count("http_requests", (method, route, str(message["status"]))))
            await send(message)

        await self._app(scope, receive, counted)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def _wrong(_: Request, error: Exception) -> Response:
    assert isinstance(error, WrongError)
    return ProblemError.of(error).response()


class Unknown:
    """There is no such path, or it has other methods."""

    def __init__(self, routes: Sequence[Route | WebSocketRoute]) -> None:
        self._routes = [route for route in routes if isinstance(route, Route)]

    async def __call__(self, request: Request, error: Exception) -> Response:
        # As it came: a URL is without its line breaks.
        path: str = request.scope["path"]
        methods = {
            method for route in self._routes if route.path_regex.match(path) for method in route.methods or ()
        }
        if not methods:
            told = f"there is nothing at {path[:256]}; /openapi.json tells what there is"
            return ProblemError("not_found", told).response()
        allowed = ", ".join(sorted(methods))
        response = ProblemError("method_not_allowed", f"{path[:256]} has {allowed}").response()
        response.headers["allow"] = allowed
        return response


async def _failed(request: Request, error: Exception) -> Response:
    """What nobody foresaw: a generic text outside, the traceback inside."""
    log.error("a request of %s failed", request.url.path, exc_info=error)
    return ProblemError("internal", "the dispatcher failed to answer; its log says why").response()
