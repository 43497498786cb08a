"""A kernel in this process, and its stubs on a connection of their own."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from time_limits import LONG_S

from inferd.runtime.store_state import STORE
from inferd.server import Kernel
from inferd.testing.kernel import write_fake_model
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub
from inferd_api.v1.lease_pb2 import Claim, Lease, LeaseSpec, LeaseState, MemoryClaim
from inferd_api.v1.lease_service_pb2 import CreateLeaseRequest, WatchLeaseRequest
from inferd_api.v1.lease_service_pb2_grpc import LeaseServiceStub
from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.model_service_pb2 import CreateModelRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt, TaskSpec
from inferd_api.v1.task_service_pb2 import RunTaskRequest
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub


@dataclass
class Connection:
    """A connection to a kernel; with more of them a test is more clients."""

    kernel: Kernel
    folder: Path

    def __post_init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(
            self.kernel.addresses[0], options=(("grpc.use_local_subchannel_pool", 1),)
        )
        self.make_stubs()

    def make_stubs(self) -> None:
        self.tasks: Any = TaskServiceStub(self.channel)
        self.models: Any = ModelServiceStub(self.channel)
        self.leases: Any = LeaseServiceStub(self.channel)
        self.hosts: Any = HostServiceStub(self.channel)

    def another(self) -> "Connection":
        return Connection(self.kernel, self.folder)

    async def create(self, name: str = "fake", **behaviour: Any) -> str:
        path = write_fake_model(self.folder, name, **behaviour)
        await self.models.CreateModel(CreateModelRequest(model=Model(name=name, source=str(path))))
        return name

    def chat(self, text: str, *, model: str = "fake", metadata: Any = None, timeout: Any = None, **more: Any) -> Any:
        """Run a chat; the FakeBackend answers with its words."""
        spec = TaskSpec(model=model, chat=ChatPrompt(messages=[ChatMessage(role="user", content=text)]))
        return self.tasks.RunTask(RunTaskRequest(spec=spec, **more), metadata=metadata, timeout=timeout)

    def endless(
        self,
        *,
        model: str = "fake",
        timeout: Any = None,
        tokens: int = 900,
        metadata: Any = None,
        priority: Any = None,
        **more: Any,
    ) -> Any:
        """Run a text, which the FakeBackend goes on repeating."""
        sampling = SamplingParams(max_tokens=tokens, temperature=0)
        spec = TaskSpec(model=model, prompt="la", sampling=sampling, priority=priority)
        return self.tasks.RunTask(RunTaskRequest(spec=spec, **more), timeout=timeout, metadata=metadata)

    async def claim(self, *claims: Claim, metadata: Any = None, **spec: Any) -> Lease:
        """Create a lease."""
        request = CreateLeaseRequest(spec=LeaseSpec(claims=claims, **spec))
        lease: Lease = (await self.leases.CreateLease(request, metadata=metadata)).lease
        return lease

    async def until(self, lease_id: str, state: int) -> list[Lease]:
        """What a watcher of a lease is told, up to a state."""
        told: list[Lease] = []
        call = self.leases.WatchLease(WatchLeaseRequest(lease_id=lease_id))
        async for response in call:
            told.append(response.lease)
            if response.lease.state == state:
                call.cancel()
                return told
        raise AssertionError(f"not {LeaseState.Name(state)}: {told}")


async def until_written(kernel: Kernel) -> None:
    """Wait until the kernel knows that its store takes what is written again."""
    driver = kernel.driver
    assert driver.keeper is not None
    with driver.watchers.models.watch(STORE) as changed:
        async with asyncio.timeout(LONG_S):
            while not driver.keeper.state.writes:
                await changed.wait(changed.version)


def memory(size_bytes: int, device_id: str = "cpu:0") -> Claim:
    """A claim on memory."""
    return Claim(memory=MemoryClaim(device_id=device_id, bytes=size_bytes))


def under(lease_id: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call under a lease."""
    return (("inferd-lease", lease_id),)


async def refusal(call: Any) -> tuple[str, dict[str, str]]:
    """Reason and metadata of the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(caught.value)


def reason_of(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """Reason and metadata of the ErrorInfo that an error carries."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    return info_of(status)


def info_of(status: Any) -> tuple[str, dict[str, str]]:
    """Reason and metadata of the ErrorInfo of a status."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "inferd"
    return info.reason, dict(info.metadata)


async def read_all(call: Any) -> list[Any]:
    """All events of a stream that ends with OK."""
    return [response.event async for response in call]


async def read_failing(call: Any) -> tuple[list[Any], grpc.aio.AioRpcError]:
    """All events of a stream that ends with an error, and the error."""
    events: list[Any] = []

    async def read() -> None:
        async for response in call:
            events.append(response.event)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    return events, caught.value


async def read_until(call: Any, kind: str) -> list[Any]:
    """The events up to the first of a kind."""
    events = []
    async for response in call:
        events.append(response.event)
        if response.event.WhichOneof("kind") == kind:
            return events
    raise AssertionError(f"no {kind} in {events}")


def text_of(events: list[Any]) -> str:
    return "".join(event.output.text for event in events)


def kinds_of(events: list[Any]) -> list[str]:
    kinds = [event.WhichOneof("kind") for event in events]
    return [kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind]
