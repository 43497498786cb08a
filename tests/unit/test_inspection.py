"""Finding out what a model needs: real workers, with the FakeBackend."""

import asyncio
from pathlib import Path

import psutil
import pytest

from inferd.core.host import LOCAL_HOST
from inferd.core.ids import DeviceId, InstanceId, ModelName
from inferd.core.model import ModelSpec
from inferd.core.resources import MemoryNeed
from inferd.core.vigil import WorkerTimes
from inferd.errors import ModelLoadError, WorkerDiedError
from inferd.runtime.inspection import CONCURRENT_INSPECTIONS, Inspections
from inferd.runtime.local_launcher import LocalLauncher
from inferd.runtime.memory_group import MemoryGroup
from inferd.runtime.supervisor import Supervisor
from inferd.runtime.worker import Worker
from inferd.testing.kernel import write_fake_model
from inferd_api.worker.v1 import load_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

LIMITS = load_pb2.EngineLimits(step_tokens=512, template_timeout_s=10, max_output_tokens=1000)
FAKE = DeviceId("fake:0")


class Nobody:
    """A listener that must not hear anything."""

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame) -> None:
        raise AssertionError(f"{instance_id} sent {frame}")

    def worker_memory(self, instance_id: InstanceId, memory_bytes: int) -> None:
        raise AssertionError(f"{instance_id} has {memory_bytes}")

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: str) -> None:
        raise AssertionError(f"{instance_id} ended: {why}; {log_path}")


def supervise(folder: Path, **changes: float) -> Supervisor:
    patient = {"start_timeout_s": 30.0, "load_silence_s": 30.0, "heartbeat_s": 0.1, "heartbeat_timeout_s": 30.0}
    times = WorkerTimes(**{**patient, "step_floor_s": 60.0, "step_ceiling_s": 60.0, "stop_timeout_s": 20.0, **changes})
    launcher = LocalLauncher(folder / "logs", frame_limit_bytes=1 << 24)
    return Supervisor(times=times, launchers={LOCAL_HOST: launcher}, listener=Nobody())


def make_spec(path: Path) -> ModelSpec:
    return ModelSpec(
        name=ModelName("m"),
        source=str(path),
        path=str(path),
        format="fake",
        size_bytes=1,
        backend="fake",
        backend_reason="",
        loader="inferd.testing.fake:FakeBackend",
        devices=(FAKE,),
    )


async def inspect(supervisor: Supervisor, path: Path) -> MemoryNeed:
    return await Inspections(supervisor).inspect(make_spec(path), FAKE, limits=LIMITS, capacity_bytes=1 << 30)


@pytest.fixture
def started() -> asyncio.Queue[Worker]:
    """The workers that were started."""
    return asyncio.Queue()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, started: asyncio.Queue[Worker]) -> list[Worker]:
    """The same as a list."""
    workers: list[Worker] = []
    run = Worker.run

    async def note(self: Worker) -> str:
        workers.append(self)
        started.put_nowait(self)
        return await run(self)

    monkeypatch.setattr(Worker, "run", note)
    return workers


def expect_gone(supervisor: Supervisor, made: list[Worker]) -> None:
    assert supervisor.workers == {}
    assert supervisor.measuring == set()
    assert not [worker.pid for worker in made if psutil.pid_exists(worker.pid)]


async def test_need(tmp_path: Path, made: list[Worker]) -> None:
    """The need is what the backend measures; nobody hears of the worker, and it is gone afterwards."""
    supervisor = supervise(tmp_path)
    path = write_fake_model(tmp_path, weights_bytes=5, kv_bytes=6, workspace_bytes=7, load_s=10**6)
    assert await inspect(supervisor, path) == MemoryNeed(weights_bytes=5, kv_bytes=6, workspace_bytes=7)
    assert len(made) == 1
    expect_gone(supervisor, made)


async def test_a_model_that_cannot_be_loaded(tmp_path: Path, made: list[Worker]) -> None:
    """What measuring refuses is the error of a load, with the path of the log."""
    supervisor = supervise(tmp_path)
    with pytest.raises(ModelLoadError, match="tensor 'x' is missing") as caught:
        await inspect(supervisor, write_fake_model(tmp_path, measure_error="tensor 'x' is missing"))
    assert caught.value.metadata["log"].endswith(".log")
    expect_gone(supervisor, made)


async def test_a_worker_that_dies(tmp_path: Path, made: list[Worker]) -> None:
    """A backend that kills its process while it measures is an error with the signal."""
    supervisor = supervise(tmp_path)
    with pytest.raises(WorkerDiedError, match="model 'm' died: it was ended by signal 9") as caught:
        await inspect(supervisor, write_fake_model(tmp_path, die_in_measure=True))
    assert caught.value.metadata["log"].endswith(".log")
    expect_gone(supervisor, made)


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        (1, r"signal 9 \(SIGKILL\): memory ran out, and the system ended 1 of its processes"),
        (0, r"signal 9 \(SIGKILL\), perhaps because memory ran out \(this kernel may make no control groups"),
    ],
    ids=["counted", "a guess"],
)
async def test_a_worker_that_the_system_ends(
    tmp_path: Path, made: list[Worker], monkeypatch: pytest.MonkeyPatch, groups: int, why: str
) -> None:
    """That memory ran out is told where the worker's control group counts it, and said to be a guess where none is."""
    counting = MemoryGroup(tmp_path, 1)
    monkeypatch.setattr(counting, "ended_for_memory", lambda: 1)
    monkeypatch.setattr(MemoryGroup, "make", lambda _, **__: counting if groups else None)
    supervisor = supervise(tmp_path)
    with pytest.raises(WorkerDiedError, match=why):
        await inspect(supervisor, write_fake_model(tmp_path, die_in_measure=True))
    expect_gone(supervisor, made)


@pytest.mark.parametrize(
    ("behaviour", "kind", "why"),
    [
        (
            {"measure_takes": "memory"},
            ModelLoadError,
            r"memory than it may, 67108864 bytes \(workers.look_memory_b",
        ),
        ({"measure_takes": "descriptors"}, ModelLoadError, r"more files than it may, 64 \(workers.look_descriptors\)"),
        ({"hang_at": "measure", "hang_by": "spin"}, WorkerDiedError, r"than workers.look_cpu_s allows \(SIGXCPU\)"),
    ],
    ids=["memory", "descriptors", "processor"],
)
async def test_a_file_that_takes_too_much_to_look_at(
    tmp_path: Path, made: list[Worker], behaviour: dict[str, str], kind: type[Exception], why: str
) -> None:
    """A file that has a backend take memory, files or time without end costs its own worker alone, and is told why."""
    limits = load_pb2.EngineLimits(look=load_pb2.LookLimits(memory_bytes=64 << 20, cpu_s=1, descriptors=64))
    supervisor = supervise(tmp_path)
    spec = make_spec(write_fake_model(tmp_path, **behaviour))
    with pytest.raises(kind, match=why):
        await Inspections(supervisor).inspect(spec, FAKE, limits=limits, capacity_bytes=1 << 30)
    expect_gone(supervisor, made)


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"load_silence_s": 1.0}, "longer than the 1 s that it may be"),
        ({"heartbeat_s": 1000.0, "start_timeout_s": 3.0, "load_silence_s": 1.0}, "did not answer within 4 s"),
    ],
    ids=["silent", "too long"],
)
async def test_a_worker_that_hangs(tmp_path: Path, made: list[Worker], times: dict[str, float], why: str) -> None:
    """A backend that never comes back from measuring is given up."""
    supervisor = supervise(tmp_path, **times)
    with pytest.raises(WorkerDiedError, match=why):
        await inspect(supervisor, write_fake_model(tmp_path, hang_at="measure"))
    expect_gone(supervisor, made)


async def test_few_at_once(tmp_path: Path, made: list[Worker], started: asyncio.Queue[Worker]) -> None:
    """Only some measure at once; the others follow when they are given up, and every worker ends with its caller."""
    supervisor = supervise(tmp_path)
    inspections = Inspections(supervisor)
    spec = make_spec(write_fake_model(tmp_path, hang_at="measure"))
    wanted = [
        asyncio.create_task(inspections.inspect(spec, FAKE, limits=LIMITS, capacity_bytes=1))
        for _ in range(CONCURRENT_INSPECTIONS + 1)
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*(started.get() for _ in range(CONCURRENT_INSPECTIONS)))
        assert len(made) == len(supervisor.measuring) == CONCURRENT_INSPECTIONS
        wanted[0].cancel()
        await started.get()
    for task in wanted:
        task.cancel()
    await asyncio.wait(wanted)
    assert all(task.cancelled() for task in wanted)
    expect_gone(supervisor, made)
