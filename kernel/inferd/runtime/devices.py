"""The devices of this host: what may be given of each, and what other programs take of it meanwhile."""

import asyncio
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType

import structlog

from inferd.config import Devices
from inferd.core.ids import DeviceId
from inferd.core.resources import HOST_DEVICE, DeviceCapacity
from inferd.errors import suggestion, words_of
from inferd.plugin.backend import DeviceInfo
from inferd.plugin.host import count_cores, read_memory
from inferd.plugin.patience import patience
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.gauges import Gauge, GaugeError, HostGauge, NvmlGauge, Reading, open_nvml

TOLD_STEP_BYTES = 64 << 20  # a smaller change of what others hold is noise
ANSWER_S = 10.0  # a driver that takes longer is told of; it is not asked again before it has answered

NOTHING: Mapping[DeviceId, int] = MappingProxyType({})
Readings = dict[DeviceId, Reading | str]

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
        reading = _read_one(gauge, pids)
        if isinstance(reading, Reading):
            first[device_id] = (gauge, reading)
        else:
            log.warning("device cannot be measured", device=device_id, why=reading)
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
        leased_bytes: What leases reserve on a device, less what instances that were loaded under them draw of it; and
            what is kept there of prefix caches.
        instance_bytes: What is reserved for instances on a device; taken for what they hold where it does not tell.
        tell: Called with a device and what strangers hold there, when that has changed by `TOLD_STEP_BYTES`.
        before: What others held when an earlier kernel began, where that holds for this one.

    Attributes:
        start_bytes: What others held of each device that is measured at the start.
        failing: Why a device cannot be measured at the moment; what strangers hold there is as it was last.
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
        before: Mapping[DeviceId, int] = NOTHING,
    ) -> None:
        self._period_s = settings.measure_s
        self._pids: Callable[[], Collection[int]] = lambda: {os.getpid(), *pids()}
        self._leased_bytes = leased_bytes
        self._instance_bytes = instance_bytes
        self._tell = tell
        self._gauges: dict[DeviceId, Gauge] = {}
        self.start_bytes: dict[DeviceId, int] = {}
        self._told: dict[DeviceId, int] = {}
        self._reading: asyncio.Future[Readings] | None = None
        self.failing: dict[DeviceId, str] = {}
        for device_id, (gauge, reading) in _find_gauges(_distinct(reports), self._pids()).items():
            if device_id not in settings.memory_bytes:
                self._gauges[device_id] = gauge
                others_bytes = reading.used_bytes - (reading.held_bytes or 0)
                self.start_bytes[device_id] = before.get(device_id, others_bytes)
                self._told[device_id] = 0

    async def run(self) -> None:
        """Measure again and again, until it is cancelled: nothing else ends it."""
        while True:
            await asyncio.sleep(self._period_s)
            try:
                await self.measure()
            except Exception as error:  # noqa: BLE001 - what dies here would never be missed, and devices be given twice
                self._note(dict.fromkeys(self._gauges, f"measuring failed: {type(error).__name__}: {words_of(error)}"))

    async def measure(self) -> None:
        """Measure every device once, beside the event loop: a driver may take its time, or never come back."""
        if self._reading is None or self._reading.done():
            self._reading = _start_beside(partial(_read, self._gauges, self._pids()))
        try:
            async with patience(ANSWER_S):
                readings = await asyncio.shield(self._reading)
        except TimeoutError:
            self._note(dict.fromkeys(self._gauges, f"its driver did not answer within {ANSWER_S:g} s"))
            return
        for device_id, reading in readings.items():
            if isinstance(reading, Reading):
                self._judge(device_id, reading)
        self._note({device_id: why for device_id, why in readings.items() if isinstance(why, str)})

    def _judge(self, device_id: DeviceId, reading: Reading) -> None:
        held_bytes = self._instance_bytes(device_id) if reading.held_bytes is None else reading.held_bytes
        known_bytes = self.start_bytes[device_id] + held_bytes + self._leased_bytes(device_id)
        foreign_bytes = max(0, reading.used_bytes - known_bytes)
        told_bytes = self._told[device_id]
        if abs(foreign_bytes - told_bytes) >= TOLD_STEP_BYTES or (told_bytes and not foreign_bytes):
            self._tell(device_id, foreign_bytes)
            self._told[device_id] = foreign_bytes

    def _note(self, failing: Mapping[DeviceId, str]) -> None:
        """These could not be measured this time, the others could; each change is logged once."""
        for device_id in self._gauges:
            why, known = failing.get(device_id, ""), self.failing.pop(device_id, "")
            if why:
                self.failing[device_id] = why
            if why and not known:
                log.warning("device cannot be measured", device=device_id, why=why)
            elif known and not why:
                log.info("device is measured again", device=device_id)


def _read(gauges: Mapping[DeviceId, Gauge], pids: Collection[int]) -> dict[DeviceId, Reading | str]:
    """The memory of each device, or why it cannot be read."""
    return {device_id: _read_one(gauge, pids) for device_id, gauge in gauges.items()}


def _read_one(gauge: Gauge, pids: Collection[int]) -> Reading | str:
    try:
        return gauge.read(pids)
    except GaugeError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - an edge to the library of a driver
        return f"{type(error).__name__}: {words_of(error)}"


def _start_beside(work: Callable[[], Readings]) -> asyncio.Future[Readings]:
    """Call something in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Readings] = loop.create_future()

    def run() -> None:
        result = work()
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=run, name="device meter", daemon=True).start()
    return done
