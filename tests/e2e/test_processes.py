"""What is left of processes when others die."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from inferd.testing.kernel import FAKE_PLUGIN, KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.task_pb2 import SuspendReason
from inferd_client import Client
from inferd_client.errors import ModelLoadError

pytestmark = pytest.mark.e2e

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def _fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of these tests have the FakeBackend; to look at others takes a process for each."""
    monkeypatch.setenv("INFERD_BACKENDS", "[]")


def create_fake(kernel: KernelProcess, client: Client, **behaviour: object) -> None:
    client.create_model("fake", source=str(write_fake_model(kernel.folder, **behaviour)))


def wait_until_gone(pids: list[int]) -> list[int]:
    """The processes that still live after the deadline."""
    living = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(living, timeout=DEADLINE_S)
    return [process.pid for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_kernel_leaves_no_worker(tmp_path: Path) -> None:
    """When the kernel is killed without warning, its workers end at once, also one that hangs in a step."""
    with kernel_process(tmp_path) as kernel, Client(kernel.address) as client:
        create_fake(kernel, client, hang_on_token=ord("#"))
        worker = client.load_model("fake").instances[0].pid
        other = write_fake_model(tmp_path, "other")
        client.create_model("other", source=str(other))
        hung = client.load_model("other").instances[0].pid
        os.kill(hung, signal.SIGSTOP)
        kernel.process.kill()
        kernel.process.wait(DEADLINE_S)
        assert wait_until_gone([worker, hung]) == []


def test_a_stopped_kernel_ends_its_workers_in_order(tmp_path: Path) -> None:
    """SIGTERM ends the kernel and its workers within its grace, and the kernel exits with 0."""
    with kernel_process(tmp_path) as kernel, Client(kernel.address) as client:
        create_fake(kernel, client)
        worker = client.load_model("fake").instances[0].pid
        kernel.process.terminate()
        assert kernel.process.wait(DEADLINE_S) == 0
        assert wait_until_gone([worker]) == []


def test_streams_of_a_killed_worker_go_on(tmp_path: Path) -> None:
    """A client in another process reads its stream to the end, from a new worker, and is told why it waited."""
    patient = {
        "INFERD_WORKERS__HEARTBEAT_TIMEOUT_S": "3600"
    }  # by its silence it would be noticed too late for the test
    with kernel_process(tmp_path, environment=patient) as kernel, Client(kernel.address) as client:
        create_fake(kernel, client, step_s=0.002)
        worker = client.load_model("fake").instances[0].pid
        events = client.run("fake", "la", max_tokens=900)
        first = next(event for event in events if event.HasField("output"))
        os.kill(worker, signal.SIGKILL)
        rest = [first, *events]
        assert "".join(event.output.text for event in rest) == "la" * 450
        (stopped,) = (event.suspended for event in rest if event.HasField("suspended"))
        assert stopped.reason == SuspendReason.SUSPEND_REASON_WORKER_DIED
        assert client.generate("fake", [{"role": "user", "content": "again"}]).text == "again"
        assert client.get_model("fake").instances[0].pid != worker


def test_a_broken_plugin_disturbs_nothing(tmp_path: Path) -> None:
    """A plugin that raises, exits or prints when it is imported is listed as FAILED with why; the others work."""
    (tmp_path / "raising_plugin.py").write_text("raise RuntimeError('no such driver')\n")
    (tmp_path / "leaving_plugin.py").write_text("import os\nos._exit(3)\n")
    modules = [FAKE_PLUGIN, "raising_plugin", "leaving_plugin"]
    environment = {"INFERD_PLUGIN_MODULES": json.dumps(modules), "PYTHONPATH": str(tmp_path)}
    with kernel_process(tmp_path, environment=environment) as kernel, Client(kernel.address) as client:
        backends = {b.name: b for b in client.list_backends()}
        assert "no such driver" in backends["raising_plugin"].why
        assert "status 3" in backends["leaving_plugin"].why
        create_fake(kernel, client)
        assert client.generate("fake", [{"role": "user", "content": "works"}]).text == "works"


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    """Interrupting `inferd run` in mid-answer ends its private kernel and the worker, and exits with 130."""
    model = write_fake_model(tmp_path, step_s=0.01)
    environment = {
        **os.environ,
        "INFERD_DATA_DIR": str(tmp_path / "data"),
        "INFERD_STATE_DIR": str(tmp_path / "state"),
        "INFERD_PLUGIN_MODULES": json.dumps([FAKE_PLUGIN]),
        "INFERD_ADDRESS": f"unix:{tmp_path}/none.sock",
    }
    command = [sys.executable, "-m", "inferd", "run", "--raw", str(model), "la", "-o", "json"]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        while "output" not in process.stdout.readline():
            assert process.poll() is None, process.communicate()
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(children) >= 2
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
        assert wait_until_gone(children) == []
    finally:
        process.kill()
        process.communicate()


def test_a_load_that_fails_takes_nothing_along(tmp_path: Path) -> None:
    """After a failed load no worker is left, and the error carries the cause and the log."""
    with kernel_process(tmp_path) as kernel, Client(kernel.address) as client:
        create_fake(kernel, client, load_error="tensor 'x' has 3 bytes and needs 4")
        with pytest.raises(ModelLoadError) as caught:
            client.load_model("fake")
        assert "needs 4" in caught.value.metadata["cause"]
        children = [child.pid for child in psutil.Process(kernel.pid).children(recursive=True)]
        assert wait_until_gone(children) == []
