"""A kernel that was stopped and goes on: SIGSTOP and SIGCONT, as Ctrl-Z and fg, or a debugger."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import Client

pytestmark = pytest.mark.e2e

LIMIT_S = 1.5
PAUSE_S = 3.0
STRICT = {
    "INFERD_BACKENDS": "[]",
    "INFERD_WORKERS__HEARTBEAT_S": "0.1",
    "INFERD_WORKERS__HEARTBEAT_TIMEOUT_S": f"{LIMIT_S}",
    "INFERD_WORKERS__STEP_FLOOR_S": f"{LIMIT_S}",
}


def pause(kernel: KernelProcess, *workers: int) -> None:
    """Stop a kernel for longer than its limits; whoever of its workers ends meanwhile is told of."""
    os.kill(kernel.pid, signal.SIGSTOP)
    _, status = os.waitpid(kernel.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    ended, _ = psutil.wait_procs([psutil.Process(pid) for pid in workers], timeout=PAUSE_S)
    assert ended == []
    os.kill(kernel.pid, signal.SIGCONT)


def test_a_kernel_that_was_stopped_keeps_its_workers(tmp_path: Path) -> None:
    """A kernel that goes on after a pause keeps its idle and its busy workers; the stream of a task goes on, too."""
    with kernel_process(tmp_path, environment=STRICT) as kernel, Client(kernel.address) as client:
        client.create_model("idle", source=str(write_fake_model(tmp_path, "idle")))
        client.create_model("busy", source=str(write_fake_model(tmp_path, "busy", step_s=0.01)))
        workers = [client.load_model(name).instances[0].pid for name in ("idle", "busy")]
        events = client.run("busy", "la", max_tokens=400)
        next(event for event in events if event.HasField("output"))
        pause(kernel, *workers)
        assert list(events)[-1].finished.usage.output_tokens == 400
        assert client.generate("idle", [{"role": "user", "content": "still here"}]).text == "still here"
        assert [client.get_model(name).instances[0].pid for name in ("idle", "busy")] == workers


def test_a_worker_that_hangs_is_ended_after_the_pause(tmp_path: Path) -> None:
    """A worker that was stopped beside its kernel is ended if it does not answer again; its task goes on."""
    with kernel_process(tmp_path, environment=STRICT) as kernel, Client(kernel.address) as client:
        client.create_model("fake", source=str(write_fake_model(tmp_path, step_s=0.01)))
        worker = client.load_model("fake").instances[0].pid
        events = client.run("fake", "la", max_tokens=400)
        next(event for event in events if event.HasField("output"))
        os.kill(worker, signal.SIGSTOP)
        pause(kernel, worker)
        assert list(events)[-1].finished.usage.output_tokens == 400
        assert client.get_model("fake").instances[0].pid != worker
