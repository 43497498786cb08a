"""Who asks."""

from dataclasses import dataclass

from inferd.core.ids import DEFAULT_TENANT, NO_LEASE, LeaseId, Tenant
from inferd.core.principal import OWNER, Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, made once for each call by its transport.

    Attributes:
        tenant: Whose call it is, of those that the principal has.
        principal: Who makes it.
        lease_id: The lease under which it asks; "" for none.
        deadline: When it gives up, on the kernel's clock; None for never.
    """

    tenant: Tenant = DEFAULT_TENANT
    principal: Principal = OWNER
    lease_id: LeaseId = NO_LEASE
    deadline: float | None = None


ANYONE = Caller()
"""One who has said nothing of itself, and need not."""
