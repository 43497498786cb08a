"""A version of a model takes the place of another one, or does not; and no task ends for it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from rollout_bench import CPU, FACTS, MODEL, SPEC, TENANT, RolloutBench

from inferd.core import commands, events
from inferd.core.changes import VersionChanged
from inferd.core.host import host_of
from inferd.core.ids import InstanceId, ModelName, TaskId
from inferd.core.lease import LeaseSpec, ModelClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceState, ModelState
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.restored import RestoredVersion
from inferd.core.rollouts import RolloutLimits, RolloutWay
from inferd.core.task import Outcome, TaskState
from inferd.core.version import Version, VersionState
from inferd.errors import (
    BackendFailedError,
    InferdError,
    InvalidFieldError,
    LimitExceededError,
    ModelBusyError,
    ModelLoadError,
)
from inferd.errors import WorkerDiedError as Died


@pytest.fixture
def bench() -> RolloutBench:
    """A model of which version 1 is loaded and runs a task."""
    made = RolloutBench()
    made.submit("old")
    made.bring_up(1)
    return made


def test_a_new_version_takes_new_tasks_and_running_ones_end_where_they_are(bench: RolloutBench) -> None:
    """Up to the event with which it is READY the old one is given all tasks, from then on the new one; both go on."""
    bench.update()
    assert bench.states == [VersionState.SERVING, VersionState.ROLLING]
    bench.measure(2)
    bench.submit("meanwhile")
    assert bench.task("meanwhile").version == 1
    bench.load(2)
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]
    bench.submit("new")
    assert [bench.task(name).version for name in ("old", "meanwhile", "new")] == [1, 1, 2]
    assert [bench.task(name).state for name in ("old", "meanwhile", "new")] == [TaskState.RUNNING] * 3
    bench.end("meanwhile")
    bench.end("new")
    assert bench.model.instances[InstanceId("m-1")].state is InstanceState.READY
    bench.end("old")
    assert bench.model.instances[InstanceId("m-1")].state is InstanceState.STOPPING
    assert bench.model.state is ModelState.READY
    changes = [(c.number, c.state.name) for c in bench.told if isinstance(c, VersionChanged)]
    assert changes == [(2, "ROLLING"), (1, "RETIRED"), (2, "SERVING")]


def refused(bench: RolloutBench) -> None:
    bench.measure(2)
    bench.tell(events.InstanceRefused(InstanceId("m-2"), ModelLoadError("corrupt")))


def dies_in_measure(bench: RolloutBench) -> None:
    bench.exit(2)


def dies_at_load(bench: RolloutBench) -> None:
    bench.measure(2)
    bench.exit(2)


def too_large(bench: RolloutBench) -> None:
    bench.measure(2, 5000)


def too_large_beside_a_lease(bench: RolloutBench) -> None:
    bench.tell(
        events.CreateLease(LeaseSpec(lease_id="l", tenant=TENANT, claims=(ModelClaim(model=MODEL, sequences=1),)))
    )  # type: ignore[arg-type] # a text
    bench.measure(2, 950)


def too_late(bench: RolloutBench) -> None:
    bench.measure(2)
    bench.now = 700.0
    bench.tell(events.Tick())


def stopped(bench: RolloutBench) -> None:
    bench.tell(events.UnloadModel(MODEL, force=False, instance_id=InstanceId("m-2")))


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (events.UnloadModel(MODEL, force=False, instance_id=InstanceId("m-2")), "its instance 'm-2' was unloaded"),
        (events.UnloadModel(MODEL, force=True), "the model was unloaded"),
        (events.DeleteModel(MODEL, drain=False, force=True), "the model was unloaded"),
        (events.DeleteModel(MODEL, drain=True, force=False), "the model is being deleted"),
        (events.DrainHost(host_of(CPU)), "its host takes no instances any more"),
    ],
)
def test_a_version_that_is_stopped_by_another_call_says_by_which(event: events.Event, why: str) -> None:
    """Its error, which who asked for it is told, names what was done to it."""
    bench = RolloutBench()
    bench.submit("old")
    bench.bring_up(1)
    bench.end("old")
    bench.update()
    bench.measure(2)
    version = bench.model.versions[2]
    bench.tell(event)
    assert version.error is not None
    assert version.error.message.endswith(f": {why}")


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (refused, "MODEL_LOAD_FAILED"),
        (dies_in_measure, "WORKER_DIED"),
        (dies_at_load, "WORKER_DIED"),
        (too_large, "NO_MEMORY"),
        (too_large_beside_a_lease, "NO_MEMORY"),
        (too_late, "MODEL_LOAD_FAILED"),
        (stopped, "MODEL_BUSY"),
    ],
)
def test_a_failed_update_changes_nothing_but_tells_why(
    bench: RolloutBench, breaks: Callable[[RolloutBench], None], reason: str
) -> None:
    """The old version serves on with the same worker, no task ends, and the next update can begin at once."""
    bench.update()
    breaks(bench)
    assert bench.states == [VersionState.SERVING, VersionState.FAILED]
    error = bench.model.versions[2].error
    assert error is not None
    assert error.reason == reason
    assert (bench.model.state, bench.model.error, bench.model.failures) == (ModelState.READY, None, 0)
    bench.submit("after")
    assert (bench.task("after").version, bench.task("after").state) == (1, TaskState.RUNNING)
    assert not bench.failed()
    if reason != "WORKER_DIED":
        bench.exit(2)
    bench.update("v3")
    bench.measure(3, 100)
    bench.load(3)
    assert bench.states == [VersionState.RETIRED, VersionState.FAILED, VersionState.SERVING]


def test_one_that_does_not_fit_beside_the_old_comes_after_it(bench: RolloutBench) -> None:
    """The old one ends what it has and goes; what comes meanwhile waits for the new one, and nothing old is started."""
    bench.update()
    bench.measure(2, 950)
    bench.submit("waits")
    assert bench.task("waits").state is TaskState.QUEUED
    bench.end("old")
    assert bench.model.instances[InstanceId("m-1")].state is InstanceState.STOPPING
    bench.exit(1)
    assert commands.ProceedLoad(InstanceId("m-2")) in bench.told
    bench.load(2)
    assert (bench.task("waits").version, bench.task("waits").state) == (2, TaskState.RUNNING)
    assert len([c for c in bench.told if isinstance(c, commands.StartWorker)]) == 2


def test_a_version_that_dies_of_its_first_task_gives_way_to_the_one_before(bench: RolloutBench) -> None:
    """With that event the old one serves again, by the instance that stood by, and runs the task: it is not blamed."""
    bench.end("old")
    bench.update()
    bench.bring_up(2)
    assert bench.model.instances[InstanceId("m-1")].state is InstanceState.READY
    bench.submit("first")
    assert bench.task("first").version == 2
    bench.exit(2)
    assert bench.states == [VersionState.SERVING, VersionState.FAILED]
    assert isinstance(bench.model.versions[2].error, Died)
    first = bench.task("first")
    assert (first.state, first.version, first.deaths, first.instance_id) == (TaskState.RUNNING, 1, 0, "m-1")
    assert (bench.model.failures, bench.model.error, bench.model.before) == (0, None, None)


def test_a_version_whose_backend_raises_at_first_gives_way_too(bench: RolloutBench) -> None:
    """The task that it failed goes on with the one before; behind a first success an error is the task's own."""
    bench.update()
    bench.bring_up(2)
    bench.submit("first")
    error = BackendFailedError("nan")
    failed = Outcome(state=TaskState.FAILED, error=error)
    bench.tell(events.TaskEnded(TaskId("first"), 1, failed))
    assert (bench.task("first").state, bench.task("first").version) == (TaskState.RUNNING, 1)
    assert (bench.states, bench.model.versions[2].error) == ([VersionState.SERVING, VersionState.FAILED], error)
    assert bench.model.instances[InstanceId("m-2")].state is InstanceState.STOPPING
    bench.exit(2)
    bench.update("v3")
    bench.bring_up(3)
    for name, outcome in (("good", Outcome(state=TaskState.SUCCEEDED)), ("bad", failed)):
        bench.submit(name)
        bench.tell(events.TaskEnded(TaskId(name), 1, outcome))
    assert (bench.task("bad").state, bench.model.serving.number) == (TaskState.FAILED, 3)


def test_the_trial_ends_with_the_first_task_or_its_time(bench: RolloutBench) -> None:
    """Then the instance that stood by goes; until then whoever needs its memory has it."""
    bench.end("old")
    bench.update()
    bench.bring_up(2)
    assert InstanceId("m-1") in bench.machine.broker.devices[CPU].idle
    bench.now = 61.0
    assert bench.machine.next_alarm() == 60.0
    bench.tell(events.Tick())
    assert bench.model.instances[InstanceId("m-1")].state is InstanceState.STOPPING
    bench.exit(1)
    bench.exit(2)
    assert (bench.model.serving.number, bench.states) == (2, [VersionState.RETIRED, VersionState.SERVING])


def test_where_the_new_one_fails_after_the_old_has_gone_the_old_comes_back(bench: RolloutBench) -> None:
    """What waits is run by the old version, loaded again; nothing ends."""
    bench.update()
    bench.measure(2, 950)
    bench.submit("waits")
    bench.end("old")
    bench.exit(1)
    bench.tell(events.InstanceRefused(InstanceId("m-2"), ModelLoadError("corrupt")))
    bench.exit(2)
    bench.bring_up(3)
    assert bench.states == [VersionState.SERVING, VersionState.FAILED]
    assert (bench.task("waits").version, bench.task("waits").state) == (1, TaskState.RUNNING)
    assert not bench.failed()


def test_where_the_new_one_fails_before_the_old_has_gone_the_old_takes_tasks_again(bench: RolloutBench) -> None:
    """Instances that were to go stay, and what waited begins with that event."""
    bench.update()
    bench.measure(2, 950)
    bench.submit("waits")
    bench.exit(2)
    assert (bench.task("waits").version, bench.task("waits").state) == (1, TaskState.RUNNING)
    bench.end("old")
    assert bench.model.instances[InstanceId("m-1")].state is InstanceState.READY


def test_the_old_version_is_not_evicted_for_the_new_one() -> None:
    """An idle instance of the old version stays until the new one is READY, and what is idle of others goes before."""
    bench = RolloutBench(memory_bytes=1000, need_bytes=400)
    bench.tell(events.LoadModel(MODEL))
    bench.bring_up(1)
    other = replace(SPEC, name=ModelName("other"))
    bench.tell(events.CreateModel(other))
    bench.tell(events.LoadModel(ModelName("other")))
    bench.tell(events.InstanceNeeds(InstanceId("other-1"), MemoryNeed(weights_bytes=400)))
    bench.tell(events.InstanceLoaded(InstanceId("other-1"), FACTS))
    bench.update()
    done = bench.measure(2)
    assert [c.instance_id for c in done if isinstance(c, commands.StopWorker)] == ["other-1"]
    assert bench.model.state is ModelState.READY


def test_a_second_update_is_refused_with_who_is_under_way(bench: RolloutBench) -> None:
    """Its error names the version, who asked for it and since when; the first goes on."""
    bench.update(by="ann")
    bench.now = 3.0
    with pytest.raises(ModelBusyError, match=r"version 2 .* since 3\.0 s, asked for by ann") as caught:
        bench.update("v3", by="bob")
    assert caught.value.metadata == {"version": "2", "by": "ann", "since_s": "3.0"}
    bench.bring_up(2)
    assert bench.model.serving.number == 2


def test_what_serves_already_is_no_update(bench: RolloutBench) -> None:
    """The same again makes no version; other bounds hold at once, for each version."""
    bench.tell(events.UpdateModel(MODEL, SPEC))
    assert bench.model.rollout is None
    bench.tell(events.UpdateModel(MODEL, replace(SPEC, max_instances=3, min_instances=1, settings={"idle_s": "5"})))
    assert (bench.model.rollout, bench.model.spec.max_instances, [*bench.model.versions]) == (None, 3, [1])


def test_a_version_that_is_kept_is_rolled_out_again(bench: RolloutBench) -> None:
    """Going back is at once while an instance of it still ends its tasks; later it is loaded, and may fail again."""
    bench.update()
    bench.bring_up(2)
    bench.again(1)
    assert bench.states == [VersionState.SERVING, VersionState.RETIRED]
    bench.submit("back")
    assert bench.task("back").instance_id == "m-1"
    bench.exit(2)
    bench.again(2)
    bench.bring_up(3)
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]
    with pytest.raises(InvalidFieldError, match="no version 9; it has 1, 2"):
        bench.tell(events.UpdateModel(MODEL, SPEC, 9))


def test_versions_are_bounded() -> None:
    """The oldest that have no instances go; where all have, one more is refused, with both numbers."""
    bench = RolloutBench(limits=RolloutLimits(versions=2))
    bench.submit("long")
    bench.bring_up(1)
    bench.update("v2")
    bench.bring_up(2)
    bench.submit("long too")
    with pytest.raises(LimitExceededError, match=r"2 versions .* rollouts\.versions is 2"):
        bench.update("v3")
    bench.end("long")
    bench.exit(1)
    bench.update("v3")
    bench.bring_up(3)
    assert [*bench.model.versions] == [2, 3]


def test_a_lease_keeps_the_part_that_it_holds(bench: RolloutBench) -> None:
    """Tasks of a lease run where it holds places until it ends; then the old instance goes."""
    claim = ModelClaim(model=MODEL, sequences=1)
    bench.tell(events.CreateLease(LeaseSpec(lease_id="l", tenant=TENANT, claims=(claim,))))  # type: ignore[arg-type] # a text
    bench.update()
    bench.bring_up(2)
    bench.end("old")
    bench.submit("new")
    bench.end("new")
    bench.submit("leased", "l")
    assert bench.task("leased").version == 1
    bench.end("leased")
    bench.tell(events.ReleaseLease("l", TENANT))  # type: ignore[arg-type] # a text
    assert bench.model.instances[InstanceId("m-1")].state is InstanceState.STOPPING


def test_a_worker_of_the_old_version_that_dies_has_its_tasks_go_on_with_the_new_one(bench: RolloutBench) -> None:
    """They are told which version they go on with; the model is not blamed."""
    bench.submit("too")
    bench.update()
    bench.bring_up(2)
    bench.exit(1)
    assert (bench.task("old").version, bench.task("old").state) == (2, TaskState.RUNNING)
    assert (bench.model.failures, bench.model.state) == (0, ModelState.READY)


def test_a_plan_tells_the_way(bench: RolloutBench) -> None:
    """What is said before is what happens: beside, after draining, or not at all."""

    def fit(need_bytes: int) -> RolloutWay:
        plan = bench.machine.views.plan(SPEC, {CPU: MemoryNeed(weights_bytes=need_bytes)})
        return bench.machine.views.fit(MODEL, plan)[0]

    assert [fit(900), fit(901), fit(1000), fit(1001)] == [
        RolloutWay.BESIDE,
        RolloutWay.DRAINS,
        RolloutWay.DRAINS,
        RolloutWay.NO_ROOM,
    ]
    bench.end("old")
    assert [fit(900), fit(901), fit(1001)] == [RolloutWay.BESIDE, RolloutWay.DRAINS, RolloutWay.NO_ROOM]


def test_a_kernel_that_ended_meanwhile_leaves_the_old_version(bench: RolloutBench) -> None:
    """The next one has the versions with their numbers, the old one serving, and the other FAILED with why."""

    def kept(version: Version) -> RestoredVersion:
        return RestoredVersion(
            number=version.number, spec=version.spec, state=version.state, by=version.by, created=0.0,
            served=version.served, error=version.error,
        )  # fmt: skip

    bench.update()
    machine = KernelMachine(CoreLimits())
    machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=2),)), 0.0)
    machine.handle(events.CreateModel(SPEC, versions=tuple(map(kept, bench.model.versions.values()))), 0.0)
    model = machine.views.model(MODEL)
    assert [version.state for version in model.versions.values()] == [VersionState.SERVING, VersionState.FAILED]
    assert isinstance(model.versions[2].error, InferdError)
    assert model.serving.number == 1
    machine.handle(events.UpdateModel(MODEL, replace(SPEC, source="/v3")), 0.0)
    assert [*model.versions] == [1, 2, 3]
