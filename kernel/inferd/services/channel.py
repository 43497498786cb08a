"""What gRPC itself is told of the bounds of a kernel."""

from inferd.config import Limits

PING_SLACK = 0.9  # of the time between two pings: one may be held up on its way and the next one not


def channel_options(limits: Limits) -> tuple[tuple[str, int], ...]:
    """What gRPC is told of the bounds: where it refuses by itself it gives no reason, so ours come first."""
    ping_interval_ms = int(limits.ping_interval_s * 1000 * PING_SLACK)
    return (
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.max_concurrent_streams", limits.concurrent_streams),
        ("grpc.http.overload_protection", 0),  # refuses calls of clients that keep to the line above, too
        ("grpc.server.max_pending_requests", limits.pending_calls),
        ("grpc.server.max_pending_requests_hard_limit", limits.pending_calls),
        ("grpc.http2.min_ping_interval_without_data_ms", ping_interval_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # a second kernel on the same port is an error, not a lottery
    )
