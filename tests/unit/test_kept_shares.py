"""Who goes next after a restart: as if there had been none."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from inferd.core import changes, commands, events
from inferd.core.demand import Demand
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.queue import QueuePolicy
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.restored import RestoredShare, RestoredTask
from inferd.core.task import Outcome, Task, TaskSpec, TaskState, Usage
from inferd.runtime.clock import Clock
from inferd.runtime.kept_shares import KeptShares, read_share
from inferd.store.store import Drop, Kind, Put, Record

A, B, C = TENANTS = Tenant("a"), Tenant("b"), Tenant("c")
MODEL = ModelName("m")
POLICY = QueuePolicy(aging_s=1e9, weights={B: 2.0}, tenant_running=1000)


class Bench:
    """A kernel with one model and one place; what a store would have of it, and what it sent."""

    def __init__(self, tasks: Sequence[RestoredTask] = (), shares: Sequence[RestoredShare] = ()) -> None:
        self.machine = KernelMachine(CoreLimits(tasks=TaskLimits(tells_shares=True, policy=POLICY)))
        self.shares: dict[tuple[ModelName, Tenant], changes.ShareChanged] = {}
        self.sent: list[TaskId] = []
        device = DeviceCapacity(device_id=DeviceId("cpu:0"), memory_bytes=1000, cores=2)
        spec: dict[str, Any] = {
            "name": MODEL, "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1, "backend": "cpu",
            "backend_reason": "", "loader": "x:Y", "devices": (DeviceId("cpu:0"),),
        }  # fmt: skip
        self.tell(events.HostJoined((device,)), events.CreateModel(ModelSpec(**spec)))
        self.tell(events.RestoreTasks(tuple(tasks), tuple(shares)), events.AskModel(MODEL))
        self.tell(events.InstanceNeeds(InstanceId("m-1"), MemoryNeed(weights_bytes=100)))
        facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1)
        self.tell(events.InstanceLoaded(InstanceId("m-1"), facts))

    def tell(self, *told: events.Event) -> None:
        for event in told:
            for reply in self.machine.handle(event, 1.0):
                if isinstance(reply, changes.ShareChanged):
                    self.shares[reply.model, reply.tenant] = reply
                elif isinstance(reply, commands.SendTask):
                    self.sent.append(reply.spec.task_id)

    def submit(self, name: str, tenant: Tenant, tokens: int) -> None:
        demand = Demand(prompt_tokens=tokens, most_output=0)
        self.tell(
            events.SubmitTask(TaskSpec(task_id=TaskId(name), tenant=tenant, model=MODEL, demand=demand, detached=True))
        )

    def end_one(self) -> None:
        """The task that runs ends; it cost what the end of its name says."""
        (task,) = (each for each in self.machine.tasks.known.values() if each.state is TaskState.RUNNING)
        usage = Usage(prompt_tokens=int(task.spec.task_id.partition("/")[2]))
        outcome = Outcome(state=TaskState.SUCCEEDED, usage=usage)
        self.tell(events.TaskEnded(task.spec.task_id, task.attempt, outcome))

    def tie(self) -> bool:
        """Whether two tenants stand equal."""
        counters = [share.counter for share in self.shares.values() if share.counter is not None]
        return len(set(counters)) < len(counters)

    def restarted(self) -> "Bench":
        """The kernel after one that was killed now."""
        living = [task for task in self.machine.tasks.known.values() if task.finished is None]
        told = [share for share in self.shares.values() if share.counter is not None]
        return Bench(
            [kept(task) for task in living],
            [RestoredShare(each.model, each.tenant, each.counter or 0.0, each.level) for each in told],
        )


def kept(task: Task) -> RestoredTask:
    names = ("spec", "number", "state", "attempt", "deaths", "created", "started", "finished", "expires")
    names += ("instance_id", "device_id", "outcome", "expected_tokens", "charged_tokens")
    return RestoredTask(**{name: getattr(task, name) for name in names})


@pytest.mark.parametrize("seed", range(40))
def test_a_restart_neither_forgives_nor_punishes(seed: int) -> None:
    """Whatever was served before, waiting tasks go in the order in which they would have gone without the restart."""
    random = Random(seed)
    bench = Bench()
    for number in range(1, 31):
        cost = random.randrange(1, 1000)
        bench.submit(f"{number}/{cost}", random.choice((A, A, A, B, C)), random.randrange(1, 1000))
        if random.random() < 0.4 and len(bench.sent) < number:
            bench.end_one()
    while bench.tie():  # of two that stand equal either may go first
        bench.end_one()
    again = bench.restarted()
    running = bench.sent[-1]
    assert again.sent == [running]
    before = len(bench.sent)
    for each in (bench, again):
        while any(task.state is TaskState.RUNNING for task in each.machine.tasks.known.values()):
            each.end_one()
    assert len(bench.sent) - before > 5
    assert again.sent[1:] == bench.sent[before:]


def test_who_was_served_goes_behind_though_nothing_of_it_waited() -> None:
    """What a tenant was served counts after a restart, also where none of its tasks was kept."""
    bench = Bench([], [RestoredShare(MODEL, A, 500.0, 0.0), RestoredShare(MODEL, B, 100.0, 0.0)])
    bench.submit("first/1", C, 1)  # has the place
    for name in ("b1/1", "a1/1", "b2/1", "a2/1", "b3/1"):
        bench.submit(name, A if name.startswith("a") else B, 1)
    for _ in range(5):
        bench.end_one()
    assert bench.sent == ["first/1", "b1/1", "b2/1", "b3/1", "a1/1", "a2/1"]


def test_a_share_is_read_as_it_was_written_and_dropped_with_its_end() -> None:
    """What is written last is read; a tenant that is known no longer is dropped if the store has it, else not told."""
    shares = KeptShares(Clock())
    assert shares.note(changes.ShareChanged(MODEL, A, 3.5, 0.5))
    assert not shares.note(changes.ShareChanged(MODEL, A, 0.1 + 0.2, 1.5))
    shares.note(changes.ShareChanged(MODEL, B, None, 0.0))
    assert not shares  # nothing is due but with something else
    shares.hurry()
    assert shares
    (put,) = shares.take()
    assert isinstance(put, Put)
    assert read_share(Record(put.tenant, put.key, put.value)) == RestoredShare(MODEL, A, 0.1 + 0.2, 1.5)
    shares.failed()
    assert shares.take() == [put]
    shares.wrote()
    shares.note(changes.ShareChanged(MODEL, A, None, 0.0))
    assert shares.take() == [Drop(A, Kind.SHARE, MODEL)]
    shares.wrote()
    assert shares.take() == []
