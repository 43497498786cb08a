"""`inferd plugins`: the backends, of the running kernel or as found here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inferd.cli.amounts import size
from inferd.cli.kernel import connected, reachable
from inferd.cli.plain import plain
from inferd.plugin.registry import BackendReport, discover
from inferd.services.hosts import write_backend
from inferd_api.v1.host_pb2 import BackendState

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.cli.output import Output
    from inferd.config import Settings


def list_plugins(output: Output, address: str, settings: Callable[[], Settings]) -> None:
    """List the backends of the kernel; where none runs, those that are found here and now."""
    with connected(address) as client:
        running = reachable(client)
        backends = list(client.list_backends()) if running else [write_backend(report) for report in find(settings())]
    if output.json:
        output.document({"kernel": client.address if running else None, "backends": [plain(b) for b in backends]})
        return
    if not running:
        output.note(f"no kernel answers at {client.address}; these are the plugins that are installed here")
    rows = (
        (
            backend.name,
            BackendState.Name(backend.state).removeprefix("BACKEND_STATE_"),
            backend.package,
            ", ".join(backend.formats),
            ", ".join(f"{device.device_id} ({size(device.memory_bytes)})" for device in backend.devices),
            "; ".join(
                part for part in (backend.why, backend.fix, backend.log_path and f"log: {backend.log_path}") if part
            ),
        )
        for backend in backends
    )
    columns = ("NAME", "STATE", "PACKAGE", "FORMATS", "DEVICES", "WHY")
    output.table(columns, rows, empty="no plugins are installed; the backend of inferd itself is missing")


def find(settings: Settings) -> tuple[BackendReport, ...]:
    """Discover the plugins as a kernel with these settings would."""
    return asyncio.run(
        discover(
            allow=settings.backends,
            modules=settings.plugin_modules,
            timeout_s=settings.plugin_timeout_s,
            log_dir=settings.state_dir / "plugins",
        )
    )
