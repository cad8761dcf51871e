"""The gRPC channel arguments of both sides, each of which was needed."""

from __future__ import annotations

from typing import Final

from .limits import MAX_MESSAGE_BYTES

_COMMON: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8192),
    # Without the third a peer that hangs is noticed only after more than 20 s. Pings go out during calls alone:
    # on idle connections they would cost eight paused nodes almost three times what their greetings do.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    # A parked pull carries no data for minutes; its pings must go on.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.optimization_target", "throughput"),
)

IDLE_S: Final = 300.0
"""A connection without a call for so long is ended."""

SERVER_OPTIONS: Final = (
    *_COMMON,
    # Below the clients' keepalive, or long calls end with "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 2000),
    # Silent connections would stay for two minutes.
    ("grpc.server_handshake_timeout_ms", 5000),
    ("grpc.max_concurrent_streams", 64),
    # By the server: clients that vanished end nothing, and gRPC's own idle clients hang up once and never again.
    ("grpc.max_connection_idle_ms", int(IDLE_S * 1000)),
    # A port in use is an error, never a silent share of somebody else's calls.
    ("grpc.so_reuseport", 0),
)

WINDOW_BYTES: Final = 2 << 20
"""What a peer may send ahead of our reading, per stream: so much in a round trip is also a stream's speed."""

CHANNEL_OPTIONS: Final = (
    *_COMMON,
    # gRPC's own estimate of the window knows no bound: who reads more slowly than the wire would hold whole frames.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # Peers are reached directly, whatever http_proxy says, and configured by us, not by DNS records.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # One connection per channel: several nodes in one process must not share a peer's stream cap.
    ("grpc.use_local_subchannel_pool", 1),
)

MAX_CONCURRENT_RPCS: Final = 1024
"""Calls a server answers at one time, over all connections."""
FIRST_MESSAGE_S: Final = 5.0
"""A stream that sends no request within this time is closed; gRPC would keep it for ever."""
GRACE_S: Final = 0.5
"""What calls under way get to finish when a server closes."""
