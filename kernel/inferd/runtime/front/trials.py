"""A trial: settings of a model, loaded beside it for a while, where nobody else wants the room."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from inferd.core.accounts import Account
from inferd.core.ids import NO_LEASE, ModelName, Tenant
from inferd.core.model import Instance, InstanceState, ModelSpec
from inferd.core.plan import LoadPlan
from inferd.errors import ModelBusyError, ModelNotFoundError, ShuttingDownError, present
from inferd.runtime.driver import Driver
from inferd.runtime.instances import newest

LOOK_S = 0.2  # how often it is looked whether others want what a trial holds, where no change tells of it

T = TypeVar("T")


class NoRoomError(Exception):
    """A trial was not loaded: there is no room for it beside what others hold. Says why."""


class NoCoresError(NoRoomError):
    """A trial was not loaded: leases hold the cores on which it would compute. Says which."""


class GaveWayError(Exception):
    """A trial was ended: others need what it held. Says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a trial computes.

    Attributes:
        cores: On how many cores of its device; 0 where they are not counted.
    """

    cores: int


class Trials:
    """Loads trials and takes them away again. One trial of a name at a time.

    Args:
        driver: Of the kernel.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def run(
        self,
        spec: ModelSpec,
        tenant: Tenant,
        *,
        tell: Callable[[LoadPlan], str],
        measure: Callable[[Instance], Awaitable[T]],
    ) -> T:
        """Load a trial, measure it, and take it away, whatever happens.

        Args:
            spec: The trial, of a name that is free or about to be.
            tenant: Who asks for it.
            tell: The reason of a plan, as the caller may know it.
            measure: Is given its instance, and cut short when others need what that holds.

        Raises:
            NoRoomError: It was not loaded; for want of cores a NoCoresError.
            GaveWayError: It was cut short.
            InferdError: It could not be loaded, or what `measure` raises.
        """
        await self.gone(spec.name)
        spec = self._on_free_cores(spec)
        self._driver.create_model(spec)
        try:
            place = await self._find_place(spec, tell)
            instance = await self._beside(self._load(spec.name, tenant), self._until_waiting(spec.name))
            return await self._beside(_call(measure, instance), self._until_wanted(instance, place))
        finally:
            self.end(spec.name)

    def end(self, name: ModelName) -> None:
        """Take a trial away: its tasks end, its worker is stopped, and then its name is free."""
        with suppress(ModelNotFoundError, ShuttingDownError):  # all models go with their kernel
            try:
                self._driver.delete_model(name, force=True, leased=True)
            except ModelBusyError:  # somebody has a lease on it, which ends by itself
                self._driver.delete_model(name, drain=True)

    async def gone(self, name: ModelName) -> None:
        """Wait until nothing is left of a trial that was taken away."""
        with self._driver.watchers.models.watch(name) as changed:
            while (model := self._driver.views.find_model(name)) is not None and model.going:
                await changed.wait(changed.version)

    async def _find_place(self, spec: ModelSpec, tell: Callable[[LoadPlan], str]) -> Place:
        """Where it fits as things stand, without anything that anybody else holds."""
        plan = await self._driver.plan_load(spec)
        if not plan.fits or plan.evicted:
            raise NoRoomError(tell(plan))
        account = self._driver.views.devices[plan.device_id]
        return Place(cores=(asked_cores(spec) or account.free_cores) if account.cores else 0)

    def _on_free_cores(self, spec: ModelSpec) -> ModelSpec:
        """It, on those of its devices of which no lease holds the cores that it would compute on."""
        devices, asked = self._driver.views.devices, asked_cores(spec) or 1
        known = [devices[each] for each in spec.devices if each in devices]
        free = [account.device_id for account in known if not account.cores or asked <= account.free_cores]
        if known and not free:
            held = "; ".join(map(_cores_told, known))
            raise NoCoresError(f"it would compute on {asked} {'core' if asked == 1 else 'cores'}; {held}")
        return replace(spec, devices=tuple(free)) if free else spec

    async def _load(self, name: ModelName, tenant: Tenant) -> Instance:
        model = await self._driver.loading.load(name, tenant, NO_LEASE)
        return present(newest(each for each in model.instances.values() if each.living))

    async def _until_waiting(self, name: ModelName) -> str:
        """Until the room is gone that was there when it was planned."""
        model = self._driver.views.model(name)
        with self._driver.watchers.models.watch(name) as changed:
            while not any(each.state is InstanceState.WAITING for each in model.instances.values()):
                await changed.wait(changed.version)
        return "its memory was given to others before it was loaded"

    async def _until_wanted(self, instance: Instance, place: Place) -> str:
        """Until others need what it holds."""
        account = self._driver.views.devices[instance.device_id]
        with self._driver.watchers.models.watch(instance.model) as changed:
            while instance.living:
                if instance.draining:
                    return f"others wait for its memory of {instance.device_id}"
                if place.cores > account.free_cores:
                    return f"it computes on {place.cores} cores; {_cores_told(account)}"
                await changed.wait(changed.version, LOOK_S)
        if instance.error is not None:
            raise instance.error
        return f"its memory of {instance.device_id} went to others"

    async def _beside(self, doing: Coroutine[object, object, T], watching: Coroutine[object, object, str]) -> T:
        """Do something until it is done, or until what is watched for has come."""
        both = asyncio.ensure_future(doing), asyncio.ensure_future(watching)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if both[0].done():
                return both[0].result()
            raise GaveWayError(both[1].result())
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)


def asked_cores(spec: ModelSpec) -> int:
    """On how many cores a model's settings have it compute; 0 where they do not say it."""
    for name in ("intra_threads", "threads"):
        if name in spec.values:
            value = spec.values[name]
            return int(value) if value is not None else 0
    return 0


async def _call(measure: Callable[[Instance], Awaitable[T]], instance: Instance) -> T:
    return await measure(instance)


def _cores_told(account: Account) -> str:
    return f"leases hold {account.leased_cores} of the {account.cores} cores of {account.device_id}"
