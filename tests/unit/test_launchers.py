"""Workers on hosts that are not the kernel's own: whatever starts them, the kernel sees the same."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from time_limits import LONG_S

from inferd import __version__
from inferd.core.host import device_on
from inferd.core.ids import HostId, InstanceId, ModelName
from inferd.core.model import ModelSpec
from inferd.core.vigil import WorkerTimes
from inferd.runtime.frames import load_frame, read_sandbox
from inferd.runtime.supervisor import Supervisor
from inferd.sandbox.state import SandboxLevel, State
from inferd_api.worker.v1 import load_pb2, sandbox_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

FAR, NAME = HostId("far"), InstanceId("m-1")
DEVICE = device_on(FAR, "cpu:0")
TIMES = WorkerTimes(
    start_timeout_s=60.0, load_silence_s=60.0, heartbeat_s=0.02, heartbeat_timeout_s=60.0, step_floor_s=60.0,
    step_ceiling_s=60.0, stop_timeout_s=20.0,
)  # fmt: skip
PARTIAL = sandbox_pb2.SandboxState(level=SandboxLevel.PARTIAL.value, reasons=["why"])
FULL = sandbox_pb2.SandboxState(level=SandboxLevel.FULL.value)
LOAD = load_frame(
    NAME,
    ModelSpec(
        name=ModelName("m"), source="/m", path="/m", format="fake", size_bytes=1, backend="fake", backend_reason="",
        loader="x:Y", devices=(DEVICE,),
    ),
    load_pb2.EngineLimits(step_tokens=512),
    device_id=DEVICE,
    capacity_bytes=1 << 30,
)  # fmt: skip


class FarWorker:
    """A worker that is no process here: it answers as one does, and writes down what it is told."""

    pid = 4711

    def __init__(self, on_frame: Callable[[wire.WorkerFrame], None], on_closed: Callable[[str], None]) -> None:
        self.sent: list[str] = []
        self.load: load_pb2.Load | None = None
        self.ended: list[tuple[bool, bool]] = []
        self._on_frame = on_frame
        self._on_closed = on_closed

    def send(self, frame: wire.KernelFrame, _: object = ()) -> None:
        kind = str(frame.WhichOneof("kind"))
        self.sent += [] if kind == "ping" else [kind]
        match kind:
            case "load":
                self.load = frame.load
                self.say(wire.WorkerFrame(sealed=PARTIAL))
                self.say(wire.WorkerFrame(needs=load_pb2.Needs()))
            case "proceed":
                self.say(wire.WorkerFrame(sealed=FULL))  # by then the model may have taken it over
                self.say(wire.WorkerFrame(loaded=load_pb2.Loaded(memory_bytes=100, sandbox=FULL)))
            case "ping":
                self.say(wire.WorkerFrame(pong=wire.Pong(nonce=frame.ping.nonce, memory_bytes=500)))
            case "stop":
                asyncio.get_running_loop().call_soon(self._on_closed, "it closed its link")

    def say(self, frame: wire.WorkerFrame) -> None:
        asyncio.get_running_loop().call_soon(self._on_frame, frame)

    async def resident_bytes(self) -> int:
        return 500

    async def tail(self) -> str:
        return "; the last line of its log: bye"

    async def end(self, *, went: bool, hangs: bool) -> str:
        self.ended.append((went, hangs))
        return "it exited with status 3"


class FarLauncher:
    """Starts such workers."""

    def __init__(self) -> None:
        self.workers: list[FarWorker] = []

    def log_of(self, instance_id: InstanceId) -> str:
        return f"far:/logs/{instance_id}"

    def silent_s(self) -> float | None:
        return None

    async def read_log(self, instance_id: InstanceId, offset_bytes: int, most_bytes: int) -> tuple[bytes, int]:
        raise NotImplementedError

    async def launch(
        self,
        instance_id: InstanceId,
        *,
        on_frame: Callable[[wire.WorkerFrame], None],
        on_closed: Callable[[str], None],
    ) -> FarWorker:
        assert instance_id == NAME
        self.workers.append(FarWorker(on_frame, on_closed))
        self.workers[0].say(wire.WorkerFrame(hello=wire.Hello(version=__version__, pid=FarWorker.pid)))
        return self.workers[0]


class Listener:
    """Hears of the worker."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.exits: list[tuple[InstanceId, str, str]] = []
        self.sandbox: State | None = None

    def worker_frame(self, _: InstanceId, frame: wire.WorkerFrame, __: object = ()) -> None:
        self.heard.put_nowait(str(frame.WhichOneof("kind")))
        if frame.HasField("loaded"):
            self.sandbox = read_sandbox(frame.loaded)

    def worker_memory(self, _: InstanceId, memory_bytes: int) -> None:
        self.heard.put_nowait(f"{memory_bytes} bytes")

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: str) -> None:
        self.exits.append((instance_id, why, log_path))


async def test_the_life_of_a_worker_on_another_host() -> None:
    """It is told its device by its name there, loads, beats, and ends; none of it is a process of this host.

    What it says of its sandbox before it opens its model holds, whatever it says later.
    """
    listener, launcher = Listener(), FarLauncher()
    supervisor = Supervisor(times=TIMES, launchers={FAR: launcher}, listener=listener)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        supervisor.start(group, NAME, LOAD, host_id=FAR)
        worker = supervisor.workers[NAME]
        assert [await listener.heard.get() for _ in range(2)] == ["hello", "needs"]
        assert (worker.pid, await worker.resident_bytes(), supervisor.pids()) == (FarWorker.pid, 500, set())
        worker.proceed()
        assert [await listener.heard.get() for _ in range(2)] == ["loaded", "500 bytes"]
        worker.stop()
    (far,) = launcher.workers
    assert (far.sent, far.ended) == (["load", "proceed", "stop"], [(True, False)])
    assert far.load is not None
    assert far.load.device == "cpu:0"
    assert listener.sandbox == State(SandboxLevel.PARTIAL, ("why",))
    ended = "it exited with status 3; the last line of its log: bye"
    assert listener.exits == [(NAME, ended, "far:/logs/m-1")]


async def test_a_worker_where_nobody_starts_any() -> None:
    """It ends at once, and says that its host has no launcher."""
    listener = Listener()
    supervisor = Supervisor(times=TIMES, launchers={}, listener=listener)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        supervisor.start(group, NAME, LOAD, host_id=FAR)
    assert [why for _, why, _ in listener.exits] == [
        "it could not be started: nobody starts workers on host 'far', where 'm-1' was to be"
    ]


async def test_a_launcher_that_fails_ends_its_worker_only() -> None:
    """Whatever a launcher raises is how its worker ended; those of other instances live on."""

    class Broken(FarLauncher):
        async def launch(self, *_: object, **__: object) -> FarWorker:
            raise ValueError("no such flag")

    listener = Listener()
    supervisor = Supervisor(times=TIMES, launchers={FAR: Broken()}, listener=listener)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        supervisor.start(group, NAME, LOAD, host_id=FAR)
    assert [why for _, why, _ in listener.exits] == ["it could not be started: no such flag"]


async def test_a_worker_that_cannot_be_ended_in_order_ends_no_other() -> None:
    """Whatever its launcher raises at its end is told as how it ended, so that the core waits for nothing."""

    class Broken(FarWorker):
        async def end(self, *, went: bool, hangs: bool) -> str:
            raise RuntimeError(f"no such process ({went}, {hangs})")

    class Launcher(FarLauncher):
        async def launch(self, *_: object, **more: Callable[..., None]) -> FarWorker:
            return Broken(more["on_frame"], more["on_closed"])

    listener = Listener()
    supervisor = Supervisor(times=TIMES, launchers={FAR: Launcher()}, listener=listener)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        supervisor.start(group, NAME, LOAD, host_id=FAR)
        supervisor.workers[NAME].end("it was given up")
    assert supervisor.workers == {}
    why = "it could not be ended in order: no such process (False, False)"
    assert [each for _, each, _ in listener.exits] == [why]


async def test_a_worker_that_is_adopted_waits_for_no_files() -> None:
    """It has loaded its model: its host ends it where nobody takes it up in time, whatever has to be opened here."""
    opened: list[object] = []

    @asynccontextmanager
    async def opening(path: object) -> AsyncIterator[None]:
        opened.append(path)
        yield

    adopter, listener = FarLauncher(), Listener()
    supervisor = Supervisor(times=TIMES, launchers={FAR: FarLauncher()}, listener=listener)
    supervisor.opening = opening
    async with asyncio.timeout(LONG_S), asyncio.TaskGroup() as group:
        supervisor.start(group, NAME, LOAD, host_id=FAR, launcher=adopter)
        supervisor.workers[NAME].stop()
    assert not opened
    async with asyncio.timeout(LONG_S), asyncio.TaskGroup() as group:
        supervisor.start(group, NAME, LOAD, host_id=FAR)
        supervisor.workers[NAME].stop()
    assert opened == ["/m"]
