"""A kernel that is killed beside an agent, and started again: the worker of before serves on."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from inferd.testing.kernel import FAKE_PLUGIN, kernel_process, write_fake_model
from inferd_api.v1.model_pb2 import PlacementRules
from inferd_client import Client

pytestmark = pytest.mark.e2e
DEADLINE_S = 60.0


@contextmanager
def agent(folder: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """An agent in a process of its own, attached."""
    environment = {
        **{f"INFERD_{name}_DIR": str(folder / "agent" / name) for name in ("DATA", "STATE")},
        "INFERD_PLUGIN_MODULES": f'["{FAKE_PLUGIN}"]',
        "INFERD_BACKENDS": "[]",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "inferd", "host", "-o", "json", "--join", address, "--name", "b"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert json.loads(told).get("host") == "b", told
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
        assert process.stdout is not None
        process.stdout.close()


def workers_of(agent: subprocess.Popen[str]) -> set[int]:
    """The processes that an agent has started, and that live."""
    said = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text(encoding="ascii")
    return {int(word) for word in said.split()}


def test_the_worker_of_a_killed_kernel_serves_on(tmp_path: Path) -> None:
    """SIGKILL and a new kernel: the same process goes on with the stream that was cut, which is whole."""
    store = {"INFERD_STORE__URL": f"sqlite:{tmp_path}/kept/store", "INFERD_BACKENDS": "[]"}
    path = write_fake_model(tmp_path, "far", step_s=0.005)
    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets, ExitStack() as stack:
        address = f"unix:{sockets}/k"
        first = stack.enter_context(kernel_process(tmp_path / "k", environment=store, listen=address))
        process = stack.enter_context(agent(tmp_path, address))
        with Client(address, timeout_s=DEADLINE_S) as client:
            client.create_model("far", str(path), placement=PlacementRules(selector={"host": "b"}))
            task = client.create_task("far", "la", max_tokens=600, temperature=0)
            next(event for event in client.watch(task.task_id) if event.HasField("output"))
        workers = workers_of(process)
        first.process.kill()
        first.process.wait(DEADLINE_S)
        stack.enter_context(kernel_process(tmp_path / "k", environment=store, listen=address))
        with Client(address, timeout_s=DEADLINE_S) as client:
            text = "".join(event.output.text for event in client.watch(task.task_id))
            assert text == "la" * 300
            assert workers_of(process) == workers
            (instance,) = client.get_model("far").instances
            assert (instance.instance_id, {instance.pid}) == ("far-1", workers)
