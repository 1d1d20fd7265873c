"""How the commander reaches its dispatcher: the channel's options and credentials, from settings.

The options were measured together: a frozen or blackholed peer is found within 6 s, a silent stream survives a
proxy that drops connections idle for 10 s, and a blip of packet loss is no lost link.
"""

import errno
import ssl
from pathlib import Path

import grpc

from commander.settings import Settings, SettingsError

TOKEN_BYTES = 8_192  # more would not fit into the metadata a dispatcher takes


def options(settings: Settings) -> list[tuple[str, int]]:
    """The channel's options, each for a reason."""
    return [
        # A ping after so much silence, and the timer of its answer: `keepalive_timeout_ms` is not that timer
        # but sets TCP_USER_TIMEOUT.
        ("grpc.keepalive_time_ms", _ms(settings.keepalive_time_s)),
        ("grpc.http2.ping_timeout_ms", _ms(settings.ping_timeout_s)),
        ("grpc.keepalive_timeout_ms", _ms(settings.tcp_user_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Without the probe the window stays at 64 KiB, so what is under way can't pile up for seconds.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Each try dials anew, at the link's own pace: no memory of earlier failures in a shared pool, and
        # this is what bounds one connection attempt (20 s by default).
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", _ms(settings.connect_timeout_s)),
        ("grpc.enable_retries", 0),
    ]


def dial(settings: Settings) -> grpc.aio.Channel:
    """A new channel. OSError when a certificate or key can't be read."""
    if not settings.tls:
        return grpc.aio.insecure_channel(settings.dispatcher, options(settings))
    credentials = grpc.ssl_channel_credentials(
        _read(settings.tls_ca), _read(settings.tls_key), _read(settings.tls_certificate)
    )
    return grpc.aio.secure_channel(settings.dispatcher, credentials, options(settings))


def token(settings: Settings) -> str | None:
    """What lets this commander in, read anew for each try so that it can be changed. OSError when it can't be, or
    is no token; what the file holds is never told."""
    path = settings.token_file
    if path is None:
        return None
    raw = path.read_bytes().strip()
    if not raw or len(raw) > TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in raw):
        why = f"holds no token: it is one word of at most {TOKEN_BYTES} ASCII characters"
        raise OSError(errno.EINVAL, why, str(path))
    return raw.decode("ascii")


def try_files(settings: Settings) -> None:
    """Looks at the certificates and the token before anything is dialled: of a certificate that it can't use gRPC
    says only that there is no connection, for ever. A pipe is left alone: it can be read but once. Raises
    SettingsError."""
    try:
        if settings.token_file is not None and not settings.token_file.is_fifo():
            token(settings)
    except OSError as error:
        raise SettingsError(f"token_file: {settings.token_file} {error.strerror}") from None
    if not settings.tls:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _try_authorities(context, settings.tls_ca)
    _try_certificate(context, settings.tls_certificate, settings.tls_key)


def _try_authorities(context: ssl.SSLContext, authorities: Path | None) -> None:
    if authorities is None or authorities.is_fifo():
        return
    try:
        context.load_verify_locations(authorities)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        why = "should hold certificates in PEM"
        if not isinstance(error, ssl.SSLError) and isinstance(error, OSError):
            why = f"can't be read: {error.strerror}"
        raise SettingsError(f"tls_ca: {authorities} {why}") from None


def _try_certificate(context: ssl.SSLContext, certificate: Path | None, key: Path | None) -> None:
    if certificate is None or key is None or certificate.is_fifo() or key.is_fifo():
        return
    try:
        # With a password that is never right, an encrypted key is an error and no question at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        why = f"{certificate} should be a certificate chain and {key} its key, both in PEM, the key not encrypted"
        if isinstance(error, ssl.SSLError):
            if error.reason == "KEY_VALUES_MISMATCH":
                why = f"{key} is not the key of {certificate}"
        elif isinstance(error, OSError):
            why = f"{certificate} or {key} can't be read: {error.strerror}"
        raise SettingsError(f"tls_certificate, tls_key: {why}") from None


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
