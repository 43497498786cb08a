"""What a kernel finds on its host: plugins, and devices with what other programs hold of them."""

import asyncio

from inferd.config import Settings
from inferd.plugin.registry import BackendReport
from inferd.runtime.devices import DeviceMeter, find_devices
from inferd.runtime.driver import Driver
from inferd.runtime.plugins import Plugins


def found_meter(settings: Settings, driver: Driver, reports: tuple[BackendReport, ...]) -> DeviceMeter:
    """Measures what other programs hold of the devices."""
    devices, kept = driver.views.devices, driver.prefixes
    return DeviceMeter(
        reports,
        settings.devices,
        pids=driver.supervisor.pids,
        leased_bytes=lambda name: devices[name].lease_bytes - devices[name].drawn_bytes + kept.held_on(name),
        instance_bytes=lambda name: devices[name].instance_bytes + devices[name].drawn_bytes,
        tell=driver.measure_foreign,
    )


def found_plugins(settings: Settings, driver: Driver) -> Plugins:
    """The plugins, whose devices the core hears of when they are found first."""

    async def tell(reports: tuple[BackendReport, ...]) -> None:
        found = await asyncio.to_thread(find_devices, reports, settings.devices)
        known = driver.views.devices
        driver.find_devices(tuple(device for device in found if device.device_id not in known))

    return Plugins(
        allow=settings.backends,
        modules=settings.plugin_modules,
        timeout_s=settings.plugin_timeout_s,
        log_dir=settings.state_dir / "plugins",
        found=tell,
    )
