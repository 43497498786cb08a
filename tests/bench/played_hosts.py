"""Hosts whose agents and workers are one process, beside a kernel's own worker: `host.capacity`.

The agents are the product's, each with its streams; what they would start as processes is played: a worker that has
loaded at once, and then computes a step as often as a real one may, with a token for each of its sequences.
`python played_hosts.py FOLDER ADDRESS HOSTS STEP_S` is that process; it ends with its standard input.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from limits import Figure

from inferd import __version__
from inferd.agent import agent as agents
from inferd.agent.cache import Cache
from inferd.agent.connection import Kernels
from inferd.agent.facts import Found
from inferd.config import Settings
from inferd.core.ids import DeviceId, InstanceId
from inferd.core.resources import DeviceCapacity
from inferd.core.task import FinishReason
from inferd.core.vigil import Doing
from inferd.runtime.link import OnClosed, OnFrame
from inferd.testing.kernel import FAKE_PLUGIN, KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.model_pb2 import INSTANCE_STATE_READY, PlacementRules
from inferd_api.worker.v1 import load_pb2, sandbox_pb2, step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as frames
from inferd_client import AsyncClient, Client

HOSTS, EACH = 50, 4  # workers of each host: one of each model
DEVICE = "fake:0"
STREAMS, TOKENS, PROMPT_TOKENS = 1600, 240, 16
STEP_S = 0.02
PAIRS = 3
PATIENCE = {
    "INFERD_HOSTS__DETECTION_S": "60",  # with one process that is all hosts, and so is behind before they would be
    "INFERD_SCHEDULER__TENANT_STREAMS": str(2 * STREAMS),
    "INFERD_LIMITS__QUEUED_TASKS": str(4 * STREAMS),  # a worker that is behind lets some wait
}
LABEL = {"played": "yes"}


class PlayedLink:
    """What an agent does with the link of a worker whose frames are not carried as fast as they come."""

    def __init__(self) -> None:
        self.runs = asyncio.Event()
        self.runs.set()

    def pause(self) -> None:
        self.runs.clear()

    def resume(self) -> None:
        self.runs.set()


@dataclass(slots=True)
class Computed:
    """A task that is computed."""

    left: int
    told: int = 0


class PlayedWorker:
    """A worker, as `LocalWorker` is to its agent."""

    def __init__(self, on_frame: OnFrame, on_closed: OnClosed, step_s: float) -> None:
        self.link = PlayedLink()
        self.pid = os.getpid()
        self._on_frame, self._on_closed, self._step_s = on_frame, on_closed, step_s
        self._sequences: dict[int, Computed] = {}
        self._steps: asyncio.Task[None] | None = None
        self._plain: frames.WorkerFrame | None = None  # the last step, while another one tells the same
        asyncio.get_running_loop().call_soon(self._tell, "hello", frames.Hello(version=__version__, pid=self.pid))

    def _tell(self, kind: str, what: Any) -> None:
        self._on_frame(frames.WorkerFrame(**{kind: what}), ())

    def send(self, frame: frames.KernelFrame, _: Sequence[Any] = ()) -> None:
        match frame.WhichOneof("kind"):
            case "load":
                self._tell("begun", sandbox_pb2.Begun())
                self._tell("sealed", sandbox_pb2.SandboxState())
                self._tell("needs", load_pb2.Needs(weights_bytes=1 << 20))
            case "proceed":
                self._tell("loaded", load_pb2.Loaded(max_tasks=64, context_tokens=4096, kv_tokens=1 << 20))
            case "ping":
                doing = Doing.STEP if self._sequences else Doing.IDLE
                self._tell("pong", frames.Pong(nonce=frame.ping.nonce, doing=doing))
            case "submit":
                self._begin(frame.submit)
            case "cancel":
                self._sequences.pop(frame.cancel.handle, None)
                self._plain = None
            case "stop":
                self._on_closed("")

    def _begin(self, submit: task_pb2.Submit) -> None:
        self._plain = None
        self._sequences[submit.handle] = Computed(submit.work.generate.sampling.max_tokens)
        if self._steps is None or self._steps.done():
            self._steps = asyncio.create_task(self._compute())

    async def _compute(self) -> None:
        """Steps until nothing is left, each a time behind the one before, or later where it is held up."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self._sequences:
            due = max(due + self._step_s, loop.time())
            await asyncio.sleep(due - loop.time())
            await self.link.runs.wait()
            self._on_frame(self._step(), ())

    def _step(self) -> frames.WorkerFrame:
        """The next step. What is told again and again is made once: who plays is beside the kernel on few cores."""
        left = min(sequence.left - sequence.told for sequence in self._sequences.values())
        if self._plain is not None and left > 1:
            for sequence in self._sequences.values():
                sequence.told += 1
            return self._plain
        begins = any(not sequence.told for sequence in self._sequences.values())
        frame = frames.WorkerFrame(step=self._compute_step())
        self._plain = None if begins or left == 1 else frame
        return frame

    def _compute_step(self) -> step_pb2.StepOutput:
        step = step_pb2.StepOutput(seconds=self._step_s, sequences=len(self._sequences), kv_tokens=0)
        for handle, sequence in tuple(self._sequences.items()):
            if not sequence.told:
                step.begun_prompts.add(handle=handle)
            sequence.told += 1
            step.handles.append(handle)
            step.counts.append(1)
            step.token_ids.append(97)
            step.texts.append("a")
            if sequence.told == sequence.left:
                del self._sequences[handle]
                step.ended.add(
                    handle=handle,
                    finish_reason=FinishReason.MAX_TOKENS.value,
                    prompt_tokens=PROMPT_TOKENS,
                    output_tokens=sequence.told,
                )
        return step

    async def resident_bytes(self) -> int:
        return 1 << 20

    async def tail(self) -> str:
        return ""

    async def end(self, *, went: bool, hangs: bool) -> str:  # noqa: ARG002 - as a worker's
        if self._steps is not None:
            self._steps.cancel()
        return ""


class PlayedDevices:
    """A device for each host, of which nobody else takes anything."""

    async def devices(self) -> Sequence[DeviceCapacity]:
        return (DeviceCapacity(device_id=DeviceId(DEVICE), memory_bytes=1 << 30, cores=1),)

    async def measure(self, *_: Any) -> None:
        await asyncio.Event().wait()


class Told:
    """Counts the agents that are attached."""

    def __init__(self, count: int) -> None:
        self.left = count

    def attached(self, epoch: int, *, resumed: bool) -> None:  # noqa: ARG002 - as an agent's watcher
        self.left -= not resumed
        if not self.left:
            print("attached", flush=True)

    def detached(self, why: str) -> None:
        print(why, file=sys.stderr, flush=True)


async def play(folder: Path, address: str, hosts: int, step_s: float) -> None:
    """Be so many hosts until the standard input ends."""

    class PlayedLauncher(agents.LocalLauncher):
        async def launch(self, instance_id: InstanceId, *, on_frame: OnFrame, on_closed: OnClosed) -> Any:  # noqa: ARG002
            return PlayedWorker(on_frame, on_closed, step_s)

    agents.LocalLauncher = PlayedLauncher  # type: ignore[misc] # what would start processes
    settings = Settings(
        state_dir=folder / "state", data_dir=folder / "data", plugin_modules=(FAKE_PLUGIN,), backends=()
    )
    found, told = await Found.here(settings), Told(hosts)
    ends = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ends.set)
    async with asyncio.TaskGroup() as group:
        for number in range(hosts):
            own = folder / str(number)
            agent = agents.Agent(
                found.facts(f"h{number}", LABEL, own / "logs"),
                kernels=Kernels((address,)),
                found=PlayedDevices(),
                log_folder=own / "logs",
                cache=Cache(own / "hosted", 1 << 30),
                watcher=told,
            )
            group.create_task(agent.run(ends))


@contextmanager
def played(folder: Path, address: str, hosts: int, step_s: float) -> Iterator[int]:
    """The process that is so many hosts, attached; its process id."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), str(folder), address, str(hosts), str(step_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        if process.stdout.readline() != "attached\n":
            raise RuntimeError("the played hosts are not attached")
        yield process.pid
        process.stdin.close()
        process.wait(60)
    finally:
        process.kill()
        process.wait()


async def run_streams(address: str, models: Sequence[str]) -> float:
    """Seconds for all streams at once, each with a beginning of its own."""

    async def run(client: AsyncClient, number: int) -> None:
        count = 0
        options: Any = {"max_tokens": TOKENS, "temperature": 0.0, "ignore_eos": True}
        async for event in client.run(models[number % len(models)], f"{number:0{PROMPT_TOKENS}d}", **options):
            count += len(event.output.token_ids)
        if count != TOKENS:
            raise RuntimeError(f"{count} tokens came, {TOKENS} were asked")

    async with AsyncClient(address) as client:
        await client.get_host()
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(run(client, number))
        return time.perf_counter() - started


def own_s(pid: int) -> float:
    """Processor time so far of one process, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def figures(*, only: str) -> Iterator[Figure]:
    """`host.capacity`: tokens a second of workers on many hosts, as a share of what the kernel's own worker tells."""
    if not "host.capacity".startswith(only):
        return
    with (
        tempfile.TemporaryDirectory() as made,
        kernel_process(Path(made), environment=PATIENCE) as kernel,
        played(Path(made) / "hosts", kernel.address, HOSTS, STEP_S),
        Client(kernel.address, timeout_s=300) as client,
    ):
        yield _capacity(client, kernel)


def _capacity(client: Client, kernel: KernelProcess) -> Figure:
    source = str(write_fake_model(kernel.folder, blocks=4 * STREAMS, max_sequences=STREAMS))
    client.create_model("near", source=source, placement=PlacementRules(selector={"host": "local"}))
    client.load_model("near")
    names = [f"far{number}" for number in range(EACH)]
    for name in names:
        rules = PlacementRules(selector=LABEL, apart=True)
        client.create_model(name, source=source, min_instances=HOSTS, max_instances=HOSTS, placement=rules)
    for name in names:
        while sum(i.state == INSTANCE_STATE_READY for i in client.get_model(name).instances) < HOSTS:
            time.sleep(0.1)
    took: dict[str, list[float]] = {"near": [], "far": []}
    effort = dict.fromkeys(took, 0.0)
    for number in range(PAIRS):
        for who in (("near", "far"), ("far", "near"))[number % 2]:
            before_s = own_s(kernel.pid)
            took[who].append(asyncio.run(run_streams(kernel.address, names if who == "far" else [who])))
            effort[who] += own_s(kernel.pid) - before_s
    ratios = [near_s / far_s for near_s, far_s in zip(took["near"], took["far"], strict=True)]
    rates = {who: STREAMS * TOKENS / statistics.median(times) for who, times in took.items()}
    each_us = {who: spent_s / (PAIRS * STREAMS * TOKENS) * 1e6 for who, spent_s in effort.items()}
    detail = (
        f"{HOSTS * EACH} instances on {HOSTS} hosts, {STREAMS} streams of {TOKENS} tokens, a step each"
        f" {STEP_S * 1e3:g} ms: {rates['far']:.0f} tok/s, beside {rates['near']:.0f} of its own worker; median of"
        f" {PAIRS} pairs, {min(ratios):.2f} to {max(ratios):.2f}; processor time of the kernel {each_us['far']:.0f} and"
        f" {each_us['near']:.0f} us a token"
    )
    return Figure(name="host.capacity", value=round(statistics.median(ratios), 3), unit="ratio", detail=detail)


if __name__ == "__main__":
    asyncio.run(play(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
