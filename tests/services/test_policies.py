"""Every call states a policy, and rules decide over it at the door."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from connection import Connection, reason_of
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

import inferd.services.server
from inferd.services.policies import NoPolicyError, read_policies
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_service_pb2, model_service_pb2, policy_pb2, task_service_pb2, upload_service_pb2
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

FILE = ms.ModelFile(name="a.fake", digest=f"sha256:{'0' * 64}", size_bytes=1)


def changed(module: Any, change: Any) -> Any:
    """The service of a module with a change of its file, in a pool of its own."""
    pool = DescriptorPool()

    def add(file: Any) -> None:
        for other in file.dependencies:
            add(other)
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        if file is module.DESCRIPTOR:
            change(proto)
        pool.Add(proto)  # type: ignore[attr-defined] # of the library, which the stubs lack

    add(module.DESCRIPTOR)
    made: Any = ModuleType(module.__name__)
    made.DESCRIPTOR = pool.FindFileByName(module.DESCRIPTOR.name)
    return made


async def test_a_call_without_a_policy_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that offers a call whose proto states no policy does not start, and says which it is."""
    without = changed(upload_service_pb2, lambda file: file.service[0].method[0].ClearField("options"))
    monkeypatch.setattr(inferd.services.server, "upload_service_pb2", without)
    with pytest.raises(NoPolicyError, match=r"inferd\.v1\.UploadService\.Upload"):
        async with kernel_here(tmp_path):
            pass


@pytest.mark.parametrize("said", ["spec.modell", "spec.model.name"])
def test_a_policy_names_a_field_that_there_is(said: str) -> None:
    """A policy whose model_field leads nowhere is an error, and no call that goes unchecked."""

    def change(file: Any) -> None:
        options = file.service[0].method[0].options
        options.Extensions[policy_pb2.policy].model_field = said

    (service,) = changed(task_service_pb2, change).DESCRIPTOR.services_by_name.values()
    with pytest.raises(NoPolicyError, match="RunTask"):
        read_policies([service])


def test_every_request_that_names_a_model_says_so_in_its_policy() -> None:
    """Where a request has a field for a model, the policy of its call names it; others have none."""
    modules = (hs, lease_service_pb2, model_service_pb2, task_service_pb2, upload_service_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    policies = read_policies(services)
    for service in services:
        for method in service.methods:
            way = ".".join(name for name, _ in policies[f"/{service.full_name}/{method.name}"].fields)
            assert way in set(models_in(method.input_type)) | {""}
            assert bool(way) == any(True for _ in models_in(method.input_type)), method.full_name


def models_in(message: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
    """The ways to fields that name a model."""
    for field in message.fields:
        way = (*before, field.name)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            if field.message_type.file.package == "inferd.v1" and "output" not in field.name:
                yield from models_in(field.message_type, way)
        elif field.name == "model" or (field.name == "name" and message.full_name.split(".")[-1] in NAMED):
            yield ".".join(way)


NAMED = {"Model", "GetModelRequest", "LoadModelRequest", "UnloadModelRequest", "DeleteModelRequest"} | {
    "WatchModelRequest",
    "PlanLoadRequest",
    "UpdateModelRequest",
    "ListModelVersionsRequest",
    "ExportModelRequest",
}


async def denied(call: Any) -> dict[str, str]:
    """What is told of a call that the rules deny."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    reason, facts = reason_of(caught.value)
    assert reason == "PERMISSION_DENIED"
    return facts


async def test_rules_decide_before_the_call_does_anything(tmp_path: Path) -> None:
    """What a rule of the configuration denies is refused by name, and what it does not name goes on."""
    rules = [
        {"who": "*", "effect": "deny", "verbs": ["run"], "kinds": ["task"], "models": "big*"},
        {"who": "*", "effect": "deny", "kinds": ["host"]},
        {"who": "*", "effect": "deny", "verbs": ["read"], "kinds": ["model"], "models": "big*"},
        {"who": "*", "effect": "deny", "verbs": ["create"], "kinds": ["model"], "models": "big-2"},
        {"who": "*", "effect": "deny", "tenants": "closed"},
    ]
    async with kernel_here(tmp_path, auth={"rules": rules}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("big-1")
        await connection.create("small")
        facts = await denied(connection.chat("Hello", model="big-1"))
        assert facts == {"principal": "local", "verb": "run", "kind": "task", "tenant": "default", "model": "big-1"}
        assert (await denied(connection.chat("Hello", model="big-none")))["model"] == "big-none"
        assert await connection.chat("Hello", model="small").read()
        await denied(connection.hosts.GetHost(hs.GetHostRequest()))
        assert await denied(connection.models.GetModel(ms.GetModelRequest(name="big-1")))
        upload = connection.models.UploadModel()
        await upload.write(ms.UploadModelRequest(start=ms.UploadModelStart(model=mp.Model(name="big-2"), files=[FILE])))
        assert (await denied(upload))["model"] == "big-2"
        listed = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in listed] == ["small"]
        closed = (("inferd-tenant", "closed"),)
        await denied(connection.tasks.ListTasks(ts.ListTasksRequest(), metadata=closed))
        await connection.tasks.ListTasks(ts.ListTasksRequest())
        await connection.channel.close()


async def test_an_order_that_is_denied_ends_alone(tmp_path: Path) -> None:
    """Of many tasks on one call those with a model that is denied are refused by their tags, and the others run."""
    rules = [
        {"who": "*", "effect": "deny", "verbs": ["run"], "kinds": ["task"], "models": "big"},
        {"who": "*", "effect": "deny", "verbs": ["read"], "kinds": ["task"]},
    ]
    async with kernel_here(tmp_path, auth={"rules": rules}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("big")
        await connection.create("small")
        call = connection.tasks.RunTasks()
        runs = [
            ts.TaskOrder(
                tag=tag, run=ts.RunOrder(request=ts.RunTaskRequest(spec=tp.TaskSpec(model=model, prompt="la")))
            )
            for tag, model in enumerate(("big", "small"))
        ]
        watch = ts.WatchOrder(request=ts.WatchTaskRequest(task_id="any"))
        await call.write(ts.RunTasksRequest(orders=[*runs, ts.TaskOrder(tag=2, watch=watch)]))
        await call.done_writing()
        ends = {}
        async for response in call:
            for update in response.updates:
                ends[update.tag] = update
        assert {tag: end.error.code for tag, end in ends.items()} == {0: 7, 1: 0, 2: 7}
        await connection.channel.close()
