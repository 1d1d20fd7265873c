"""Who may call what: bearer tokens with roles.

A tokens file is TOML, one table a token, and holds hashes alone:

    [[tokens]]
    name = "worker-1"                  # for logs and as the actor of stops
    role = "commander"                 # commander, application or admin
    sha256 = "<hex digest of the token>"
    user = "alice"                     # an application's that is one user and nobody else; optional
    thoughts = true                    # may have what agents think; default: true for admin, else false

Signed tokens are another way in; see `signed_tokens.py`. Without either everyone may call everything, which settings
allow on this machine alone.
"""

# grpc's handler types take parameters in the stubs alone.
from __future__ import annotations

import asyncio
import hashlib
import hmac
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import grpc
from grpc import aio

from dispatcher.identity import ANYBODY, ID_CHARS_MAX, Identity, Role, caller, is_id
from dispatcher.refusals import Refusals

if TYPE_CHECKING:
    from dispatcher.signed_tokens import SignedTokens

# The last word of a service's name to the roles that may call it. Health is for everybody: probes have no token.
_ROLES: Final[dict[str, tuple[Role, ...]]] = {
    "AgentInteraction": ("commander",),
    "Chat": ("application", "admin"),
    "Admin": ("admin",),
    "ServerReflection": ("commander", "application", "admin"),
}
_OPEN: Final = "Health"
_BEARER: Final = "bearer "
_DOTS_OF_SIGNED: Final = 2
_FIRST_WORD_S: Final = 1.0
# What a table has to say, and what it may.
_NEEDED: Final = frozenset({"name", "role", "sha256"})
_OPTIONAL: Final = frozenset({"user", "thoughts"})


class TokensError(Exception):
    """A tokens file that can't be used. The message names the file, the entry, and what would be right."""


@dataclass(frozen=True, slots=True)
class Token:
    sha256: bytes
    identity: Identity


def load_tokens(path: Path) -> tuple[Token, ...]:
    """Reads a tokens file. Raises TokensError; never quotes a hash."""
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        raise TokensError(f"tokens_file: {path} can't be read as TOML: {error}") from None
    entries = content.get("tokens")
    if not isinstance(entries, list) or not entries or set(content) != {"tokens"}:
        raise TokensError(f"tokens_file: {path} should hold [[tokens]] tables and nothing else")
    return tuple(_token(path, number, entry) for number, entry in enumerate(entries, 1))


def _token(path: Path, number: int, entry: Any) -> Token:
    where = f"tokens_file: {path}, token {number}"
    if not isinstance(entry, dict) or not _NEEDED <= set(entry) <= _NEEDED | _OPTIONAL:
        raise TokensError(
            f"{where}: should have name, role and sha256, and nothing else but user and thoughts"
        )
    name, role = entry["name"], entry["role"]
    if not isinstance(name, str) or not name:
        raise TokensError(f"{where}: name should be a text")
    where = f"{where} ({name})"
    if role not in get_args(Role):
        raise TokensError(f"{where}: role should be one of {', '.join(get_args(Role))}")
    user_id = entry.get("user", "")
    if "user" in entry and role != "application":
        raise TokensError(f"{where}: user goes with the role application alone; leave it out")
    if "user" in entry and not is_id(user_id):
        raise TokensError(f"{where}: user should be a text of 1 to {ID_CHARS_MAX} printable characters")
    thoughts = entry.get("thoughts", role == "admin")
    if not isinstance(thoughts, bool):
        raise TokensError(f"{where}: thoughts should be true or false")
    try:
        digest = bytes.fromhex(entry["sha256"])
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise TokensError(f"{where}: sha256 should be 64 hexadecimal digits")
    if digest == hashlib.sha256().digest():
        raise TokensError(
            f"{where}: sha256 is of no token at all but of the empty text; hash the token itself"
        )
    return Token(digest, Identity(role, name, user_id, thoughts))


class Access:
    """Who comes in by which bearer token, of the tokens file or signed. `required` is False where nobody needs one:
    then everybody is ANYBODY."""

    def __init__(self, tokens: tuple[Token, ...], signed: SignedTokens | None = None) -> None:
        self._tokens = tokens
        self._signed = signed
        self.required: Final = bool(tokens) or signed is not None

    async def identify(self, bearer: str) -> Identity | None:
        """Who bears this; None: nobody that is known. Looks at all tokens, so that time tells nothing."""
        if not self.required:
            return ANYBODY
        presented = hashlib.sha256(bearer.encode(errors="replace")).digest() if bearer else b""
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, presented):
                found = token.identity
        if found is None and self._signed is not None and bearer.count(".") == _DOTS_OF_SIGNED:
            return await self._signed.identify(bearer)
        return found


def _borne(metadata: Any) -> str:
    """The token that the call bears."""
    presented = ""
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str) and value.lower().startswith(_BEARER):
            presented = value[len(_BEARER) :].strip()
    return presented


class AuthInterceptor(aio.ServerInterceptor):
    """Lets a call through when its token has a role that may make it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._refusals = Refusals("calls")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        service = handler_call_details.method.split("/")[1].rpartition(".")[2]
        if handler is None or service == _OPEN:
            return handler
        identity = await self._access.identify(_borne(handler_call_details.invocation_metadata))
        if identity is None:
            self._refusals.tell(f"{service}: no token, or one that is not known")
            return _refusing(
                handler,
                grpc.StatusCode.UNAUTHENTICATED,
                "send metadata `authorization: Bearer <token>` with a token that this dispatcher knows",
            )
        roles = _ROLES.get(service, ())
        if identity.role not in roles:
            self._refusals.tell(f"{service}: the token {identity.name!r} has role {identity.role}")
            return _refusing(
                handler,
                grpc.StatusCode.PERMISSION_DENIED,
                f"the token {identity.name!r} has role {identity.role}; {service} needs {' or '.join(roles)}",
            )
        # grpc runs the handler in the same task, and each call in a task of its own.
        caller.set(identity)
        return handler


async def hear_first(context: Any) -> None:
    """Waits a moment for the first word on a stream that is to be refused: a client whose first write fails
    because the stream is over already is told "Internal error from Core" by its gRPC instead of the status."""
    first = asyncio.ensure_future(context.read())
    try:
        await asyncio.wait([first], timeout=_FIRST_WORD_S)
    finally:
        first.cancel()


def _refusing(
    handler: grpc.RpcMethodHandler[Any, Any], status: grpc.StatusCode, message: str
) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(_: Any, context: Any) -> None:
        if handler.request_streaming:
            await hear_first(context)
        await context.abort(status, message)

    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)
