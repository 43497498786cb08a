"""How far loads have come, told to the tasks that wait for them."""

from itertools import islice

from inferd.core.ids import InstanceId
from inferd.core.machine import KernelMachine
from inferd.core.task_events import Phase, Progress
from inferd.runtime.signal import Signal
from inferd.runtime.streams import Streams

STEP = 0.02  # a load tells each waiting task at most 50 times
MOST_TASKS = 100  # of those that wait, the first so many are told


class LoadProgress:
    """Tells waiting tasks and the watchers of models. One writer: the driver."""

    def __init__(self, machine: KernelMachine, streams: Streams, models_changed: Signal) -> None:
        self._machine = machine
        self._streams = streams
        self._models_changed = models_changed
        self._told: dict[InstanceId, float] = {}

    def tell(self, instance_id: InstanceId, fraction: float) -> None:
        """So much of a load is done, 0 to 1."""
        if fraction - self._told.get(instance_id, 0.0) < STEP and fraction < 1.0:
            return
        self._told[instance_id] = fraction
        name = self._machine.fleet.instances[instance_id].model
        for task_id in islice(self._machine.tasks.waiting(name), MOST_TASKS):
            self._streams.get(task_id).tell(Progress(Phase.LOAD, fraction))
        self._models_changed.notify()

    def forget(self, instance_id: InstanceId) -> None:
        """Its worker is gone."""
        self._told.pop(instance_id, None)
