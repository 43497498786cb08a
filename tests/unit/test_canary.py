"""A new version takes a share of the new tasks by steps, and gives all back where it is worse than it may be."""

from dataclasses import replace

import pytest
from rollout_bench import MODEL, SPEC, RolloutBench

from inferd.core import commands, events
from inferd.core.canary import Canary, CanaryStep, Pace
from inferd.core.ids import InstanceId, TaskId
from inferd.core.model import InstanceState
from inferd.core.rollout_events import TaskBegan
from inferd.core.rollouts import RolloutLimits
from inferd.core.task import Outcome, TaskState
from inferd.core.version import VersionState
from inferd.errors import BackendFailedError, InferdError, ModelBusyError, UnsupportedInputError

QUICK, SLOW = Pace(0.1, 0.01), Pace(0.5, 0.01)
CANARY = [VersionState.SERVING, VersionState.CANARY]
TAKEN_BACK = [VersionState.SERVING, VersionState.FAILED]


class CanaryBench(RolloutBench):
    """A model of which version 2 is loaded and comes by steps."""

    def __init__(self, canary: Canary, limits: RolloutLimits | None = None) -> None:
        super().__init__(limits=limits)
        self.number = 0
        self.submit("first")
        self.bring_up(1)
        self.end("first")
        self.tell(events.UpdateModel(MODEL, replace(SPEC, source="/v2", path="/v2"), canary=canary))
        self.bring_up(2)

    def do(self, *, pace: Pace = QUICK, slow: Pace | None = None, error: InferdError | None = None) -> int:
        """Do one more task, on the new version so slowly or with this error; the version that it began on."""
        self.number += 1
        name = f"t{self.number}"
        self.submit(name)
        task = self.task(name)
        version = task.version
        bad = error if version == 2 else None
        outcome = Outcome(state=TaskState.FAILED if bad else TaskState.SUCCEEDED, error=bad)
        told = slow if slow is not None and version == 2 else pace
        self.tell(events.TaskEnded(TaskId(name), task.attempt, outcome, told))
        return version

    @property
    def why(self) -> dict[str, str]:
        error = self.model.versions[2].error
        assert error is not None
        return {"reason": error.reason, **error.metadata}


def steps(*shares: float, tasks: int = 2, **bounds: float) -> Canary:
    return Canary(steps=tuple(CanaryStep(share, tasks) for share in shares), **bounds)  # type: ignore[arg-type] # of floats


def test_each_step_has_its_share_of_the_new_tasks_counted_and_the_last_one_all() -> None:
    """Every fourth is for the new version, then every second, then each; then it serves, and the old one goes."""
    bench = CanaryBench(steps(0.25, 0.5, 1.0))
    assert bench.states == CANARY
    assert [bench.do() for _ in range(8)] == [1, 1, 1, 2, 1, 1, 1, 2]
    assert [bench.do() for _ in range(4)] == [1, 2, 1, 2]
    assert bench.states == CANARY
    assert [bench.do() for _ in range(2)] == [2, 2]
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]
    assert bench.do() == 2
    assert bench.model.instances[InstanceId("m-1")].state is InstanceState.STOPPING


def test_no_task_waits_for_a_share_but_for_that_of_all() -> None:
    """Where the new version has no place the old one takes the task, as long as that is to take any."""
    bench = CanaryBench(steps(0.5, 1.0, tasks=1))
    for number in range(6):
        bench.submit(f"long{number}")
    assert [bench.task(f"long{n}").version for n in range(6)] == [1, 2, 1, 2, 1, 2]
    bench.submit("more")
    assert bench.task("more").state is TaskState.QUEUED  # no version has a place
    bench.end("long0")
    assert bench.task("more").version == 1
    bench.end("long1")
    bench.submit("all")
    assert bench.task("all").version == 2
    bench.submit("waits")
    bench.end("long2")
    assert bench.task("waits").state is TaskState.QUEUED
    bench.end("all")
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]


def test_a_step_lasts_its_time_even_without_tasks() -> None:
    """It has had its tasks, and goes on until its time has passed; one of time alone ends with that."""
    bench = CanaryBench(Canary(steps=(CanaryStep(0.5, 1, least_s=10.0), CanaryStep(1.0, 0, least_s=5.0))))
    assert [bench.do(), bench.do()] == [1, 2]
    steps = bench.model.versions[2].steps
    assert steps is not None
    assert steps.number == 1
    bench.now = 10.0
    bench.tell(events.Tick())
    assert steps.number == 2
    bench.now = 15.0
    bench.tell(events.Tick())
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]


@pytest.mark.parametrize(
    ("bounds", "bound", "found"),
    [
        ({"first_ratio": 2.0}, "first_token_ratio", "500 ms"),
        ({"first_s": 0.3}, "most_first_token", "500 ms"),
        ({"token_ratio": 0.5}, "token_ratio", "10 ms"),
        ({"token_s": 0.005}, "most_token", "10 ms"),
    ],
)
def test_a_version_that_is_slower_than_it_may_be_is_taken_back(
    bounds: dict[str, float], bound: str, found: str
) -> None:
    """As soon as its step cannot hold the bound any more; all tasks are for the old version from then on."""
    bench = CanaryBench(steps(0.5, tasks=20, **bounds))
    began = [bench.do(slow=SLOW) for _ in range(60)]
    assert bench.states == TAKEN_BACK
    assert (bench.why["reason"], bench.why["bound"], bench.why["found"]) == ("CANARY_FAILED", bound, found)
    assert (bench.why["step"], bench.why["share"], bench.why["failed"]) == ("1", "0.5", "0")
    assert int(bench.why["tasks"]) < 20
    assert 2 not in began[40:]
    assert not bench.failed()


@pytest.mark.parametrize(("bounds", "tasks"), [({"first_s": 1.0}, "2"), ({"first_ratio": 10.0}, "4")])
def test_a_version_whose_tasks_are_given_up_before_their_first_token_is_too_slow(
    bounds: dict[str, float], tasks: str
) -> None:
    """Its clients cancel, and no task ever succeeds on it: it is taken back as one that was so slow to the end."""
    bench = CanaryBench(steps(0.5, tasks=4, **bounds))
    assert bench.do() == 1
    for number in range(20):
        bench.submit(f"slow{number}")
        bench.now += 1.2
        bench.tell(events.CancelTask(TaskId(f"slow{number}"), bench.task(f"slow{number}").spec.tenant))
    assert bench.states == TAKEN_BACK
    assert (bench.why["found"], bench.why["tasks"], bench.why["failed"]) == ("1200 ms", tasks, "0")


def test_a_version_that_is_silent_is_too_slow_while_its_tasks_still_run() -> None:
    """Behind the bound its tasks go on with the old version; one that has begun, or was given up, is not late."""
    bench = CanaryBench(steps(1.0, tasks=4, first_s=1.0))
    for name in ("begun", "left", "a", "b"):
        bench.submit(name)
    assert [c.awaited for c in bench.told if isinstance(c, commands.SendTask)] == [False, True, True, True]
    bench.tell(TaskBegan(InstanceId("m-2"), TaskId("begun")))
    bench.tell(events.CancelTask(TaskId("left"), bench.task("left").spec.tenant))
    assert bench.machine.next_alarm() == 1.0
    bench.now = 1.0
    bench.tell(events.Tick())
    assert bench.states == TAKEN_BACK
    assert (bench.why["bound"], bench.why["tasks"]) == ("most_first_token", "0")
    assert {bench.task(name).version for name in ("begun", "a", "b")} == {1}
    assert bench.machine.next_alarm() != 1.0


def test_a_task_that_fails_late_counts_once() -> None:
    """It failed on the new version, and goes on with the old one; that is not one more that was late."""
    bench = CanaryBench(steps(1.0, tasks=20, failed=0.9, first_s=1.0))
    bench.submit("late")
    bench.now = 1.2
    failed = Outcome(state=TaskState.FAILED, error=BackendFailedError("nan"))
    bench.tell(events.TaskEnded(TaskId("late"), 1, failed))
    came = bench.model.versions[2].steps
    assert came is not None
    assert (came.new.tasks, came.new.failed, [*came.paces]) == (1, 1, [])


def test_one_slow_task_of_twenty_is_within_a_bound() -> None:
    """A bound is one of the 95th percentile: the version comes to serve."""
    bench = CanaryBench(steps(1.0, tasks=20, first_s=0.3, first_ratio=2.0))
    assert bench.do(slow=SLOW) == 2
    for _ in range(19):
        bench.do()
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]


def test_a_task_at_which_its_backend_raises_goes_on_with_the_old_version() -> None:
    """It counts as failed, and does not fail; where none may fail the version is taken back with the first."""
    bench = CanaryBench(steps(1.0, tasks=20, failed=0.05))
    broken = BackendFailedError("nan")
    assert bench.do(error=broken) == 2
    assert (bench.task("t1").version, bench.task("t1").state) == (1, TaskState.RUNNING)
    assert bench.states == CANARY
    assert bench.do(error=broken) == 2
    assert bench.states == TAKEN_BACK
    assert (bench.why["bound"], bench.why["limit"], bench.why["found"]) == (
        "most_failed",
        "0.05 of its tasks",
        "2 of 2",
    )
    assert not bench.failed()
    strict = CanaryBench(steps(1.0))
    strict.do(error=broken)
    assert strict.states == TAKEN_BACK


def test_what_is_refused_for_what_it_was_given_is_no_fault_of_the_version() -> None:
    """Such a task ends as it would with any version, and is not among those that failed."""
    bench = CanaryBench(steps(1.0, tasks=2))
    assert bench.do(error=UnsupportedInputError("no such language")) == 2
    assert bench.task("t1").state is TaskState.FAILED
    assert bench.states == CANARY
    bench.do()
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]


def test_when_it_is_taken_back_what_runs_goes_on_with_the_old_version() -> None:
    """Neither a death, nor a bound that is passed, ends a task of it."""
    for ends in ("dies", "passed"):
        bench = CanaryBench(steps(1.0))
        bench.submit("runs")
        assert bench.task("runs").version == 2
        if ends == "dies":
            bench.exit(2)
        else:
            bench.do(error=BackendFailedError("nan"))
        assert bench.states == TAKEN_BACK
        assert (bench.task("runs").version, bench.task("runs").attempt) == (1, 2)
        bench.end("runs")
        assert not bench.failed()


def test_steps_that_never_end_are_given_up() -> None:
    """Too few tasks come within `rollouts.canary_s`: the version is FAILED with how many it had."""
    bench = CanaryBench(steps(1.0), limits=RolloutLimits(canary_s=100.0))
    bench.do()
    bench.now = 100.0
    bench.tell(events.Tick())
    assert bench.states == TAKEN_BACK
    assert (bench.why["bound"], bench.why["found"]) == ("canary_s", "1 of 2 tasks of the step")


def test_steps_need_room_for_both() -> None:
    """Where the old version would have to go first nothing begins, and the reason says what to do."""
    bench = RolloutBench()
    bench.submit("old")
    bench.bring_up(1)
    bench.tell(events.UpdateModel(MODEL, replace(SPEC, source="/v2", path="/v2"), canary=steps(0.5)))
    bench.measure(2, 950)
    assert bench.states == TAKEN_BACK
    error = bench.model.versions[2].error
    assert error is not None
    assert (error.reason, "leave canary out" in error.message) == ("NO_MEMORY", True)
    bench.submit("next")
    assert bench.task("next").version == 1


def test_a_second_update_is_told_how_to_give_the_first_one_up() -> None:
    """Unloading the instance of the new version ends the steps at once, and the old version serves on."""
    bench = CanaryBench(steps(0.5))
    with pytest.raises(ModelBusyError, match="`inferd unload m --instance m-2`"):
        bench.update("v3")
    bench.tell(events.UnloadModel(MODEL, force=False, instance_id=InstanceId("m-2")))
    assert bench.states == TAKEN_BACK
    assert bench.do() == 1


def test_a_first_token_counts_once_it_is_told_whatever_becomes_of_its_task() -> None:
    """One that is cancelled between two tokens has ended on the new version; slow first tokens tell while tasks run."""
    bench = CanaryBench(steps(1.0, tasks=3, first_s=1.0))
    for number in range(3):
        bench.submit(f"quick{number}")
        bench.now += 0.5
        bench.tell(TaskBegan(InstanceId("m-2"), TaskId(f"quick{number}")))
        bench.tell(events.CancelTask(TaskId(f"quick{number}"), bench.task(f"quick{number}").spec.tenant))
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]
    bench = CanaryBench(steps(1.0, tasks=3, first_s=1.0))
    bench.submit("slow")
    bench.submit("slower")
    bench.now += 0.9
    bench.tell(TaskBegan(InstanceId("m-2"), TaskId("slow")))
    assert bench.states == CANARY
    bench.submit("slowest")
    bench.now += 1.5
    bench.tell(TaskBegan(InstanceId("m-2"), TaskId("slower")))
    bench.tell(TaskBegan(InstanceId("m-2"), TaskId("slowest")))
    assert bench.states == TAKEN_BACK
    assert (bench.why["bound"], bench.why["found"], bench.why["tasks"]) == ("most_first_token", "2400 ms", "0")
