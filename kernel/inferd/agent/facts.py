"""What an agent tells of its host, found as a kernel finds its own."""

from __future__ import annotations

import asyncio
import os
import platform
from typing import TYPE_CHECKING

from inferd import __version__
from inferd.plugin.registry import BackendReport, discover
from inferd.runtime.devices import find_devices
from inferd.shared import can_share
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inferd.config import Settings
    from inferd.core.resources import DeviceCapacity


class Found:
    """The plugins of this host, and what may be given of its devices.

    Args:
        settings: As a kernel's: which plugins may be used, and how much of the devices.
        reports: What discovery found.
    """

    def __init__(self, settings: Settings, reports: tuple[BackendReport, ...]) -> None:
        self.reports = reports
        self._settings = settings

    @classmethod
    async def here(cls, settings: Settings) -> Found:
        """Look for plugins, which takes seconds."""
        reports = await discover(
            allow=settings.backends,
            modules=settings.plugin_modules,
            timeout_s=settings.plugin_timeout_s,
            log_dir=settings.state_dir / "plugins",
        )
        return cls(settings, reports)

    async def devices(self) -> tuple[DeviceCapacity, ...]:
        """What may be given of each device, by what is free now."""
        return await asyncio.to_thread(find_devices, self.reports, self._settings.devices)

    def facts(self, name: str, labels: Mapping[str, str], log_folder: Path) -> wire.HostFacts:
        """What is told of the host.

        Args:
            name: Of the host.
            labels: By which operators choose hosts.
            log_folder: Where the logs of workers are.
        """
        return wire.HostFacts(
            name=name,
            version=__version__,
            os=f"{platform.system()} {platform.release()}",
            labels=labels,
            backends=[
                wire.BackendFacts(
                    name=report.name,
                    state=report.state.value,
                    why=report.why,
                    fix=report.fix,
                    package=report.package,
                    device_ids=[device.device_id for device in report.devices],
                )
                for report in self.reports
            ],
            pid=os.getpid(),
            log_folder=str(log_folder),
            shares_memory=can_share(),
        )
