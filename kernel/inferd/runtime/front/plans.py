"""What of a plan a caller is told."""

from collections.abc import Callable

from inferd.core.plan import LoadPlan
from inferd.core.views import Views
from inferd.runtime.front.caller import Caller


def shown(plan: LoadPlan, views: Views, caller: Caller, *, sees: Callable[[str], bool]) -> LoadPlan:
    """A plan with the instances of the models that the caller `sees`, and leases of its tenants; of others how many."""
    return plan.shown(
        sees=lambda instance_id: (found := views.find_instance(instance_id)) is not None and sees(found.model),
        has=lambda lease_id: (tenant := views.tenant_of(lease_id)) is not None and caller.principal.has(tenant),
    )
