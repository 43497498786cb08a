"""What an agent tells of its host, found as a kernel finds its own."""

from __future__ import annotations

import asyncio
import os
import platform
from functools import partial
from typing import TYPE_CHECKING

from inferd import __version__
from inferd.core.ids import DeviceId
from inferd.plugin.registry import BackendReport, discover
from inferd.runtime.devices import DeviceMeter, find_devices
from inferd.shared import can_share
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
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

    async def measure(self, pids: Callable[[], set[int]], tell: Callable[[wire.DeviceUsed], None]) -> None:
        """Tell what others than workers hold of each device beyond what they hold now, until this is cancelled.

        Args:
            pids: The processes of the workers.
            tell: Called when it has changed.
        """
        untold = set[DeviceId]()  # devices that do not tell what which process holds

        def count_none(device_id: DeviceId) -> int:
            untold.add(device_id)
            return 0

        def tell_one(device_id: DeviceId, held_bytes: int) -> None:
            tell(wire.DeviceUsed(device_id=device_id, held_bytes=held_bytes, with_workers=device_id in untold))

        meter = await asyncio.to_thread(
            partial(
                DeviceMeter,
                self.reports,
                self._settings.devices,
                pids=pids,
                leased_bytes=lambda _: 0,  # which the kernel knows
                instance_bytes=count_none,
                tell=tell_one,
            )
        )
        await meter.run()

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
