"""What may be done with quotas."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from inferd.core.events import SetQuotas
from inferd.core.policy import matches
from inferd.core.principal import ANY
from inferd.errors import LimitExceededError, QuotaNotFoundError
from inferd.runtime.kept_quotas import kept_quotas, write_quota
from inferd.store.store import NO_TENANT, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.quota import Quota, QuotaUse
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.caller import Caller


class Quotas:
    """Makes quotas, takes them away, and tells of what is used of them.

    Args:
        driver: Of the kernel.
        quotas_limit: Most quotas that calls make (`scheduler.kept_quotas`).
    """

    def __init__(self, driver: Driver, *, quotas_limit: int) -> None:
        self._driver = driver
        self._quotas_limit = quotas_limit
        self._changing = asyncio.Lock()

    async def adopt(self) -> None:
        """The quotas that calls made before this kernel was started hold, besides those of the configuration.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        if self._driver.keeper is not None and (kept := await self._driver.keeper.read(kept_quotas)):
            self._driver.restore(SetQuotas((*self._driver.views.quotas, *kept)))

    def all(self, caller: Caller, *, has: Callable[[str], bool]) -> list[Quota]:
        """The quotas about a tenant that the caller `has` for reading them, those of the configuration first."""
        tenants = [tenant for tenant in (caller.tenant, *caller.principal.tenants) if has(tenant)]
        every = caller.principal.has(ANY)  # then a pattern stands for the tenants that it is about
        return [
            quota
            for quota in self._driver.views.quotas
            if any(matches(quota.tenants, tenant) for tenant in tenants) or (every and has(quota.tenants))
        ]

    def uses(self, *, has: Callable[[str], bool]) -> list[QuotaUse]:
        """What is used by the tenants that the caller `has`, as for `all`."""
        found = self._driver.views.quota_uses(self._driver.clock.now())
        return [use for use in found if has(use.tenant)]

    async def create(self, quota: Quota) -> Quota:
        """A new quota, which holds at once; tasks and leases that live count.

        Raises:
            LimitExceededError: There are as many as may be.
            StoreUnavailableError: It cannot be kept.
        """
        async with self._changing:
            known = self._driver.views.quotas
            made = sum(bool(each.quota_id) for each in known)
            if made >= self._quotas_limit:
                raise LimitExceededError(
                    f"calls have made {made} quotas and scheduler.kept_quotas is {self._quotas_limit}; delete some",
                    metadata={
                        "bound": "scheduler.kept_quotas",
                        "value": str(made),
                        "limit": str(self._quotas_limit),
                    },
                )
            quota = replace(quota, quota_id=secrets.token_hex(8))
            if self._driver.keeper is not None:
                put = Put(NO_TENANT, Kind.QUOTA, quota.quota_id, write_quota(quota))
                await self._driver.keeper.keep_records([put])
            self._driver.restore(SetQuotas((*known, quota)))
            return quota

    async def delete(self, quota_id: str) -> None:
        """A quota that a call made holds no longer.

        Raises:
            QuotaNotFoundError: There is no such quota, or it is one of the configuration.
            StoreUnavailableError: That cannot be kept; the quota stays.
        """
        async with self._changing:
            known = self._driver.views.quotas
            left = tuple(quota for quota in known if not quota_id or quota.quota_id != quota_id)
            if len(left) == len(known):
                raise QuotaNotFoundError(f"no quota {quota_id[:80]!r}", metadata={"quota_id": quota_id[:80]})
            if self._driver.keeper is not None:
                await self._driver.keeper.keep_records([Drop(NO_TENANT, Kind.QUOTA, quota_id)])
            self._driver.restore(SetQuotas(left))
