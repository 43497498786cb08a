"""Kernels that are told to end, or killed, while clients use them."""

import signal
from pathlib import Path

import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.lease_pb2 import LeaseState
from inferd_client import Client, claims
from inferd_client.errors import ShuttingDownError

pytestmark = pytest.mark.e2e

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def _fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of these tests have the FakeBackend and a device of `cpu`; each other takes a process to look at."""
    monkeypatch.setenv("INFERD_BACKENDS", "cpu")


def create_fake(kernel: KernelProcess, client: Client, step_s: float) -> None:
    client.create_model("fake", source=str(write_fake_model(kernel.folder, step_s=step_s)))


def test_sigterm_lets_a_running_task_end(tmp_path: Path) -> None:
    """Its client has all of its output, another one is refused with a time to come back, and the kernel ends with 0."""
    patient = {"INFERD_DRAIN_S": "60"}
    with kernel_process(tmp_path, environment=patient) as kernel, Client(kernel.address) as client:
        create_fake(kernel, client, 0.02)
        events = client.run("fake", "la", max_tokens=150)
        first = next(event for event in events if event.HasField("output"))
        kernel.process.send_signal(signal.SIGTERM)
        with Client(kernel.address) as other:
            told = refused_in_time(other)
        assert 1 < (told.retry_after_s or 0) < 62
        assert "".join(event.output.text for event in [first, *events]) == "la" * 75
        assert kernel.process.wait(DEADLINE_S) == 0
    assert "takes nothing new" in (tmp_path / "kernel.log").read_text()


def refused_in_time(client: Client) -> ShuttingDownError:
    """How a kernel refuses that was just told to end; it may take some tasks until it has heard of that."""
    for _ in range(1000):
        try:
            client.generate("fake", "la", max_tokens=1)
        except ShuttingDownError as error:
            return error
    raise AssertionError("the kernel goes on taking tasks")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, second: signal.Signals) -> None:
    """What still runs ends with SHUTTING_DOWN, long before its time to end is over, and the kernel ends with 0."""
    patient = {"INFERD_DRAIN_S": "3600"}
    with kernel_process(tmp_path, environment=patient) as kernel, Client(kernel.address) as client:
        create_fake(kernel, client, 0.1)
        events = client.run("fake", "la", max_tokens=1000)
        next(event for event in events if event.HasField("output"))
        kernel.process.send_signal(signal.SIGTERM)
        with Client(kernel.address) as other:
            refused_in_time(other)
        kernel.process.send_signal(second)
        with pytest.raises(ShuttingDownError) as caught:
            list(events)
        assert caught.value.retry_after_s
        assert kernel.process.wait(DEADLINE_S) == 0


def test_a_lease_is_held_over_kills(tmp_path: Path) -> None:
    """It is there with its token after each kill, kept alive and released; nobody else is given what it holds."""
    listen, store = f"unix:{tmp_path}/kernel.sock", {"INFERD_STORE__URL": f"sqlite:{tmp_path}/store"}
    store["INFERD_DEVICES__MEMORY_BYTES"] = '{"cpu:0": 1000}'
    with kernel_process(tmp_path, environment=store, listen=listen) as kernel, Client(listen) as client:
        lease = client.create_lease(claims.memory(900), ttl_s=300.0)
        kernel.process.kill()
    for number in range(2):
        with kernel_process(tmp_path, environment=store, listen=listen) as kernel, Client(listen) as client:
            found = client.get_lease(lease.lease_id)
            assert found.state == LeaseState.LEASE_STATE_ACTIVE
            assert found.fencing_token == lease.fencing_token
            (device,) = [each for each in client.get_host().devices if each.device_id == "cpu:0"]
            assert (device.lease_bytes, device.free_bytes) == (900, 100)
            (renewal,) = client.keep_alive([lease.lease_id])
            assert renewal.state == LeaseState.LEASE_STATE_ACTIVE
            if number:
                client.release_lease(lease.lease_id)
            kernel.process.kill()
            kernel.process.wait(DEADLINE_S)
    with kernel_process(tmp_path, environment=store, listen=listen), Client(listen) as client:
        assert client.create_lease(claims.memory(1000)).fencing_token > lease.fencing_token
