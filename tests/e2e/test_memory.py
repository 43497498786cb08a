"""The memory of the host as the kernel sees it: what models need and take of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_api.v1.host_pb2 import Device
from inferd_client import Client

pytestmark = pytest.mark.e2e

GIB = 1 << 30
MEASURES = 300  # most that a test waits for, ten a second


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[KernelProcess]:
    environment = {"INFERD_BACKENDS": "cpu", "INFERD_DEVICES__MEASURE_S": "0.1", "INFERD_WORKERS__HEARTBEAT_S": "0.1"}
    with kernel_process(tmp_path, environment=environment) as one:
        yield one


def wait_for_host(client: Client, wanted: Callable[[Device], bool]) -> Device:
    """The first sight of the host's memory that is as wanted."""
    for _, seen in zip(range(MEASURES), client.watch_host(interval_s=0.1), strict=False):
        device = next(device for device in seen.host.devices if device.device_id == "cpu:0")
        if wanted(device):
            return device
    raise AssertionError(f"never seen as wanted; last: {device}")


@pytest.mark.model
def test_a_plan_is_what_the_load_then_reserves(kernel: KernelProcess, smollm2: Path) -> None:
    """A plan takes nothing and leaves no process; the load reserves what it said, and stays within it when measured."""
    with Client(kernel.address) as client:
        client.create_model("smollm2", source=str(smollm2), backend="cpu", settings={"kv_tokens": "4096"})
        plan = client.plan_load("smollm2")
        assert plan.fits
        assert psutil.Process(kernel.pid).children() == []
        (instance,) = client.load_model("smollm2").instances
        assert instance.need == plan.need
        reserved_bytes = plan.need.weights_bytes + plan.need.kv_bytes + plan.need.workspace_bytes
        assert instance.reserved_bytes == reserved_bytes
        device = wait_for_host(client, lambda _: client.get_model("smollm2").instances[0].peak_bytes > 0)
        assert device.instance_bytes == reserved_bytes
        assert client.get_model("smollm2").instances[0].peak_bytes <= reserved_bytes
