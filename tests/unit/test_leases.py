from typing import Any

import pytest

from inferd.core import commands, events
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import CoresClaim, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.leases import LeaseLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec, ModelState
from inferd.core.priority import Priority
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState
from inferd.errors import (
    InvalidFieldError,
    LeaseEndedError,
    LeaseNotFoundError,
    LeaseUnavailableError,
    ModelBusyError,
    NoMemoryError,
    RequestConflictError,
    WorkerDiedError,
)

CPU = DeviceId("cpu:0")
TENANT = Tenant("a")
GONE = WorkerDiedError("gone")


class Bench:
    """A machine with one device of 1000 bytes and 4 cores, and short words for what happens to it."""

    def __init__(self) -> None:
        self.machine = KernelMachine(CoreLimits(leases=LeaseLimits(aging_s=60.0)))
        self.machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=4),)), 0.0)
        self.needs: dict[str, int] = {}

    def model(self, name: str, *, need: int = 300, **changes: Any) -> ModelName:
        fields: dict[str, Any] = {
            "name": ModelName(name), "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1,
            "backend": "cpu", "backend_reason": "", "loader": "x:Y", "devices": ("cpu:0",),
        }  # fmt: skip
        self.needs[name] = need
        self.machine.handle(events.CreateModel(ModelSpec(**(fields | changes))), 0.0)
        return ModelName(name)

    def load(self, name: str, *, need: int = 300, places: int = 2, now: float = 0.0) -> InstanceId:
        """Load a model with one instance that is READY."""
        self.model(name, need=need)
        self.machine.handle(events.LoadModel(ModelName(name)), now)
        return self.come_up(f"{name}-1", places=places, now=now)

    def come_up(self, name: str, *, places: int = 2, now: float = 0.0) -> InstanceId:
        instance_id = InstanceId(name)
        need = self.needs[name.rpartition("-")[0]]
        self.machine.handle(events.InstanceNeeds(instance_id, MemoryNeed(weights_bytes=need)), now)
        return self.loaded(name, places=places, now=now)

    def loaded(self, name: str, *, places: int = 2, now: float = 0.0) -> InstanceId:
        facts = InstanceFacts(max_tasks=places, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
        self.machine.handle(events.InstanceLoaded(InstanceId(name), facts), now)
        return InstanceId(name)

    def lease(self, name: str, *claims: Any, now: float = 0.0, **changes: Any) -> Any:
        spec = LeaseSpec(lease_id=LeaseId(name), tenant=TENANT, claims=claims, **({"ttl_s": 10.0} | changes))
        self.machine.handle(events.CreateLease(spec), now)
        return self.machine.views.lease(LeaseId(name), TENANT)

    def submit(self, name: str, model: str, *, now: float = 0.0, **changes: Any) -> tuple[commands.Reply, ...]:
        fields: dict[str, Any] = {
            "task_id": TaskId(name), "tenant": TENANT, "model": ModelName(model), "work": object(),
        }  # fmt: skip
        return self.machine.handle(events.SubmitTask(TaskSpec(**(fields | changes))), now)

    def end(self, name: str, now: float = 0.0) -> tuple[commands.Reply, ...]:
        task = self.machine.tasks.known[TaskId(name)]
        return self.machine.handle(
            events.TaskEnded(TaskId(name), task.attempt, Outcome(state=TaskState.SUCCEEDED)), now
        )

    def tick(self, now: float) -> tuple[commands.Reply, ...]:
        return self.machine.handle(events.Tick(), now)

    def state(self, task: str) -> TaskState:
        return self.machine.tasks.known[TaskId(task)].state


def memory(size_bytes: int) -> MemoryClaim:
    return MemoryClaim(memory_bytes=size_bytes)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def asked(found: tuple[commands.Reply, ...], kind: type) -> list[Any]:
    return [command for command in found if isinstance(command, kind)]


def test_a_lease_holds_until_its_ttl_is_over_and_not_longer(bench: Bench) -> None:
    """It is ACTIVE before its instant, EXPIRED at it, its memory is free again, and the alarm names that instant."""
    lease = bench.lease("l", memory(700))
    assert (lease.state, lease.fencing_token) == (LeaseState.ACTIVE, 1)
    assert bench.machine.broker.account(CPU).free_bytes == 300
    assert bench.machine.next_alarm() == 10.0
    bench.tick(9.999)
    assert lease.state is LeaseState.ACTIVE
    bench.tick(10.0)
    assert lease.state is LeaseState.EXPIRED
    assert bench.machine.broker.account(CPU).free_bytes == 1000


def test_a_lease_that_is_kept_alive_holds_on_and_one_that_ended_never_comes_back(bench: Bench) -> None:
    """Keeping alive counts from its own time; after a pause that was too long it is refused, and again."""
    lease = bench.lease("l", memory(700))
    bench.machine.handle(events.KeepAlive(LeaseId("l"), TENANT, None), 8.0)
    bench.tick(17.9)
    assert lease.state is LeaseState.ACTIVE
    with pytest.raises(LeaseEndedError, match="EXPIRED"):
        bench.machine.handle(events.KeepAlive(LeaseId("l"), TENANT, None), 30.0)
    with pytest.raises(LeaseEndedError):
        bench.machine.handle(events.KeepAlive(LeaseId("l"), TENANT, None), 30.0)
    assert lease.state is LeaseState.EXPIRED


def test_a_ttl_outside_its_bounds_is_refused_with_the_numbers(bench: Bench) -> None:
    """The error names the field, the value and both bounds."""
    with pytest.raises(InvalidFieldError, match=r"0\.5 s; it must be from 1 s to 3600 s") as caught:
        bench.lease("l", memory(1), ttl_s=0.5)
    assert caught.value.field == "spec.ttl"


def test_a_lease_is_refused_at_once_when_it_does_not_want_to_wait(bench: Bench) -> None:
    """The refusal says how much there is and who holds it; more than there is at all is an error of the field."""
    bench.lease("l", memory(700))
    with pytest.raises(LeaseUnavailableError, match="held by lease l"):
        bench.lease("m", memory(400))
    with pytest.raises(InvalidFieldError, match="to give") as caught:
        bench.lease("m", memory(1001))
    assert caught.value.field == "spec.claims[0].memory.bytes"
    with pytest.raises(InvalidFieldError, match="did you mean 'cpu:0'"):
        bench.lease("m", MemoryClaim(device_id=DeviceId("cpu0"), memory_bytes=1))


def test_waiting_leases_are_granted_in_order_of_class_and_arrival_and_a_large_one_is_not_passed(bench: Bench) -> None:
    """A small claim that would fit waits behind a large one that came first; a higher class goes before both."""
    bench.lease("holder", memory(900))
    large = bench.lease("large", memory(800), wait=True)
    small = bench.lease("small", memory(50), wait=True)
    high = bench.lease("high", memory(500), wait=True, priority=Priority.HIGH)
    positions = [bench.machine.leases.position(LeaseId(name)) for name in ("large", "small", "high")]
    assert positions == [1, 2, 0]
    bench.machine.handle(events.ReleaseLease(LeaseId("holder"), TENANT), 1.0)
    assert [lease.state for lease in (high, large, small)] == [
        LeaseState.ACTIVE, LeaseState.PENDING, LeaseState.PENDING,
    ]  # fmt: skip
    bench.machine.handle(events.ReleaseLease(LeaseId("high"), TENANT), 1.0)
    assert [large.state, small.state] == [LeaseState.ACTIVE, LeaseState.ACTIVE]
    assert large.fencing_token < small.fencing_token


def test_a_waiting_lease_ages_past_a_higher_class(bench: Bench) -> None:
    """A lease of class HIGH that comes later than two agings goes behind a waiting LOW one."""
    bench.lease("holder", memory(900), ttl_s=1000.0)
    low = bench.lease("low", memory(200), wait=True, priority=Priority.LOW, ttl_s=1000.0)
    bench.lease("high", memory(200), wait=True, priority=Priority.HIGH, ttl_s=1000.0, now=121.0)
    assert bench.machine.leases.position(LeaseId("low")) == 0
    bench.machine.handle(events.ReleaseLease(LeaseId("holder"), TENANT), 122.0)
    assert low.state is LeaseState.ACTIVE


def test_a_lease_that_waited_as_long_as_it_may_is_refused(bench: Bench) -> None:
    """It ends REFUSED with what it waited for, and those behind it go on."""
    bench.lease("holder", memory(500), ttl_s=100.0)
    waiting = bench.lease("w", memory(600), wait=True, wait_s=3.0, ttl_s=100.0)
    behind = bench.lease("b", memory(400), wait=True, ttl_s=100.0)
    bench.tick(3.0)
    assert waiting.state is LeaseState.REFUSED
    assert "no room in 3 s" in str(waiting.error)
    assert behind.state is LeaseState.ACTIVE


def test_a_lease_evicts_the_idle_and_never_the_busy_or_the_held(bench: Bench) -> None:
    """Room is made by the least recently used idle instance; with only busy or held ones the claim is refused."""
    idle, busy = bench.load("idle"), bench.load("busy")
    bench.load("pinned")
    bench.submit("t", "busy")
    bench.lease("pin", ModelClaim(model=ModelName("pinned"), sequences=1))
    lease = bench.lease("l", memory(300))
    assert lease.state is LeaseState.PENDING
    assert idle in lease.waits_for
    bench.machine.handle(events.WorkerExited(idle, GONE), 0.5)
    assert lease.state is LeaseState.ACTIVE
    with pytest.raises(LeaseUnavailableError, match=busy):
        bench.lease("m", memory(300))
    bench.end("t")
    assert bench.lease("m", memory(300)).state is LeaseState.PENDING


def test_a_load_reserves_before_it_begins_and_is_refused_with_the_figures(bench: Bench) -> None:
    """A worker proceeds only with its memory reserved; a model that no eviction makes room for says who holds it."""
    bench.lease("l", memory(800))
    bench.model("m")
    bench.machine.handle(events.LoadModel(ModelName("m")), 0.0)
    needs = events.InstanceNeeds(InstanceId("m-1"), MemoryNeed(weights_bytes=200, kv_bytes=100))
    assert not asked(bench.machine.handle(needs, 0.0), commands.ProceedLoad)
    error = bench.machine.views.model(ModelName("m")).error
    assert isinstance(error, NoMemoryError)
    assert (error.metadata["needed_bytes"], error.metadata["free_bytes"]) == ("300", "200")
    assert "lease l" in error.message


def test_a_load_that_tasks_wait_for_waits_for_its_memory(bench: Bench) -> None:
    """It proceeds as soon as the lease that holds the memory ends."""
    bench.lease("l", memory(800))
    bench.model("m")
    bench.submit("t", "m")
    bench.machine.handle(events.InstanceNeeds(InstanceId("m-1"), MemoryNeed(weights_bytes=300)), 0.0)
    assert bench.machine.views.model(ModelName("m")).state is ModelState.LOADING
    assert asked(bench.tick(10.0), commands.ProceedLoad) == [commands.ProceedLoad(InstanceId("m-1"))]


def test_the_plan_of_a_load_is_what_the_load_then_does(bench: Bench) -> None:
    """Fits, evicts and does not fit: the plan names the same instances and holders as the load meets."""
    first, second = bench.load("first"), bench.load("second")
    need = MemoryNeed(weights_bytes=600)
    plan = bench.machine.broker.plan(CPU, need)
    assert (plan.fits, plan.evicted) == (True, (first,))
    bench.model("m", need=600)
    bench.machine.handle(events.LoadModel(ModelName("m")), 0.0)
    asked_for = bench.machine.handle(events.InstanceNeeds(InstanceId("m-1"), need), 0.0)
    assert [c.instance_id for c in asked(asked_for, commands.StopWorker)] == [first]
    bench.submit("t", "second")
    bench.lease("l", memory(100), wait=True)
    plan = bench.machine.broker.plan(CPU, MemoryNeed(weights_bytes=900))
    assert (plan.fits, plan.busy) == (False, (second,))


def test_the_plan_of_what_is_larger_than_its_device_says_so_and_evicts_nothing(bench: Bench) -> None:
    """Neither is somebody told to hold it: no end of anything makes room."""
    bench.load("idle")
    plan = bench.machine.broker.plan(CPU, MemoryNeed(weights_bytes=2000))
    assert (plan.fits, plan.evicted, plan.busy, plan.leases) == (False, (), (), ())
    assert plan.reason.startswith(
        f"does not fit {CPU}: it is larger than the device: it needs 2.0 kB, and 1.0 kB is all"
    )


def test_an_instance_under_a_lease_draws_on_it_serves_only_it_and_ends_with_it(bench: Bench) -> None:
    """Its bytes are the lease's; tasks of others are not given to it; at the end its worker stops and its tasks too."""
    bench.lease("l", memory(500))
    bench.model("m")
    bench.machine.handle(events.LoadModel(ModelName("m"), TENANT, LeaseId("l")), 0.0)
    bench.come_up("m-1", places=1)
    assert bench.machine.broker.account(CPU).free_bytes == 500
    bench.submit("t", "m", lease_id=LeaseId("l"))
    assert bench.state("t") is TaskState.RUNNING
    assert asked(bench.submit("other", "m"), commands.StartWorker), "others need an instance of their own"
    ended = bench.machine.handle(events.ReleaseLease(LeaseId("l"), TENANT), 1.0)
    assert [c.instance_id for c in asked(ended, commands.StopWorker)] == ["m-1"]
    assert bench.state("t") is TaskState.CANCELLED
    assert bench.machine.broker.account(CPU).free_bytes == 700, "the worker still holds its part"
    bench.machine.handle(events.WorkerExited(InstanceId("m-1"), GONE), 1.1)
    assert bench.machine.broker.account(CPU).free_bytes == 1000


def test_a_load_under_a_lease_that_is_too_small_is_refused_with_both_numbers(bench: Bench) -> None:
    """What the lease has left and what the model needs are named; other memory is not touched."""
    bench.lease("l", memory(200))
    bench.model("m")
    bench.machine.handle(events.LoadModel(ModelName("m"), TENANT, LeaseId("l")), 0.0)
    bench.machine.handle(events.InstanceNeeds(InstanceId("m-1"), MemoryNeed(weights_bytes=300)), 0.0)
    error = bench.machine.fleet.instances[InstanceId("m-1")].error
    assert isinstance(error, NoMemoryError)
    assert "lease l has" in error.message


def test_a_part_of_a_model_is_kept_for_its_lease(bench: Bench) -> None:
    """Tasks of others leave the held place free; a task under the lease gets it although the instance seems full."""
    bench.load("m", places=2)
    bench.lease("l", ModelClaim(model=ModelName("m"), sequences=1, kv_tokens=64))
    bench.submit("a", "m")
    bench.submit("b", "m")
    assert [bench.state("a"), bench.state("b")] == [TaskState.RUNNING, TaskState.QUEUED]
    sent = asked(bench.submit("mine", "m", lease_id=LeaseId("l")), commands.SendTask)
    assert [(c.spec.task_id, c.fencing_token) for c in sent] == [("mine", 1)]
    with pytest.raises(ModelBusyError, match="held by 1 lease"):
        bench.machine.handle(events.UnloadModel(ModelName("m"), force=True), 0.0)


def test_a_task_under_a_lease_takes_back_a_place_that_was_taken_before_the_grant(bench: Bench) -> None:
    """The youngest running task without a lease is stopped for it, and goes on when the place is free again."""
    bench.load("m", places=2)
    bench.submit("a", "m")
    bench.submit("b", "m")
    bench.lease("l", ModelClaim(model=ModelName("m"), sequences=1))
    found = bench.submit("mine", "m", lease_id=LeaseId("l"))
    assert [c.task_id for c in asked(found, commands.DropTask)] == ["b"]
    assert bench.state("mine") is TaskState.RUNNING
    bench.machine.handle(events.ReleaseLease(LeaseId("l"), TENANT), 1.0)
    assert [bench.state("mine"), bench.state("b")] == [TaskState.CANCELLED, TaskState.RUNNING]


def test_a_claim_on_a_model_that_is_not_loaded_loads_it_or_is_refused(bench: Bench) -> None:
    """With `wait` the lease is granted when the model is READY; without, the refusal says what to do."""
    bench.model("m")
    with pytest.raises(LeaseUnavailableError, match="set wait"):
        bench.lease("no", ModelClaim(model=ModelName("m"), sequences=1))
    lease = bench.lease("l", ModelClaim(model=ModelName("m"), sequences=1), memory(500), wait=True)
    bench.come_up("m-1")
    assert lease.state is LeaseState.ACTIVE
    assert bench.machine.broker.account(CPU).free_bytes == 200


def test_a_lease_whose_model_cannot_be_loaded_is_refused_with_the_cause(bench: Bench) -> None:
    """It does not wait for ever."""
    bench.model("m")
    lease = bench.lease("l", ModelClaim(model=ModelName("m")), wait=True)
    bench.machine.handle(events.InstanceRefused(InstanceId("m-1"), NoMemoryError("broken file")), 0.0)
    assert lease.state is LeaseState.REFUSED
    assert "broken file" in str(lease.error)


def test_a_held_model_comes_back_after_its_worker_died(bench: Bench) -> None:
    """Its instance is started again without a task that waits, and keeps the lease's part as before."""
    first = bench.load("m")
    bench.lease("l", ModelClaim(model=ModelName("m"), sequences=1), ttl_s=100.0)
    assert asked(bench.machine.handle(events.WorkerExited(first, GONE), 1.0), commands.StartWorker)
    bench.machine.handle(events.InstanceNeeds(InstanceId("m-2"), MemoryNeed(weights_bytes=300)), 2.0)
    facts = InstanceFacts(max_tasks=2, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
    found = bench.machine.handle(events.InstanceLoaded(InstanceId("m-2"), facts), 2.0)
    assert [c.lease_id for c in asked(found, commands.HoldCapacity)] == ["l"]


def test_cores_are_counted(bench: Bench) -> None:
    """As many as the device has, and not one more."""
    bench.lease("l", CoresClaim(cores=3))
    with pytest.raises(LeaseUnavailableError, match="2 cores"):
        bench.lease("m", CoresClaim(cores=2))
    assert bench.lease("n", CoresClaim(cores=1)).state is LeaseState.ACTIVE


def test_a_worker_is_given_the_cores_that_no_lease_holds(bench: Bench) -> None:
    """A model computes on what is left of the cores, one at least; under a lease that holds some, on those."""

    def cores(name: str, event: events.LoadModel) -> list[int]:
        bench.model(name, need=10)
        return [command.cores for command in asked(bench.machine.handle(event, 0.0), commands.StartWorker)]

    assert cores("all", events.LoadModel(ModelName("all"))) == [4]
    bench.lease("l", CoresClaim(cores=3), memory(100))
    assert cores("rest", events.LoadModel(ModelName("rest"))) == [1]
    bench.lease("n", CoresClaim(cores=1))
    assert cores("least", events.LoadModel(ModelName("least"))) == [1]
    leased = events.LoadModel(ModelName("leased"), TENANT, LeaseId("l"))
    assert cores("leased", leased) == [3]


def test_a_lease_of_another_tenant_is_not_known(bench: Bench) -> None:
    """Neither to be read, kept alive, released nor used."""
    bench.lease("l", memory(1))
    bench.load("m")
    other = Tenant("b")
    for call in (
        lambda: bench.machine.views.lease(LeaseId("l"), other),
        lambda: bench.machine.handle(events.KeepAlive(LeaseId("l"), other), 0.0),
        lambda: bench.machine.handle(events.ReleaseLease(LeaseId("l"), other), 0.0),
        lambda: bench.submit("t", "m", tenant=other, lease_id=LeaseId("l")),
    ):
        with pytest.raises(LeaseNotFoundError):
            call()


def test_a_lease_that_holds_nothing_of_a_model_is_no_way_to_it(bench: Bench) -> None:
    """A task under it is refused and told what to do."""
    bench.load("m")
    bench.lease("l", memory(1))
    with pytest.raises(InvalidFieldError, match="claim a part of it"):
        bench.submit("t", "m", lease_id=LeaseId("l"))


def test_what_strangers_take_is_not_given(bench: Bench) -> None:
    """Foreign memory lowers what is free, and a waiting lease goes when it is gone."""
    bench.machine.handle(events.ForeignMeasured(CPU, 600), 0.0)
    lease = bench.lease("l", memory(500), wait=True)
    assert lease.state is LeaseState.PENDING
    bench.machine.handle(events.ForeignMeasured(CPU, 100), 1.0)
    assert lease.state is LeaseState.ACTIVE


def test_a_worker_that_takes_more_than_was_reserved_is_accounted_for(bench: Bench) -> None:
    """The reservation rises to the measured memory as far as there is room."""
    first = bench.load("m")
    bench.machine.handle(events.MemoryMeasured(first, 450), 0.0)
    assert bench.machine.broker.account(CPU).free_bytes == 550
    bench.machine.handle(events.WorkerExited(first, GONE), 0.0)
    assert bench.machine.broker.account(CPU).free_bytes == 1000


def test_a_request_id_makes_one_lease(bench: Bench) -> None:
    """The same request_id with the same contents is the same lease, also once it has ended; with others a conflict."""
    claims = (MemoryClaim(device_id=CPU, memory_bytes=600),)
    first, again, other = (
        LeaseSpec(lease_id=LeaseId(name), tenant=TENANT, claims=claims, request_id="r", fingerprint=contents)
        for name, contents in (("l1", b"1"), ("l2", b"1"), ("l3", b"2"))
    )
    bench.machine.handle(events.CreateLease(first), 0.0)
    for _ in range(2):
        assert bench.machine.handle(events.CreateLease(again), 0.0) == ()
        assert bench.machine.views.claimed(again) is bench.machine.leases.known[LeaseId("l1")]
        with pytest.raises(RequestConflictError):
            bench.machine.handle(events.CreateLease(other), 0.0)
        bench.machine.handle(events.ReleaseLease(LeaseId("l1"), TENANT), 0.0)
    assert [*bench.machine.leases.known] == ["l1"]


def test_a_request_id_makes_no_second_lease_when_a_withdrawn_one_is_forgotten() -> None:
    """A lease that was withdrawn is forgotten without the request_id that has made another one since."""
    machine = KernelMachine(CoreLimits(leases=LeaseLimits(retained=1)))
    machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=4),)), 0.0)

    def create(name: str, request_id: str) -> LeaseSpec:
        spec = LeaseSpec(lease_id=LeaseId(name), tenant=TENANT, claims=(memory(100),), request_id=request_id)
        machine.handle(events.CreateLease(spec), 0.0)
        return spec

    create("withdrawn", "r")
    machine.handle(events.WithdrawLease(LeaseId("withdrawn"), TENANT, LeaseUnavailableError("not kept")), 0.0)
    held = create("held", "r")
    create("other", "")
    machine.handle(events.ReleaseLease(LeaseId("other"), TENANT), 0.0)  # of the ended ones, `retained` leaves this one
    assert LeaseId("withdrawn") not in machine.leases.known
    again = create("again", "r")
    assert machine.views.claimed(again) is machine.views.claimed(held) is machine.leases.known[LeaseId("held")]
    assert LeaseId("again") not in machine.leases.known


def test_nobodys_ended_lease_is_forgotten_for_one_of_who_has_more() -> None:
    """Beyond the bound the tenant that has most ended leases loses its oldest."""
    machine = KernelMachine(CoreLimits(leases=LeaseLimits(retained=2)))
    machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=4),)), 0.0)
    for name in ("a1", "b1", "b2", "b3"):
        tenant = Tenant(name[0])
        machine.handle(events.CreateLease(LeaseSpec(lease_id=LeaseId(name), tenant=tenant, claims=(memory(9),))), 0.0)
        machine.handle(events.ReleaseLease(LeaseId(name), tenant), 0.0)
    assert [*machine.leases.known] == ["a1", "b3"]
