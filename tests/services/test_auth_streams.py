"""Changes of keys and rules reach calls that are under way."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import memory, reason_of
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from guarded import Guarded, Metadata, bearer, failing, guarded
from time_limits import LONG_S

from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1 import blob_service_pb2 as bs
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import upload_service_pb2 as us
from inferd_api.v1.blob_service_pb2_grpc import BlobServiceStub
from inferd_api.v1.upload_service_pb2_grpc import UploadServiceStub
from inferd_client import AsyncClient

NARROW = (("grpc.http2.lookahead_bytes", 65535), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))
"""A client whose streams take little before it reads."""


async def streams(kernel: Guarded, metadata: Metadata) -> dict[str, Any]:
    """A stream of each kind, which has told something and would go on."""
    connection = kernel.tcp
    run = connection.endless(metadata=metadata, detach_on_disconnect=True)
    task_id = (await run.read()).event.task_id
    lease_id = (await connection.claim(memory(1), metadata=metadata)).lease_id
    many = connection.tasks.RunTasks(metadata=metadata)
    order = ts.RunOrder(request=ts.RunTaskRequest(spec=tp.TaskSpec(model="fake", prompt="la")))
    await many.write(ts.RunTasksRequest(orders=[ts.TaskOrder(tag=1, run=order)]))
    keep = connection.leases.KeepAliveLeases(metadata=metadata)
    await keep.write(ls.KeepAliveLeasesRequest(lease_ids=[lease_id]))
    upload: Any = UploadServiceStub(connection.channel).Upload(metadata=metadata)  # type: ignore[no-untyped-call]
    await upload.write(us.UploadRequest(start=us.UploadStart(size_bytes=2)))
    calls = {
        "RunTask": run,
        "RunTasks": many,
        "WatchTask": connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id), metadata=metadata),
        "WatchTasks": connection.tasks.WatchTasks(ts.WatchTasksRequest(), metadata=metadata),
        "KeepAliveLeases": keep,
        "WatchLease": connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=lease_id), metadata=metadata),
        "WatchModel": connection.models.WatchModel(ms.WatchModelRequest(name="fake"), metadata=metadata),
        "WatchHost": connection.hosts.WatchHost(hs.WatchHostRequest(), metadata=metadata),
        "Upload": upload,
    }
    for name, call in calls.items():
        assert await asyncio.wait_for(call.read(), LONG_S) is not grpc.aio.EOF, name
    return calls


async def ends(calls: dict[str, Any]) -> dict[str, tuple[grpc.StatusCode, str]]:
    """How each stream ends, in a time in which all have to."""
    errors = await asyncio.wait_for(asyncio.gather(*map(failing, calls.values())), LONG_S)
    return {name: (error.code(), reason_of(error)[0]) for name, error in zip(calls, errors, strict=True)}


@pytest.fixture
async def endless(tmp_path: Path) -> Any:
    """A kernel that needs a login, with a model that goes on for long."""
    async with guarded(tmp_path) as kernel:
        await kernel.owner.create(step_s=0.02)
        yield kernel


async def test_a_revoked_key_ends_its_streams(endless: Guarded) -> None:
    """All calls under way with a key end as UNAUTHENTICATED when it is revoked; others and detached tasks go on."""
    key, other = await endless.key(), await endless.login("user")
    calls = await streams(endless, bearer(key.credential))
    others = await streams(endless, other)
    await endless.made.RevokeKey(asp.RevokeKeyRequest(key_id=key.key.key_id))
    assert await ends(calls) == dict.fromkeys(calls, (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"))
    for name in ("RunTask", "WatchTask", "WatchHost"):
        assert await others[name].read() is not grpc.aio.EOF
    task_id = (await others["RunTask"].read()).event.task_id
    listed = (await endless.tcp.tasks.ListTasks(ts.ListTasksRequest(), metadata=other)).tasks
    running = [task.task_id for task in listed if task.state == tp.TASK_STATE_RUNNING]
    assert len(running) >= 2  # that of the revoked key, too: it was to be detached
    assert task_id in running
    for call in others.values():
        call.cancel()


async def test_a_key_ends_its_streams_when_it_expires(endless: Guarded) -> None:
    """At its expiry, and not before, a key ends the calls that were begun with it, and is known no longer."""
    expires = Timestamp()
    expires.FromNanoseconds(int((time.time() + 3) * 1e9))
    metadata = bearer((await endless.key(expire_time=expires)).credential)
    calls = {
        "WatchHost": endless.tcp.hosts.WatchHost(hs.WatchHostRequest(), metadata=metadata),
        "WatchTasks": endless.tcp.tasks.WatchTasks(ts.WatchTasksRequest(), metadata=metadata),
        "KeepAliveLeases": endless.tcp.leases.KeepAliveLeases(metadata=metadata),
    }
    for name in ("WatchHost", "WatchTasks"):
        assert await calls[name].read() is not grpc.aio.EOF
    assert await ends(calls) == dict.fromkeys(calls, (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"))
    assert time.time() >= expires.ToNanoseconds() / 1e9
    error = await failing(endless.auth.WhoAmI(asp.WhoAmIRequest(), metadata=metadata))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_rule_that_denies_ends_the_streams_that_it_is_about(endless: Guarded) -> None:
    """A new rule ends what it denies as PERMISSION_DENIED, and no other; a stream of orders when it may deny some."""
    calls = await streams(endless, await endless.login("user"))
    await endless.rule("principal:anna", models="other", verbs=["VERB_READ"], kinds=["RESOURCE_KIND_MODEL"])
    assert await calls["WatchHost"].read() is not grpc.aio.EOF
    denied = (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    await endless.rule("principal:anna", models="fa*", verbs=["VERB_RUN"], kinds=["RESOURCE_KIND_TASK"])
    first = {name: calls.pop(name) for name in ("RunTask", "RunTasks")}
    assert await ends(first) == dict.fromkeys(first, denied)
    for name in ("WatchTask", "WatchHost"):
        assert await calls[name].read() is not grpc.aio.EOF
    assert not any(call.done() for call in calls.values())
    await endless.rule("role:user", tenants="default")
    assert await ends(calls) == dict.fromkeys(calls, denied)


async def test_a_rule_that_goes_ends_what_it_allowed(endless: Guarded) -> None:
    """Streams that one rule allowed end when that is deleted."""
    rule_id = await endless.rule("role:watcher", allow=True, kinds=["RESOURCE_KIND_HOST"])
    call = endless.tcp.hosts.WatchHost(hs.WatchHostRequest(), metadata=await endless.login("watcher"))
    assert await call.read()
    await endless.made.DeleteRule(asp.DeleteRuleRequest(rule_id=rule_id))
    assert (await ends({"": call}))[""] == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_a_stream_that_ends_in_its_first_message_says_why(tmp_path: Path) -> None:
    """Whoever has not taken the first message yet when its call ends is told why behind it, and waits no more."""
    async with guarded(tmp_path, store={"url": f"sqlite:{tmp_path}/store"}) as kernel:
        async with AsyncClient(kernel.kernel.addresses[0]) as owner:
            digest = (await owner.put_blob(bytes(1 << 20))).digest  # more than may be sent to who does not read
        key = await kernel.key()
        channel = grpc.aio.insecure_channel(kernel.kernel.addresses[1], options=NARROW)
        stub: Any = BlobServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.ReadBlob(bs.ReadBlobRequest(digest=digest), metadata=bearer(key.credential))
        async with asyncio.timeout(LONG_S):
            await call.initial_metadata()  # which is sent with the first message
        await kernel.made.RevokeKey(asp.RevokeKeyRequest(key_id=key.key.key_id))
        assert await ends({"": call}) == {"": (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")}
        await channel.close()


async def test_a_rotated_key_ends_streams_of_the_credential_before(endless: Guarded) -> None:
    """Streams that came with the credential before go on for the overlap; without one they end at once."""
    key = await endless.key()

    def watch(credential: str) -> Any:
        return endless.tcp.hosts.WatchHost(hs.WatchHostRequest(), metadata=bearer(credential))

    first = watch(key.credential)
    assert await first.read()
    second = await endless.made.RotateKey(asp.RotateKeyRequest(key_id=key.key.key_id))
    present = watch(second.credential)
    assert await present.read()
    assert await first.read()
    third = await endless.made.RotateKey(asp.RotateKeyRequest(key_id=key.key.key_id, overlap=Duration()))
    assert await ends({"first": first, "second": present}) == dict.fromkeys(
        ("first", "second"), (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    )
    last = watch(third.credential)
    assert await last.read()
    last.cancel()


async def test_a_stream_that_nobody_reads_ends_too(endless: Guarded) -> None:
    """A client that does not read keeps no stream: its call is over for the kernel, which has its place free again."""
    key = await endless.key()
    call = endless.tcp.endless(metadata=bearer(key.credential), tokens=8000)
    task_id = (await call.read()).event.task_id
    await endless.made.RevokeKey(asp.RevokeKeyRequest(key_id=key.key.key_id))
    async with asyncio.timeout(LONG_S):
        async for response in endless.owner.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)):
            last = response.event
    assert last.finished.state == tp.TASK_STATE_CANCELLED
    assert (await failing(call)).code() is grpc.StatusCode.UNAUTHENTICATED
