"""What clients of every kind of stream see of a kernel that ends."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
from connection import Connection, memory
from far_host import DEADLINE_S
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as rp
from grpc_reflection.v1alpha import reflection_pb2_grpc

from inferd.testing.kernel import kernel_here
from inferd_api.inference import grpc_service_pb2 as ip
from inferd_api.inference import grpc_service_pb2_grpc
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_service_pb2 as ts

CLOSES = "UNAVAILABLE the kernel is shutting down"
CUT = "UNAVAILABLE Cancelling all calls"  # gRPC's own service, which is told nothing


async def opened(c: Connection) -> dict[str, Any]:
    """Streams of every kind that has no end, each of which has told something where it does so at once."""
    lease = await c.claim(memory(1 << 20), ttl=Duration(seconds=300))
    task = c.endless(tokens=1_000_000)
    task_id = (await task.read()).event.task_id
    many = c.tasks.RunTasks()
    watch = ts.WatchOrder(request=ts.WatchTaskRequest(task_id=task_id))
    await many.write(ts.RunTasksRequest(orders=[ts.TaskOrder(tag=1, watch=watch)]))
    kept = c.leases.KeepAliveLeases()
    await kept.write(ls.KeepAliveLeasesRequest(lease_ids=[lease.lease_id]))
    reflection = reflection_pb2_grpc.ServerReflectionStub(c.channel).ServerReflectionInfo()
    await reflection.write(rp.ServerReflectionRequest(list_services=""))
    infer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(c.channel).ModelStreamInfer()
    await infer.write(ip.ModelInferRequest(model_name="none"))
    calls = {
        "RunTasks": many,
        "WatchTasks": c.tasks.WatchTasks(ts.WatchTasksRequest()),
        "WatchLease": c.leases.WatchLease(ls.WatchLeaseRequest(lease_id=lease.lease_id)),
        "KeepAliveLeases": kept,
        "WatchModel": c.models.WatchModel(ms.WatchModelRequest(name="fake")),
        "WatchHost": c.hosts.WatchHost(hs.WatchHostRequest()),
        "Health": health_pb2_grpc.HealthStub(c.channel).Watch(hp.HealthCheckRequest()),
        "Reflection": reflection,
        "ModelStreamInfer": infer,
    }
    for call in calls.values():
        await call.read()
    return {"RunTask": task, "WatchTask": c.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)), **calls}


async def end_of(call: Any) -> str:
    """The status with which a stream ends."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while await call.read() is not grpc.aio.EOF:
                pass
            return str((await call.code()).name)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error.details()}"


async def test_every_stream_ends_with_a_status(tmp_path: Path) -> None:
    """Those that the kernel cuts say UNAVAILABLE, those of tasks that have ended OK: none ends without a word."""
    async with kernel_here(tmp_path, store={"url": f"sqlite:{tmp_path}/store"}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create(step_s=0.002)
        calls = await opened(connection)
        ends = {name: asyncio.create_task(end_of(call)) for name, call in calls.items()}
    found = {name: await end for name, end in ends.items()}
    await connection.channel.close()
    assert {name: end for name, end in found.items() if end not in ("OK", CLOSES)} == {"Reflection": CUT}
    assert {name for name, end in found.items() if end == "OK"} <= {"WatchTask", "Health"}
