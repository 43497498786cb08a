"""How far loads have come, told to the tasks that wait for them."""

from itertools import islice

from inferd.core.ids import InstanceId, ModelName
from inferd.core.task_events import Phase, Progress
from inferd.core.views import Views
from inferd.runtime.signal import Signals
from inferd.runtime.streams import Streams

STEP = 0.02  # a load tells each waiting task at most 50 times
MOST_TASKS = 100  # of those that wait, the first so many are told


class LoadProgress:
    """Tells waiting tasks and the watchers of models. One writer: the driver."""

    def __init__(self, views: Views, streams: Streams, models_changed: Signals[ModelName]) -> None:
        self._views = views
        self._streams = streams
        self._models_changed = models_changed
        self._told: dict[InstanceId, float] = {}

    def tell(self, instance_id: InstanceId, fraction: float) -> None:
        """So much of a load is done, 0 to 1."""
        if fraction - self._told.get(instance_id, 0.0) < STEP and fraction < 1.0:
            return
        self._told[instance_id] = fraction
        if (instance := self._views.find_instance(instance_id)) is None:
            return
        name = instance.model
        for task_id in islice(self._views.waiting(name), MOST_TASKS):
            self._streams.get(task_id).tell(Progress(Phase.LOAD, fraction))
        self._models_changed.notify(name)

    def forget(self, instance_id: InstanceId) -> None:
        """Its worker is gone."""
        self._told.pop(instance_id, None)
