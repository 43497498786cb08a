"""Prefix caches of models that were unloaded, in memory and files of this host, until their models are loaded again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from inferd.core.changes import InstanceChanged, ModelChanged, ModelForgotten, VersionChanged
from inferd.core.host import LOCAL_HOST, host_of
from inferd.core.ids import NO_LEASE
from inferd.core.model import InstanceState
from inferd.core.resources import HOST_DEVICE
from inferd.core.version import VersionState
from inferd.runtime.instances import answering
from inferd.shared import Memory
from inferd_api.worker.v1 import prefix_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from inferd.core.changes import Change
    from inferd.core.ids import DeviceId, InstanceId, ModelName
    from inferd.core.model import Instance, Model
    from inferd.core.views import Views
    from inferd.runtime.link import Arrived
    from inferd.runtime.prefix_files import PrefixFiles
    from inferd.runtime.supervisor import Supervisor

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KeptPrefix:
    """What is kept of a model.

    Attributes:
        memory: Its blocks. The kernel does not read it.
        tokens: So many of them.
    """

    memory: Memory
    tokens: int


@dataclass(frozen=True, slots=True)
class PrefixLimits:
    """What may be kept of models that are unloaded.

    Attributes:
        keep_bytes: Of all, in memory; 0 to keep nothing.
        stop_timeout_s: How long a worker may take to end in order: half of it to write what is kept.
        files: Where it is kept as well; None for nowhere.
    """

    keep_bytes: int = 0
    stop_timeout_s: float = 0.0
    files: PrefixFiles | None = None


NO_PREFIXES = PrefixLimits()


class Prefixes:
    """Takes what workers keep as they end, and gives it to the next ones of their models. One writer: the driver.

    It lies in what the broker has given to nobody, and goes as soon as that is given: the model that was kept first
    goes first. Where there are files each is written to one as well, beside all else: they are read when their models
    are loaded, also by the next kernel.

    Args:
        views: What may be read of the core.
        supervisor: The workers.
        limits: What may be kept.
    """

    def __init__(self, views: Views, supervisor: Supervisor, limits: PrefixLimits) -> None:
        self._views = views
        self._supervisor = supervisor
        self._most_bytes = limits.keep_bytes
        self._most_s = limits.stop_timeout_s / 2
        self._files = limits.files if limits.keep_bytes else None
        self._thread = None if self._files is None else ThreadPoolExecutor(1, "prefixes")
        self._fetching: set[ModelName] = set()
        self._used: set[InstanceId] = set()  # by somebody of whom nothing is to be kept
        self._forgotten = 0  # so often was all of it: what was read before is not kept, either
        self._closing = False
        if self._files is not None:
            self._beside(self._files.sweep)
        self._kept: OrderedDict[ModelName, KeptPrefix] = OrderedDict()  # kept first, first

    @property
    def held_bytes(self) -> int:
        """What all of it takes of the host."""
        return sum(kept.memory.held_bytes for kept in self._kept.values())

    def held_on(self, device_id: DeviceId) -> int:
        """What all of it takes of a device: no stranger has it, though no process maps it."""
        return self.held_bytes if device_id == HOST_DEVICE else 0

    def of(self, name: ModelName) -> KeptPrefix | None:
        """What is kept of a model."""
        return self._kept.get(name)

    def close(self) -> None:
        """Keep nothing in memory from now on: there is no next worker of this kernel."""
        self._closing = True
        if self._files is None:
            self._most_bytes = 0
        self._kept.clear()

    async def written(self) -> None:
        """Wait until files are as they are to be, and write no more."""
        if self._thread is not None:
            await asyncio.wrap_future(self._thread.submit(int))
            self._thread.shutdown(wait=False)

    def _beside(self, do: Callable[..., Any], *values: Any) -> None:
        """Do something with the files, when what was to be done before is done."""
        if self._thread is not None:
            self._thread.submit(do, *values)

    def stop(self, instance_id: InstanceId) -> wire.Stop:
        """The order to end for a worker, with what it may keep."""
        instance = self._views.find_instance(instance_id)
        keep_bytes = 0 if instance is None else self._allowed_bytes(instance)
        return wire.Stop(keep_bytes=keep_bytes, keep_seconds=self._most_s if keep_bytes else 0)

    def keep(self, instance_id: InstanceId, told: prefix_pb2.Kept, memories: Arrived) -> None:
        """A worker that ends has kept what it could; another instance of its model that is ready gets it at once."""
        instance = self._views.find_instance(instance_id)
        if instance is None:
            return
        name = instance.model
        memory = memories[0] if memories else None
        if not isinstance(memory, Memory):
            why = told.why_not if memory is None else str(memory)
            log.info("no prefix cache is kept", model=name, instance_id=instance_id, why=why)
            return
        if instance_id in self._used:  # it was on its way when a tenant was shredded
            log.info("a prefix cache that a shredded tenant may be in is not kept", model=name, instance_id=instance_id)
            return
        before = self._kept.get(name)
        if before is not None and before.tokens > told.tokens:
            log.info("a smaller prefix cache of the same model is not kept", model=name, instance_id=instance_id)
            return
        if self._files is not None:
            self._beside(self._files.write, name, memory, told.tokens, self._views.model_names())
        if self._closing:
            return
        self._kept.pop(name, None)
        self._kept[name] = KeptPrefix(memory, told.tokens)
        lacking = {"lacking": told.why_not} if told.why_not else {}
        log.info("prefix cache kept", model=name, tokens=told.tokens, bytes=memory.size_bytes, **lacking)
        self._fit(self._most_bytes)
        if (other := answering(self._views.model(name), NO_LEASE)) is not None:
            self.give(other.instance_id)

    def give(self, instance_id: InstanceId) -> None:
        """An instance is loaded: it finds what was kept of its model, which is kept here no longer."""
        instance = self._views.find_instance(instance_id)
        if instance is None or instance.model not in self._kept or not instance.living or not _is_ours(instance):
            return
        worker = self._supervisor.workers.get(instance_id)
        if worker is not None:
            kept = self._kept.pop(instance.model)
            worker.send(wire.KernelFrame(adopt=prefix_pb2.Adopt()), (kept.memory,))

    def adopted(self, instance_id: InstanceId, told: prefix_pb2.Adopted) -> None:
        """A worker has found again what it could."""
        if told.why_not:
            log.warning("prefix cache dropped", instance_id=instance_id, tokens_found=told.tokens, why=told.why_not)
        else:
            log.info("prefix cache found again", instance_id=instance_id, tokens=told.tokens)

    def settle(self, changes: Iterable[Change]) -> None:
        """The core has done something: forget what is kept of models that are gone, or for which there is no room.

        Where another version serves, those before it have nothing more to compute, but may stay while it is on trial.
        """
        if not self._most_bytes:
            return
        for change in changes:
            if isinstance(change, VersionChanged):
                if change.state is VersionState.SERVING and change.change is not None:
                    self._hand_over(change.name)
            elif isinstance(change, InstanceChanged):
                if change.state is InstanceState.LOADING and self._is_for_us(change.instance_id):
                    self._fetch(change.model)
            elif isinstance(change, ModelForgotten):
                self.forget(change.name)
            elif isinstance(change, ModelChanged) and (kept := self._kept.get(change.name)) is not None:
                model = self._views.model(change.name)
                if model.going or kept.memory.size_bytes > self._bound(model):
                    self.forget(change.name)
        self._fit(self._spare_bytes())

    def forget(self, name: ModelName) -> None:
        """Keep nothing of a model."""
        self._kept.pop(name, None)
        if self._files is not None:
            self._beside(self._files.forget, name)

    def forget_all(self) -> None:
        """Keep nothing of what is kept now, nor of workers that live now: a tenant is shredded that has used them."""
        self._kept.clear()
        self._used = set(self._supervisor.workers)
        self._forgotten += 1
        if self._files is not None:
            self._beside(self._files.forget_all)

    def _fetch(self, name: ModelName) -> None:
        """A model is being loaded: read what a file has of it meanwhile."""
        if self._files is None or self._thread is None or self._closing:
            return
        most_bytes = min(self._bound(self._views.model(name)), self._spare_bytes())
        if name in self._kept or name in self._fetching or not most_bytes:
            return
        self._fetching.add(name)
        reading = asyncio.wrap_future(self._thread.submit(self._files.read, name, most_bytes))
        forgotten = self._forgotten
        reading.add_done_callback(lambda done: self._fetched(name, done, forgotten))

    def _fetched(self, name: ModelName, done: asyncio.Future[tuple[Memory, int] | None], forgotten: int) -> None:
        self._fetching.discard(name)
        if forgotten != self._forgotten:
            return
        found = None if done.cancelled() or done.exception() is not None else done.result()
        model = self._views.find_model(name)
        if found is None or model is None or model.going or name in self._kept or self._closing:
            return
        self._kept[name] = KeptPrefix(*found)
        log.info("prefix cache read from the disk", model=name, tokens=found[1], bytes=found[0].size_bytes)
        self._fit(self._spare_bytes())
        if (other := answering(model, NO_LEASE)) is not None:
            self.give(other.instance_id)

    def _is_for_us(self, instance_id: InstanceId) -> bool:
        instance = self._views.find_instance(instance_id)
        return instance is not None and _is_ours(instance)

    def _hand_over(self, name: ModelName) -> None:
        """Have the instances of versions that do not serve keep what they can, if they have nothing else to do.

        One of which a lease holds a part may be given tasks, which would wait for it.
        """
        model = self._views.model(name)
        for instance in model.instances.values():
            before = instance.version != model.serving.number and instance.state is InstanceState.READY
            keep_bytes = self._allowed_bytes(instance) if before and not (instance.running or instance.holds) else 0
            worker = self._supervisor.workers.get(instance.instance_id)
            if keep_bytes and worker is not None:
                order = prefix_pb2.Keep(keep_bytes=keep_bytes, keep_seconds=self._most_s)
                worker.send(wire.KernelFrame(keep=order))

    def _allowed_bytes(self, instance: Instance) -> int:
        """What an instance may keep: no more than is free."""
        model = self._views.model(instance.model)
        if model.going or instance.instance_id in self._used or not _is_ours(instance):
            return 0
        return min(self._bound(model), self._spare_bytes())

    def _fit(self, most_bytes: int) -> None:
        """Forget what was kept first, until so many bytes are enough."""
        while self._kept and self.held_bytes > most_bytes:
            name, kept = self._kept.popitem(last=False)
            log.info("prefix cache dropped for want of room", model=name, tokens=kept.tokens, most_bytes=most_bytes)

    def _bound(self, model: Model) -> int:
        own = model.spec.prefix_keep_bytes
        return self._most_bytes if own is None else min(own, self._most_bytes)

    def _spare_bytes(self) -> int:
        """Of the host, what nobody was given."""
        account = self._views.devices.get(HOST_DEVICE)
        return 0 if account is None else account.spare_bytes


def _is_ours(instance: Instance) -> bool:
    """Whether an instance serves its model on this host, and not a lease."""
    return not instance.lease_id and host_of(instance.device_id) == LOCAL_HOST
