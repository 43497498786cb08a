"""What the kernel counts of itself, as Prometheus reads it; names and units by its conventions.

No label is a tenant, a task or anything else that a client may choose without bound.
"""

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from inferd.core import changes, commands
from inferd.core.machine import KernelMachine
from inferd.core.model import InstanceState
from inferd.core.task import Task
from inferd.runtime.store_state import StoreState
from inferd_api.worker.v1 import step_pb2

if TYPE_CHECKING:
    from inferd.runtime.leading import Leadership

M = TypeVar("M", Counter, Histogram)

WAITS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
STEPS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """Counters, each beside the mechanism that it counts. One writer: the driver.

    Args:
        machine: Read at each scrape for what there is now.
    """

    def __init__(self, machine: KernelMachine) -> None:
        self.registry = CollectorRegistry()
        self._machine = machine
        self._of_models: list[Counter | Histogram] = []
        self._of_steps: dict[str, tuple[Histogram, Counter]] = {}  # what each step counts, by model
        self._found: dict[str, dict[tuple[Any, ...], Any]] = {}  # by model, metric and labels
        self._sent = self._counter("inferd_tasks_sent", "Tasks handed to instances; `again` when they go on", "again")
        self._alone = self._counter("inferd_suspects_sent", "Tasks sent to run alone since workers died of them")
        self._stopped = self._counter("inferd_tasks_stopped", "Tasks stopped to go on later, and why", "reason")
        self._ended = self._counter("inferd_tasks_ended", "Tasks by how they ended", "state")
        self._waits = self._histogram("inferd_queue_seconds", "Time that a task waited, each time", WAITS_S)
        self._starts = self._counter("inferd_workers_started", "Workers started")
        self._deaths = self._counter(
            "inferd_worker_deaths", "Workers that ended without being told to stop, or were killed for what they did"
        )
        self._tokens = self._counter("inferd_output_tokens", "Tokens produced")
        self._steps = self._histogram("inferd_step_seconds", "Time that a step computed", STEPS_S)
        self.registry.register(_Present(machine))

    def tell_store(self, state: StoreState) -> None:
        """There is a store, of which the page tells, too."""
        self.registry.register(_OfStore(state))

    def tell_leading(self, leadership: "Leadership") -> None:
        """There may be several kernels, of which the page tells, too."""
        self.registry.register(OfKernels(leads=True, epoch=leadership.entry.epoch, others=lambda: leadership.others))

    def count(self, command: commands.Command, now: float) -> None:
        """The core asks for something."""
        match command:
            case commands.SendTask(spec=spec):
                self._of(self._sent, spec.model, "true" if command.attempt > 1 else "false").inc()
                if command.alone:
                    self._of(self._alone, spec.model).inc()
                self._of(self._waits, spec.model).observe(max(0.0, now - self._task(command).waits_since))
            case commands.StartWorker(spec=started):
                self._starts.labels(started.name).inc()

    def count_change(self, change: changes.Change) -> None:
        """The core has changed something."""
        if isinstance(change, changes.TaskChanged):
            if change.reason is not None:
                self._of(self._stopped, change.model, change.reason.name.lower()).inc()
            elif change.end is not None:
                self._of(self._ended, change.model, change.state.name.lower()).inc()
        elif isinstance(change, changes.ModelForgotten):
            self._of_steps.pop(change.name, None)
            self._found.pop(change.name, None)
            for metric in self._of_models:
                metric.remove_by_labels({"model": change.name})

    def count_death(self, model: str) -> None:
        """A worker died."""
        self._deaths.labels(model).inc()

    def count_step(self, model: str, step: step_pb2.StepOutput) -> None:
        """A worker has computed a step, or several that are told as one."""
        if (of_model := self._of_steps.get(model)) is None:  # looking them up costs more than counting
            of_model = self._of_steps[model] = self._steps.labels(model), self._tokens.labels(model)
        seconds, tokens = of_model
        if step.seconds:
            seconds.observe(step.seconds)
        for each_seconds in step.each_seconds:
            seconds.observe(each_seconds)
        if step.token_ids:
            tokens.inc(len(step.token_ids))

    def _of(self, metric: M, model: str, *labels: str) -> M:
        """A metric of a model with such labels: looking it up here costs a tenth of what the library takes for it."""
        of_model = self._found.setdefault(model, {})
        key = (metric, *labels)
        if key not in of_model:
            of_model[key] = metric.labels(model, *labels)
        found: M = of_model[key]
        return found

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        """A counter by model; all of a model are gone when it is forgotten."""
        made = Counter(name, documentation, ["model", *labels], registry=self.registry)
        self._of_models.append(made)
        return made

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        """A histogram by model; all of a model are gone when it is forgotten."""
        made = Histogram(name, documentation, ["model"], registry=self.registry, buckets=buckets)
        self._of_models.append(made)
        return made

    def _task(self, command: commands.SendTask) -> Task:
        return self._machine.tasks.known[command.spec.task_id]


class OfKernels(Collector):
    """Whether this kernel leads, and how many others there are.

    Args:
        leads: Whether it does.
        epoch: That it leads; 0 for none.
        others: Those that have its store, too.
    """

    def __init__(self, *, leads: bool, epoch: int, others: Callable[[], Collection[object]]) -> None:
        self._leads, self._epoch, self._others = leads, epoch, others

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Its figures."""
        yield GaugeMetricFamily("inferd_leads", "1 where this kernel leads, 0 where it stands by", self._leads)
        yield GaugeMetricFamily("inferd_epoch", "The epoch that this kernel leads, else 0", self._epoch)
        yield GaugeMetricFamily("inferd_other_kernels", "Other kernels with the same store", len(self._others()))


def standing_registry(others: Callable[[], Collection[object]]) -> CollectorRegistry:
    """What a kernel that stands by tells: that it does, and how many others there are."""
    registry = CollectorRegistry()
    registry.register(OfKernels(leads=False, epoch=0, others=others))
    return registry


class _OfStore(Collector):
    """Whether what is to be kept can be."""

    def __init__(self, state: StoreState) -> None:
        self._state = state

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Its figures."""
        yield GaugeMetricFamily("inferd_store_writes", "1 where the last write was done, else 0", self._state.writes)
        yield CounterMetricFamily("inferd_store_failures", "Writes that failed", self._state.failures)


class _Present(Collector):
    """What there is at a scrape. Read in the thread of the scrape: copies of what the event loop changes."""

    def __init__(self, machine: KernelMachine) -> None:
        self._machine = machine

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges."""
        census, fleet, broker = self._machine.tasks.census, self._machine.fleet, self._machine.broker
        tasks = GaugeMetricFamily("inferd_tasks", "Tasks that have not ended", labels=["state"])
        tasks.add_metric(["queued"], census.all.queued)
        tasks.add_metric(["running"], census.all.running)
        tasks.add_metric(["suspended"], census.all.suspended)
        yield tasks
        instances = GaugeMetricFamily("inferd_instances", "Instances of models", labels=["model", "state"])
        for name, model in list(fleet.models.items()):
            states = [instance.state for instance in list(model.instances.values())]
            for state in InstanceState:
                if state in states:
                    instances.add_metric([name, state.name.lower()], states.count(state))
        yield instances
        memory = GaugeMetricFamily("inferd_device_bytes", "Memory of devices", labels=["device", "what"])
        for device_id, account in list(broker.devices.items()):
            memory.add_metric([device_id, "capacity"], account.capacity_bytes)
            memory.add_metric([device_id, "instances"], account.instance_bytes)
            memory.add_metric([device_id, "leases"], account.lease_bytes)
        yield memory
