"""Figures through gRPC: a kernel in a process of its own, the client in this one, on the same machine."""

import asyncio
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
from limits import Figure
from workload import CASES, WARM, Case

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import AsyncClient, Client

ROOM = {"kv_tokens": "20480", "max_sequences": "64"}  # for 64 sequences of 256 tokens and one of 1025
UNARY_CALLS = 500
IDLE_TASKS = 20
STREAMS = 64
STREAM_TOKENS = 500
RUNS = 7  # of what takes less than a second
PAIRS = 15
DOUBT = 0.05  # of the least that a median may be


@contextmanager
def kernel() -> Iterator[KernelProcess]:
    """A kernel with folders of its own."""
    with tempfile.TemporaryDirectory() as folder, kernel_process(Path(folder)) as process:
        yield process


def wide_figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`served8.*`: the cases with weights of 8 bits, whatever the file has."""
    wanted = [case for case in CASES if f"served8.{case.name}".startswith(only)]
    if wanted:
        with kernel() as process, Client(process.address) as client:
            detail = load(client, weights, quantization="8bit")
            yield from _cases("served8", process.address, wanted, detail)


def model_figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`served.*`, `gathered.*`, `ttft.idle`, `itl.*`, `rss.*` and `served.streamed_over_whole` with a real model."""
    wanted = [case for case in CASES if f"served.{case.name}".startswith(only)]
    gathered = [case for case in CASES if case.output_tokens > 1 and f"gathered.{case.name}".startswith(only)]
    rest = any(name.startswith(only) for name in ("ttft.idle", "itl.p50", "itl.p99", "rss.kernel", "rss.worker"))
    ratio = "served.streamed_over_whole".startswith(only)
    if not wanted and not gathered and not rest and not ratio:
        return
    with kernel() as process, Client(process.address) as client:
        detail = load(client, weights)
        yield from _cases("served", process.address, wanted, f"each token streamed; {detail}")
        yield from _cases("gathered", process.address, gathered, f"by `generate`; {detail}", gathers=True)
        if ratio:
            yield _streamed_over_whole(process, detail)
        if "ttft.idle".startswith(only):
            yield _first_token(client, detail)
        if any(name.startswith(only) for name in ("itl.p50", "itl.p99")):
            yield from _gaps(process.address, detail)
        if any(name.startswith(only) for name in ("rss.kernel", "rss.worker")):
            yield from _memory(client, detail)


def load(client: Client, weights: Path, **settings: str) -> str:
    """Load the model with room for the cases; what was loaded."""
    client.create_model("bench", source=str(weights), settings={**ROOM, **settings})
    instance = client.load_model("bench").instances[0]
    return f"{instance.description}, {instance.backend} on {instance.device}"


def _cases(name: str, address: str, cases: list[Case], detail: str, *, gathers: bool = False) -> Iterator[Figure]:
    asyncio.run(run_case(address, WARM))
    for case in cases:
        tokens, unit = case.figure
        seconds, _ = asyncio.run(run_case(address, case, gathers=gathers))
        yield Figure(name=f"{name}.{case.name}", value=round(tokens / seconds, 1), unit=unit, detail=detail)


def _streamed_over_whole(process: KernelProcess, detail: str) -> Figure:
    """What is left of the rate of whole outputs when every token is streamed, many tasks on one connection.

    Other programs of the machine take from either at random: so there are many pairs, who goes first changes, and what
    the median is at least is told beside it, as is the same by processor time, which others change less.
    """
    case = Case("pair", STREAMS, 16, 64)
    asyncio.run(run_case(process.address, WARM))
    rates, efforts = [], []
    for number in range(PAIRS):
        took: dict[bool, tuple[float, float]] = {}  # by whether whole outputs are waited for
        for gathers in (number % 2 == 0, number % 2 != 0):
            before_s = processor_s(process.pid)
            seconds, _ = asyncio.run(run_case(process.address, case, gathers=gathers))
            took[gathers] = seconds, processor_s(process.pid) - before_s
        rates.append(took[True][0] / took[False][0])
        efforts.append(took[True][1] / took[False][1])
    value, effort = (round(statistics.median(ratios), 3) for ratios in (rates, efforts))
    spread = (
        f"median of {PAIRS} pairs, with 95 % at least {least_median(rates):.3f}, {min(rates):.3f} to {max(rates):.3f}"
    )
    detail = f"{STREAMS} tasks on one connection, {spread}; {effort:.3f} by processor time; {detail}"
    return Figure(name="served.streamed_over_whole", value=value, unit="ratio", detail=detail)


def least_median(values: list[float]) -> float:
    """What the median of what such values are drawn from is at least, with a probability of 95 %, by their order.

    The smallest of them where they are too few for that.
    """
    count = len(values)
    doubt = itertools.accumulate(math.comb(count, below) / 2**count for below in range(count))  # by place in the order
    return sorted(values)[max(0, sum(chance <= DOUBT for chance in doubt) - 1)]


def processor_s(pid: int) -> float:
    """Processor time so far of a kernel, its workers, and this process, in seconds."""
    kernel = psutil.Process(pid)
    times = [each.cpu_times() for each in (kernel, *kernel.children(recursive=True), psutil.Process())]
    return sum(each.user + each.system for each in times)


async def run_case(
    address: str,
    case: Case,
    *,
    model: str = "bench",
    temperature: float = 0.0,
    gathers: bool = False,
    kept: bool = False,
) -> tuple[float, list[list[float]]]:
    """Run a case; seconds from the first submission to the last token, and when each stream's messages came.

    Args:
        address: Of the kernel.
        case: What to run.
        model: Which one runs it.
        temperature: Of the sampling.
        gathers: Wait for the whole of each output with `generate`, instead of streaming its tokens.
        kept: Let the tasks outlive their client: what they tell is in the store before it is streamed.
    """
    arrivals: list[list[float]] = [[] for _ in range(case.sequences)]

    async def run(client: AsyncClient, number: int, prompt: list[int]) -> int:
        count = 0
        options: Any = {
            "max_tokens": case.output_tokens,
            "temperature": temperature,
            "ignore_eos": True,
            "prefix_cache": False,
            "seed": number,
            **({"detach_on_disconnect": True} if kept else {}),
        }
        if gathers:
            return len((await client.generate(model, prompt, **options)).token_ids)
        async for event in client.run(model, prompt, **options):
            if event.HasField("output"):
                count += len(event.output.token_ids)
                arrivals[number].append(time.perf_counter())
        return count

    async with AsyncClient(address) as client:
        await client.get_host()  # the connection is made before the clock starts
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(run(client, n, p)) for n, p in enumerate(case.prompts())]
        seconds = time.perf_counter() - started
    produced = [run.result() for run in runs]
    if produced != [case.output_tokens] * case.sequences:
        raise RuntimeError(f"{case.name}: {produced} tokens came, {case.output_tokens} were asked of each")
    return seconds, arrivals


def _first_token(client: Client, detail: str) -> Figure:
    """Time to the first token of a short chat on an idle, loaded model."""
    times = []
    for n in range(IDLE_TASKS):
        started = time.perf_counter()
        events = client.run("bench", [{"role": "user", "content": f"Hello {n}"}], max_tokens=1, temperature=0.0)
        next(event for event in events if event.HasField("output"))
        times.append(time.perf_counter() - started)
        events.close()
    value = round(statistics.median(times) * 1e3, 2)
    return Figure(name="ttft.idle", value=value, unit="ms", detail=f"median of {IDLE_TASKS}; {detail}")


def _gaps(address: str, detail: str) -> Iterator[Figure]:
    """Time between the tokens of a stream while 8 run, as the client sees it."""
    _, arrivals = asyncio.run(run_case(address, Case("itl", 8, 128, 128)))
    gaps = sorted(b - a for times in arrivals for a, b in itertools.pairwise(times))
    for name, place in (("itl.p50", 0.5), ("itl.p99", 0.99)):
        value = round(gaps[int(len(gaps) * place)] * 1e3, 2)
        yield Figure(name=name, value=value, unit="ms", detail=f"8 streams, {len(gaps)} gaps; {detail}")


def _memory(client: Client, detail: str) -> Iterator[Figure]:
    host = client.get_host()
    yield Figure(name="rss.kernel", value=round(host.memory_bytes / 2**20, 1), unit="MiB", detail="after the runs")
    (model,) = client.list_models()
    value = round(model.instances[0].memory_bytes / 2**20, 1)
    yield Figure(
        name="rss.worker", value=value, unit="MiB", detail=f"file {model.size_bytes / 2**20:.0f} MiB; {detail}"
    )


def fake_figures(*, only: str) -> Iterator[Figure]:
    """`stream.capacity` and `unary.latency`: what the kernel itself costs, over the FakeBackend."""
    if not any(name.startswith(only) for name in ("stream.capacity", "unary.latency")):
        return
    with kernel() as process, Client(process.address) as client:
        folder = process.folder
        client.create_model("bench", source=str(write_fake_model(folder, blocks=8192)))
        client.load_model("bench")
        if "unary.latency".startswith(only):
            yield _latency(client)
        if "stream.capacity".startswith(only):
            case = Case("capacity", STREAMS, 16, STREAM_TOKENS)
            before_s = processor_s(process.pid)
            times = [asyncio.run(_capacity(process.address, case)) for _ in range(RUNS)]
            effort_s = (processor_s(process.pid) - before_s) / RUNS
            slowest, value, fastest = (
                round(STREAMS * STREAM_TOKENS / seconds, 1)
                for seconds in (max(times), statistics.median(times), min(times))
            )
            detail = f"{STREAMS} streams of {STREAM_TOKENS} tokens, FakeBackend; median of {RUNS} runs, {slowest} to "
            detail += f"{fastest}; {effort_s:.3f} s of processor time a run, of client, kernel and worker"
            yield Figure(name="stream.capacity", value=value, unit="tok/s", detail=detail)


async def _capacity(address: str, case: Case) -> float:
    """Seconds for all streams of a case whose prompts suit the bytes of the FakeBackend."""

    async def run(client: AsyncClient) -> None:
        count = 0
        options: Any = {"max_tokens": case.output_tokens, "temperature": 0.0, "ignore_eos": True}
        async for event in client.run("bench", "a" * case.prompt_tokens, **options):
            count += len(event.output.token_ids)
        if count != case.output_tokens:
            raise RuntimeError(f"{count} tokens came, {case.output_tokens} were asked")

    async with clients(address, 1) as (client,):
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(case.sequences):
                group.create_task(run(client))
        return time.perf_counter() - started


@asynccontextmanager
async def clients(address: str, count: int) -> AsyncIterator[list[AsyncClient]]:
    """Connected clients."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(AsyncClient(address)) for _ in range(count)]
        for client in made:
            await client.get_host()
        yield made


def _latency(client: Client) -> Figure:
    """One call that reads a value, one after the other."""
    times = []
    for _ in range(UNARY_CALLS):
        started = time.perf_counter()
        client.get_host()
        times.append(time.perf_counter() - started)
    value = round(statistics.median(times) * 1e6, 1)
    return Figure(name="unary.latency", value=value, unit="us", detail=f"GetHost, median of {UNARY_CALLS}")
