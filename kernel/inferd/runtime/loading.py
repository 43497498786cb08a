"""Models that are loaded, unloaded and given other versions for clients who wait for that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inferd.core import events
from inferd.core.model import InstanceState, Model
from inferd.core.traits import SetTraits, TraitsStep
from inferd.core.version import VersionState
from inferd.errors import ModelBusyError
from inferd.runtime.instances import moved, newest

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.ids import InstanceId, LeaseId, ModelName, Tenant
    from inferd.core.rollouts import RolloutLimits
    from inferd.core.traits import TraitsChange
    from inferd.core.views import Views
    from inferd.runtime.signal import Signals
    from inferd.runtime.supervisor import Supervisor


class Loading:
    """Tells the core what a client wants of a model, and waits until it is so.

    Args:
        tell: Tells the core.
        views: What may be read of it.
        changes: Of models, by name.
        supervisor: The workers.
        limits: Bounds of rollouts.

    Attributes:
        limits: As given.
    """

    def __init__(
        self,
        tell: Callable[[events.Event], None],
        views: Views,
        changes: Signals[ModelName],
        supervisor: Supervisor,
        *,
        limits: RolloutLimits,
    ) -> None:
        self.limits = limits
        self._tell = tell
        self._views = views
        self._changes = changes
        self._supervisor = supervisor

    async def load(self, name: ModelName, tenant: Tenant, lease_id: LeaseId) -> Model:
        """Have a model loaded and wait for it; under a lease, an instance of its own that ends with it.

        Raises:
            InferdError: It is refused, or loading failed.
        """
        self._tell(events.LoadModel(name, tenant, lease_id))
        model = self._views.model(name)
        instance = newest(i for i in model.instances.values() if i.living and i.lease_id == lease_id)
        with self._changes.watch(name) as changed:
            while instance is not None and instance.living and instance.state is not InstanceState.READY:
                await changed.wait(changed.version)
                if not instance.living and instance.error is None:
                    instance = moved(model, instance)
        if instance is not None and instance.error is not None:
            raise instance.error
        if instance is None or instance.state is not InstanceState.READY:
            raise ModelBusyError(f"model {name!r} was unloaded while it was being loaded")
        return model

    async def update(self, event: events.UpdateModel) -> Model:
        """Have another version take a model's tasks and wait until it does.

        Raises:
            InferdError: It is refused, or the version could not be rolled out.
        """
        self._tell(event)
        model = self._views.model(event.name)
        if (rollout := model.rollout) is not None:
            with self._changes.watch(event.name) as changed:
                while rollout.version.state.under_way:
                    await changed.wait(changed.version)
            if rollout.version.state is VersionState.FAILED and rollout.version.error is not None:
                raise rollout.version.error
        return model

    def set_traits(self, name: ModelName, change: TraitsChange, step: TraitsStep = TraitsStep.GIVE) -> None:
        """Make something of a model otherwise that is of no version, or hold the aliases for that, or let them go.

        Raises:
            InferdError: It is refused.
        """
        self._tell(SetTraits(name, change, step))

    async def unload(self, name: ModelName, *, force: bool, instance_id: InstanceId | None) -> int:
        """Have a model or one of its instances unloaded and wait for it.

        Returns:
            The resident memory of its workers just before, in bytes.

        Raises:
            InferdError: It is refused.
        """
        model = self._views.model(name)
        workers = [self._supervisor.workers[i] for i in model.instances if i in self._supervisor.workers]
        measured = await asyncio.gather(*(worker.resident_bytes() for worker in workers))
        before = {worker.instance_id: size for worker, size in zip(workers, measured, strict=True)}
        meant = [i for i in model.instances if instance_id in (None, i) and i in self._supervisor.workers]
        self._tell(events.UnloadModel(name, force, instance_id))
        with self._changes.watch(name) as changed:
            while any(i in model.instances and not model.instances[i].living for i in meant):
                await changed.wait(changed.version)
        return sum(before.get(i, 0) for i in meant)
