"""Where a dispatcher listens: addresses taken, certificates tried; what is wrong with either is said by its setting."""

import socket
import ssl
import sys
from pathlib import Path
from typing import Final

import grpc
from grpc import aio

from dispatcher.rpc.feed import SENT_RATIO
from dispatcher.settings import Settings, parse_address

# What the kernel may hold of a connection that it has not sent yet. Linux' number for the option, which this Python may
# have no name for.
_TCP_NOTSENT_LOWAT: Final = 25
_UNSENT_BYTES_MAX: Final = 131_072
# Connections that wait to be taken.
_BACKLOG: Final = 2_048


class StartError(Exception):
    """The dispatcher can't start as told. The message names the setting and the mend."""


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """gRPC's options, with the names that take effect: measured, see docs/operating.md."""
    s = settings
    return [
        ("grpc.keepalive_time_ms", int(s.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(s.tcp_user_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", int(s.ping_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.bdp_probe", 0),
        # What waits here waits in pieces, in an outbox it would be joined. With 1,000 × 50 tokens/s, each with a viewer
        # over HTTP, on two cores: p99 0.53 s with gRPC's own 64 KiB, 0.27 s with 16; a flood is no slower.
        ("grpc.http2.lookahead_bytes", s.stream_ahead_bytes),
        # A client may ping somewhat more often than we would ourselves, as clocks and loads differ.
        ("grpc.http2.min_ping_interval_without_data_ms", int(s.keepalive_time_s * 900)),
        ("grpc.max_connection_idle_ms", int(s.connection_idle_s * 1000)),
        ("grpc.max_concurrent_streams", s.streams_per_connection),
        ("grpc.max_receive_message_length", s.max_message_bytes),
        ("grpc.max_send_message_length", s.max_message_bytes * SENT_RATIO),
        ("grpc.http2.settings_timeout", 5000),
        ("grpc.server_handshake_timeout_ms", 5000),
        ("grpc.max_metadata_size", 8192),
        # Two servers on one port would share its calls in silence.
        ("grpc.so_reuseport", 0),
    ]


def bind(server: aio.Server, settings: Settings) -> str:
    """Takes the address. Returns it as bound. Raises StartError."""
    told = settings.grpc_address
    address = parse_address(told)
    if address.path and _somebody_listens(address.path):
        # grpc would take over the path of a living server without a word.
        raise StartError(f"grpc_address: {told} is taken by another process; choose another, or end that one")
    if address.path and not Path(address.path).parent.is_dir():
        raise StartError(
            f"grpc_address: {told}: there is no folder {Path(address.path).parent}; make it first"
        )
    try:
        if settings.tls_certificate is None:
            port = server.add_insecure_port(told)
        else:
            port = server.add_secure_port(told, _credentials(settings))
    except RuntimeError:
        raise StartError(
            f"grpc_address: {told} can't be bound; is it taken by another process? Choose another with "
            "--grpc-address, or port 0 for any that is free"
        ) from None
    return told if address.path else f"{told.rpartition(':')[0]}:{port}"


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    """Raises StartError."""

    def content(path: Path | None) -> bytes | None:
        return None if path is None else path.read_bytes()

    tls_context(settings)
    key, certificate = content(settings.tls_key), content(settings.tls_certificate)
    assert key is not None
    assert certificate is not None
    client_ca = content(settings.tls_client_ca)
    return grpc.ssl_server_credentials(
        [(key, certificate)], client_ca, require_client_auth=client_ca is not None
    )


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What HTTP is served with; None without a certificate. gRPC says of a certificate that it can't use only that the
    address can't be bound, so there it is tried with this. Raises StartError."""
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # With a password that is never right, an encrypted key is an error and no question at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
        raise StartError(
            f"tls_certificate, tls_key: {key} is not the key of {certificate}"
            if mismatch
            else f"tls_certificate, tls_key: {certificate} should be a certificate chain and {key} its key, "
            "both in PEM, the key not encrypted"
        ) from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, ValueError):
            raise StartError(f"tls_client_ca: {client_ca} should hold certificates in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def http_listener(settings: Settings) -> socket.socket:
    """Takes the address. Raises StartError."""
    address = parse_address(settings.http_address)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StartError(
            f"http_address: {settings.http_address} can't be bound: {error.strerror}; choose another with "
            "--http-address, port 0 for any that is free"
        ) from None
    if sys.platform == "linux":
        # Inherited by every connection. Without it the kernel takes megabytes for a viewer that reads nothing, and
        # nobody sees that it lags.
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES_MAX)
    return listener
