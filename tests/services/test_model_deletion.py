"""Models that are forgotten, and plans for other backends, devices and settings."""

import asyncio

import grpc
import pytest
from connection import Connection, read_all, read_failing, read_until, refusal, text_of

from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.task_service_pb2 import CancelTaskRequest, ResumeTaskRequest, SuspendTaskRequest


async def delete(connection: Connection, name: str = "fake", **how: bool) -> None:
    await connection.models.DeleteModel(ms.DeleteModelRequest(name=name, **how), timeout=60)


async def test_a_deleted_model_is_unknown_and_its_name_is_free(connection: Connection) -> None:
    """Behind `DeleteModel` nothing knows the model, its watchers are told, and its name may stand for another file."""
    await connection.create()
    assert text_of(await read_all(connection.chat("one"))) == "one"
    await connection.models.UnloadModel(ms.UnloadModelRequest(name="fake"))
    watch = connection.another().models.WatchModel(ms.WatchModelRequest(name="fake"))
    await anext(aiter(watch))
    await delete(connection)
    with pytest.raises(grpc.aio.AioRpcError, match="no model"):
        async for _ in watch:  # what its file holds may be told before
            pass
    for call in (
        connection.models.GetModel(ms.GetModelRequest(name="fake")),
        connection.models.DeleteModel(ms.DeleteModelRequest(name="fake")),
    ):
        assert (await refusal(call))[0] == "MODEL_NOT_FOUND"
    assert not (await connection.models.ListModels(ms.ListModelsRequest())).models
    (connection.folder / "fake.fake").rename(connection.folder / "other.fake")
    other = Model(name="fake", source=str(connection.folder / "other.fake"))
    await connection.models.CreateModel(ms.CreateModelRequest(model=other))
    assert text_of(await read_all(connection.chat("two"))) == "two"


async def test_a_model_in_use_is_not_deleted(connection: Connection) -> None:
    """An instance, a task that has not ended, running or suspended, and a lease keep a model; the error counts them."""
    await connection.create(step_s=0.02)
    call = connection.endless(detach_on_disconnect=True)
    event = (await anext(aiter(call))).event
    reason, facts = await refusal(connection.models.DeleteModel(ms.DeleteModelRequest(name="fake")))
    assert (reason, facts["tasks"]) == ("MODEL_BUSY", "1")
    await connection.tasks.SuspendTask(SuspendTaskRequest(task_id=event.task_id))
    reason, facts = await refusal(connection.models.DeleteModel(ms.DeleteModelRequest(name="fake")))
    assert (reason, facts["tasks"]) == ("MODEL_BUSY", "1")
    await connection.tasks.ResumeTask(ResumeTaskRequest(task_id=event.task_id))
    await connection.tasks.CancelTask(CancelTaskRequest(task_id=event.task_id))
    reason, facts = await refusal(connection.models.DeleteModel(ms.DeleteModelRequest(name="fake")))
    assert (reason, facts["tasks"], facts["instances"]) == ("MODEL_BUSY", "0", "1")
    lease = await connection.claim(lp.Claim(model=lp.ModelClaim(model="fake", sequences=1)), wait=True)
    await connection.until(lease.lease_id, lp.LEASE_STATE_ACTIVE)
    reason, facts = await refusal(connection.models.DeleteModel(ms.DeleteModelRequest(name="fake")))
    assert (reason, facts["leases"]) == ("MODEL_BUSY", "1")


async def test_a_model_in_use_is_deleted_when_asked_to(connection: Connection) -> None:
    """`drain` is answered when its task has come to its end; `force` cancels, and both at once are refused."""
    await connection.create(step_s=0.002)
    call = connection.endless(tokens=200)
    await read_until(call, "output")
    both = connection.models.DeleteModel(ms.DeleteModelRequest(name="fake", drain=True, force=True))
    assert (await refusal(both))[0] == "INVALID_FIELD"
    gone = asyncio.ensure_future(delete(connection, drain=True))
    assert (await read_all(call))[-1].finished.state == tp.TASK_STATE_SUCCEEDED
    await gone
    await connection.create(step_s=0.02)
    call = connection.endless(tokens=900)
    await read_until(call, "output")
    await delete(connection, force=True)
    assert (await read_failing(call))[0][-1].finished.state == tp.TASK_STATE_CANCELLED
    assert (await refusal(connection.models.GetModel(ms.GetModelRequest(name="fake"))))[0] == "MODEL_NOT_FOUND"


@pytest.mark.usefixtures("_cpu_backend")
async def test_a_plan_takes_another_backend_or_device(connection: Connection) -> None:
    """`PlanLoad` refuses what a new model would be refused for, and plans with what is given."""
    await connection.create()
    for given, reason in (
        ({"backend": "fakee"}, "BACKEND_NOT_FOUND"),
        ({"backend": "cpu"}, "BACKEND_UNAVAILABLE"),
        ({"device": "cuda:7"}, "BACKEND_UNAVAILABLE"),
        ({"backend": "fake", "settings": {"context_token": "1"}}, "INVALID_FIELD"),
    ):
        request = ms.PlanLoadRequest(name="fake", **given)  # type: ignore[arg-type]
        assert (await refusal(connection.models.PlanLoad(request)))[0] == reason, given
    request = ms.PlanLoadRequest(name="fake", backend="fake", device="fake:0")
    assert (await connection.models.PlanLoad(request)).plan.fits
