"""How the commander reaches its dispatcher: the channel's options and credentials, from settings.

The options were measured together: a frozen or blackholed peer is found within 6 s, a silent stream survives a
proxy that drops connections idle for 10 s, and a blip of packet loss is no lost link.
"""

from pathlib import Path

import grpc

from commander.settings import Settings


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
    """What lets this commander in, read anew for each try so that it can be changed. OSError when it can't."""
    return None if settings.token_file is None else settings.token_file.read_text().strip()


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
