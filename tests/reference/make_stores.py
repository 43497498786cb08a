"""Make the store that a tagged version leaves: `python tests/reference/make_stores.py v0.3.0`.

The code of the tag runs a kernel with the FakeBackend, by the Python and the libraries of today. It leaves a model, a
task that has ended, one that is suspended behind some output, one that waits suspended, and a lease, all for long.
Beside the store is what `inferd store export` of that version says of it. Nothing in it is of this machine.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

import apsw

from inferd.store.codec import PlainCodec
from inferd.store.values import place_of

ROOT = Path(__file__).parents[2]
STORES = ROOT / "tests" / "fixtures" / "store"
PARTS = ("protos", "kernel", "plugins", "clients/python")
FILL = """
import asyncio, sys
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from inferd.runtime import clock
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import lease_pb2 as lp, lease_service_pb2 as ls, model_pb2 as mp, model_service_pb2 as ms
from inferd_api.v1 import sampling_pb2 as sp, task_pb2 as tp, task_service_pb2 as ts
from inferd_api.v1.lease_service_pb2_grpc import LeaseServiceStub
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub

LONG = Duration(seconds=900_000_000)
clock.BOOT_ID = Path("/none")  # of no boot of any machine


def wanted(tokens, name):
    spec = tp.TaskSpec(model="fake", prompt="la", sampling=sp.SamplingParams(max_tokens=tokens, temperature=0))
    spec.labels["name"] = name
    return ts.CreateTaskRequest(spec=spec, request_id=name, ttl=LONG)


async def fill(folder):
    long = {"limits": {"detached_s": 9e8}, "leases": {"max_ttl_s": 9e8}}
    store = {"url": f"sqlite:{folder}/store", "output_interval_s": 0.0, "retention_s": 9e8}
    async with kernel_here(folder, store=store, **long) as kernel:
        async with grpc.aio.insecure_channel(kernel.addresses[0]) as channel:
            tasks, models = TaskServiceStub(channel), ModelServiceStub(channel)
            source = str(write_fake_model(folder, "fake", step_s=0.005))
            await models.CreateModel(ms.CreateModelRequest(model=mp.Model(name="fake", source=source)))
            spec = lp.LeaseSpec(claims=[lp.Claim(memory=lp.MemoryClaim(bytes=1 << 20))], ttl=LONG)
            await LeaseServiceStub(channel).CreateLease(ls.CreateLeaseRequest(spec=spec))
            ended = (await tasks.CreateTask(wanted(6, "ended"))).task.task_id
            async for _ in tasks.WatchTask(ts.WatchTaskRequest(task_id=ended)):
                pass
            for name in ("begun", "waiting"):
                task_id = (await tasks.CreateTask(wanted(300, name))).task.task_id
                async for response in tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)):
                    if name == "waiting" or response.event.HasField("output"):
                        break
                await tasks.SuspendTask(ts.SuspendTaskRequest(task_id=task_id))
                while (await tasks.GetTask(ts.GetTaskRequest(task_id=task_id))).task.state != tp.TASK_STATE_SUSPENDED:
                    await asyncio.sleep(0.05)


asyncio.run(fill(Path(sys.argv[1])))
"""


def make_neutral(store: Path, folder: str) -> None:
    """Let a store that was closed name `/models` in place of the folder in which its model was."""
    codec = PlainCodec()
    with closing(apsw.Connection(str(store))) as database:
        for *name, value in list(database.execute("SELECT tenant, kind, key, value FROM records")):
            read = codec.read(place_of(*name), value)
            if folder.encode() in read:
                written = codec.write(place_of(*name), read.replace(folder.encode(), b"/models"))
                where = "WHERE tenant = ? AND kind = ? AND key = ?"
                database.execute(f"UPDATE records SET value = ? {where}", (written, *name))  # noqa: S608 - ours
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def main(tag: str) -> None:
    """Make the store of a tag."""
    STORES.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(
        ("/usr/bin/env", "git", "archive", tag, *PARTS), cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    with tempfile.TemporaryDirectory() as code, tempfile.TemporaryDirectory(prefix="inferd-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(code, filter="data")
        paths = os.pathsep.join(str(Path(code, part)) for part in PARTS)
        environment = {**os.environ, "PYTHONPATH": paths}
        subprocess.run([sys.executable, "-c", FILL, folder], check=True, env=environment, timeout=120)
        make_neutral(Path(folder, "store"), folder)
        export = [sys.executable, "-m", "inferd", "store", "export", "--file", f"{folder}/store"]
        said = subprocess.run(export, check=True, env=environment, stdout=subprocess.PIPE, timeout=60).stdout
        shutil.copyfile(Path(folder, "store"), STORES / f"{tag}.sqlite")
        (STORES / f"{tag}.jsonl").write_bytes(said)


if __name__ == "__main__":
    main(sys.argv[1])
