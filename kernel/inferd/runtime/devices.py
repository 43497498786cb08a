"""The devices of this host: what may be given of each, and what other programs take of it meanwhile."""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from inferd.config import Devices
from inferd.core.ids import DeviceId
from inferd.core.resources import HOST_DEVICE, DeviceCapacity
from inferd.errors import suggestion
from inferd.plugin.backend import DeviceInfo
from inferd.plugin.host import count_cores, read_memory
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.gauges import Gauge, GaugeError, HostGauge, NvmlGauge, Reading, open_nvml

TOLD_STEP_BYTES = 64 << 20  # a smaller change of what others hold is noise

log = structlog.get_logger()


def find_devices(reports: Sequence[BackendReport], settings: Devices) -> tuple[DeviceCapacity, ...]:
    """What may be given of each device; the host is always among them, and first.

    A device that several backends know by one id is one device. Of its memory may be given what the configuration
    names; else what is free now, which leaves out what others hold; else, where that cannot be read, what the backend
    found. The configured reserve is taken off except from a size that is named.
    """
    found = _distinct(reports)
    _warn_of_unknown(settings.memory_bytes, known=found)
    starts = {device_id: reading for device_id, (_, reading) in _find_gauges(found, ()).items()}
    return tuple(_capacity(info, settings, starts.get(device_id)) for device_id, info in found.items())


def _capacity(info: DeviceInfo, settings: Devices, start: Reading | None) -> DeviceCapacity:
    device_id = DeviceId(info.device_id)
    named = settings.memory_bytes.get(device_id)
    if named is not None:
        return DeviceCapacity(device_id=device_id, memory_bytes=named, cores=info.cores)
    total, free = info.memory_bytes, info.memory_bytes
    if start is not None:
        total, free = start.total_bytes, start.free_bytes
    return DeviceCapacity(
        device_id=device_id, memory_bytes=max(0, free - int(total * settings.reserve)), cores=info.cores
    )


def _distinct(reports: Sequence[BackendReport]) -> dict[DeviceId, DeviceInfo]:
    """Each device once: the host, then the others as the backends that work here name them."""
    host = DeviceInfo(
        device_id=HOST_DEVICE,
        description="processor",
        memory_bytes=read_memory().total_bytes,
        cores=count_cores(),
    )
    found = {HOST_DEVICE: host}
    for report in reports:
        for info in report.devices if report.state is BackendState.READY else ():
            known = found.setdefault(DeviceId(info.device_id), info)
            if info.uuid and not known.uuid:
                found[DeviceId(info.device_id)] = info
    return found


def _find_gauges(found: Mapping[DeviceId, DeviceInfo], pids: Collection[int]) -> dict[DeviceId, tuple[Gauge, Reading]]:
    """What reads each device that can be read, and what it read first."""
    gauges: dict[DeviceId, Gauge] = {HOST_DEVICE: HostGauge()}
    with_uuid = {device_id: info.uuid for device_id, info in found.items() if info.uuid}
    nvml = open_nvml() if with_uuid else None
    if nvml is not None:
        gauges |= {device_id: NvmlGauge(nvml, uuid) for device_id, uuid in with_uuid.items()}
    first = {}
    for device_id, gauge in gauges.items():
        try:
            first[device_id] = (gauge, gauge.read(pids))
        except GaugeError as error:
            log.warning("device cannot be measured", device=device_id, why=str(error))
    return first


def _warn_of_unknown(named: Mapping[str, int], *, known: Mapping[DeviceId, DeviceInfo]) -> None:
    for device_id in named:
        if device_id not in known:
            near = suggestion(device_id, [*known])
            log.warning("devices.memory_bytes names no device of this host", device=device_id, did_you_mean=near)


class DeviceMeter:
    """Measures what programs that the kernel does not know take of its devices after the start.

    That is what everybody holds, less what was held at the start (the capacity leaves it out already), less what this
    kernel and its workers hold, less what leases reserve: a program that fills the memory which it has leased must not
    count twice, for its lease and as a stranger. Which process belongs to which lease is not known, so that strangers
    are seen only as far as they exceed what leases leave unused. It is never below 0, and a device whose size the
    configuration names is not measured: what others do there is the affair of who named it.

    Args:
        reports: As for `find_devices`.
        settings: As for `find_devices`.
        pids: The processes of the workers.
        leased_bytes: What leases reserve on a device, less what instances that were loaded under them draw of it.
        instance_bytes: What is reserved for instances on a device; taken for what they hold where it does not tell.
        tell: Called with a device and what strangers hold there, when that has changed by `TOLD_STEP_BYTES`.
    """

    def __init__(
        self,
        reports: Sequence[BackendReport],
        settings: Devices,
        *,
        pids: Callable[[], Collection[int]],
        leased_bytes: Callable[[DeviceId], int],
        instance_bytes: Callable[[DeviceId], int],
        tell: Callable[[DeviceId, int], None],
    ) -> None:
        self._period_s = settings.measure_s
        self._pids: Callable[[], Collection[int]] = lambda: {os.getpid(), *pids()}
        self._leased_bytes = leased_bytes
        self._instance_bytes = instance_bytes
        self._tell = tell
        self._gauges: dict[DeviceId, Gauge] = {}
        self._start_bytes: dict[DeviceId, int] = {}
        self._told: dict[DeviceId, int] = {}
        self._failing: set[DeviceId] = set()
        for device_id, (gauge, reading) in _find_gauges(_distinct(reports), self._pids()).items():
            if device_id not in settings.memory_bytes:
                self._gauges[device_id] = gauge
                self._start_bytes[device_id] = reading.used_bytes - (reading.held_bytes or 0)
                self._told[device_id] = 0

    async def run(self) -> None:
        """Measure again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            await self.measure()

    async def measure(self) -> None:
        """Measure every device once, beside the event loop: a driver may take its time."""
        readings = await asyncio.to_thread(self._read, self._pids())
        for device_id, reading in readings.items():
            held_bytes = self._instance_bytes(device_id) if reading.held_bytes is None else reading.held_bytes
            known_bytes = self._start_bytes[device_id] + held_bytes + self._leased_bytes(device_id)
            foreign_bytes = max(0, reading.used_bytes - known_bytes)
            told_bytes = self._told[device_id]
            if abs(foreign_bytes - told_bytes) >= TOLD_STEP_BYTES or (told_bytes and not foreign_bytes):
                self._told[device_id] = foreign_bytes
                self._tell(device_id, foreign_bytes)

    def _read(self, pids: Collection[int]) -> dict[DeviceId, Reading]:
        """Every device that can be read now; one that cannot is logged once, until it can again."""
        readings = {}
        for device_id, gauge in self._gauges.items():
            try:
                readings[device_id] = gauge.read(pids)
            except GaugeError as error:
                if device_id not in self._failing:
                    log.warning("device cannot be measured", device=device_id, why=str(error))
                self._failing.add(device_id)
            else:
                self._failing.discard(device_id)
        return readings
