"""What gRPC itself is told of the bounds of a kernel."""

from inferd.config import Limits

IDENTITY = 1  # a set of algorithms, as bits: none but that which compresses nothing
PING_SLACK = 0.9  # of the time between two pings: one may be held up on its way and the next one not


def channel_options(limits: Limits, host_connections: int = 0) -> tuple[tuple[str, int], ...]:
    """What gRPC is told of the bounds: where it refuses by itself it gives no reason, so ours come first.

    Args:
        limits: The bounds.
        host_connections: For agents of hosts, beyond those of clients: nobody can tell them apart as they come.
    """
    ping_interval_ms = int(limits.ping_interval_s * 1000 * PING_SLACK)
    return (
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.max_concurrent_streams", limits.concurrent_streams),
        ("grpc.max_allowed_incoming_connections", limits.connections + host_connections),
        ("grpc.max_connection_idle_ms", int(limits.connection_idle_s * 1000)),
        ("grpc.server_handshake_timeout_ms", int(limits.handshake_s * 1000)),
        # A message of four megabytes can be four gigabytes when it is inflated, which nothing bounds: none is.
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY),
        ("grpc.per_message_decompression", 0),
        ("grpc.http.overload_protection", 0),  # refuses calls of clients that keep to the line above, too
        ("grpc.server.max_pending_requests", limits.pending_calls),
        ("grpc.server.max_pending_requests_hard_limit", limits.pending_calls),
        ("grpc.http2.min_ping_interval_without_data_ms", ping_interval_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # a second kernel on the same port is an error, not a lottery
    )
