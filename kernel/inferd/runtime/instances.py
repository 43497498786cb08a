"""Which instance of a model is meant."""

from collections.abc import Iterable

from inferd.core.ids import LeaseId
from inferd.core.model import Instance, InstanceState, Model


def answering(model: Model, lease_id: LeaseId) -> Instance | None:
    """The instance that answers a call under a lease, or under none; None when there is none yet."""
    ready = [i for i in model.instances.values() if i.state is InstanceState.READY and i.lease_id in ("", lease_id)]
    number = model.serving.number
    return max(
        (i for i in ready if not model.is_rolling(i)), key=lambda i: (i.lease_id, i.version == number), default=None
    )


def newest(instances: Iterable[Instance]) -> Instance | None:
    """The one that was started last."""
    return max(instances, key=lambda instance: instance.created, default=None)


def moved(model: Model, gone: Instance) -> Instance:
    """The instance that was started on another device in place of one that is stopped; else that one."""
    same = (i for i in model.instances.values() if i.living and i.lease_id == gone.lease_id)
    return newest(i for i in same if gone.device_id in i.tried) or gone
