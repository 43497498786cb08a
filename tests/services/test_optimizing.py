"""Settings of a model are tried beside it; with real workers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, memory, read_all, reason_of, text_of, under

from inferd.core.ids import InstanceId, ModelName
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import optimize_pb2 as op
from inferd_api.v1.lease_pb2 import Claim, CoresClaim
from inferd_api.v1.lease_service_pb2 import ReleaseLeaseRequest
from inferd_api.v1.task_service_pb2 import ListTasksRequest

TEXT = "a" * 200  # what the FakeBackend is sure of
BRIEF = {"in_flight": 2, "prompt_tokens": 16, "output_tokens": 4}
TRIAL = ModelName("fake:trial")
HALF = 600 << 20  # of 1 GiB that the device of the FakeBackend has, more than that
FIRST_4BIT = 2  # a seed


@pytest.fixture
async def brief(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel that measures nothing again at the end."""
    async with kernel_here(tmp_path, optimize={"finalists": 0}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


def optimize(connection: Connection, *, metadata: Any = None, **more: Any) -> Any:
    request = op.OptimizeModelRequest(**{"model": "fake", "text": TEXT, **BRIEF, **more})
    return connection.models.OptimizeModel(request, metadata=metadata, timeout=120)


async def names(connection: Connection) -> list[str]:
    return [model.name for model in (await connection.models.ListModels(ms.ListModelsRequest())).models]


async def failure(call: Any) -> tuple[str, str]:
    """Reason and message of the error of a stream."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return reason_of(caught.value)[0], caught.value.details() or ""


async def gone(connection: Connection, name: ModelName) -> None:
    """Wait until nothing is left of a trial."""
    driver = connection.kernel.driver
    with driver.watchers.models.watch(name) as changed:
        while driver.views.find_model(name) is not None:
            await changed.wait(changed.version)


async def running(connection: Connection) -> None:
    """Wait until tasks of the trial run."""
    driver = connection.kernel.driver
    with driver.watchers.models.watch(TRIAL) as changed:
        while not driver.views.census.of_model(TRIAL).running:
            await changed.wait(changed.version, 0.05)


async def test_settings_are_tried_and_what_costs_too_much_quality_is_rejected(brief: Connection) -> None:
    """The plan comes first, each trial as it begins and ends, the report last; tasks of the caller measure it.

    Nothing of the trials stays.
    """
    await brief.create()
    told = [response async for response in optimize(brief, vary=["quantization"], trials=2, seed=FIRST_4BIT)]
    plan, trials, report = told[0].plan, [each.trial for each in told[1:-1]], told[-1].report
    assert [(knob.setting, [*knob.values]) for knob in plan.knobs] == [("quantization", ["8bit", "4bit"])]
    assert plan.trial_model == TRIAL
    assert [each.number for each in trials] == [1, 1, 2, 2]
    (original, other), running = trials[1::2], op.TRIAL_STATE_RUNNING
    assert [each.state for each in trials] == [running, op.TRIAL_STATE_MEASURED, running, op.TRIAL_STATE_REJECTED]
    assert (dict(original.settings), dict(other.settings)) == ({}, {"quantization": "4bit"})
    assert other.measurement.loss > 0.5
    assert (other.measurement.agreement, other.measurement.rounds) == (1.0, 0)
    assert original.measurement.tokens_per_second > 0
    assert original.measurement.memory_bytes > 1 << 20
    assert original.measurement.answer_duration.ToSeconds() < 60
    assert (report.best, report.original, [*report.trials]) == (original, original, [original, other])
    assert (report.gain, dict(report.settings), report.text_tokens) == (1.0, {}, len(TEXT))
    assert await names(brief) == ["fake"]
    assert not (await brief.tasks.ListTasks(ListTasksRequest())).tasks
    tasks = (await brief.tasks.ListTasks(ListTasksRequest(trials=True))).tasks
    assert {task.labels["inferd.trial"] for task in tasks} == {TRIAL}
    assert {(task.tenant, task.model, task.priority) for task in tasks} == {("default", TRIAL, 1)}


async def test_a_call_that_is_given_up_leaves_nothing(brief: Connection) -> None:
    """Its trial goes with its worker and its tasks, and the next call finds its place free; one that fails, too."""
    await brief.create(step_s=0.05)
    driver = brief.kernel.driver
    async with asyncio.timeout(60):
        call = optimize(brief, output_tokens=500)
        assert (await call.read()).HasField("plan")
        reading = asyncio.ensure_future(call.read())
        await running(brief)
        pids = driver.supervisor.pids()
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await gone(brief, TRIAL)
    assert pids
    assert not driver.supervisor.workers
    assert not driver.views.census.all.living
    assert await names(brief) == ["fake"]
    await brief.create("deadly", die_on_token=ord("a"))
    assert (await failure(optimize(brief, model="deadly")))[0] == "WORKER_DIED"  # and its place was free again
    await gone(brief, ModelName("deadly:trial"))
    assert not driver.supervisor.workers


async def test_a_trial_takes_nothing_that_others_hold_and_gives_way_to_them(tmp_path: Path) -> None:
    """What a lease holds is no room, nor is what would have to be evicted; whoever needs the room of a trial gets it.

    The answer says who holds it.
    """
    async with kernel_here(tmp_path, elastic={"drain_s": 0.1}) as kernel, asyncio.timeout(100):
        connection = Connection(kernel, tmp_path)
        await connection.create(weights_bytes=HALF, step_s=0.05)
        await connection.create("other", weights_bytes=HALF)
        lease = await connection.claim(memory(HALF, "fake:0"))
        reason, said = await failure(optimize(connection))
        assert (reason, lease.lease_id in said) == ("NO_MEMORY", True)
        await connection.leases.ReleaseLease(ReleaseLeaseRequest(lease_id=lease.lease_id))
        lease = await connection.claim(Claim(cores=CoresClaim(device_id="fake:0", cores=1)))
        reason, said = await failure(optimize(connection))
        assert (reason, "leases hold 1 of the 1 cores of fake:0" in said) == ("MODEL_BUSY", True)
        await connection.leases.ReleaseLease(ReleaseLeaseRequest(lease_id=lease.lease_id))
        call = asyncio.ensure_future(failure(optimize(connection, output_tokens=500)))
        await running(connection)
        assert text_of(await read_all(connection.chat("hello", model="other"))) == "hello"
        reason, said = await call
        assert (reason, "memory" in said) == ("MODEL_BUSY", True)
        reason, said = await failure(optimize(connection))
        assert (reason, "other-1" in said) == ("NO_MEMORY", True)
        assert kernel.driver.views.find_instance(InstanceId("other-1")) is not None
        await connection.channel.close()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "vary": ({"vary": ["context_tokens"]}, "is not varied"),
    "text_tokens": ({"text_tokens": 63}, "optimize.text_tokens, which is 4096"),
    "trials": ({"trials": 1}, "optimize.trials, which is 24"),
    "most_loss": ({"most_loss": float("nan")}, "from 0 to 10"),
    "least_agreement": ({"least_agreement": 2.0}, "from 0 to 1"),
    "in_flight": ({"in_flight": 65}, "from 1 to 64"),
    "output_tokens": ({"output_tokens": 1}, "from 2 to 4096"),
    "target": ({"target": 9}, "from 0 to 3"),
}


async def test_what_cannot_be_asked_for_is_refused_by_its_field(brief: Connection) -> None:
    """With what it may be, before anything is loaded."""
    await brief.create()
    lease = await brief.claim(memory(1, "fake:0"))
    wrong = {**WRONG, "inferd-lease": ({"metadata": under(lease.lease_id)}, "ask without one")}
    for field, (given, why) in wrong.items():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await optimize(brief, **given).read()
        assert reason_of(caught.value)[0] == "INVALID_FIELD", field
        assert why in str(caught.value.details()), field
    assert (await failure(optimize(brief, model="none")))[0] == "MODEL_NOT_FOUND"
    assert not brief.kernel.driver.supervisor.workers
