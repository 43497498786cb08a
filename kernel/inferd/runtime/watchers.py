"""Those who watch tasks, models and leases, and how they hear of what the core has changed."""

from dataclasses import replace

import structlog

from inferd.core import commands
from inferd.core.ids import ModelName
from inferd.core.task import Outcome, Task, Usage
from inferd.core.task_events import Finished, Queued, Suspended
from inferd.core.views import Views
from inferd.runtime.clock import Clock
from inferd.runtime.receipts import write_receipt
from inferd.runtime.signal import Signals
from inferd.runtime.streams import Streams
from inferd.runtime.supervisor import Supervisor

log = structlog.get_logger()


class Watchers:
    """Wakes those who watch a thing with each change of that thing. One writer: the driver.

    Attributes:
        models: Changes of models by name.
        leases: Changes of leases by id, and of the lines that they wait in by name, which is no id.
    """

    def __init__(self, views: Views, streams: Streams, supervisor: Supervisor, clock: Clock) -> None:
        self.models = Signals[ModelName]()
        self.leases = Signals[str]()
        self._views = views
        self._streams = streams
        self._supervisor = supervisor
        self._clock = clock

    def close(self) -> None:
        """Wake everyone: the kernel is shutting down."""
        self.models.notify_all()
        self.leases.notify_all()

    def tell(self, news: commands.News) -> None:
        """Tell those whom it concerns."""
        match news:
            case commands.TellFinished(task, outcome):
                self._finish(task, outcome)
            case commands.TellSuspended(task_id, reason):
                self._streams.get(task_id).tell(Suspended(reason))
            case commands.TellQueued(task_id, position, eta_s):
                self._streams.get(task_id).tell(Queued(position, eta_s))
            case commands.ForgetTask(task_id):
                self._streams.forget(task_id)
            case commands.TellGrowth(instance_id, memory_bytes, need_bytes):
                told = {"instance_id": instance_id, "memory_bytes": memory_bytes, "need_bytes": need_bytes}
                log.warning("a worker takes far more memory than was measured, or no longer does", **told)
            case commands.TellModel(name):
                self.models.notify(name)
            case commands.TellLease(lease_id) | commands.ForgetLease(lease_id):
                self.leases.notify(lease_id)
            case commands.TellLine(line):
                self.leases.notify(line)

    def _finish(self, task: Task, outcome: Outcome) -> None:
        task_id = task.spec.task_id
        stream = self._streams.get(task_id)
        if outcome.usage.output_tokens < stream.output_tokens:  # ended by the kernel: it counts what was told
            outcome = replace(outcome, usage=Usage(output_tokens=stream.output_tokens))
        worker = self._supervisor.workers.get(task.instance_id) if task.instance_id is not None else None
        receipt = write_receipt(
            task,
            self._views.model(task.spec.model).spec,
            first_output_at=stream.first_output_at,
            memory_bytes=worker.memory_bytes if worker is not None else 0,
            now=self._clock.now(),
        )
        self._streams.finish(task_id, Finished(outcome, receipt))
