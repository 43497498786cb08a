"""How large a simulated world is, and within which bounds: drawn from the seed."""

import random
from dataclasses import dataclass, replace

from inferd.core.backoff import Backoff
from inferd.core.elastic import ElasticTimes
from inferd.core.growth import GrowthLimits
from inferd.core.ids import Tenant
from inferd.core.leases import LeaseLimits
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits
from inferd.core.queue import QueuePolicy
from inferd.core.quota import Quota
from inferd.core.rollouts import RolloutLimits

TENANTS = [Tenant(name) for name in "abcd"]
WEIGHTS = {TENANTS[1]: 3.0, TENANTS[2]: 0.5}


ROLLOUTS = 2  # of four seeds this one has rollouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much happens, and where.

    Attributes:
        tasks: So many are submitted.
        leases: So many are created.
        hosts: Each has one device; the models share those of the first few.
        models: All known from the beginning.
        load: Tasks that arrive, over what the first instance of each model can serve.
        crashes: Whether workers die by themselves.
        host_events: How often a host comes, drains, is lost or leaves.
        rollouts: Whether models are given other versions.
        oddities: Whether the clock stands still and jumps, and frames come late.
        limits: Bounds of the machine; some are small, so that they are met.
    """

    tasks: int
    leases: int
    hosts: int
    models: int
    load: float
    crashes: bool
    host_events: int
    oddities: bool
    limits: CoreLimits
    rollouts: bool = False

    @classmethod
    def draw(cls, rng: random.Random, *, seed: int, tasks: int, leases: int) -> "Scale":
        """A scale from a seed, which is that of `rng`."""
        models = rng.choice([1, 3, 8, 20])
        hosts = rng.choice([1, 2, 8, 64, 300, 300])
        return cls(
            tasks=tasks,
            leases=leases,
            hosts=hosts,
            models=models,
            load=rng.uniform(0.3, 1.5),
            crashes=rng.random() < 0.5,
            host_events=rng.choice([0, 30, 30 + hosts]),
            oddities=rng.random() < 0.7,
            limits=replace(draw_limits(rng, models), quotas=draw_quotas(seed, models)),
            rollouts=seed % 4 == ROLLOUTS,
        )


def draw_quotas(seed: int, models: int) -> tuple[Quota, ...]:
    """Quotas from a seed, of one in eight alone; drawn apart, so that the worlds of the others stay as they are."""
    if seed % 8 != 2:
        return ()
    rng = random.Random(f"quotas {seed}")
    quotas = (
        Quota(
            tenants="a", requests_per_minute=rng.choice([10, 50]), lease_bytes=rng.choice([100, 400]), lease_sequences=4
        ),
        Quota(tokens_per_minute=rng.choice([3000, 10_000])),
        Quota(tenants="b", models=f"m{rng.randrange(models)}", tasks=3, input_bytes=4000),
        Quota(tenants="d", device_seconds_per_day=rng.choice([2.0, 10.0])),
        Quota(tenants="c", models="m*", tasks=8, input_bytes=4000),
    )
    return tuple(rng.sample(quotas, rng.randint(3, 5)))


def draw_limits(rng: random.Random, models: int) -> CoreLimits:
    """Bounds from a seed."""
    policy = QueuePolicy(
        aging_s=rng.choice([0.5, 5.0]), weights=WEIGHTS, tenant_running=rng.choice([2, 1000, 1000, 1000])
    )
    tasks = TaskLimits(
        queued_tasks=rng.choice([20, 400]),
        queued_high=rng.choice([0, 5, 50]),
        suspended_tasks=rng.choice([1, 400]),
        detached_tasks=rng.choice([4, 400]),
        detached_s=rng.choice([1.0, 50.0]),
        input_bytes=rng.choice([8192, 1 << 20]),
        tenant_share=rng.choice([0.5, 4.0]),
        retained_tasks=rng.choice([10, 200]),
        retention_s=rng.choice([2.0, 20.0]),
        kept_tasks=15,
        kept_s=5.0,
        tenant_queued=rng.choice([10, 400]),
        model_queued=rng.choice([15, 400]),
        model_running=rng.choice([4, 1000]),
        low_yields_s=rng.choice([0.1, 1.0]),
        preempt=rng.random() < 0.8,
        headroom=rng.choice([0.0, 0.0, 1 / 16]),
        tasks=rng.choice([30, 1000]),
        policy=policy,
    )
    return CoreLimits(
        tasks=tasks,
        leases=LeaseLimits(
            min_ttl_s=0.5,
            max_ttl_s=60.0,
            default_ttl_s=3.0,
            aging_s=rng.choice([1.0, 10.0]),
            leases=150,
            retained=50,
            tenant_share=tasks.tenant_share,
        ),
        elastic=ElasticTimes(
            grow_s=rng.choice([0.2, 2.0]), shrink_s=rng.choice([0.5, 5.0]), drain_s=rng.choice([0.3, 3.0])
        ),
        growth=rng.choice([GrowthLimits(), GrowthLimits(told=0.1, told_bytes=0, ended=0.22, ended_bytes=0)]),
        models=models,
        rollouts=RolloutLimits(versions=4, most_s=8.0),
        backoff=Backoff(first_s=0.2, most_s=2.0),
    )
