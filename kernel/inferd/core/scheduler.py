"""Which instance takes the next task."""

from collections import OrderedDict
from collections.abc import Iterable

from inferd.core.ids import InstanceId, TaskId, Tenant
from inferd.core.model import Instance
from inferd.core.task import TaskSpec

AFFINITY_LOAD = 0.25  # so much fuller may an instance be that has computed the beginning of the work before
AFFINITY_PROMPTS = 4096  # remembered for a model

Beginning = tuple[Tenant, bytes]


class Affinity:
    """Which instance has computed the beginnings of which tasks, and so may hold them in its prefix cache.

    One writer: the kernel machine.
    """

    def __init__(self) -> None:
        self._instances: OrderedDict[Beginning, InstanceId] = OrderedDict()

    def find(self, spec: TaskSpec) -> InstanceId | None:
        """The instance that computed what begins like this task last, if it is remembered."""
        return self._instances.get((spec.tenant, spec.demand.affinity)) if spec.demand.affinity else None

    def remember(self, spec: TaskSpec, instance_id: InstanceId) -> None:
        """An instance computes this task."""
        if not spec.demand.affinity:
            return
        beginning = spec.tenant, spec.demand.affinity
        self._instances[beginning] = instance_id
        self._instances.move_to_end(beginning)
        if len(self._instances) > AFFINITY_PROMPTS:
            self._instances.popitem(last=False)


def choose_instance(
    instances: Iterable[Instance], preferred: InstanceId | None = None, *, sticky: bool = False
) -> Instance | None:
    """The least loaded instance with a free place, or the preferred one if it is not much fuller; None without any.

    Args:
        instances: To choose from.
        preferred: One that has something for the task.
        sticky: Whether that is taken however full it is.
    """
    best: Instance | None = None
    liked: Instance | None = None
    for instance in instances:
        if instance.open_places <= 0:
            continue
        if best is None or (_load(instance), instance.created) < (_load(best), best.created):
            best = instance
        if instance.instance_id == preferred:
            liked = instance
    if best is not None and liked is not None and (sticky or _load(liked) <= _load(best) + AFFINITY_LOAD):
        return liked
    return best


def choose_victim(instances: Iterable[Instance], below: int, *, protected: bool = False) -> TaskId | None:
    """The youngest running task of the lowest class below `below`; None when there is none.

    Args:
        instances: To look at; where two have one of that class, the first counts.
        below: A class.
        protected: Whether tasks count whose class had waited long for its turn.
    """
    found: TaskId | None = None
    for instance in instances:
        victim = instance.victims.find(below, protected=protected)
        if victim is not None:
            below, found = victim
    return found


def _load(instance: Instance) -> float:
    places = 1 if instance.facts is None else instance.facts.max_tasks
    return len(instance.running) / max(1, places)
