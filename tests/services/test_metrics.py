"""What a kernel counts of itself, as Prometheus reads it."""

import asyncio
import os
import signal
import threading
import urllib.request
from pathlib import Path

import psutil
import pytest
from connection import Connection, read_all, read_until, refusal
from prometheus_client.parser import text_string_to_metric_families

from inferd.errors import InvalidFieldError
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import model_service_pb2 as ms

Figures = dict[tuple[str, tuple[str, ...]], float]


async def scrape(address: str) -> Figures:
    """What is told at an address, by name and the values of labels."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    text = await asyncio.to_thread(read)
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_mechanisms_count_themselves(tmp_path: Path) -> None:
    """Tasks, what they wait, tokens, steps, deaths and what goes on are counted by model, and no tenant is named."""
    async with kernel_here(tmp_path, metrics_listen="127.0.0.1:0") as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create(step_s=0.005)
        call = connection.endless(tokens=100)
        await read_until(call, "output")
        during = await scrape(kernel.metrics_address)
        assert (during["inferd_tasks", ("running",)], during["inferd_instances", ("fake", "ready")]) == (1, 1)
        os.kill(next(iter(kernel.driver.supervisor.workers.values())).pid, signal.SIGKILL)
        await read_all(call)
        told = await scrape(kernel.metrics_address)
        await connection.channel.close()
    assert told["inferd_tasks_ended_total", ("fake", "succeeded")] == 1
    assert told["inferd_tasks_stopped_total", ("fake", "worker_died")] == 1
    assert told["inferd_tasks_sent_total", ("fake", "false")] == told["inferd_tasks_sent_total", ("fake", "true")] == 1
    assert told["inferd_worker_deaths_total", ("fake",)] == 1
    assert told["inferd_workers_started_total", ("fake",)] == 2
    assert told["inferd_output_tokens_total", ("fake",)] == 100
    assert told["inferd_queue_seconds_count", ("fake",)] == 2
    assert told["inferd_step_seconds_sum", ("fake",)] > 0.1
    assert told["inferd_tasks", ("running",)] == 0
    assert not any("default" in labels for _, labels in told)


async def until_unloaded(connection: Connection, name: str) -> None:
    """Wait until no worker of a model is left."""
    watch = connection.models.WatchModel(ms.WatchModelRequest(name=name))
    async for response in watch:
        if not response.model.instances:
            watch.cancel()
            return
    raise AssertionError(f"{name} keeps its instances")


async def test_a_forgotten_model_leaves_no_figures(tmp_path: Path) -> None:
    """Every figure of a model is gone with it, whatever counted it, and those of another model stay."""
    async with kernel_here(tmp_path, metrics_listen="127.0.0.1:0", scheduler={"suspect_deaths": 1}) as kernel:
        connection = Connection(kernel, tmp_path)
        for name in ("stays", "goes"):
            await connection.create(name, step_s=0.005)
            call = connection.endless(model=name, tokens=50)
            await read_until(call, "output")
            (worker,) = (w for w in kernel.driver.supervisor.workers.values() if f"{name}-" in w.instance_id)
            os.kill(worker.pid, signal.SIGKILL)
            await read_all(call)
        before = await scrape(kernel.metrics_address)
        await connection.models.UnloadModel(ms.UnloadModelRequest(name="goes"))
        await connection.models.DeleteModel(ms.DeleteModelRequest(name="goes"))
        after = await scrape(kernel.metrics_address)
        await connection.channel.close()
    counted = {family for family, labels in before if "goes" in labels}
    assert {
        f"inferd_{each}_total" for each in ("tasks_sent", "suspects_sent", "tasks_stopped", "worker_deaths")
    } < counted
    assert not [figure for figure in after if "goes" in figure[1]]
    assert {family for family, labels in after if "stays" in labels} == counted


async def test_idle_readers_keep_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    """Connections that ask nothing take what `limits.metrics_connections` says, and a kernel ends with them."""
    limits = {"metrics_connections": 4, "metrics_timeout_s": 600.0}
    async with kernel_here(tmp_path, metrics_listen="127.0.0.1:0", limits=limits) as kernel:
        host, _, port = kernel.metrics_address.rpartition(":")
        await scrape(kernel.metrics_address)
        threads, descriptors = threading.active_count(), psutil.Process().num_fds()
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(60)]
        assert ("inferd_tasks", ("queued",)) in await scrape(kernel.metrics_address)
        assert threading.active_count() <= threads
        assert psutil.Process().num_fds() - descriptors - len(idle) <= 4
    for _, writer in idle:
        writer.close()


async def test_a_load_that_is_refused_is_no_death(tmp_path: Path) -> None:
    """A worker that says that it cannot load, and is stopped, was started and has not died."""
    async with kernel_here(tmp_path, metrics_listen="127.0.0.1:0") as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create(load_error="no weights")
        await refusal(connection.models.LoadModel(ms.LoadModelRequest(name="fake")))
        await until_unloaded(connection, "fake")
        told = await scrape(kernel.metrics_address)
        await connection.channel.close()
    assert told["inferd_workers_started_total", ("fake",)] == 1
    assert ("inferd_worker_deaths_total", ("fake",)) not in told


@pytest.mark.parametrize("address", ["0.0.0.0:9411", "9411", "unix:/tmp/metrics"])
async def test_metrics_are_told_on_the_loopback_only(tmp_path: Path, address: str) -> None:
    """An address that others could reach, or none of a port, is refused before the kernel serves."""
    with pytest.raises(InvalidFieldError):
        async with kernel_here(tmp_path, metrics_listen=address):
            pass
