"""The options of the bare peer's channels: those of the pair, so that only the program differs."""

from commander import dialing
from commander.settings import Settings as CommanderSettings
from dispatcher.settings import Settings as DispatcherSettings

Options = list[tuple[str, int]]


def client(address: str) -> Options:
    return dialing.options(CommanderSettings(dispatcher=address))


def server() -> Options:
    """As the dispatcher's own, with its default settings."""
    told = DispatcherSettings()
    return [
        ("grpc.keepalive_time_ms", int(told.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(told.tcp_user_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", int(told.ping_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", int(told.keepalive_time_s * 900)),
        ("grpc.max_connection_idle_ms", int(told.connection_idle_s * 1000)),
        ("grpc.max_concurrent_streams", told.streams_per_connection),
        ("grpc.max_receive_message_length", told.max_message_bytes),
        ("grpc.max_send_message_length", told.max_message_bytes * 2),
        ("grpc.http2.settings_timeout", 5000),
        ("grpc.server_handshake_timeout_ms", 5000),
        ("grpc.max_metadata_size", 8192),
        ("grpc.so_reuseport", 0),
    ]
