"""Health and reflection come in by the door of all calls: counted, bounded, with the same errors and without names."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import Connection, read_failing, reason_of
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as rp
from structlog.testing import capture_logs

from inferd.core.ids import ModelName, TaskId
from inferd.runtime.front.health import Health
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

HIDDEN = "hidden-model"
TENANT_CALLS = 8
UNKNOWN, NOT_SERVING = (hp.HealthCheckResponse.ServingStatus.Value(name) for name in ("SERVICE_UNKNOWN", "NOT_SERVING"))

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connection(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connection]:
    """A connection to a kernel that lets a tenant have few calls open, and a model of a name that is not told."""
    folder = tmp_path_factory.mktemp("kernel")
    async with kernel_here(folder, scheduler={"tenant_calls": TENANT_CALLS}) as kernel:
        made = Connection(kernel, folder)
        await made.create(HIDDEN)
        yield made
        await made.channel.close()


def health(connection: Connection) -> Any:
    return health_pb2_grpc.HealthStub(connection.channel)


def check(connection: Connection, service: str = "", **more: Any) -> Any:
    return health(connection).Check(hp.HealthCheckRequest(service=service), **more)


def watch(connection: Connection, service: str = "", **more: Any) -> Any:
    return health(connection).Watch(hp.HealthCheckRequest(service=service), **more)


def reflect(connection: Connection, *questions: Any, version: str = "v1", **more: Any) -> Any:
    method = connection.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=rp.ServerReflectionRequest.SerializeToString,
        response_deserializer=rp.ServerReflectionResponse.FromString,
    )
    return method(iter(questions or [rp.ServerReflectionRequest(list_services="")]), **more)


async def answer(call: Any) -> Any:
    """What a call gives first, whether it streams or not."""
    return await (call.read() if hasattr(call, "read") else call)


async def refused(call: Any) -> tuple[grpc.aio.AioRpcError, str]:
    """The error of a call, and its reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(call)
    return caught.value, reason_of(caught.value)[0]


WAYS: dict[str, Callable[..., Any]] = {
    "health": check,
    "health that is watched": watch,
    "reflection": reflect,
    "older reflection": lambda connection, **more: reflect(connection, version="v1alpha", **more),
    "host": lambda connection, **more: connection.hosts.GetHost(hs.GetHostRequest(), **more),
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_call_is_counted_and_who_makes_it_is_checked(connection: Connection, way: str) -> None:
    """A call of any service counts with its tenant's, and names a tenant and a lease that there are."""
    call = WAYS[way]
    mine, theirs = (("inferd-tenant", f"me-{[*WAYS].index(way)}"),), (("inferd-tenant", "others"),)
    open_calls = [watch(connection, metadata=mine) for _ in range(TENANT_CALLS)]
    for open_call in open_calls:
        await open_call.read()
    error, reason = await refused(call(connection, metadata=mine))
    assert (error.code(), reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert reason_of(error)[1]["bound"] == "scheduler.tenant_calls"
    await answer(call(connection, metadata=theirs))
    assert (await refused(call(connection, metadata=(("inferd-tenant", "no name!"),))))[1] == "INVALID_FIELD"
    assert (await refused(call(connection, metadata=(("inferd-lease", "no id!"),))))[1] == "INVALID_FIELD"
    assert (await refused(call(connection, metadata=(("inferd-lease", "none"),))))[1] == "LEASE_NOT_FOUND"
    for open_call in open_calls:
        open_call.cancel()


async def test_what_is_asked_is_bounded(connection: Connection) -> None:
    """A question that is too long is refused before it is read, of health and of reflection as of all."""
    long = "x" * 2000
    for call in (
        check(connection, long),
        watch(connection, long),
        reflect(connection, rp.ServerReflectionRequest(file_containing_symbol=long)),
    ):
        assert (await refused(call))[1] == "INVALID_FIELD"


@pytest.mark.parametrize("name", ["hidden-mode", "hidden_model", "model:hidden-mode", "model:", f"MODEL:{HIDDEN[:6]}"])
async def test_health_tells_no_name(connection: Connection, name: str) -> None:
    """A name that is nearly a model's, or one without the prefix, is as unknown as any, in the same words."""
    error, reason = await refused(check(connection, name))
    assert (error.code(), reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert error.details() == f"no service {name!r}"
    told = b"".join(value if isinstance(value, bytes) else value.encode() for _, value in error.trailing_metadata())
    assert HIDDEN.encode() not in told
    call = watch(connection, name)
    assert (await call.read()).status == UNKNOWN
    call.cancel()


async def test_a_name_without_its_prefix_is_nobody_s(connection: Connection) -> None:
    """Who asks for a model's bare name learns nothing, whatever becomes of the model."""
    bare, whole = watch(connection, HIDDEN, metadata=(("inferd-tenant", "a"),)), watch(connection, f"model:{HIDDEN}")
    assert [(await bare.read()).status, (await whole.read()).status] == [UNKNOWN, NOT_SERVING]
    watched = connection.kernel.driver.watchers.models._watchers
    assert len(watched[ModelName(HIDDEN)]) == 1
    bare.cancel()
    whole.cancel()


async def test_reflection_tells_no_name(connection: Connection) -> None:
    """No answer of reflection has the name of a model in it, not that to a question for one either."""
    questions = [
        rp.ServerReflectionRequest(list_services=""),
        rp.ServerReflectionRequest(file_containing_symbol="inferd.v1.ModelService"),
        rp.ServerReflectionRequest(file_containing_symbol="hidden-mode"),
        rp.ServerReflectionRequest(file_by_filename="hidden-mode"),
    ]
    told = [response async for response in reflect(connection, *questions)]
    assert len(told) == len(questions)
    assert not [response for response in told if HIDDEN.encode() in response.SerializeToString()]


async def test_a_defect_is_told_without_its_values(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a defect says may be another tenant's: its client is told its kind, and the log has the place."""

    async def fail(*_: object, **__: object) -> bool:
        raise KeyError(HIDDEN)

    monkeypatch.setattr(Health, "read", fail)
    with capture_logs() as logged:
        error, reason = await refused(check(connection, "model:x"))
    assert (error.code(), reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert error.details() == "a defect of inferd: KeyError; see its log"
    assert [entry["event"] for entry in logged] == ["defect in a call"]


async def test_an_error_that_is_kept_has_no_frames(connection: Connection) -> None:
    """What a task failed with is kept with the task, and holds nothing of the calls that were told it."""
    spec = tp.TaskSpec(model=HIDDEN, prompt="la", adapter="")
    spec.sampling.max_tokens = 1000
    spec.prompt = "la" * 2000  # more than the model's context
    events, error = await read_failing(connection.tasks.RunTask(ts.RunTaskRequest(spec=spec)))
    assert reason_of(error)[0] == "PROMPT_TOO_LONG"
    finished = connection.kernel.driver.streams.get(TaskId(events[0].task_id)).finished
    assert finished is not None
    assert finished.outcome.error is not None
    assert finished.outcome.error.__traceback__ is None


async def test_a_method_that_is_none_is_kept_by_nobody(connection: Connection) -> None:
    """A path that no service has is UNIMPLEMENTED, and one that has is answered however often it is called."""
    nothing = connection.channel.unary_unary("/inferd.v1.HostService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await nothing(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    for _ in range(3):
        assert (await connection.models.GetModel(ms.GetModelRequest(name=HIDDEN))).model.name == HIDDEN
