"""Versions of models, over the end of a kernel."""

import asyncio
from pathlib import Path

import grpc
import pytest
from connection import Connection, read_all, reason_of, text_of
from test_kept_tasks import _place, kernel  # noqa: F401 - a fixture of these tests, too
from test_latecomers import pull
from test_model_versions import FAILED, RETIRED, SERVING, asks, model_of, started, update, versions

from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_service_pb2 as ts


async def test_versions_outlive_the_kernel(tmp_path: Path) -> None:
    """The next one serves the version that served, lists all, with who asked and why one failed, and has the probe."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        new = str(write_fake_model(tmp_path, "new", context_tokens=256))
        await update(connection, source=new, probe=asks(not_empty=True))
        broken = write_fake_model(tmp_path, "broken", load_error="bad tensor")
        with pytest.raises(grpc.aio.AioRpcError):
            await update(connection, source=str(broken))
        expected = await versions(connection)
    async with kernel(tmp_path) as connection:
        found = await versions(connection)
        assert [each.state for each in found] == [FAILED, SERVING, RETIRED]
        assert (await model_of(connection)).probe == asks(not_empty=True)
        for each, before in zip(found, expected, strict=True):
            assert (each.number, each.source, each.requested_by) == (before.number, before.source, before.requested_by)
            assert abs(each.create_time.ToSeconds() - before.create_time.ToSeconds()) <= 1
        assert found[0].error.message == expected[0].error.message
        told = await read_all(connection.chat("on"))
        assert (started(told), text_of(told)) == (2, "on")
        assert (await update(connection, version=1)).model.version == 1


async def test_a_kernel_that_dies_in_mid_rollout_leaves_the_old_version(tmp_path: Path) -> None:
    """What was kept when a rollout began is all that the next one needs: the old version serves, the other failed."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        slow = write_fake_model(tmp_path, "slow", hang_at="load")
        call = asyncio.ensure_future(update(connection, source=str(slow)))
        watched = connection.models.WatchModel(ms.WatchModelRequest(name="fake"))
        async for response in watched:
            if any(i.version == 2 and i.state == mp.INSTANCE_STATE_LOADING for i in response.model.instances):
                break
        watched.cancel()
        call.cancel()
    async with kernel(tmp_path) as connection:
        found = await versions(connection)
        assert [(each.number, each.state) for each in found] == [(2, FAILED), (1, SERVING)]
        assert "ended while version 2" in found[0].error.message
        assert started(await read_all(connection.chat("on"))) == 1


async def test_bounds_of_a_pulled_model_outlive_the_kernel(tmp_path: Path) -> None:
    """What an update gives it without another version holds in the next kernel, also when it reads the library anew."""
    async with kernel(tmp_path) as connection:
        pull(connection, "fake")
        changed = await update(connection, settings={"idle_s": "555"}, max_instances=3)
        assert changed.model.version == 1
    async with kernel(tmp_path) as connection:
        pull(connection, "other")
        await connection.models.ListModels(ms.ListModelsRequest())
        model = await model_of(connection)
        assert (model.settings["idle_s"], model.max_instances, model.version) == ("555", 3, 1)
        assert (await update(connection, source=str(write_fake_model(tmp_path, "new")))).model.version == 2
    async with kernel(tmp_path) as connection:
        await connection.models.ListModels(ms.ListModelsRequest())
        assert [(each.number, each.state) for each in await versions(connection)] == [(2, SERVING), (1, RETIRED)]


async def test_a_deletion_that_drains_goes_on_with_the_next_kernel(tmp_path: Path) -> None:
    """What the model has is brought to its end there, nothing new is taken, and then no kernel knows it any more."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.02)
        call = connection.endless(detach_on_disconnect=True)
        task_id = (await anext(aiter(call))).event.task_id
        await connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=task_id))
        deleting = asyncio.ensure_future(connection.models.DeleteModel(ms.DeleteModelRequest(name="fake", drain=True)))
        async with asyncio.timeout(60):
            while await refused(connection) != "MODEL_BUSY":
                pass
        deleting.cancel()
    async with kernel(tmp_path) as connection:
        assert await refused(connection) == "MODEL_BUSY"
        watch = connection.models.WatchModel(ms.WatchModelRequest(name="fake"))
        await anext(aiter(watch))
        await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=task_id))
        with pytest.raises(grpc.aio.AioRpcError, match="no model"):
            async for _ in watch:
                pass
    async with kernel(tmp_path) as connection:
        assert await refused(connection) == "MODEL_NOT_FOUND"


async def refused(connection: Connection) -> str:
    """Why a load of the model is refused; "" where it is not."""
    try:
        await connection.models.LoadModel(ms.LoadModelRequest(name="fake"))
    except grpc.aio.AioRpcError as error:
        return str(reason_of(error)[0])
    return ""


async def test_an_alias_of_a_version_leads_there_in_the_next_kernel_too(tmp_path: Path) -> None:
    """Though the model has gone on by then."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        await update(connection, source=str(write_fake_model(tmp_path, "mute", mute=True)))
        await connection.models.UpdateModel(ms.UpdateModelRequest(name="fake@1", add_aliases=["stable"]))
    async with kernel(tmp_path) as connection:
        assert text_of(await read_all(connection.chat("hello", model="stable"))) == "hello"
        assert text_of(await read_all(connection.chat("hello"))) == ""
