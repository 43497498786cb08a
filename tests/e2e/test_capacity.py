"""Capacity that programs hold, with real processes and in part real models; `inferd lease run` is the holder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.lease_pb2 import LEASE_STATE_ACTIVE
from inferd_api.v1.model_pb2 import INSTANCE_STATE_READY
from inferd_api.v1.priority_pb2 import PRIORITY_HIGH
from inferd_client import Client, claims

pytestmark = pytest.mark.e2e

GIB = 1 << 30
TTL_S = 2.0
LATE_S = 5.0  # what a busy machine may add; that a lease ends at its instant is shown by tests/sim
NEED_BYTES = GIB  # of each fake model
SETTINGS = {"kv_tokens": "16384", "context_tokens": "8192"}
OUTSIDE = "print('held', flush=True); input()"


@contextmanager
def kernel_with(folder: Path, memory_bytes: int, *, fake: bool = False) -> Iterator[KernelProcess]:
    """A kernel that may give so much of the host's memory, or of the device of the FakeBackend."""
    device, backends = ("fake:0", "[]") if fake else ("cpu:0", "cpu")
    environment = {"INFERD_BACKENDS": backends, "INFERD_DEVICES__MEMORY_BYTES": json.dumps({device: memory_bytes})}
    with kernel_process(folder, environment=environment) as kernel:
        yield kernel


@contextmanager
def holder_of(address: str, memory: str) -> Iterator[int]:
    """A program outside the kernel that runs while `inferd lease run` holds memory for it; the id of the latter."""
    command = [sys.executable, "-m", "inferd", "lease", "run", "--memory", memory, "--ttl", str(TTL_S), "--wait"]
    command += ["--device", "fake:0", "--address", address, "--", sys.executable, "-c", OUTSIDE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid


@pytest.fixture(scope="module")
def need_bytes(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> int:
    """What an instance of SmolLM2 reserves."""
    with kernel_with(tmp_path_factory.mktemp("need"), 8 * GIB) as kernel, Client(kernel.address) as client:
        client.create_model("m", source=str(smollm2), settings=SETTINGS)
        need = client.plan_load("m").need
    return need.weights_bytes + need.kv_bytes + need.workspace_bytes


def ready_models(client: Client) -> set[str]:
    return {m.name for m in client.list_models() if any(i.state == INSTANCE_STATE_READY for i in m.instances)}


def test_a_program_outside_holds_memory_and_loses_it_when_it_is_killed(tmp_path: Path) -> None:
    """2 GiB for it evict the idle model, not the leased or busy one; killed, they are free when its TTL is over."""
    capacity_bytes = 3 * NEED_BYTES + 2 * GIB - NEED_BYTES // 2
    with kernel_with(tmp_path, capacity_bytes, fake=True) as kernel, Client(kernel.address) as client:
        for name in ("leased", "busy", "idle"):
            path = write_fake_model(kernel.folder, name, weights_bytes=NEED_BYTES, kv_bytes=0, step_s=0.1)
            client.create_model(name, source=str(path))
            client.load_model(name)
        running = client.run("busy", "Once upon a time", max_tokens=900, temperature=0.0, ignore_eos=True)
        next(event for event in running if event.HasField("output"))
        with client.lease(claims.model("leased", sequences=1), ttl_s=60) as kept:
            with holder_of(kernel.address, "2GiB") as pid:
                assert ready_models(client) == {"leased", "busy"}
                active = {lease.lease_id for lease in client.list_leases(states=[LEASE_STATE_ACTIVE])}
                plan = client.plan_load("idle")
                assert not plan.fits
                assert set(plan.lease_ids) <= active - {kept.lease_id}
                assert all(name.startswith(("leased-", "busy-")) for name in plan.busy_instances)
                os.kill(pid, signal.SIGKILL)
                killed = time.monotonic()
                with client.lease(claims.memory(2 * GIB, device_id="fake:0"), wait=True, ttl_s=60):
                    waited_s = time.monotonic() - killed
            assert waited_s <= TTL_S + LATE_S
            assert client.plan_load("idle").fits
            assert client.load_model("idle").instances[0].reserved_bytes >= NEED_BYTES
        running.close()


def test_a_plan_says_what_the_load_then_does(tmp_path: Path, smollm2: Path, need_bytes: int) -> None:
    """The idle instance that the plan names is evicted by the load, and no other; the figures are those reserved."""
    with kernel_with(tmp_path, 2 * need_bytes + need_bytes // 2) as kernel, Client(kernel.address) as client:
        for name in ("older", "newer", "next"):
            client.create_model(name, source=str(smollm2), settings=SETTINGS)
        client.load_model("older")
        client.load_model("newer")
        plan = client.plan_load("next")
        assert (plan.fits, list(plan.evicted_instances)) == (True, ["older-1"])
        assert ready_models(client) == {"older", "newer"}, "planning does nothing"
        loaded = client.load_model("next").instances[0]
        assert loaded.reserved_bytes == need_bytes
        assert ready_models(client) == {"newer", "next"}


def test_a_task_of_class_high_starts_within_a_step_at_a_saturated_instance(tmp_path: Path) -> None:
    """With every place taken by low tasks, a high one gets its first token at once; those that gave way end well."""
    step_s, tokens = 0.05, 60
    with kernel_process(tmp_path, environment={"INFERD_BACKENDS": "[]"}) as kernel, Client(kernel.address) as client:
        path = write_fake_model(kernel.folder, max_sequences=2, step_s=step_s)
        client.create_model("fake", source=str(path))
        client.load_model("fake")
        options = {"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
        low = [client.run("fake", "la", priority="low", **options) for _ in range(3)]
        for stream in low[:2]:
            next(event for event in stream if event.HasField("output"))
        high = client.run("fake", "la", priority="high", max_tokens=4, temperature=0.0, ignore_eos=True)
        next(event for event in high if event.HasField("output"))
        list(high)
        for stream in low:
            *_, last = stream
            assert last.finished.usage.output_tokens == tokens
        ends = [(task.finish_time.ToNanoseconds(), task.priority) for task in client.list_tasks()]
        assert min(ends)[1] == PRIORITY_HIGH, "it waited for the end of none"
