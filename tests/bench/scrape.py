"""What it costs that Prometheus reads: processor time of a kernel whose models were used, for each page."""

import asyncio
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from limits import Figure

from inferd.runtime.telemetry.figures import Count, Registry, Spread
from inferd.runtime.telemetry.table import METRICS, Kind
from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import AsyncClient, Client

MODELS = 8
TASKS = 16  # of each
SCRAPES = 60
RUNS = 7
CLASSES = ("low", "normal", "high")
INTERVAL_S = 1.0  # of the Prometheus that is thought of


def figures(*, only: str) -> Iterator[Figure]:
    """`metrics.scrape`, where nothing is counted meanwhile, and `metrics.changed`, where every value has changed.

    Each is the part of a core's time that a page each second takes.
    """
    if "metrics.changed".startswith(only):
        yield _changed()
    if not "metrics.scrape".startswith(only):
        return
    environment = {"INFERD_METRICS_LISTEN": "127.0.0.1:0"}
    with tempfile.TemporaryDirectory() as folder, kernel_process(Path(folder), environment=environment) as process:
        _use(process, Path(folder))
        page = _scrape(process)
        costs = sorted(_cost_s(process) for _ in range(RUNS))
    median_s = statistics.median(costs)
    lines = sum(not line.startswith(b"#") for line in page.splitlines())
    detail = (
        f"processor time of the kernel for one page, over {INTERVAL_S:g} s; {median_s * 1000:.2f} ms, "
        f"{costs[0] * 1000:.2f} to {costs[-1] * 1000:.2f}, {len(page)} bytes, {lines} values of {MODELS} models"
    )
    yield Figure(name="metrics.scrape", value=round(median_s / INTERVAL_S, 4), unit="ratio", detail=detail)


def _changed() -> Figure:
    """A page on which each value is another one than on the page before."""
    registry = Registry()
    rises, spreads = list[Count](), list[Spread]()
    for metric in METRICS:
        for number in range(MODELS if metric.labels else 1):
            for other in CLASSES if len(metric.labels) > 1 else ("",):
                labels = (f"m{number}", *(other for _ in metric.labels[1:]))[: len(metric.labels)]
                if metric.kind is Kind.HISTOGRAM:
                    spreads.append(registry.spread(metric).labels(*labels))
                else:
                    rises.append(registry.count(metric).labels(*labels))
    costs, page = [], b""
    for _ in range(SCRAPES):
        for rise in rises:
            rise.inc(0.5)
        for spread in spreads:
            spread.observe(0.0)  # in the first bucket: every line of it is another one
        before_s = time.thread_time()
        page = registry.page()
        costs.append(time.thread_time() - before_s)
    median_s, lines = statistics.median(costs), sum(not line.startswith(b"#") for line in page.splitlines())
    detail = f"time of the thread for one page, over {INTERVAL_S:g} s; {median_s * 1000:.2f} ms, {lines} values"
    return Figure(name="metrics.changed", value=round(median_s / INTERVAL_S, 4), unit="ratio", detail=detail)


def _use(process: KernelProcess, folder: Path) -> None:
    """Have each model run some tasks, of each class."""
    with Client(process.address) as client:
        for number in range(MODELS):
            client.create_model(f"m{number}", source=f"file:{write_fake_model(folder, f'm{number}')}")

    async def run() -> None:
        async with AsyncClient(process.address) as client:
            for number in range(MODELS):
                await asyncio.gather(
                    *(
                        client.generate(f"m{number}", "x", max_tokens=8, priority=CLASSES[at % len(CLASSES)])
                        for at in range(TASKS)
                    )
                )

    asyncio.run(run())


def _scrape(process: KernelProcess) -> bytes:
    with urllib.request.urlopen(f"http://{process.metrics}/metrics", timeout=30) as answer:
        return bytes(answer.read())


def _cost_s(process: KernelProcess) -> float:
    """Processor time of a page, less what the kernel takes meanwhile when nobody reads."""
    kernel = psutil.Process(process.pid)

    def spent_s() -> float:
        times = kernel.cpu_times()
        return times.user + times.system

    before_s, began = spent_s(), time.perf_counter()
    for _ in range(SCRAPES):
        _scrape(process)
    read_s, took_s = spent_s() - before_s, time.perf_counter() - began
    before_s = spent_s()
    time.sleep(took_s)  # as long, with nobody reading
    return (read_s - (spent_s() - before_s)) / SCRAPES
