"""Models that are loaded and unloaded for clients who wait for that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inferd.core import events
from inferd.core.model import InstanceState, Model
from inferd.errors import ModelBusyError
from inferd.runtime.instances import moved, newest

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.ids import InstanceId, LeaseId, ModelName, Tenant
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
    """

    def __init__(
        self,
        tell: Callable[[events.Event], None],
        views: Views,
        changes: Signals[ModelName],
        supervisor: Supervisor,
    ) -> None:
        self._tell = tell
        self._views = views
        self._changes = changes
        self._supervisor = supervisor

    async def load(self, name: ModelName, tenant: Tenant, lease_id: LeaseId) -> Model:
        """See `Driver.load_model`."""
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

    async def unload(self, name: ModelName, *, force: bool, instance_id: InstanceId | None) -> int:
        """See `Driver.unload_model`."""
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
