"""Worker processes as the kernel sees them: real ones, with the FakeBackend."""

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from time_limits import LONG_S

from inferd.core.host import LOCAL_HOST
from inferd.core.ids import DeviceId, InstanceId, ModelName
from inferd.core.model import ModelSpec
from inferd.core.vigil import WorkerTimes
from inferd.removing import remove_tree
from inferd.runtime.frames import load_frame
from inferd.runtime.local_launcher import LocalLauncher, LocalWorker
from inferd.runtime.scratch import Watched
from inferd.runtime.supervisor import Supervisor
from inferd.runtime.worker import Worker
from inferd.testing.kernel import write_fake_model
from inferd_api.worker.v1 import load_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

DEADLINE_S = 60.0
LIMITS = load_pb2.EngineLimits(step_tokens=512, template_timeout_s=10, max_output_tokens=1000)
FAKE = "inferd.testing.fake:FakeBackend"
NAME = InstanceId("m/1")
FAKE_DEVICE = DeviceId("fake:0")


def make_times(**changes: float) -> WorkerTimes:
    patient = {"start_timeout_s": 60.0, "load_silence_s": 60.0, "heartbeat_s": 0.02, "heartbeat_timeout_s": 60.0}
    return WorkerTimes(**{**patient, "step_floor_s": 60.0, "step_ceiling_s": 60.0, "stop_timeout_s": 20.0, **changes})


def make_spec(path: Path, *, loader: str = FAKE) -> ModelSpec:
    return ModelSpec(
        name=ModelName("m"),
        source=str(path),
        path=str(path),
        format="fake",
        size_bytes=1,
        backend="fake",
        backend_reason="",
        loader=loader,
        devices=(FAKE_DEVICE,),
    )


class Listener:
    """Hears of workers, and lets a test wait for what it wants to hear."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.memory: list[int] = []
        self.why = ""
        self._changed = asyncio.Event()

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame, _: object = ()) -> None:
        assert instance_id == NAME
        self.kinds.append(str(frame.WhichOneof("kind")))
        self._changed.set()

    def worker_memory(self, instance_id: InstanceId, memory_bytes: int) -> None:
        assert instance_id == NAME
        self.memory.append(memory_bytes)
        self._changed.set()

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: str) -> None:
        assert (instance_id, Path(log_path).suffix) == (NAME, ".log")
        self.why = why
        self._changed.set()

    async def hear(self, wanted: Callable[[], Any]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not wanted():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def listener() -> Listener:
    return Listener()


def supervise(listener: Listener, folder: Path, **times: float) -> Supervisor:
    launcher = LocalLauncher(folder / "logs", frame_limit_bytes=1 << 24)
    return Supervisor(times=make_times(**times), launchers={LOCAL_HOST: launcher}, listener=listener)


def start(supervisor: Supervisor, group: asyncio.TaskGroup, spec: ModelSpec) -> Worker:
    supervisor.start(group, NAME, load_frame(NAME, spec, LIMITS, device_id=FAKE_DEVICE, capacity_bytes=1 << 30))
    return supervisor.workers[NAME]


async def test_life(listener: Listener, tmp_path: Path) -> None:
    """A worker measures and waits; it loads when it may, and ends in order when it is told to."""
    supervisor = supervise(listener, tmp_path)
    path = write_fake_model(tmp_path)
    async with asyncio.TaskGroup() as group:
        worker = start(supervisor, group, make_spec(path))
        await listener.hear(lambda: "needs" in listener.kinds)
        assert "load_progress" not in listener.kinds
        assert supervisor.pids() == {worker.pid}
        worker.proceed()
        await listener.hear(lambda: "loaded" in listener.kinds)
        assert worker.load_fraction == 1
        assert worker.memory_bytes > 1 << 20
        worker.stop()
    assert listener.why
    assert supervisor.workers == {}
    assert not psutil.pid_exists(worker.pid)


async def test_a_worker_takes_all_descriptors_that_it_may(listener: Listener, tmp_path: Path) -> None:
    """A worker that is started with a low limit raises it to the highest that it may have."""
    supervisor = supervise(listener, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with asyncio.TaskGroup() as group:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        try:
            worker = start(supervisor, group, make_spec(write_fake_model(tmp_path)))
            await listener.hear(lambda: "needs" in listener.kinds)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert psutil.Process(worker.pid).rlimit(psutil.RLIMIT_NOFILE) == (before[1], before[1])
        worker.stop()


async def test_stop_while_it_waits(listener: Listener, tmp_path: Path) -> None:
    """A worker that waits for room ends at once when it is told to."""
    supervisor = supervise(listener, tmp_path, stop_timeout_s=10**6)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        worker = start(supervisor, group, make_spec(write_fake_model(tmp_path, load_s=10**6)))
        await listener.hear(lambda: "needs" in listener.kinds)
        worker.stop()
    assert "load_progress" not in listener.kinds


@pytest.mark.parametrize(
    ("times", "proceeds"),
    [({"heartbeat_timeout_s": 1.0}, False), ({"load_silence_s": 1.0}, True)],
    ids=["waiting", "loading"],
)
async def test_silence(listener: Listener, tmp_path: Path, times: dict[str, float], proceeds: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A worker that waits for room is bound by its heartbeat, and by the silence of a load only when it may load."""
    supervisor = supervise(listener, tmp_path, **times)
    async with asyncio.TaskGroup() as group:
        worker = start(supervisor, group, make_spec(write_fake_model(tmp_path, load_s=10**6)))
        await listener.hear(lambda: "needs" in listener.kinds)
        if proceeds:
            worker.proceed()
            await listener.hear(lambda: "load_progress" in listener.kinds)
        os.kill(worker.pid, signal.SIGSTOP)
    assert "longer than the 1 s that it may be" in listener.why


async def test_a_worker_that_cannot_be_started(listener: Listener, tmp_path: Path) -> None:
    """A worker whose log cannot be written does not start; that is how it ended."""
    supervisor = supervise(listener, tmp_path)
    async with asyncio.TaskGroup() as group:
        (tmp_path / "logs").rmdir()
        start(supervisor, group, make_spec(tmp_path))
    assert "could not be started: " in listener.why
    assert listener.kinds == []


def pong(memory_bytes: int) -> wire.WorkerFrame:
    return wire.WorkerFrame(pong=wire.Pong(memory_bytes=memory_bytes))


@pytest.mark.parametrize(("device", "told"), [("cpu:0", [1000, 1011, 990]), ("cuda:0", [])])
async def test_resident_memory(listener: Listener, tmp_path: Path, device: str, told: list[int]) -> None:
    """On the host, resident memory is told when it changes by more than 1 %, from when the model is loaded."""
    load = load_frame(NAME, make_spec(tmp_path), LIMITS, device_id=DeviceId(device), capacity_bytes=1 << 30)
    supervisor = supervise(listener, tmp_path)
    worker = supervisor.make(NAME, load, on_frame=listener.worker_frame, on_memory=listener.worker_memory)
    worker._receive(pong(5000))
    worker._receive(wire.WorkerFrame(load_progress=load_pb2.LoadProgress(fraction=1)))
    worker._receive(pong(5000))
    worker._receive(wire.WorkerFrame(loaded=load_pb2.Loaded(memory_bytes=7)))
    for memory_bytes in (1000, 1010, 1011, 1001, 990):
        worker._receive(pong(memory_bytes))
    assert listener.memory == told
    assert worker.memory_bytes == 990


async def test_a_worker_is_gone_when_its_life_is_cut_short_while_it_is_ended(tmp_path: Path) -> None:
    """A kernel that is cancelled while it waits for a hung worker to write where it is leaves no process behind."""
    process = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    os.kill(process.pid, signal.SIGSTOP)  # a stopped one does not hear SIGABRT
    worker = LocalWorker(process, Watched(tmp_path / "scratch", tmp_path / "log", 0, 0))
    ending = asyncio.create_task(worker.end(went=False, hangs=True))
    await asyncio.sleep(0)  # it waits now
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert process.returncode == -signal.SIGKILL


async def test_a_worker_that_has_written_too_much_is_ended_with_both_numbers(tmp_path: Path) -> None:
    """What its scratch and its log take is looked at while it lives; how it ended says that, and not the signal."""
    process = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "log").write_bytes(b"x" * 100_000)
    worker = LocalWorker(process, Watched(tmp_path / "scratch", tmp_path / "log", 50_000, 100))
    async with asyncio.timeout(LONG_S):
        await process.wait()
    how = await worker.end(went=True, hangs=False)
    assert "to its scratch and its log, and may write 50000 (workers.scratch_bytes)" in how


def test_what_a_worker_has_written_is_counted_without_following_links(tmp_path: Path) -> None:
    """Files, folders in folders, too many of them, and what the kernel cannot look into; links lead nowhere."""
    scratch, log = tmp_path / "scratch", tmp_path / "log"
    (scratch / "a" / "b").mkdir(parents=True)
    (scratch / "a" / "b" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "large").write_bytes(b"x" * 1_000_000)
    (scratch / "link").symlink_to(tmp_path / "large")
    (scratch / "loop").symlink_to(scratch)
    watched = Watched(scratch, log, 200_000, 10)
    assert watched.excess() == ""
    assert "may write 90000 (workers.scratch_bytes)" in replace(watched, most_bytes=90_000).excess()
    assert "more than 4 files and folders in its scratch" in replace(watched, most_files=4).excess()
    assert Watched(tmp_path / "gone", log, 1, 1).excess() == ""
    deep = os.open(scratch, os.O_RDONLY)
    for _ in range(300):  # deeper than any path may name
        os.mkdir("d" * 200, dir_fd=deep)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    assert "the kernel cannot look into" in replace(watched, most_files=1000, most_bytes=1 << 30).excess()
    assert not remove_tree(scratch)
