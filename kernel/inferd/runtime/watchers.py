"""Those who watch tasks, models and leases, and how they hear of what the core has changed."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from inferd.core import changes, commands, events
from inferd.core.ids import ModelName
from inferd.core.task import TaskState, Usage
from inferd.core.task_events import Finished, Queued, Resumed, Started, Suspended
from inferd.core.views import Views
from inferd.runtime.receipts import write_receipt
from inferd.runtime.signal import Signal, Signals
from inferd.runtime.streams import Streams
from inferd.runtime.supervisor import Supervisor
from inferd.runtime.task_lists import TaskLists

NO_USAGE = Usage()

Ender = Callable[[changes.TaskChanged, Finished], None]

log = structlog.get_logger()


class Watchers:
    """Wakes those who watch a thing with each change of that thing. One writer: the driver.

    Attributes:
        tasks: Tasks that have changed, by tenant.
        models: Changes of models by name.
        leases: Changes of leases by id, and of the lines that they wait in by name, which is no id.
        hosts: Changes of hosts, and of the instances on them.
        used: What is to be told to the core of tasks that have ended without a worker's word of what they used.
        seers: Who is told of each change, before anybody who watches.
        enders: Who is told how each task ended, and what it cost; as given.
    """

    def __init__(self, views: Views, streams: Streams, supervisor: Supervisor, enders: list[Ender]) -> None:
        self.tasks = TaskLists()
        self.models = Signals[ModelName]()
        self.leases = Signals[str]()
        self.hosts = Signal()
        self.used: list[events.TaskUsed] = []
        self.seers: list[Callable[[changes.Change], None]] = []
        self.enders = enders
        self._views = views
        self._streams = streams
        self._supervisor = supervisor

    def close(self) -> None:
        """Wake everyone: the kernel is shutting down."""
        self.tasks.notify_all()
        self.models.notify_all()
        self.leases.notify_all()
        self.hosts.notify()

    def see(self, said: commands.Command | changes.Change) -> None:
        """Tell those who watch, in the order in which the core has said it."""
        match said:
            case changes.Change():
                self.wake(said)
            case commands.TellQueued(task_id, position, eta_s, why):
                self._streams.get(task_id).tell(Queued(position, eta_s, why))
            case commands.TellGrowth(instance_id, memory_bytes, need_bytes):
                told = {"instance_id": instance_id, "memory_bytes": memory_bytes, "need_bytes": need_bytes}
                log.warning("a worker takes far more memory than was measured, or no longer does", **told)

    def wake(self, change: changes.Change) -> None:
        """Tell those who watch what has changed."""
        for see in self.seers:
            see(change)
        self._wake(change)

    def _wake(self, change: changes.Change) -> None:
        match change:
            case changes.TaskAccepted(spec):
                self.tasks.note(spec.tenant, spec.task_id)
            case changes.TaskChanged():
                self._tell_task(change)
                self.tasks.note(change.tenant, change.task_id)
            case (
                changes.TaskDetached(task_id, tenant)
                | changes.TaskRestored(task_id, tenant)
                | changes.PastForgotten(task_id, tenant)
            ):
                self.tasks.note(tenant, task_id)
            case changes.TaskForgotten(task_id, tenant):
                self._streams.forget(task_id)
                self.tasks.note(tenant, task_id)
            case changes.LeaseChanged(lease_id) | changes.LeaseForgotten(lease_id):
                self.leases.notify(lease_id)
            case changes.LineChanged(line):
                self.leases.notify(line)
            case changes.ModelChanged(name) | changes.ModelForgotten(name) | changes.VersionChanged(name):
                self.models.notify(name)
            case changes.InstanceChanged(model=name) | changes.InstanceForgotten(model=name):
                self.models.notify(name)
                self.hosts.notify()
            case changes.HostChanged() | changes.HostForgotten():
                self.hosts.notify()

    def _tell_task(self, change: changes.TaskChanged) -> None:
        if change.end is not None:
            self._finish(change, change.end)
        elif change.reason is not None:
            self._streams.get(change.task_id).tell(Suspended(change.reason))
        elif change.state is TaskState.RUNNING and change.instance_id is not None:
            kind = Resumed if change.attempt > 1 else Started
            self._streams.get(change.task_id).tell(kind(change.instance_id, change.attempt, change.version))

    def _finish(self, change: changes.TaskChanged, end: changes.TaskEnd) -> None:
        stream, outcome = self._streams.get(change.task_id), end.outcome
        if outcome.usage.output_tokens < stream.output_tokens:  # ended by the kernel: it counts what was told
            outcome = replace(outcome, usage=Usage(output_tokens=stream.output_tokens))
        if self._views.quotas and end.started is not None and end.outcome.usage == NO_USAGE:
            self.used.append(events.TaskUsed(change.task_id, stream.output_tokens))
        if outcome.error is not None:
            outcome = replace(outcome, error=outcome.error.about(change.model))
        worker = self._supervisor.workers.get(change.instance_id) if change.instance_id is not None else None
        spec = self._views.find_spec(change.model, end.version)  # none, of a task of a kernel that knew it
        receipt = write_receipt(
            end,
            backend="" if spec is None else spec.backend,
            first_output_at=stream.first_output_at,
            memory_bytes=worker.memory_bytes if worker is not None else 0,
            asked=stream.asked,
        )
        finished = Finished(outcome, receipt)
        self._streams.finish(change.task_id, finished)
        for told in self.enders:
            told(change, finished)
