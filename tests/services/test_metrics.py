"""What a kernel counts of itself, as Prometheus reads it."""

import asyncio
import os
import signal
import socket
import ssl
import threading
import urllib.request
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from connection import Connection, memory, read_all, read_failing, read_until, refusal
from prometheus_client.parser import text_string_to_metric_families
from time_limits import LONG_S
from tls_kernel import tls_kernel

from inferd import exposing
from inferd.errors import InvalidFieldError
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1.auth_pb2 import Key
from inferd_api.v1.auth_service_pb2 import CreateKeyRequest
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_api.v1.lease_service_pb2 import ReleaseLeaseRequest

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
        await connection.create(step_s=0.02)
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
    assert told["inferd_queue_seconds_count", ("fake", "normal")] == 2
    assert told["inferd_step_seconds_sum", ("fake",)] > 0.1
    assert told["inferd_tasks", ("running",)] == 0
    assert not any("default" in labels for _, labels in told)


async def test_what_tasks_took_is_told_by_names_that_others_know(tmp_path: Path) -> None:
    """Times of tasks by OpenTelemetry's names, with the kind of task and its error; tokens and KV by model."""
    async with kernel_here(tmp_path, metrics_listen="127.0.0.1:0") as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create(step_s=0.02)
        call = connection.endless(tokens=100)
        await read_until(call, "output")
        during = await scrape(kernel.metrics_address)
        await read_all(call)
        await read_all(connection.chat("a b c"))
        (_, error) = await read_failing(connection.endless(timeout=3.0))  # time enough for its first token
        await refusal(connection.models.GetModel(ms.GetModelRequest(name="none")))
        await connection.channel.close()
        text, chat = ("fake", "inferd", "text_completion"), ("chat", "fake", "inferd")
        late = "gen_ai_server_request_duration_seconds_count", ("TASK_EXPIRED", *text)
        async with asyncio.timeout(LONG_S):  # the kernel may end it behind its client
            while late not in (told := await scrape(kernel.metrics_address)):
                pass
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert told["gen_ai_server_time_to_first_token_seconds_count", text] == 2
    assert told["gen_ai_server_time_to_first_token_seconds_count", chat] == 1
    assert told["gen_ai_server_request_duration_seconds_count", ("", *text)] == 1
    assert told[late] == 1
    assert told["gen_ai_server_time_per_output_token_seconds_count", text] == 2
    assert told["gen_ai_server_time_per_output_token_seconds_sum", text] > 0.01
    assert told["inferd_input_tokens_total", ("fake",)] > 0
    assert told["inferd_step_sequences_count", ("fake",)] == told["inferd_step_sequences_sum", ("fake",)] > 100
    assert told["inferd_stream_lag_seconds_count", ()] >= 2  # who was too late had gone, or not
    assert 0 < during["inferd_kv_used_tokens", ("fake",)] < during["inferd_kv_capacity_tokens", ("fake",)]
    assert told["inferd_kv_used_tokens", ("fake",)] == 0
    assert told["inferd_hosts", ("ready",)] == 1
    calls = {labels: value for (name, labels), value in told.items() if name == "inferd_calls_total"}
    run = "TaskService/RunTask"
    assert (calls["", run], calls["", "ModelService/CreateModel"]) == (2, 1)
    assert calls["MODEL_NOT_FOUND", "ModelService/GetModel"] == 1


async def test_leases_and_the_store_are_told(tmp_path: Path) -> None:
    """How long a lease waited, how it ended, and how long writes took."""
    store = {"url": f"sqlite:{tmp_path}/k.sqlite"}
    async with kernel_here(tmp_path, metrics_listen="127.0.0.1:0", store=store) as kernel:
        connection = Connection(kernel, tmp_path)
        lease = await connection.claim(memory(1 << 20))
        during = await scrape(kernel.metrics_address)
        await connection.leases.ReleaseLease(ReleaseLeaseRequest(lease_id=lease.lease_id))
        told = await scrape(kernel.metrics_address)
        await connection.channel.close()
    assert (during["inferd_leases", ("active",)], during["inferd_leases", ("pending",)]) == (1, 0)
    assert told["inferd_leases", ("active",)] == 0
    assert told["inferd_lease_wait_seconds_count", ()] == 1
    assert told["inferd_leases_ended_total", ("released",)] == 1
    assert told["inferd_store_commit_seconds_count", ()] >= 2
    assert told["inferd_store_commit_seconds_sum", ()] > 0


async def test_names_of_models_are_bounded(tmp_path: Path) -> None:
    """A model beyond `limits.metrics_names` is told as `other`, with the others; a deleted one leaves its room."""
    async with kernel_here(tmp_path, metrics_listen="127.0.0.1:0", limits={"metrics_names": 1}) as kernel:
        connection = Connection(kernel, tmp_path)
        for name in ("first", "second"):
            await connection.create(name)
            await read_all(connection.endless(model=name, tokens=10))
            before = await scrape(kernel.metrics_address)
        await connection.models.UnloadModel(ms.UnloadModelRequest(name="first"))
        await connection.models.DeleteModel(ms.DeleteModelRequest(name="first"))
        await connection.create("third")
        await read_all(connection.endless(model="third", tokens=10))
        after = await scrape(kernel.metrics_address)
        await connection.channel.close()
    tokens = {labels: value for (name, labels), value in before.items() if name == "inferd_output_tokens_total"}
    assert tokens == {("first",): 10, ("other",): 10}
    assert before["inferd_instances", ("other", "ready")] == 1
    named = {labels for name, labels in after if name == "inferd_output_tokens_total"}
    assert named == {("third",), ("other",)}


async def test_kernels_of_one_host_are_read_at_ports_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the first is read at the usual port and the second at another; one that is named must be free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        usual = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(exposing, "USUAL_ADDRESS", usual)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with kernel_here(tmp_path / "a", metrics_listen=None) as first:
        assert first.metrics_address == usual
        async with kernel_here(tmp_path / "b", metrics_listen=None) as second:
            assert second.metrics_address not in {"", usual}
            assert ("inferd_tasks", ("queued",)) in await scrape(second.metrics_address)
        with pytest.raises(OSError, match="in use"):
            async with kernel_here(tmp_path / "b", metrics_listen=usual):
                pass


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
            await connection.create(name, step_s=0.02)
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


async def test_others_than_this_host_read_with_tls_and_a_key(tmp_path: Path) -> None:
    """At a tls: address the page is told to a key that may read all tenants', and to nobody else, nor without TLS."""
    async with tls_kernel(tmp_path, metrics_listen="tls:127.0.0.1:0") as made:
        auth = AuthServiceStub(made.owner.channel)  # type: ignore[no-untyped-call]
        keys = {}
        for name, tenants in (("all", ["*"]), ("one", ["web"])):
            key = Key(principal=name, roles=["viewer"], tenants=tenants)
            keys[name] = (await auth.CreateKey(CreateKeyRequest(key=key))).credential
        address = made.kernel.metrics_address.removeprefix("tls:")
        context = ssl.create_default_context(cafile=str(made.certs.ca_file))

        def ask(credential: str, scheme: str = "https") -> tuple[int, str]:
            headers = {"Authorization": f"Bearer {credential}"} if credential else {}
            answer = httpx.get(f"{scheme}://{address}/metrics", headers=headers, verify=context)
            return answer.status_code, answer.text

        status, page = await asyncio.to_thread(ask, keys["all"])
        assert (status, "inferd_tasks{" in page) == (200, True)
        for credential, refused in ((keys["one"], 403), ("", 401), ("inferd_wrong", 401)):
            status, page = await asyncio.to_thread(ask, credential)
            assert (status, "inferd_tasks" in page) == (refused, False)
        with pytest.raises(httpx.HTTPError):
            await asyncio.to_thread(ask, keys["all"], "http")


@pytest.mark.parametrize("address", ["0.0.0.0:9411", "9411", "unix:/tmp/metrics", "tls:0.0.0.0:9411", "mtls:0.0.0.0:1"])
async def test_metrics_are_told_on_the_loopback_only(tmp_path: Path, address: str) -> None:
    """An address that others could reach, or none of a port, is refused before the kernel serves."""
    with pytest.raises(InvalidFieldError):
        async with kernel_here(tmp_path, metrics_listen=address):
            pass
