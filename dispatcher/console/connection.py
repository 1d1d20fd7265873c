"""The way to a dispatcher: its address, the channel, and what its refusals mean.

Owns everything about reaching it; what is said over the channel is the commands' own, and the proof of who
asks comes from `credentials`. Every gRPC error becomes a `ConsoleError` here.
"""

import argparse
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio
from southwest.ai.agent.v1 import admin_pb2_grpc, chat_pb2_grpc

from dispatcher.console.credentials import (
    ClientCertificate,
    read_authorities,
    read_certificate,
    read_token,
)
from dispatcher.console.escaping import safe_line
from dispatcher.console.outcome import ConsoleError, Exit

if TYPE_CHECKING:
    from southwest.ai.agent.v1.admin_pb2_grpc import AdminAsyncStub
    from southwest.ai.agent.v1.chat_pb2_grpc import ChatAsyncStub

# Measured to work together with the dispatcher's own: a frozen dispatcher is found in about six seconds, a
# proxy that drops idle connections after ten sees no idle one, and a reconnect takes at most two.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Several packets of at most a mebibyte may gather in one message, and a page of sessions is one.
    ("grpc.max_receive_message_length", 16_777_216),
)
_DETAIL_CHARS = 300

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Endpoint:
    """Where a dispatcher is and how to speak to it. `timeout_s` bounds each wait for its answer; `token_file`
    is what complaints about the token name."""

    address: str
    timeout_s: float
    tls: bool
    root_certificates: bytes | None
    token: str
    token_file: Path | None = None
    certificate: ClientCertificate | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Endpoint":
        """From the flags that `arguments.add_connection` declares. Raises ConsoleError."""
        tls = bool(arguments.tls or arguments.tls_ca)
        token = read_token(arguments.token_file) if arguments.token_file else ""
        if token and not tls and not is_local(arguments.dispatcher):
            raise ConsoleError(
                f"the token would cross the network to {arguments.dispatcher} in plain text: "
                "add --tls, or --tls-ca FILE for a private authority",
                Exit.USAGE,
            )
        return cls(
            arguments.dispatcher,
            arguments.timeout_s,
            tls,
            read_authorities(arguments.tls_ca) if arguments.tls_ca else None,
            token,
            arguments.token_file,
            read_certificate(arguments.tls_certificate, arguments.tls_key, tls=tls),
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """For every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}{' tls' if self.tls else ''}{' token' if self.token else ''}>"


class Connection:
    """An open channel to an endpoint; a context manager. Connects when first used."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.timeout_s = endpoint.timeout_s
        self.metadata = endpoint.metadata
        # A proxy named in the environment is for the world outside, not for this machine.
        options = (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if is_local(endpoint.address) else _OPTIONS
        if endpoint.tls:
            shown = endpoint.certificate
            credentials = grpc.ssl_channel_credentials(
                endpoint.root_certificates,
                None if shown is None else shown.key,
                None if shown is None else shown.chain,
            )
            self._channel = grpc.aio.secure_channel(endpoint.address, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(endpoint.address, options)
        self.chat: ChatAsyncStub = chat_pb2_grpc.ChatStub(self._channel)
        self.admin: AdminAsyncStub = admin_pb2_grpc.AdminStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def ask(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer]",
        request: _Request,
        missing: str = "",
    ) -> _Answer:
        """One question, one answer. Raises ConsoleError; `missing` says what NOT_FOUND is about."""
        try:
            return await method(request, timeout=self.timeout_s, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise self.trouble(error, missing) from None

    def trouble(self, error: grpc.aio.AioRpcError, missing: str = "") -> ConsoleError:
        """What a gRPC error means for the user. `missing` says what NOT_FOUND is about."""
        return _trouble(error, self.endpoint, missing)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """What gRPC says went wrong, without the steps it took to find out."""
    details = error.details() or ""
    last = details.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
    return last.rpartition("Failed to connect to remote host: ")[2]


def _trouble(error: grpc.aio.AioRpcError, endpoint: Endpoint, missing: str) -> ConsoleError:
    code = error.code()
    details = safe_line(reason_of(error))[:_DETAIL_CHARS]
    at = endpoint.address
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unreachable(endpoint, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return unanswered(endpoint)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ConsoleError(
            f"what answers at {at} does not serve this request ({details}): is it a dispatcher?", Exit.REFUSED
        )
    if code is grpc.StatusCode.UNAUTHENTICATED:
        if endpoint.token:
            return ConsoleError(
                f"the dispatcher at {at} does not know the token in {endpoint.token_file}: ask whoever runs it for "
                "one that is in its tokens_file",
                Exit.REFUSED,
            )
        return ConsoleError(
            f"the dispatcher at {at} wants to know who asks ({details}): add --token-file FILE", Exit.REFUSED
        )
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return ConsoleError(
            f"the dispatcher at {at} does not allow it ({details}): use a token of another role", Exit.REFUSED
        )
    if code is grpc.StatusCode.NOT_FOUND and missing:
        return ConsoleError(missing, Exit.REFUSED)  # all that the details say as well
    word = code.name.lower().replace("_", " ")
    if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS):
        return ConsoleError(
            f"the dispatcher at {at} failed, {word}: {details or 'no more is said'}; see its log", Exit.FAILED
        )
    return ConsoleError(
        f"the dispatcher at {at} refuses, {word}: {details or 'no more is said'}", Exit.REFUSED
    )


def _unreachable(endpoint: Endpoint, details: str) -> ConsoleError:
    at = endpoint.address
    if endpoint.tls and "WRONG_VERSION_NUMBER" in details:
        return ConsoleError(f"what answers at {at} speaks no TLS: leave out --tls", Exit.UNREACHABLE)
    if endpoint.tls and "CERTIFICATE_VERIFY_FAILED" in details:
        return ConsoleError(
            f"the certificate of the dispatcher at {at} is not known here ({details}): name the authority that "
            "signed it with --tls-ca FILE",
            Exit.UNREACHABLE,
        )
    if endpoint.tls and ("Socket closed" in details or "reset by peer" in details):
        # All that a client hears when its certificate is missing or refused: its half of the handshake went well.
        shown = endpoint.certificate
        why = (
            "it may want a client's certificate: add --tls-certificate FILE and --tls-key FILE"
            if shown is None
            else f"it may not know the certificate in {shown.file}: that must be signed by an authority in the "
            "dispatcher's tls_client_ca"
        )
        return ConsoleError(f"what answers at {at} hung up ({details}); {why}", Exit.UNREACHABLE)
    tls = "" if endpoint.tls or "refused" in details else "; add --tls if it wants TLS"
    return ConsoleError(
        f"no dispatcher answers at {at} ({details}): start one with `dispatcher serve`, "
        f"or say where it is with --dispatcher HOST:PORT{tls}",
        Exit.UNREACHABLE,
    )


def missing_session(session_id: str) -> str:
    """Nobody can tell the two apart: what is forgotten leaves no trace."""
    return (
        f"session {session_id} is not kept any more, or never was: `dispatcher sessions --all-ended` lists those that "
        "are kept"
    )


def unanswered(endpoint: Endpoint) -> ConsoleError:
    return ConsoleError(
        f"the dispatcher at {endpoint.address} has not answered within {endpoint.timeout_s:g} s: "
        "it is overloaded or frozen, or --timeout-s is too short",
        Exit.UNREACHABLE,
    )


def is_local(address: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
