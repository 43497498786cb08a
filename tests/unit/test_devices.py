"""What may be given of devices, and what strangers take of them."""

import asyncio
import os
import threading
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from inferd import finding
from inferd.config import Devices
from inferd.core.ids import DeviceId, LeaseId, Tenant
from inferd.core.lease import LeaseSpec, MemoryClaim
from inferd.core.resources import DeviceCapacity
from inferd.plugin.backend import DeviceInfo
from inferd.plugin.host import Memory
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime import devices, gauges
from inferd.runtime.devices import TOLD_STEP_BYTES, DeviceMeter, find_devices
from inferd.runtime.gauges import GaugeError, Reading
from inferd.testing.kernel import front_here

GIB = 1 << 30
HOST, CUDA, FAKE = DeviceId("cpu:0"), DeviceId("cuda:0"), DeviceId("fake:0")
EIGHTH = Devices(reserve=0.125)


class Device:
    """A gauge whose figures the test sets."""

    def __init__(self, total_bytes: int, free_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.free_bytes = free_bytes
        self.held: dict[int, int] | None = {}
        self.broken = False
        self.error: Exception = GaugeError("it fell off the bus")
        self.hangs: threading.Event | None = None

    def read(self, pids: Collection[int]) -> Reading:
        if self.hangs is not None:
            self.hangs.wait()
        if self.broken:
            raise self.error
        held = None if self.held is None else sum(size for pid, size in self.held.items() if pid in pids)
        return Reading(total_bytes=self.total_bytes, free_bytes=self.free_bytes, held_bytes=held)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The host: 16 GiB, of which 12 are free at the start."""
    device = Device(16 * GIB, 12 * GIB)
    monkeypatch.setattr(devices, "HostGauge", lambda: device)
    monkeypatch.setattr(devices, "read_memory", lambda: Memory(total_bytes=16 * GIB, free_bytes=0))
    monkeypatch.setattr(devices, "count_cores", lambda: 6)
    return device


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A CUDA device: 80 GiB, of which 70 are free at the start."""
    device = Device(80 * GIB, 70 * GIB)
    monkeypatch.setattr(devices, "open_nvml", SimpleNamespace)
    monkeypatch.setattr(devices, "NvmlGauge", lambda _, uuid: {"GPU-1": device}[uuid])
    return device


def report(*found: DeviceInfo, name: str = "one", state: BackendState = BackendState.READY) -> BackendReport:
    return BackendReport(name=name, state=state, devices=found)


def info(device_id: str, memory_bytes: int = GIB, cores: int = 0, uuid: str = "") -> DeviceInfo:
    return DeviceInfo(device_id=device_id, description="", memory_bytes=memory_bytes, cores=cores, uuid=uuid)


def test_the_host_is_always_there(host: Device) -> None:
    """Without a backend the host has what is free of its memory less the reserve of all of it, and its cores."""
    assert find_devices((), EIGHTH) == (DeviceCapacity(device_id=HOST, memory_bytes=10 * GIB, cores=6),)
    host.free_bytes = GIB
    assert find_devices((), EIGHTH)[0].memory_bytes == 0


@pytest.mark.usefixtures("host")
def test_one_id_is_one_device(cuda: Device) -> None:
    """Backends that know the same devices share them; the driver is asked where one of them names the hardware."""
    reports = (
        report(info("cpu:0", cores=64), info("cuda:0", 80 * GIB), name="a"),
        report(info("cuda:0", 80 * GIB, uuid="GPU-1"), info("cpu:0"), name="b"),
        report(info("gone:0"), name="c", state=BackendState.FAILED),
    )
    found = find_devices(reports, EIGHTH)
    assert [(device.device_id, device.memory_bytes // GIB, device.cores) for device in found] == [
        (HOST, 10, 6),
        (CUDA, 60, 0),
    ]
    cuda.broken = True
    with structlog.testing.capture_logs() as logs:
        assert find_devices(reports, EIGHTH)[1].memory_bytes == 70 * GIB
    assert logs[0]["device"] == CUDA


@pytest.mark.usefixtures("host")
def test_a_device_that_nobody_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device of another kind, or without the driver's library, may be given what its backend found."""
    monkeypatch.setattr(devices, "open_nvml", lambda: None)
    found = find_devices((report(info("fake:0"), info("cuda:0", uuid="GPU-1")),), EIGHTH)
    assert {device.device_id: device.memory_bytes for device in found[1:]} == {FAKE: GIB // 8 * 7, CUDA: GIB // 8 * 7}


@pytest.mark.usefixtures("host")
def test_the_configuration_wins() -> None:
    """A size that is named is taken as it is, and a name that no device has is logged with the nearest one."""
    settings = Devices(memory_bytes={"cpu:0": 5, "fake:0": 7, "fak:0": 9})
    with structlog.testing.capture_logs() as logs:
        found = find_devices((report(info("fake:0")),), settings)
    assert [device.memory_bytes for device in found] == [5, 7]
    assert [(entry["device"], entry["did_you_mean"]) for entry in logs] == [("fak:0", "fake:0")]


def test_this_host() -> None:
    """Of a real host some memory may be given, less than there is."""
    (host,) = find_devices((), Devices())
    assert 0 < host.memory_bytes < gauges.read_memory().total_bytes


class Scene:
    """A meter, and what it is told and tells."""

    def __init__(self, *reports: BackendReport, settings: Devices = EIGHTH, pids: Collection[int] = ()) -> None:
        self.pids = set(pids)
        self.leased: dict[DeviceId, int] = {}
        self.instances: dict[DeviceId, int] = {}
        self.told: list[tuple[DeviceId, int]] = []
        self.meter = DeviceMeter(
            reports,
            settings,
            pids=lambda: self.pids,
            leased_bytes=lambda name: self.leased.get(name, 0),
            instance_bytes=lambda name: self.instances.get(name, 0),
            tell=lambda name, size: self.told.append((name, size)),
        )

    async def measure(self) -> list[tuple[DeviceId, int]]:
        """What one measurement tells."""
        self.told.clear()
        await self.meter.measure()
        return self.told


async def test_strangers_are_what_is_left(host: Device) -> None:
    """What was held at the start, the kernel and its workers are none; what others take and give back is told."""
    host.held = {os.getpid(): GIB}
    scene = Scene()
    host.held |= {7: 2 * GIB}
    host.held[os.getpid()] += GIB
    scene.pids = {7}
    host.free_bytes -= 3 * GIB
    assert await scene.measure() == []
    host.free_bytes -= 2 * GIB
    assert await scene.measure() == [(HOST, 2 * GIB)]
    assert await scene.measure() == []
    host.free_bytes += 6 * GIB  # more than at the start
    assert await scene.measure() == [(HOST, 0)]


async def test_workers_that_run_at_the_start_are_no_strangers(host: Device) -> None:
    """A worker that ran already when the meter was made gives room when it ends, not a stranger's place."""
    host.held = {7: 2 * GIB}
    scene = Scene(pids={7})
    host.held = {}
    host.free_bytes += 2 * GIB
    assert await scene.measure() == []
    host.free_bytes -= 2 * GIB
    assert await scene.measure() == [(HOST, 2 * GIB)]


async def test_noise_is_not_told(host: Device) -> None:
    """A change by less than the step is not told, and is told when it has added up."""
    scene = Scene()
    host.free_bytes -= TOLD_STEP_BYTES - 1
    assert await scene.measure() == []
    host.free_bytes -= 1
    assert await scene.measure() == [(HOST, TOLD_STEP_BYTES)]


async def test_what_is_leased_counts_once(host: Device) -> None:
    """A program that fills the memory that it has leased is no stranger, as far as the lease goes."""
    scene = Scene()
    scene.leased[HOST] = 2 * GIB
    host.free_bytes -= 2 * GIB
    assert await scene.measure() == []
    host.free_bytes -= GIB
    assert await scene.measure() == [(HOST, GIB)]


async def test_a_size_that_is_named_is_not_measured(host: Device) -> None:
    """On a device whose size the configuration names, nobody is a stranger."""
    scene = Scene(settings=Devices(memory_bytes={"cpu:0": GIB}))
    host.free_bytes = 0
    assert await scene.measure() == []


@pytest.mark.usefixtures("host")
async def test_devices_that_do_not_tell_of_processes(cuda: Device) -> None:
    """Where the driver does not tell what our workers hold, what is reserved for them is taken for it."""
    cuda.held = None
    scene = Scene(report(info("cuda:0", uuid="GPU-1")))
    scene.instances[CUDA] = 20 * GIB
    cuda.free_bytes -= 15 * GIB
    assert await scene.measure() == []
    cuda.free_bytes -= 15 * GIB
    assert await scene.measure() == [(CUDA, 10 * GIB)]
    cuda.held = {7: 4 * GIB}
    scene.pids = {7}
    assert await scene.measure() == [(CUDA, 26 * GIB)]


@pytest.mark.parametrize("error", [GaugeError("it fell off the bus"), OSError("no such file"), ValueError("nonsense")])
async def test_a_device_that_fails_meanwhile(host: Device, cuda: Device, error: Exception) -> None:
    """A device that cannot be read, whatever was raised, is logged and shown; others go on, and it does later."""
    scene = Scene(report(info("cuda:0", uuid="GPU-1")))
    cuda.broken, cuda.error = True, error
    host.free_bytes -= GIB
    with structlog.testing.capture_logs() as logs:
        assert await scene.measure() == [(HOST, GIB)]
        assert await scene.measure() == []
        assert [*scene.meter.failing] == [CUDA]
        cuda.broken = False
        cuda.free_bytes -= GIB
        assert await scene.measure() == [(CUDA, GIB)]
    assert scene.meter.failing == {}
    assert [entry["event"] for entry in logs] == ["device cannot be measured", "device is measured again"]
    assert str(error) in logs[0]["why"]


async def test_a_driver_that_does_not_answer(host: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown after its time, it is not asked a second time meanwhile, and its late answer is taken."""
    scene = Scene()
    host.hangs = threading.Event()
    host.free_bytes -= GIB
    monkeypatch.setattr(devices, "ANSWER_S", 0.05)
    threads = set(threading.enumerate())
    for _ in range(3):
        assert await scene.measure() == []
        assert scene.meter.failing == {HOST: "its driver did not answer within 0.05 s"}
    assert len(set(threading.enumerate()) - threads) == 1
    host.hangs.set()
    monkeypatch.setattr(devices, "ANSWER_S", 20.0)
    assert await scene.measure() == [(HOST, GIB)]
    assert scene.meter.failing == {}


async def test_it_measures_again_and_again(host: Device) -> None:
    """The meter measures until it is cancelled."""
    scene = Scene(settings=Devices(measure_s=0.001))
    heard: asyncio.Queue[int] = asyncio.Queue()
    scene.meter._tell = lambda _, size: heard.put_nowait(size)
    life = asyncio.create_task(scene.meter.run())
    for expected in (GIB, 2 * GIB):
        host.free_bytes -= GIB
        async with asyncio.timeout(60):
            assert await heard.get() == expected
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life


async def test_nothing_ends_the_meter(host: Device) -> None:
    """When whoever is told fails, the meter shows that and goes on; what could not be told is told again."""
    scene = Scene(settings=Devices(measure_s=0.001))
    heard: asyncio.Queue[int] = asyncio.Queue()
    shown: list[str] = []

    def tell(_: DeviceId, size: int) -> None:
        if not scene.meter.failing:
            raise RuntimeError("nobody listens")
        shown.append(scene.meter.failing[HOST])
        heard.put_nowait(size)

    scene.meter._tell = tell
    host.free_bytes -= GIB
    life = asyncio.create_task(scene.meter.run())
    async with asyncio.timeout(60):
        assert await heard.get() == GIB
    assert shown == ["measuring failed: RuntimeError: nobody listens"]
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life


async def test_what_a_lessee_holds_is_taken_once_by_the_next_kernel(
    host: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that fills its lease, and outlives the kernel, leaves to the others what was left to them before.

    What strangers take meanwhile is seen, and without leases there is what is free when a kernel begins.
    """
    named: dict[str, Any] = {
        "backends": [],
        "devices": {"reserve": 0.125},
        "store": {"url": f"sqlite:{tmp_path}/store"},
        "leases": {"max_ttl_s": 9e6},
    }
    meters: list[DeviceMeter] = []

    def noted(*given: Any, **named: Any) -> DeviceMeter:
        meters.append(DeviceMeter(*given, **named))
        return meters[-1]

    monkeypatch.setattr(finding, "DeviceMeter", noted)
    spec = LeaseSpec(lease_id=LeaseId("l"), tenant=Tenant("a"), claims=(MemoryClaim(memory_bytes=4 * GIB),), ttl_s=9e6)
    async with front_here(tmp_path, **named) as front:
        driver = front.tasks._driver
        driver.create_lease(spec)
        assert driver.keeper is not None
        await driver.keeper.granted(spec.lease_id)
        assert driver.views.devices[HOST].free_bytes == 6 * GIB
    for foreign_bytes in (0, GIB):
        host.free_bytes = 8 * GIB - foreign_bytes
        async with front_here(tmp_path, **named) as front:
            driver, account = front.tasks._driver, front.tasks._driver.views.devices[HOST]
            await meters[-1].measure()
            assert (account.capacity_bytes, account.lease_bytes) == (10 * GIB, 4 * GIB)
            assert (account.foreign_bytes, account.free_bytes) == (foreign_bytes, 6 * GIB - foreign_bytes)
            if foreign_bytes:
                driver.release_lease(spec.lease_id, spec.tenant)
                assert driver.keeper is not None
                await driver.keeper.drain()
    async with front_here(tmp_path, **named) as front:
        assert front.tasks._driver.views.devices[HOST].capacity_bytes == 5 * GIB
