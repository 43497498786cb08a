"""The bounds of the core."""

from inferd.config import Settings
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
from inferd.store.opening import MEMORY


def core_limits(settings: Settings, *, has_store: bool) -> CoreLimits:
    """Bounds of tasks, leases, models and all else that the core decides."""
    limits, workers, scheduler, leases = settings.limits, settings.workers, settings.scheduler, settings.leases
    kept = limits if settings.store.url == MEMORY else settings.store
    policy = QueuePolicy(
        aging_s=scheduler.aging_s,
        weights={Tenant(tenant): weight for tenant, weight in scheduler.weights.items()},
        tenant_running=scheduler.tenant_running,
    )
    return CoreLimits(
        tasks=TaskLimits(
            tasks=limits.tasks,
            queued_tasks=limits.queued_tasks,
            queued_high=limits.queued_high,
            suspended_tasks=limits.suspended_tasks,
            detached_tasks=limits.detached_tasks,
            detached_s=limits.detached_s,
            input_bytes=limits.input_bytes,
            tenant_share=scheduler.tenant_share,
            retained_tasks=limits.retained_tasks,
            retention_s=limits.retention_s,
            kept_tasks=kept.retained_tasks,
            kept_s=kept.retention_s,
            tenant_queued=scheduler.tenant_queued,
            model_queued=scheduler.model_queued,
            model_running=scheduler.model_running,
            preempt=scheduler.preempt,
            low_yields_s=scheduler.low_yields_s,
            headroom=scheduler.headroom,
            suspect_deaths=scheduler.suspect_deaths,
            poison_s=scheduler.poison_s,
            tells_shares=has_store,
            policy=policy,
        ),
        leases=LeaseLimits(**leases.model_dump(exclude={"watchers", "keepers"}), tenant_share=scheduler.tenant_share),
        growth=GrowthLimits(
            told=workers.growth_told,
            told_bytes=workers.growth_told_bytes,
            ended=workers.growth_ended,
            ended_bytes=workers.growth_ended_bytes,
        ),
        elastic=ElasticTimes(**settings.elastic.model_dump()),
        quotas=tuple(Quota(**quota.model_dump()) for quota in settings.quotas),
        quota_books=scheduler.quota_books,
        rollouts=RolloutLimits(**settings.rollouts.model_dump()),
        models=limits.models,
        backoff=Backoff(first_s=workers.restart_backoff_s, most_s=workers.restart_backoff_max_s),
    )
