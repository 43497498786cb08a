"""Outputs that are kept are read back from the disk: by how much the kernel's process grows meanwhile."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limits import Figure

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb
from inferd_client import Client, blob_tensor

NAME = "kept.read_back"
OUTPUT_BYTES = 16 << 20
OUTPUTS = 64  # together 1 GiB
MIB = 1 << 20


def figures(*, only: str, count: int = OUTPUTS) -> Iterator[Figure]:
    """`kept.read_back`: what the next kernel takes more at most while it gives back so many outputs of 16 MiB."""
    if not NAME.startswith(only):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _kernel(folder) as process, Client(process.address) as client:
            client.create_model("m", source=str(write_fake_model(folder, "m", tensor="identity")))
            ids = [_make(client) for _ in range(count)]
            process.process.send_signal(signal.SIGKILL)
            process.process.wait()
        with _kernel(folder) as process, Client(process.address) as client:
            client.get_host()
            before, started = _status(process.pid)["VmRSS"], time.perf_counter()
            read_bytes = sum(_read(client, task_id) for task_id in ids)
            took_s = time.perf_counter() - started
            grown = _status(process.pid)["VmHWM"] - before
        if read_bytes != count * OUTPUT_BYTES:
            raise RuntimeError(f"{read_bytes} bytes were read back, and {count * OUTPUT_BYTES} were given")
        detail = f"{read_bytes // MIB} MiB in outputs of {OUTPUT_BYTES // MIB} MiB after a kill, {took_s:.1f} s"
        yield Figure(name=NAME, value=round(grown / MIB, 1), unit="MiB", detail=detail)


@contextmanager
def _kernel(folder: Path) -> Iterator[KernelProcess]:
    environment = {"INFERD_STORE__URL": f"sqlite:{folder}/store", "INFERD_DRAIN_S": "0", "INFERD_BACKENDS": "[]"}
    with kernel_process(folder, environment=environment) as process:
        yield process


def _make(client: Client) -> str:
    """A kept task that has ended; nobody else has its output."""
    tensor = blob_tensor(client.put_blob(os.urandom(OUTPUT_BYTES)).digest, "float32", (OUTPUT_BYTES >> 12, 1 << 10))
    tensor.name = "x"
    spec = tp.TaskSpec(model="m", infer=pb.InferInput(inputs=[tensor]))
    task_id = client._tasks.CreateTask(ts.CreateTaskRequest(spec=spec)).task.task_id
    _read(client, task_id)
    return str(task_id)


def _read(client: Client, task_id: str) -> int:
    """How many bytes of output a task tells."""
    events = client.watch(task_id)
    return sum(len(each.output.infer.outputs[0].data) for each in events if each.HasField("output"))


def _status(pid: int) -> dict[str, int]:
    """Of a process, in bytes."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()]
    return {line[0][:-1]: int(line[1]) << 10 for line in lines if line[-1] == "kB"}
