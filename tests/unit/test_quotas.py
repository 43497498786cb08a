"""What tenants may use, and what they are told when it is too much."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

import pytest
from google.rpc import error_details_pb2
from pydantic import ValidationError

from inferd.config import Settings
from inferd.core import changes, events
from inferd.core.demand import Demand
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec, MemoryClaim, ModelClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.quota import Quota, QuotaUse
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.restored import RestoredUse
from inferd.core.task import Outcome, TaskSpec, TaskState, Usage
from inferd.core.window import SLOTS, Window
from inferd.errors import QuotaExceededError
from inferd.services.status import status_of

CPU, A, B = DeviceId("cpu:0"), Tenant("a"), Tenant("b")
BIG, SMALL = ModelName("big"), ModelName("small")


class Bench:
    """A machine with two models that are loaded, and the time."""

    def __init__(self, *quotas: Quota, places: int = 4, **limits: Any) -> None:
        self.now = 100.0
        self.machine = KernelMachine(CoreLimits(quotas=quotas, **limits))
        self._names = count()
        self.tell(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=2),)))
        for name in (BIG, SMALL):
            self.tell(
                events.CreateModel(
                    ModelSpec(
                        name=name, source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu",
                        backend_reason="", loader="x:Y", devices=(CPU,), min_instances=1,
                    )
                )
            )  # fmt: skip
            self.tell(events.InstanceNeeds(InstanceId(f"{name}-1"), MemoryNeed(weights_bytes=100)))
            facts = InstanceFacts(max_tasks=places, context_tokens=64, description="", memory_bytes=1)
            self.tell(events.InstanceLoaded(InstanceId(f"{name}-1"), facts))

    def tell(self, event: events.Event) -> Any:
        return self.machine.handle(event, self.now)

    def submit(self, tenant: Tenant = A, model: ModelName = SMALL, **demand: Any) -> TaskId:
        task_id = TaskId(f"t{next(self._names)}")
        asked = Demand(**{"most_output": 0, **demand})
        self.tell(events.SubmitTask(TaskSpec(task_id=task_id, tenant=tenant, model=model, demand=asked)))
        return task_id

    def end(self, task_id: TaskId, tokens: int = 0) -> changes.TaskEnd:
        outcome = Outcome(state=TaskState.SUCCEEDED, usage=Usage(output_tokens=tokens))
        attempt = self.machine.tasks.known[task_id].attempt
        said = self.tell(events.TaskEnded(task_id, attempt, outcome))
        ends: list[changes.TaskEnd] = [c.end for c in said if isinstance(c, changes.TaskChanged) and c.end]
        return ends[0]

    def use(self, tenant: Tenant = A) -> QuotaUse:
        """What a tenant uses of the only quota."""
        (found,) = [use for use in self.machine.quotas.uses(self.now) if use.tenant == tenant]
        return found

    def refusal(self, **wanted: Any) -> QuotaExceededError:
        before = self.machine.quotas.uses(self.now)
        with pytest.raises(QuotaExceededError) as caught:
            self.submit(**wanted)
        assert self.machine.quotas.uses(self.now) == before
        return caught.value


@pytest.mark.parametrize("seed", range(20))
def test_a_window_never_counts_less_than_its_last_seconds(seed: int) -> None:
    """What was counted in the last minute is in the sum, what was before that is not, and its wait holds."""
    rng, counted = random.Random(seed), list[tuple[float, int]]()
    now = 1e5 * rng.random()
    window = Window(60.0)
    for _ in range(300):
        now += rng.choice([0.0, 0.3, 5.0, 70.0]) * rng.random()
        window.pass_to(now)
        room = rng.randint(0, 20)
        wait_s = window.wait_s(room, now)
        assert window.used >= sum(amount for at, amount in counted if at > now - 60.0)
        assert window.used <= sum(amount for at, amount in counted if at > now - 60.0 - 60.0 / SLOTS - 1e-6)
        assert (wait_s == 0) == (window.used <= room)
        later = Window(60.0)
        later.restore(window.slots(), now)
        later.pass_to(now + wait_s + 1e-6)
        assert later.used <= room
        amount = rng.randint(1, 10)
        window.add(amount, now)
        counted.append((now, amount))


def test_a_tenant_makes_so_many_tasks_a_minute_and_others_do_not_feel_it() -> None:
    """The task beyond is refused with both numbers and the time at which there is room, and others go on."""
    bench = Bench(Quota(requests_per_minute=2), places=100)
    bench.submit()
    bench.now += 10.0
    bench.submit()
    error = bench.refusal()
    assert "has 2 tasks in a minute" in error.message
    assert "requests_per_minute is 2" in error.message
    bench.submit(B)
    assert error.retry_after_s == pytest.approx(51.0)  # the first one's slot of a second ends a minute after it
    bench.now += error.retry_after_s - 0.5
    assert bench.refusal().retry_after_s == pytest.approx(0.5)
    bench.now += 0.5
    bench.submit()


def test_the_wire_tells_whose_quota_it_is_and_when_there_is_room() -> None:
    """A refusal is RESOURCE_EXHAUSTED, with QUOTA_EXCEEDED, QuotaFailure of the tenant with both numbers, RetryInfo."""
    bench = Bench(Quota(models="sm*", tokens_per_minute=50))
    bench.submit(prompt_tokens=30)
    status = status_of(bench.refusal(prompt_tokens=30))
    info, retry, failure = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.QuotaFailure(),
    )
    assert [detail.Unpack(kind) for detail, kind in zip(status.details, (info, retry, failure), strict=True)]
    assert (status.code, info.reason) == (8, "QUOTA_EXCEEDED")
    facts = {"quota": "tokens_per_minute", "value": "30", "wanted": "30", "limit": "50", "tenant": "a", "models": "sm*"}
    assert dict(info.metadata) == {**facts, "quota_id": ""}
    assert failure.violations[0].subject == "tenant:a"
    assert "has 30 tokens in a minute of models 'sm*', and this is 30 more" in failure.violations[0].description
    assert 59 < retry.retry_delay.ToTimedelta().total_seconds() <= 61


def test_tokens_are_charged_as_they_were_used() -> None:
    """A guess is corrected when a task ends, up or down; what never ran costs nothing, and what never fits says so."""
    bench = Bench(Quota(tokens_per_minute=100), places=1)
    cheap = bench.submit(prompt_tokens=10, most_output=80)
    waits = bench.submit(prompt_tokens=10)
    assert bench.use().tokens_per_minute == 100
    bench.tell(events.CancelTask(waits, A))
    assert bench.use().tokens_per_minute == 90
    bench.end(cheap, tokens=15)
    assert bench.use().tokens_per_minute == 15
    dear = bench.submit(prompt_tokens=80)
    bench.end(dear, tokens=130)
    assert bench.use().tokens_per_minute == 145
    error = bench.refusal(prompt_tokens=101)
    assert error.retry_after_s is None
    assert "it never fits" in error.message
    bench.now += 62.0
    bench.submit(model=BIG, most_output=None)  # 256 are guessed, which keeps nobody out
    assert bench.use().tokens_per_minute == 100


def test_a_task_that_is_cancelled_costs_what_it_told() -> None:
    """Who cancels a task at its last token has used all before it, however little was expected of it."""
    bench = Bench(Quota(tokens_per_minute=100))
    task_id = bench.submit(prompt_tokens=10, most_output=20)
    bench.tell(events.CancelTask(task_id, A))
    assert bench.use().tokens_per_minute == 30  # nobody knows yet
    bench.tell(events.TaskUsed(task_id, 19))
    assert bench.use().tokens_per_minute == 29
    task_id = bench.submit(prompt_tokens=10, most_output=0)
    bench.tell(events.CancelTask(task_id, A))
    bench.tell(events.TaskUsed(task_id, 150))
    assert bench.use().tokens_per_minute == 29 + 160


def test_what_lives_is_bounded_until_it_has_ended() -> None:
    """Tasks, bytes of their inputs and leased memory are refused beyond the quota, and free again with their end."""
    bench = Bench(Quota(tasks=2, input_bytes=100, lease_bytes=300), places=1)
    first, second = bench.submit(memory_bytes=40), bench.submit(memory_bytes=40)
    assert bench.refusal().metadata["quota"] == "tasks"
    bench.tell(events.SuspendTask(second, A))
    assert bench.refusal().metadata["quota"] == "tasks"  # one that is suspended lives
    bench.end(first)
    assert bench.refusal(memory_bytes=61).metadata["quota"] == "input_bytes"
    bench.submit(memory_bytes=60)

    def claim(name: str, size_bytes: int) -> None:
        claims = (MemoryClaim(memory_bytes=size_bytes, device_id=CPU),)
        bench.tell(events.CreateLease(LeaseSpec(lease_id=LeaseId(name), tenant=A, claims=claims)))

    claim("held", 200)
    with pytest.raises(QuotaExceededError, match="has 200 bytes of leased memory"):
        claim("more", 101)
    bench.tell(events.ReleaseLease(LeaseId("held"), A))
    claim("again", 300)
    assert bench.use() == QuotaUse(
        quota=Quota(tasks=2, input_bytes=100, lease_bytes=300), tenant=A, requests_per_minute=3, tokens_per_minute=0,
        tasks=2, input_bytes=100, lease_bytes=300, device_seconds_per_day=0.0,
    )  # fmt: skip


def test_leased_sequences_are_bounded_for_the_models_that_are_meant() -> None:
    """Sequences of a model that leases hold or wait for count until they end, of other models and tenants none."""
    bench = Bench(Quota(models=SMALL, lease_sequences=3), Quota(lease_sequences=5))

    def claim(name: str, *models: tuple[ModelName, int], tenant: Tenant = A) -> None:
        claims = tuple(ModelClaim(model=model, sequences=sequences) for model, sequences in models)
        spec = LeaseSpec(lease_id=LeaseId(name), tenant=tenant, claims=claims, wait=True)
        bench.tell(events.CreateLease(spec))

    claim("one", (SMALL, 2), (BIG, 1))
    with pytest.raises(
        QuotaExceededError, match="has 2 leased sequences of models 'small', and this is 2 more"
    ) as caught:
        claim("two", (SMALL, 2))
    assert caught.value.metadata["quota"] == "lease_sequences"
    claim("three", (SMALL, 1), (BIG, 1))
    with pytest.raises(QuotaExceededError, match=r"has 5 leased sequences of models '\*'"):
        claim("four", (BIG, 1))
    claim("other", (SMALL, 3), tenant=B)
    bench.tell(events.ReleaseLease(LeaseId("one"), A))
    claim("two", (SMALL, 2))
    quotas = (Quota(models=BIG, lease_sequences=1),)
    bench.tell(events.SetQuotas(quotas))
    assert bench.use().lease_sequences == 1
    bench.tell(events.ReleaseLease(LeaseId("three"), A))
    assert all(use.tenant != A for use in bench.machine.quotas.uses(bench.now))


def test_device_seconds_are_shared_and_told_in_the_receipt() -> None:
    """Tasks that are computed together have equal parts; the receipt tells them, and the day's sum refuses the next."""
    bench = Bench(Quota(device_seconds_per_day=10))
    alone = bench.submit()
    bench.now += 4.0
    beside = bench.submit(B)
    bench.now += 6.0
    assert bench.end(alone).device_s == pytest.approx(4.0 + 3.0)
    bench.now += 1.0
    end = bench.end(beside)
    assert end.device_s == pytest.approx(3.0 + 1.0)
    assert [use.device_seconds_per_day for use in end.quotas] == [pytest.approx(4.0)]
    last = bench.submit()
    bench.now += 5.0
    bench.end(last)
    error = bench.refusal()
    assert error.metadata["value"] == "12"
    assert 86_000 < (error.retry_after_s or 0) < 88_000  # slots of a day are 24 minutes
    bench.now += error.retry_after_s or 0
    bench.submit()


def test_device_seconds_survive_the_kernel() -> None:
    """What is told of device seconds makes the next kernel refuse as this one does; what no quota limits is dropped."""
    quota = Quota(tenants="a", device_seconds_per_day=10)
    bench = Bench(quota)
    task_id = bench.submit()
    bench.now += 11.0
    outcome = Outcome(state=TaskState.SUCCEEDED)
    (told,) = [c for c in bench.tell(events.TaskEnded(task_id, 1, outcome)) if isinstance(c, changes.QuotaUsed)]
    assert (told.key, told.tenant, sum(used for _, used in told.slots)) == ("a *", A, pytest.approx(11.0))
    after = Bench(quota)
    after.now = bench.now + 1.0
    said = after.tell(events.RestoreUses((RestoredUse("a *", A, told.slots), RestoredUse("gone", B, ((1.0, 2.0),)))))
    assert [c.slots for c in said if isinstance(c, changes.QuotaUsed)] == [told.slots, ()]
    error = after.refusal()
    assert error.retry_after_s == pytest.approx((bench.refusal().retry_after_s or 0) - 1.0)


def test_new_quotas_hold_for_what_is_under_way() -> None:
    """A quota that comes counts tasks and leases that live; one that stays goes on as it was, one that goes is gone."""
    kept, gone = Quota(tenants="a", requests_per_minute=2), Quota(tasks=1, tenants="b")
    bench = Bench(kept, gone)
    task_id = bench.submit()
    bench.submit(B)
    bench.tell(events.SetQuotas((kept, Quota(quota_id="q", tasks=1))))
    assert bench.refusal().metadata["quota_id"] == "q"
    assert bench.refusal(tenant=B).metadata["quota_id"] == "q"
    bench.end(task_id, tokens=7)
    bench.submit()
    bench.tell(events.SetQuotas((kept,)))
    assert bench.refusal().metadata["quota"] == "requests_per_minute"
    bench.submit(B)


def test_each_quota_that_matches_counts_and_models_of_a_pattern_count_together() -> None:
    """The tightest of all that are about a tenant and a model refuses; what is about others does not count."""
    bench = Bench(Quota(requests_per_minute=3), Quota(models="b*", requests_per_minute=1), Quota(tenants="x", tasks=0))
    bench.submit(model=BIG)
    assert bench.refusal(model=BIG).metadata["models"] == "b*"
    bench.submit()
    bench.submit()
    assert bench.refusal().metadata["models"] == "*"
    assert bench.refusal(model=BIG).reason == "QUOTA_EXCEEDED"


def test_books_of_tenants_are_bounded() -> None:
    """Of any number of tenants no more books are kept than may be, but for those who hold something."""
    bench = Bench(Quota(requests_per_minute=1), quota_books=5)
    lives = bench.submit(Tenant("lives"))
    for number in range(50):
        bench.end(bench.submit(Tenant(f"t{number}")))
    assert len(bench.machine.quotas.uses(bench.now)) == 5
    assert bench.refusal(tenant=Tenant("lives")).retry_after_s
    bench.end(lives)
    bench.now += 62.0
    assert not bench.machine.quotas.uses(bench.now)


@pytest.mark.parametrize(
    ("quotas", "why"),
    [
        ([{"tenants": "a"}], "limits nothing"),
        ([{"models": "m", "lease_bytes": 1}], "leased memory is of no model"),
        ([{"tasks": 1}, {"tasks": 2}], "two quotas have tenants"),
        ([{"tasks": -1}], "greater than or equal to 0"),
        ([{"tokens": 1}], "Extra inputs"),
    ],
)
def test_a_quota_of_the_configuration_that_is_none_is_refused(quotas: Any, why: str) -> None:
    """What limits nothing, contradicts itself or is there twice keeps the kernel from starting, with the reason."""
    with pytest.raises(ValidationError, match=why):
        Settings(quotas=quotas)
