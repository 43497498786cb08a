"""The use cases of the front: a kernel without a port, asked in values."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest
import pytest_asyncio

from inferd.core.ids import DeviceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec, LeaseState, MemoryClaim
from inferd.core.task import TaskSpec, TaskState
from inferd.core.task_events import Finished, Output
from inferd.errors import (
    EventsDroppedError,
    LeaseNotFoundError,
    LimitExceededError,
    ModelNotFoundError,
    TaskExpiredError,
    TaskNotFoundError,
)
from inferd.runtime.front.caller import ANYONE, Caller
from inferd.runtime.front.front import Front
from inferd.runtime.front.health import KERNEL, NOBODY
from inferd.runtime.front.open_tasks import OpenTasks
from inferd.runtime.stream import TaskStream
from inferd.services.work_values import read_work
from inferd.testing.kernel import front_here, write_fake_model
from inferd_api.v1 import task_pb2 as pb
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.worker.v1 import task_pb2 as wp

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = 4
STREAM_BYTES = 4096
OTHER = Caller(tenant=Tenant("other"))
MODEL = ModelName("fake")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    """A kernel without a port, and a model that repeats its prompt for ever."""
    folder = tmp_path_factory.mktemp("front")
    settings: dict[str, Any] = {
        "backends": (),
        "scheduler": {"tenant_streams": STREAMS},
        "limits": {"stream_bytes": STREAM_BYTES},
        "devices": {"memory_bytes": {"fake:0": 1 << 30}},
    }
    async with asyncio.timeout(60), front_here(folder, **settings) as made:
        path = write_fake_model(folder, step_s=0.002)
        await made.models.create(ANYONE, name=MODEL, source=str(path))
        yield made


def spec(tokens: int = 900, **more: Any) -> TaskSpec:
    """A task of the default tenant, which the FakeBackend goes on with for so many tokens."""
    wanted = pb.TaskSpec(prompt="la", sampling=SamplingParams(max_tokens=tokens, temperature=0))
    work, demand = read_work(wanted, 1 << 20)
    return TaskSpec(
        task_id=TaskId(uuid.uuid4().hex),
        tenant=ANYONE.tenant,
        model=MODEL,
        demand=demand,
        work=work,
        **more,
    )


async def begun(stream: TaskStream) -> None:
    """Wait for the first output of a task."""
    async with aclosing(stream.follow(0)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            if any(isinstance(numbered.event, Output) for numbered in batch):
                return


async def state_of(stream: TaskStream) -> TaskState:
    """The state that a task ends in."""
    async for batch in stream.follow(stream.last_sequence - 1):
        last = batch[-1].event
        if isinstance(last, Finished):
            return last.outcome.state
    raise AssertionError("a stream that has no end")


async def test_a_task_runs_as_long_as_its_block(front: Front) -> None:
    """The block of a task is given its events, and ends well when the task does."""
    events = []
    async with front.tasks.run(spec(20), size_bytes=1) as stream:
        async for batch in stream.follow(0):
            events += [numbered.event for numbered in batch]
    assert sum(len(event.token_ids) for event in events if isinstance(event, Output)) == 20
    assert (await front.tasks.get(stream.task_id, ANYONE)).state is TaskState.SUCCEEDED


async def test_leaving_the_block_ends_the_task(front: Front) -> None:
    """A task whose block is left before its end is cancelled, unless it is detached."""
    async with front.tasks.run(spec(), size_bytes=1) as stream:
        await begun(stream)
    assert await state_of(stream) is TaskState.CANCELLED
    async with front.tasks.run(spec(detached=True), size_bytes=1) as stream:
        await begun(stream)
    assert (await front.tasks.get(stream.task_id, ANYONE)).state is TaskState.RUNNING
    assert (await front.tasks.cancel(stream.task_id, ANYONE)).state is TaskState.CANCELLED


async def test_the_last_block_decides(front: Front) -> None:
    """Two blocks of one `request_id` run one task; it ends when the last of them is left."""
    async with front.tasks.run(spec(request_id="same", fingerprint=b"1"), size_bytes=1) as first:
        async with front.tasks.run(spec(request_id="same", fingerprint=b"1"), size_bytes=1) as second:
            await begun(first)
        assert second is first
        assert (await front.tasks.get(first.task_id, ANYONE)).state is TaskState.RUNNING
    assert await state_of(first) is TaskState.CANCELLED


async def test_a_block_ends_as_its_task(front: Front) -> None:
    """A block whose task ends while it is followed raises what the task failed with: here its deadline."""
    task = spec(deadline=front.clock.now() + 0.05)

    async def follow() -> None:
        async with front.tasks.run(task, size_bytes=1) as stream:
            async for _ in stream.follow(0):
                pass

    with pytest.raises(TaskExpiredError):
        await follow()


async def test_streams_of_a_tenant_are_bounded(front: Front) -> None:
    """Blocks that run, blocks that watch and tags take the same places, and give them back."""
    open_tasks = OpenTasks(front.tasks, ANYONE)
    async with front.tasks.run(spec(), size_bytes=1) as stream:
        async with front.tasks.watch(stream.task_id, ANYONE, after=0):
            for tag in range(STREAMS - 2):
                await open_tasks.run(tag, spec(), interval_s=0, linger_s=0)
            with pytest.raises(LimitExceededError, match=r"scheduler\.tenant_streams"):
                await open_tasks.watch(9, stream.task_id, after=0, interval_s=0)
            with pytest.raises(LimitExceededError):
                async with front.tasks.run(spec(), size_bytes=1):
                    pass
            open_tasks.close()
            await open_tasks.watch(9, stream.task_id, after=0, interval_s=0)
        open_tasks.close()
    assert not front.tasks.streams._open


async def test_tasks_are_their_tenant_s_alone(front: Front) -> None:
    """Another tenant's task is not found, whatever is to be done with it."""
    async with front.tasks.run(spec(), size_bytes=1) as stream:
        for do in (front.tasks.get, front.tasks.cancel, front.tasks.suspend, front.tasks.resume):
            with pytest.raises(TaskNotFoundError):
                await do(stream.task_id, OTHER)
        with pytest.raises(TaskNotFoundError):
            async with front.tasks.watch(stream.task_id, OTHER, after=0):
                pass
        assert not (await front.tasks.list(OTHER, (), after=None, size=9)).records
        (own,) = (await front.tasks.list(ANYONE, (), after=None, size=1)).records
        assert own.spec.task_id == stream.task_id


async def test_a_task_stops_and_goes_on(front: Front) -> None:
    """A suspended task holds still until it is resumed; then it comes to its end."""
    async with front.tasks.run(spec(100), size_bytes=1) as stream:
        await begun(stream)
        assert (await front.tasks.suspend(stream.task_id, ANYONE)).state is TaskState.SUSPENDED
        assert (await front.tasks.resume(stream.task_id, ANYONE)).state is not TaskState.SUSPENDED
        assert await state_of(stream) is TaskState.SUCCEEDED


async def test_tags_run_and_watch(front: Front) -> None:
    """Two tags follow one task, each to its end; the first word of each names the task, and both are free then."""
    open_tasks = OpenTasks(front.tasks, ANYONE)
    await open_tasks.run(1, spec(20), interval_s=0, linger_s=0)
    (task,) = (await front.tasks.list(ANYONE, (), after=None, size=1)).records
    await open_tasks.watch(2, task.spec.task_id, after=0, interval_s=0)
    named: list[tuple[int, str | None]] = []
    ends = 0
    while open_tasks.left():
        await open_tasks.come()
        told, refused = open_tasks.collect()
        assert not refused
        named += [(tag, task_id) for tag, task_id, _ in told]
        ends += sum(isinstance(events[-1].event, Finished) for _, _, events in told)
    assert ends == 2
    assert {tag for tag, task_id in named if task_id == task.spec.task_id} == {1, 2}
    assert len([task_id for _, task_id in named if task_id is not None]) == 2
    assert 1 not in open_tasks


async def test_a_tag_that_lost_events_lets_go_of_its_task(front: Front) -> None:
    """A tag that is read too late ends with the error, and the task that hung on it alone ends, too."""
    open_tasks = OpenTasks(front.tasks, ANYONE)
    await open_tasks.run(1, spec(), interval_s=0, linger_s=0)
    stream = open_tasks._open[1].stream
    open_tasks.stop(1, stopped=True)
    async for _ in stream.follow(0):
        with suppress(EventsDroppedError):
            stream.read(0)
            continue
        break
    open_tasks.stop(1, stopped=False)
    await open_tasks.come()
    _, ((tag, error),) = open_tasks.collect()
    assert (tag, type(error)) == (1, EventsDroppedError)
    assert await state_of(stream) is TaskState.CANCELLED
    assert 1 not in open_tasks


async def test_a_refused_tag_is_open_until_that_is_told(front: Front) -> None:
    """A tag whose order was refused is free when its error has been told, and no sooner."""
    open_tasks = OpenTasks(front.tasks, ANYONE)
    open_tasks.refuse(1, LimitExceededError("for the test"))
    assert 1 in open_tasks
    await open_tasks.come()
    assert [tag for tag, _ in open_tasks.collect()[1]] == [1]
    assert 1 not in open_tasks
    assert not open_tasks.left()


async def test_health_knows_whom_it_is_asked_of(front: Front) -> None:
    """The kernel serves, a model when it is loaded; of one that is none, and of nobody, there is nothing to say."""
    await front.models.unload(MODEL, force=True)
    assert [
        await front.health.read(name, sees=lambda _: True) for name in (KERNEL, MODEL, ModelName("fak"), NOBODY)
    ] == [
        True,
        False,
        None,
        None,
    ]
    async with aclosing(front.health.watch(MODEL, ANYONE, sees=lambda _: True)) as changes:
        assert await anext(changes) is False
        await front.models.load(MODEL, ANYONE)
        assert await anext(changes) is True


async def test_models_are_asked_in_values(front: Front) -> None:
    """A model is read, listed, measured, and turns texts into tokens and back, with no message of any wire."""
    assert (await front.models.get(MODEL)).spec.name == MODEL
    assert [model.spec.name for model in (await front.models.list(after=None, size=9)).records] == [MODEL]
    with pytest.raises(ModelNotFoundError):
        await front.models.get("none")
    ids = await front.models.tokenize(MODEL, wp.Input(prompt="la la"), ANYONE)
    assert ids
    assert (await front.models.plan(MODEL, ANYONE, sees=lambda _: True, settings={})).fits


async def test_a_watcher_of_a_lease_is_told_its_end(front: Front) -> None:
    """The end of a lease that comes while its watcher is busy is told; then the stream ends."""
    claim = MemoryClaim(device_id=DeviceId("fake:0"), memory_bytes=1)
    wanted = LeaseSpec(lease_id=LeaseId(uuid.uuid4().hex), tenant=ANYONE.tenant, claims=(claim,))
    lease = await front.leases.create(wanted)
    under = replace(ANYONE, lease_id=lease.spec.lease_id)
    front.leases.check(under)
    async with aclosing(front.leases.watch(lease.spec.lease_id, ANYONE)) as changes:
        assert (await anext(changes)).state is LeaseState.ACTIVE
        front.leases.release(lease.spec.lease_id, ANYONE)
        assert (await anext(changes)).state is LeaseState.RELEASED
        with pytest.raises(StopAsyncIteration):
            await anext(changes)
    with pytest.raises(LeaseNotFoundError):
        front.leases.check(replace(under, tenant=OTHER.tenant))


async def test_the_host_tells_of_itself(front: Front) -> None:
    """The host's memory is that of its process, and its devices are those of its backends."""
    report = front.hosts.read(has=lambda _: True)
    taken = psutil.Process(os.getpid()).memory_info().rss
    assert report.memory_bytes == pytest.approx(taken, rel=0.1)
    assert "fake:0" in [device.device_id for device, _, _ in report.devices]
    assert "fake" in [report.name for report in await front.hosts.backends()]
    async with aclosing(front.hosts.watch(ANYONE, 60.0, has=lambda _: True)) as reports:
        told, instances = await anext(reports)
    assert told.pid == os.getpid()
    assert [model.spec.name for model, _ in instances] == [MODEL]
