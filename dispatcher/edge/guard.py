"""Who calls by HTTP: a bearer token, the role it needs, and how much one user may ask for at once and in a minute.

A WebSocket of a page can't send headers: it may come in as nobody, and says who it is in its first message. Tokens are
looked for in the `authorization` header alone: addresses end up in logs.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dispatcher.auth import Access
from dispatcher.core.quota import Bucket
from dispatcher.edge.problems import ProblemError
from dispatcher.identity import NOBODY, Identity, caller
from dispatcher.refusals import Refusals

_BEARER: Final = "bearer "
# Of whom something is open or was asked for lately; who has nothing open is forgotten first.
_USERS_MAX: Final = 100_000


class UserLimits(NamedTuple):
    """Of callers whose token is bound to one user. `open_max`: requests, streams and WebSockets at once."""

    open_max: int
    requests_per_minute_max: int


@dataclass(slots=True)
class _User:
    rate: Bucket = field(default_factory=Bucket)
    open: int = 0


class Users:
    """How much each has open, and asked for."""

    def __init__(self, limits: UserLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._users: OrderedDict[str, _User] = OrderedDict()

    @contextmanager
    def admitted(self, identity: Identity) -> Iterator[None]:
        """One request of theirs, until it ends. Raises ProblemError."""
        if not identity.user_id:
            yield
            return
        user = self._user(identity.user_id)
        if user.open >= self._limits.open_max:
            told = f"user_connections_max is {self._limits.open_max}, and so many of this user are open"
            raise ProblemError("too_many_connections", told, retry_after_s=2.0)
        self.require_rate(identity)
        user.open += 1
        try:
            yield
        finally:
            user.open -= 1

    def require_rate(self, identity: Identity) -> None:
        """One request of theirs more, on whatever is open. Raises ProblemError."""
        if not identity.user_id:
            return
        wait_s = self._user(identity.user_id).rate.take(self._limits.requests_per_minute_max, self._clock())
        if wait_s:
            told = f"user_requests_per_minute_max is {self._limits.requests_per_minute_max}"
            raise ProblemError("too_many_requests", told, retry_after_s=wait_s)

    def _user(self, user_id: str) -> _User:
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _User()
        self._users.move_to_end(user_id)
        if len(self._users) > _USERS_MAX:
            idle = next((each for each, its in self._users.items() if not its.open), None)
            if idle is not None:
                del self._users[idle]
        return user


def bearer_of(headers: Headers) -> str:
    told = headers.get("authorization", "")
    return told[len(_BEARER) :].strip() if told.lower().startswith(_BEARER) else ""


class Callers:
    """Who calls, by the token that they bear, wherever they say it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._refusals = Refusals("HTTP requests")

    @property
    def required(self) -> bool:
        return self._access.required

    async def identify(self, bearer: str) -> Identity:
        """Raises ProblemError for nobody, and for those who have no business here."""
        identity = await self._access.identify(bearer)
        if identity is None:
            self._refusals.tell("no token, or one that is not known")
            told = "send `authorization: Bearer <token>` with a token that this dispatcher knows"
            if bearer:
                # Which of these it is, is nobody's to learn who bears no token.
                told = (
                    f"this token is not accepted: it is not known here, not for here, or has expired; {told}"
                )
            raise ProblemError("unauthenticated", told)
        if identity.role == "commander":
            self._refusals.tell(f"the token {identity.name!r} has role {identity.role}")
            told = f"the token {identity.name!r} has role {identity.role}; this needs application or admin"
            raise ProblemError("permission_denied", told)
        return identity


class Guard:
    """Around all that is not for everybody. `open_paths` are; what ends in a slash stands for all below it, but for `/`
    itself."""

    def __init__(self, app: ASGIApp, callers: Callers, users: Users, open_paths: Collection[str]) -> None:
        self._app = app
        self._callers = callers
        self._users = users
        self._below = tuple(path for path in open_paths if path.endswith("/") and path != "/")
        self._open = frozenset(open_paths) - frozenset(self._below)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._callers.required:
            await self._app(scope, receive, send)
            return
        caller.set(NOBODY)
        if self._is_open(scope):
            await self._app(scope, receive, send)
            return
        bearer = bearer_of(Headers(scope=scope))
        if scope["type"] == "websocket" and not bearer:
            # It is nobody's until it says more.
            await self._app(scope, receive, send)
            return
        try:
            identity = await self._callers.identify(bearer)
            caller.set(identity)
            with self._users.admitted(identity):
                await self._app(scope, receive, send)
        except ProblemError as problem:
            await problem.response()(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return path in self._open or bool(self._below and path.startswith(self._below))
