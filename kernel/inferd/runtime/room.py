"""Whether a model can be loaded beside what is: what nobody has asked for now takes no other's room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.core.model import ModelSpec
    from inferd.runtime.driver import Driver


async def lacks_room(driver: Driver, spec: ModelSpec) -> str:
    """Why a model has no room beside what is loaded; "" where it has.

    Raises:
        InferdError: The backend cannot say what it needs.
    """
    if not any(account.held_by for account in driver.views.devices.values()):
        return ""  # it can evict nothing
    plan = await driver.plan_load(spec)
    return "" if plan.fits and not plan.evicted else plan.reason
