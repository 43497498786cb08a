"""The client of today and a kernel of the last release, or of the one before: one that knows only what they knew.

It stands between the client and a kernel of today, and speaks the wire of `protos/baseline.binpb`: it has the methods
that are named there, and drops every field that is not, on both ways.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor

from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import (
    adapter_service_pb2,
    audit_service_pb2,
    blob_service_pb2,
    dataset_service_pb2,
    evaluation_service_pb2,
    explanation_service_pb2,
    federation_service_pb2,
    function_service_pb2,
    host_service_pb2,
    index_service_pb2,
    invite_service_pb2,
    lease_service_pb2,
    model_service_pb2,
    moderation_service_pb2,
    pipeline_service_pb2,
    quota_service_pb2,
    task_service_pb2,
    training_service_pb2,
)
from inferd_api.v1.lease_pb2 import LeaseState
from inferd_client import AsyncClient, Client, claims
from inferd_client.errors import KernelTooOldError, ModelNotFoundError, TaskExpiredError
from inferd_client.versions import SINCE

BASELINE = Path(__file__).parents[2] / "protos" / "baseline.binpb"
TODAY = (
    adapter_service_pb2,
    audit_service_pb2,
    blob_service_pb2,
    dataset_service_pb2,
    evaluation_service_pb2,
    explanation_service_pb2,
    federation_service_pb2,
    function_service_pb2,
    host_service_pb2,
    index_service_pb2,
    invite_service_pb2,
    lease_service_pb2,
    model_service_pb2,
    moderation_service_pb2,
    pipeline_service_pb2,
    quota_service_pb2,
    task_service_pb2,
    training_service_pb2,
)
LAST = "0.2.0"
"""The release that the baseline is of."""
RELEASES = {LAST: frozenset[str](), "0.1.0": frozenset(name for name, since in SINCE.items() if since == LAST)}
"""What each release lacked of the methods of the baseline."""
OPTIONS: Any = {"max_tokens": 6, "temperature": 0.0, "ignore_eos": True}


def baseline_methods() -> Iterator[MethodDescriptor]:
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(BASELINE.read_bytes()).file
    for file in files:
        pool.Add(file)
    for file in files:
        for service in file.service:
            yield from pool.FindServiceByName(f"{file.package}.{service.name}").methods


class OldKernel:
    """Hands calls on to a kernel, with what a release knew of them.

    Args:
        channel: To the kernel.
        version: Of the release.
    """

    def __init__(self, channel: grpc.aio.Channel, version: str) -> None:
        self.called: list[str] = []
        self._channel = channel
        self._version = version
        self.handlers: dict[str, dict[str, Any]] = {}
        for method in baseline_methods():
            if method.name not in RELEASES[version]:
                service = method.containing_service.full_name
                self.handlers.setdefault(service, {})[method.name] = self._handler(method)

    def _handler(self, method: MethodDescriptor) -> Any:
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = f"{_number(streams=method.client_streaming)}_{_number(streams=method.server_streaming)}"
        call = getattr(self._channel, kind)(path)

        async def hand_on(request: Any, context: Any) -> Any:
            self.called.append(method.name)
            metadata = tuple((key, value) for key, value in context.invocation_metadata() if key.startswith("inferd-"))
            limit_s = context.time_remaining()
            try:
                responses = call(request, metadata=metadata, timeout=limit_s)
                if not method.server_streaming:
                    return self._dated(method, await responses)
                async for response in responses:
                    await context.write(response)
            except grpc.aio.AioRpcError as error:
                context.set_trailing_metadata(tuple(error.trailing_metadata()))
                await context.abort(error.code(), error.details() or "")

        return getattr(grpc, f"{kind}_rpc_method_handler")(
            hand_on, _known(method.input_type), _known(method.output_type)
        )

    def _dated(self, method: MethodDescriptor, response: bytes) -> bytes:
        if method.name != "GetHost":
            return response
        host = host_service_pb2.GetHostResponse.FromString(response)
        host.host.version = self._version
        return host.SerializeToString()


def _number(*, streams: bool) -> str:
    return "stream" if streams else "unary"


def _known(kind: Any) -> Any:
    """A message as it is read and written again by who knows nothing newer."""
    message = message_factory.GetMessageClass(kind)

    def pass_on(data: bytes) -> bytes:
        read = message.FromString(data)
        read.DiscardUnknownFields()
        written: bytes = read.SerializeToString()
        return written

    return pass_on


@asynccontextmanager
async def old_kernel(connection: Connection, version: str) -> AsyncIterator[tuple[OldKernel, str]]:
    """A kernel of a release in front of one of today, which has a model; and its address."""
    write_fake_model(connection.folder)
    await connection.create()
    old, server = OldKernel(connection.channel, version), grpc.aio.server()
    for service, handlers in old.handlers.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield old, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def test_each_newer_call_is_named_with_its_version() -> None:
    """What a kernel of the last release lacks is known to the client, with the later version that has it."""
    known = {method.name for method in baseline_methods()}
    present = {
        method.name
        for module in TODAY
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {name for name, since in SINCE.items() if _release(since) > _release(LAST)} == present - known
    assert set(SINCE) <= present


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@pytest.mark.parametrize("version", RELEASES)
async def test_tasks_of_an_older_kernel(connection: Connection, version: str) -> None:
    """Tasks run, stream, give embeddings, are watched and end with typed errors, on one call or each on its own."""
    async with old_kernel(connection, version) as (old, address), AsyncClient(address) as client:
        assert (await client.generate("fake", "la", **OPTIONS)).text == "lalala"
        assert "".join([text async for text in client.stream("fake", "ab", **OPTIONS)]) == "ababab"
        events = [event async for event in client.run("fake", "la", **OPTIONS, detach_on_disconnect=True)]
        task_id = events[0].task_id
        assert {event.task_id for event in events} == {task_id}
        watched = [event async for event in client.watch(task_id, events[1].sequence)]
        assert watched[-1] == events[-1]
        assert len(await client.embed("fake", "la")) > 0
        with pytest.raises(ModelNotFoundError, match="fake"):
            await client.generate("fakee", "la")
        async with client.lease(claims.model("fake", sequences=1), wait=True) as lease:
            generation = await client.generate("fake", "la", lease=lease, **OPTIONS)
            assert (await client.get_task(generation.task_id)).lease_id == lease.lease_id
        many = await asyncio.gather(*(client.generate("fake", "la", **OPTIONS) for _ in range(5)))
        assert {generation.text for generation in many} == {"lalala"}
    lacks = "RunTasks" in RELEASES[version]
    assert ("RunTask" in old.called) is lacks
    assert ("RunTasks" in old.called) is not lacks


@pytest.mark.parametrize("version", RELEASES)
async def test_a_client_with_threads_and_an_older_kernel(connection: Connection, version: str) -> None:
    """The synchronous client does the same: what its reader leaves early is cancelled, and a deadline is told."""

    def use(address: str) -> str:
        with Client(address) as client:
            assert client.generate("fake", "la", **OPTIONS).text == "lalala"
            events = client.run("slow", "la", max_tokens=900, ignore_eos=True)
            task_id = next(events).task_id
            events.close()
            with pytest.raises(TaskExpiredError):
                client.generate("slow", "la", timeout_s=0.3, max_tokens=900, ignore_eos=True)
            watched = [event.WhichOneof("kind") for event in client.watch(task_id)]
            assert watched[-1] == "finished"
            return task_id

    await connection.create("slow", step_s=0.05)
    async with old_kernel(connection, version) as (_, address):
        task_id = await asyncio.wait_for(asyncio.to_thread(use, address), 60)
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        assert (await client.get_task(task_id)).finished.HasField("error")


async def test_what_an_older_kernel_lacks_is_told_with_both_versions(connection: Connection) -> None:
    """A call that an older kernel lacks ends with an error that names it, the kernel's version and the one needed."""
    said = r"this kernel is 0\.1\.0; DeleteModel needs 0\.2\.0 or newer"
    async with old_kernel(connection, "0.1.0") as (_, address):
        async with AsyncClient(address) as client:
            with pytest.raises(KernelTooOldError, match=said) as caught:
                await client.delete_model("fake")
            assert caught.value.metadata == {"call": "DeleteModel", "version": "0.1.0", "needed": "0.2.0"}
            assert [model.name async for model in client.list_models()] == ["fake"]

        def delete() -> None:
            with Client(address) as client:
                client.delete_model("fake")

        with pytest.raises(KernelTooOldError, match=said):
            await asyncio.wait_for(asyncio.to_thread(delete), 60)


async def test_tensors_for_an_older_kernel(connection: Connection) -> None:
    """A kernel that does not know tensors is told as too old, instead of that the task has no input."""
    needed = re.escape(SINCE["GetModelSignature"])
    said = rf"this kernel is 0\.1\.0; (a task of tensors|GetModelSignature) needs {needed} or newer"
    async with old_kernel(connection, "0.1.0") as (_, address):
        async with AsyncClient(address) as client:
            with pytest.raises(KernelTooOldError, match=said):
                await client.infer("fake", {"x": 1.0})
            with pytest.raises(KernelTooOldError, match=said):
                await client.model_signature("fake")

        def infer() -> None:
            with Client(address) as client:
                client.infer("fake", {"x": 1.0})

        with pytest.raises(KernelTooOldError, match=said):
            await asyncio.wait_for(asyncio.to_thread(infer), 60)


async def test_an_older_kernel_holds_no_lease_by_labels(connection: Connection) -> None:
    """It would hold a device of its own for them: that is given back, and the client tells which version is needed."""
    said = r"this kernel is 0\.2\.0; a lease by labels of hosts needs 0\.4\.0 or newer"
    async with old_kernel(connection, LAST) as (_, address):
        async with AsyncClient(address) as client:
            with pytest.raises(KernelTooOldError, match=said):
                await client.create_lease(claims.memory(1), claims.cores(1, selector={"zone": "a"}))
            assert [lease.state async for lease in client.list_leases()] == [LeaseState.LEASE_STATE_RELEASED]

        def create() -> None:
            with Client(address) as client:
                client.create_lease(claims.memory(1, selector={"zone": "a"}))

        with pytest.raises(KernelTooOldError, match=said):
            await asyncio.wait_for(asyncio.to_thread(create), 60)
