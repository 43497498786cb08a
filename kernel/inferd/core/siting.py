"""Where instances of models may be started now, and where best: the view of `core.placement` on models and devices."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from inferd.core.broker import Broker
from inferd.core.gangs import may_lead, others_of, together
from inferd.core.ids import NO_LEASE, DeviceId, LeaseId, ModelName
from inferd.core.model import Instance, Model, ModelSpec
from inferd.core.placement import Own, Placement, Site, choose, is_misplaced, look
from inferd.core.resources import MemoryNeed
from inferd.core.version import Version

NOTHING: Mapping[DeviceId, Sequence[DeviceId]] = {}
NOWHERE = DeviceId("")  # for what a model needs where nothing was measured


class Siting:
    """Finds places for starts. It changes nothing."""

    def __init__(self, broker: Broker, models: Mapping[ModelName, Model]) -> None:
        self._broker = broker
        self._models = models

    def devices_under(
        self,
        model: Model,
        lease_id: LeaseId,
        version: Version | None = None,
        *,
        but: tuple[DeviceId, ...] = (),
        moves: Instance | None = None,
    ) -> Sequence[DeviceId]:
        """The devices of READY hosts that a model may use; under a lease, those of which that holds memory.

        Of many those that are worth a look, see `core.atlas`. A host that drains leaves to leases what they hold. The
        `version` is the one that serves, unless it is given. Those of `but` are left out. Where an instance would go in
        place of one that `moves`, that keeps none away.
        """
        version = version or model.serving
        if model.lacks and version is model.serving:
            return []
        found = self._devices_under(model, lease_id, version, but=but, moves=moves)
        if (spec := version.spec).span == 1:
            return found
        return [device_id for device_id in found if may_lead(self._broker, device_id, spec, lease_id)]

    def _devices_under(
        self, model: Model, lease_id: LeaseId, version: Version, *, but: tuple[DeviceId, ...], moves: Instance | None
    ) -> Sequence[DeviceId]:
        atlas, spec = self._broker.atlas, version.spec
        if lease_id:
            held = [device_id for device_id in self._broker.leased(lease_id) if device_id not in but]
            return atlas.listed(atlas.may(spec) & atlas.bits_of(held), spec)
        stays = (i for i in model.instances.values() if i.living and not i.leaving and i is not moves)
        own = [i.device_id for i in stays if i.version == version.number]
        need_bytes = version.need_on(NOWHERE).total_bytes
        return self._broker.candidates(spec, need_bytes, own=own, but=but)

    def place(
        self,
        model: Model,
        need_on: Callable[[DeviceId], MemoryNeed],
        *,
        devices: Sequence[DeviceId],
        lease_id: LeaseId = NO_LEASE,
        spec: ModelSpec | None = None,
    ) -> Placement:
        """Where of these devices one more instance of a model would be started now, if it needs so much there."""
        return choose(self._sites(model, need_on, devices, lease_id, spec or model.spec))

    def is_misplaced(self, instance: Instance) -> bool:
        """Whether an instance of which it is known what it needs would do better on a device that was not tried."""
        model, here = self._models[instance.model], instance.device_id
        version = model.versions[instance.version]
        but = (here, *instance.tried)
        left = self.devices_under(model, instance.lease_id, version, but=but, moves=instance)
        here_with = {here: instance.beside} if instance.beside else {}
        sites = self._sites(model, version.need_on, [here, *left], instance.lease_id, version.spec, beside=here_with)
        return is_misplaced(sites[0], sites[1:])

    def _sites(
        self,
        model: Model,
        need_on: Callable[[DeviceId], MemoryNeed],
        devices: Iterable[DeviceId],
        lease_id: LeaseId,
        spec: ModelSpec,
        *,
        beside: Mapping[DeviceId, Sequence[DeviceId]] = NOTHING,
    ) -> list[Site]:
        own = Own.of(model.instances.values())

        def at(device_id: DeviceId) -> Site:
            return look(self._broker, device_id, need_on(device_id), spec, own=own, lease_id=lease_id)

        if spec.span == 1:
            return [at(device_id) for device_id in devices]
        sites = []
        for device_id in devices:
            others = beside.get(device_id) or others_of(self._broker, device_id, spec, lease_id)
            sites.append(together(at(device_id), [at(each) for each in others], count=spec.span - 1))
        return sites
