"""What is acknowledged is on the disk: created tasks a second beside its own writes, and a start after a kill."""

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import grpc.aio
from limits import Figure
from served import PAIRS, least_median, load, processor_s, run_case
from workload import WARM, Case

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2 import CreateTaskRequest
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_client import Client

TASKS = 10_000
SUBMITTERS = 64
STREAMS = 32
LEAST_PAIRS, PAIRS_S = 3, 50.0
PROMPT_TOKENS, LEAST_TOKENS, MOST_TOKENS = 16, 8, 64  # of each stream of a pair
MOST_S = 65.0  # of all pairs: a machine that others use may be ten times slower than it was
FSYNC_S = 2.0
PAGE = bytes(4096)


def figures(*, only: str) -> Iterator[Figure]:
    """`kept.created` beside `kept.fsync`, and `kept.start` with all of these tasks waiting."""
    if not any(name.startswith(only) for name in ("kept.fsync", "kept.created", "kept.start")):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        syncs = _count_syncs(folder / "page")
        yield Figure(name="kept.fsync", value=round(syncs), unit="1/s", detail="4 KiB appended and synchronised each")
        with _kernel(folder) as process:
            with Client(process.address) as client:
                client.create_model("fake", source=str(write_fake_model(folder, max_sequences=1, step_s=0.5)))
            took_s = asyncio.run(_create(process.address))
            detail = f"{TASKS} tasks by {SUBMITTERS} submitters of one connection, SQLite, synchronous=FULL"
            yield Figure(name="kept.created", value=round(TASKS / took_s), unit="tasks/s", detail=detail)
            process.process.send_signal(signal.SIGKILL)
            process.process.wait()
        started = time.perf_counter()
        with _kernel(folder) as process, Client(process.address) as client:
            client.get_host()
            took_s = time.perf_counter() - started
        detail = f"process to serving with {TASKS} tasks that wait"
        yield Figure(name="kept.start", value=round(took_s * 1e3), unit="ms", detail=detail)


def model_figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`kept.outputs_ratio`: what is left of the rate of a served batch whose outputs are stored before they are told.

    Pairs, as for `served.streamed_over_whole`: 32 streams that outlive their client beside the same that do not, of as
    many tokens as let three pairs end in time on this machine as it is now; others follow while there is time.
    """
    if not "kept.outputs_ratio".startswith(only):
        return
    rates: list[float] = []
    efforts: list[float] = []
    with tempfile.TemporaryDirectory() as name, _kernel(Path(name)) as process, Client(process.address) as client:
        loaded = load(client, weights)
        asyncio.run(run_case(process.address, WARM))
        case = asyncio.run(_pairs(process, rates, efforts))
    if not rates:
        detail = f"skipped: no pair of {case.output_tokens} tokens ended within {MOST_S:g} s; {loaded}"
        yield Figure(name="kept.outputs_ratio", value=None, unit="ratio", detail=detail)
        return
    value, effort = (round(statistics.median(ratios), 3) for ratios in (rates, efforts))
    detail = (
        f"{STREAMS} streams of {case.output_tokens} tokens, median of {len(rates)} pairs, with 95 % at least"
        f" {least_median(rates):.3f}, {min(rates):.3f} to {max(rates):.3f}; {effort:.3f} by processor time; SQLite,"
        f" synchronous=FULL; {loaded}"
    )
    yield Figure(name="kept.outputs_ratio", value=value, unit="ratio", detail=detail)


async def _pairs(process: KernelProcess, rates: list[float], efforts: list[float]) -> Case:
    """Measure pairs while there is time: what is left of the rate, and by processor time. What they were."""
    case = Case("pair", STREAMS, PROMPT_TOKENS, LEAST_TOKENS)
    began = time.perf_counter()
    with suppress(TimeoutError):
        async with asyncio.timeout(MOST_S):
            first_s, _ = await run_case(process.address, case)
            fitting = int(LEAST_TOKENS * PAIRS_S / (2 * LEAST_PAIRS) / first_s)
            case = replace(case, output_tokens=min(MOST_TOKENS, max(LEAST_TOKENS, fitting)))
            while len(rates) < PAIRS and time.perf_counter() < began + PAIRS_S:
                number = len(rates)
                took: dict[bool, tuple[float, float]] = {}  # by whether outputs are stored
                for kept in (number % 2 == 0, number % 2 != 0):
                    before_s = processor_s(process.pid)
                    seconds, _ = await run_case(process.address, case, kept=kept)
                    took[kept] = seconds, processor_s(process.pid) - before_s
                rates.append(took[False][0] / took[True][0])
                efforts.append(took[False][1] / took[True][1])
    return case


@contextmanager
def _kernel(folder: Path) -> Iterator[KernelProcess]:
    environment = {
        "INFERD_STORE__URL": f"sqlite:{folder}/store",
        "INFERD_DRAIN_S": "0",
        **{f"INFERD_SCHEDULER__{name}": str(2 * TASKS) for name in ("TENANT_QUEUED", "MODEL_QUEUED")},
        **{f"INFERD_LIMITS__{name}": str(2 * TASKS) for name in ("TASKS", "QUEUED_TASKS", "DETACHED_TASKS")},
    }
    with kernel_process(folder, environment=environment) as process:
        yield process


def _count_syncs(path: Path) -> float:
    """How often a second the disk takes a page."""
    count, end = 0, time.perf_counter() + FSYNC_S
    with path.open("wb", buffering=0) as file:
        while time.perf_counter() < end:
            file.write(PAGE)
            os.fdatasync(file.fileno())
            count += 1
    return count / FSYNC_S


async def _create(address: str) -> float:
    """Seconds until all tasks are acknowledged."""
    request = CreateTaskRequest(
        spec=TaskSpec(model="fake", prompt="hello", sampling=SamplingParams(max_tokens=16, temperature=0))
    )
    left = iter(range(TASKS))
    async with grpc.aio.insecure_channel(address) as channel:
        stub = TaskServiceStub(channel)

        async def submit() -> None:
            for _ in left:
                await stub.CreateTask(request)

        started = time.perf_counter()
        await asyncio.gather(*(submit() for _ in range(SUBMITTERS)))
        return time.perf_counter() - started
