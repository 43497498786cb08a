"""A client as it was built at the last release, whose wire is `protos/baseline.binpb`, and the kernel of today."""

from pathlib import Path
from typing import Any

import pytest
from connection import Connection
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from inferd.testing.kernel import write_fake_model

BASELINE = Path(__file__).parents[2] / "protos" / "baseline.binpb"


class OldClient:
    """Calls methods with the messages of the baseline."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(BASELINE.read_bytes()).file:
            self._pool.Add(file)

    def message(self, name: str, /, **fields: Any) -> Any:
        """A message of the baseline."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"inferd.v1.{name}"))(**fields)

    def enum(self, name: str, value: str) -> int:
        """A number of the baseline."""
        number: int = self._pool.FindEnumTypeByName(f"inferd.v1.{name}").values_by_name[value].number
        return number

    def call(self, service: str, method: str) -> Any:
        """A method of the baseline."""
        found = self._pool.FindServiceByName(f"inferd.v1.{service}").FindMethodByName(method)
        kind = ("stream" if found.client_streaming else "unary", "stream" if found.server_streaming else "unary")
        make = getattr(self._channel, "_".join(kind))
        answer = message_factory.GetMessageClass(found.output_type)
        return make(
            f"/inferd.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    def spec(self) -> Any:
        """A task for the model, which goes on repeating its text."""
        sampling = self.message("SamplingParams", max_tokens=6, temperature=0.0, ignore_eos=True)
        return self.message("TaskSpec", model="fake", prompt="la", sampling=sampling)


@pytest.fixture
async def old(connection: Connection) -> OldClient:
    """A client of a kernel with a model."""
    client = OldClient(connection.channel)
    model = client.message("Model", name="fake", source=str(write_fake_model(connection.folder)))
    await client.call("ModelService", "CreateModel")(client.message("CreateModelRequest", model=model))
    await client.call("ModelService", "LoadModel")(client.message("LoadModelRequest", name="fake"))
    return client


def text(events: list[Any]) -> str:
    return "".join(event.output.text for event in events if event.HasField("output"))


async def test_an_older_client_streams_a_task(old: OldClient) -> None:
    """What is asked with the messages of the last release is understood, and so is what is told."""
    request = old.message("RunTaskRequest", spec=old.spec())
    events = [update.event async for update in old.call("TaskService", "RunTask")(request)]
    assert text(events) == "lalala"
    assert events[-1].finished.usage.output_tokens == 6


async def test_an_older_client_has_many_tasks_on_one_call(old: OldClient) -> None:
    """The call that carries all tasks of a client means what it meant."""
    call = old.call("TaskService", "RunTasks")()
    run = old.message("RunOrder", request=old.message("RunTaskRequest", spec=old.spec()))
    orders = [old.message("TaskOrder", tag=tag, run=run) for tag in (1, 2)]
    await call.write(old.message("RunTasksRequest", orders=orders))
    await call.done_writing()
    updates = [update async for response in call for update in response.updates]
    for tag in (1, 2):
        events = [update.event for update in updates if update.tag == tag]
        assert text(events) == "lalala"
        assert events[-1].HasField("finished")


async def test_an_older_client_holds_a_lease(old: OldClient) -> None:
    """A lease is had, kept alive and given back."""
    claim = old.message("Claim", memory=old.message("MemoryClaim", device_id="fake:0", bytes=1 << 20))
    request = old.message("CreateLeaseRequest", spec=old.message("LeaseSpec", claims=[claim]))
    lease = (await old.call("LeaseService", "CreateLease")(request)).lease
    call = old.call("LeaseService", "KeepAliveLeases")()
    await call.write(old.message("KeepAliveLeasesRequest", lease_ids=[lease.lease_id]))
    await call.done_writing()
    (renewal,) = [renewal async for response in call for renewal in response.renewals]
    assert renewal.fencing_token == lease.fencing_token
    assert not renewal.HasField("error")
    request = old.message("ReleaseLeaseRequest", lease_id=lease.lease_id)
    ended = (await old.call("LeaseService", "ReleaseLease")(request)).lease
    assert ended.state == old.enum("LeaseState", "LEASE_STATE_RELEASED")
