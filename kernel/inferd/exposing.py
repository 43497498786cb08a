"""Where Prometheus reads the metrics of a kernel, if it is to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from inferd.addresses import loopback_port
from inferd.config import Settings
from inferd.runtime.exposition import ExpositionLimits, exposed


@asynccontextmanager
async def exposing(settings: Settings, registry: CollectorRegistry) -> AsyncIterator[str]:
    """Let Prometheus read until the block ends, if it is to; where."""
    if not settings.metrics_listen:
        yield ""
        return
    host, port = loopback_port(settings.metrics_listen)
    limits = ExpositionLimits(
        connections=settings.limits.metrics_connections, timeout_s=settings.limits.metrics_timeout_s
    )
    async with exposed(registry, host, port, limits) as chosen:
        yield f"{settings.metrics_listen.rpartition(':')[0]}:{chosen}"
