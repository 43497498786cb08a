"""What the driver does with what the core says: it is kept, then done, then told."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from inferd import server
from inferd.config import Settings
from inferd.core import changes, commands, events
from inferd.core.ids import DeviceId, HostId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import TaskSpec, TaskState
from inferd.core.task_events import Output, Queued, Resumed, Started, Suspended
from inferd.errors import WorkerDiedError
from inferd.runtime.driver import Driver
from inferd_api.worker.v1 import step_pb2, task_pb2

MODEL, TENANT, CPU = ModelName("m"), Tenant("a"), DeviceId("cpu:0")
GPU = DeviceCapacity(device_id=DeviceId("gpu:0"), memory_bytes=1000, cores=1)
SPEC = ModelSpec(
    name=MODEL, source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu", backend_reason="", loader="x:Y",
    devices=(CPU,), max_instances=2,
)  # fmt: skip


class Trace:
    """What a driver does, in order: `kept` changes, `done` commands, `told` changes."""

    def __init__(self, driver: Driver, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, Any]] = []
        patch.setattr(driver, "keeper", Mock(commit=self._keep))
        patch.setattr(driver._orders, "obey", lambda command: self.steps.append(("done", command)))
        wake = driver.watchers.wake

        def told(change: changes.Change) -> None:
            self.steps.append(("told", change))
            wake(change)

        patch.setattr(driver.watchers, "wake", told)

    def _keep(self, kept: Sequence[changes.Change]) -> None:
        self.steps += [("kept", change) for change in kept]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    async def make() -> Driver:
        made = server._driver(Settings(state_dir=tmp_path, data_dir=tmp_path), None)
        made._alarm.set = lambda _: None  # type: ignore[method-assign] - the loop ends before it would ring
        return made

    return asyncio.run(make())


def bring_up(driver: Driver, number: int) -> None:
    instance_id = InstanceId(f"m-{number}")
    driver._apply(events.InstanceNeeds(instance_id, MemoryNeed(weights_bytes=100)))
    facts = InstanceFacts(max_tasks=2, context_tokens=64, description="", memory_bytes=1, kv_tokens=64)
    driver._apply(events.InstanceLoaded(instance_id, facts))


def test_changes_are_kept_before_anything_follows_from_them(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """All changes of an event are kept first, then workers are ordered, and only then watchers are woken."""
    trace = Trace(driver, monkeypatch)
    driver.tell_host(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=1),)))
    driver.create_model(SPEC)
    driver._apply(events.LoadModel(MODEL))
    bring_up(driver, 1)
    trace.steps.clear()
    driver.submit(TaskSpec(task_id=TaskId("t"), tenant=TENANT, model=MODEL, work=task_pb2.Work()))
    assert [(what, type(each)) for what, each in trace.steps] == [
        ("kept", changes.TaskAccepted),
        ("kept", changes.TaskChanged),
        ("done", commands.SendTask),
        ("told", changes.TaskAccepted),
        ("told", changes.TaskChanged),
    ]


def test_a_stream_tells_the_states_of_its_task_in_their_order(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that goes on elsewhere with the event that stopped it is told to be stopped first, then to go on."""
    Trace(driver, monkeypatch)
    driver.tell_host(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=1),)))
    driver.create_model(SPEC)
    driver._apply(events.LoadModel(MODEL))
    bring_up(driver, 1)
    stream = driver.submit(TaskSpec(task_id=TaskId("t"), tenant=TENANT, model=MODEL, work=task_pb2.Work()))
    driver.machine.fleet.start(driver.views.model(MODEL), 0.0)
    bring_up(driver, 2)
    driver._apply(events.WorkerExited(InstanceId("m-1"), WorkerDiedError("gone")))
    assert [type(told.event) for told in stream.read(0)] == [Started, Suspended, Resumed]
    assert driver.views.task(TaskId("t"), TENANT).state is TaskState.RUNNING


def test_an_ended_task_is_told_of_though_it_is_forgotten(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a change says is all that telling it takes: the record may be gone with the same event."""
    trace = Trace(driver, monkeypatch)
    driver.machine.tasks._register._retentions[False]._most = 0
    driver.tell_host(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=1),)))
    driver.create_model(SPEC)
    stream = driver.submit(TaskSpec(task_id=TaskId("t"), tenant=TENANT, model=MODEL, work=task_pb2.Work()))
    driver.cancel(TaskId("t"), TENANT)
    assert stream.finished is not None
    assert stream.finished.outcome.state is TaskState.CANCELLED
    assert isinstance(trace.steps[-1][1], changes.TaskForgotten)


def test_a_worker_that_is_lost_with_its_host_tells_no_stream_any_more(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last tokens may come after its tasks went on elsewhere, where they are told anew: they count no more.

    Whoever watches is told that the task is suspended, then that it waits as no host takes it.
    """
    ended = []
    monkeypatch.setattr(driver.supervisor, "start", lambda *_, **__: None)
    driver._orders.group = asyncio.TaskGroup()
    driver.machine.handle(events.HostJoined((GPU,), HostId("a")), 0.0)
    driver.create_model(replace(SPEC, devices=(DeviceId("a/gpu:0"),)))
    driver.supervisor.workers[InstanceId("m-1")] = worker = Mock()
    worker.end = ended.append
    driver._apply(events.LoadModel(MODEL))
    bring_up(driver, 1)
    stream = driver.submit(TaskSpec(task_id=TaskId("t"), tenant=TENANT, model=MODEL, work=task_pb2.Work()))
    step = step_pb2.StepOutput(handles=[1], counts=[1], texts=["x"], token_ids=[7])
    driver._step(InstanceId("m-1"), step, ())
    driver._apply(events.HostLost(HostId("a"), "no word"))
    driver._step(InstanceId("m-1"), step, ())
    assert [type(told.event) for told in stream.read(0)] == [Started, Output, Suspended, Queued]
    assert ended == ["host 'a' is lost: no word"]
