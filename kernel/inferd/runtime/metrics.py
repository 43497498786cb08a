"""What the kernel counts of itself, as Prometheus reads it; see `telemetry.table` for what there is.

No label is a tenant, a task or anything else that a client may choose without bound.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from inferd.core import changes, commands
from inferd.core.lease import LIVING, LeaseChange
from inferd.runtime.telemetry import table
from inferd.runtime.telemetry.figures import Count, Family, Registry, Spread
from inferd.runtime.telemetry.names import Names
from inferd.runtime.telemetry.present import OfProcess, Present, of_kernels, of_store, of_traces

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from inferd.core.ids import InstanceId
    from inferd.core.machine import KernelMachine
    from inferd.core.model import Instance
    from inferd.core.task import Task
    from inferd.core.task_events import Finished
    from inferd.runtime.leading import Leadership
    from inferd.runtime.store_state import StoreState
    from inferd.runtime.telemetry.otlp import Exporter
    from inferd_api.worker.v1 import step_pb2

F = TypeVar("F", Count, Spread)

FIRST_ATTEMPT = 1
MOST_NAMES = 100  # see `limits.metrics_names`


class Counted(NamedTuple):
    """What was counted of a model since the kernel began, or the model was made known.

    Attributes:
        succeeded, succeeded_s: Its tasks that did, and how long those took together, waiting too.
        failed, failed_s: The same of others that ended.
        sent, waited_s: How often one was handed to a worker, and how long they had waited.
        steps: How often its workers computed.
    """

    succeeded: int = 0
    succeeded_s: float = 0.0
    failed: int = 0
    failed_s: float = 0.0
    sent: int = 0
    waited_s: float = 0.0
    steps: int = 0


class Metrics:
    """Counters, each beside the mechanism that it counts: told once a step, a task or a lease. One writer: the driver.

    Args:
        machine: Read at each scrape for what there is now.
        names: Most models, and most devices, that are told by name.
    """

    def __init__(self, machine: KernelMachine, *, names: int = MOST_NAMES) -> None:
        self.registry = Registry()
        self._machine = machine
        self._names = Names(names)
        self._of_models: list[Family[Count] | Family[Spread]] = []
        self._of_steps: dict[str, tuple[Spread, Spread, Count]] = {}  # what each step counts, by model
        self._found: dict[str, dict[tuple[Any, ...], Any]] = {}  # by model, metric and labels
        self._kv_tokens: dict[InstanceId, int] = {}
        self._sent, self._alone = self._counter(table.TASKS_SENT), self._counter(table.SUSPECTS_SENT)
        self._stopped, self._ended = self._counter(table.TASKS_STOPPED), self._counter(table.TASKS_ENDED)
        self._waits = self._histogram(table.QUEUE)
        self._first_tokens, self._each_token = self._histogram(table.FIRST_TOKEN), self._histogram(table.TOKEN)
        self._requests = self._histogram(table.REQUEST)
        self._inputs, self._cached = self._counter(table.INPUT_TOKENS), self._counter(table.CACHED_TOKENS)
        self._outputs = self._counter(table.OUTPUT_TOKENS)
        self._drafted, self._accepted = self._counter(table.DRAFTED_TOKENS), self._counter(table.ACCEPTED_TOKENS)
        self._steps, self._sequences = self._histogram(table.STEP), self._histogram(table.STEP_SEQUENCES)
        self._preemptions, self._pictures = self._counter(table.KV_PREEMPTIONS), self._counter(table.PICTURES)
        self._starts, self._deaths = self._counter(table.WORKERS_STARTED), self._counter(table.WORKER_DEATHS)
        self._lease_waits = self.registry.spread(table.LEASE_WAIT).labels()
        self._leases_ended = self.registry.count(table.LEASES_ENDED)
        self.lagged = self.registry.spread(table.STREAM_LAG).labels().observe
        self.registry.read(Present(machine, self._names, self._kv_tokens, devices=names).read)
        self.registry.read(OfProcess().read)

    def tell_store(self, state: StoreState) -> None:
        """There is a store, of which the page tells, too."""
        self.registry.read(partial(of_store, state))
        state.took = self.registry.spread(table.STORE_COMMIT).labels().observe

    def tell_leading(self, leadership: Leadership) -> None:
        """There may be several kernels, of which the page tells, too."""
        self.registry.read(partial(of_kernels, lambda: leadership.others, epoch=leadership.entry.epoch))

    def tell_traces(self, exporter: Exporter) -> None:
        """Traces are sent, of which the page tells, too."""
        self.registry.read(partial(of_traces, exporter))

    def count(self, command: commands.Command, now: float) -> None:
        """The core asks for something."""
        match command:
            case commands.SendTask(spec=spec):
                self._of(self._sent, spec.model, "true" if command.attempt > FIRST_ATTEMPT else "false").inc()
                if command.alone:
                    self._of(self._alone, spec.model).inc()
                waited_s = max(0.0, now - self._task(command).waits_since)
                self._of(self._waits, spec.model, spec.priority.name.lower()).observe(waited_s)
            case commands.StartWorker(spec=started):
                self._of(self._starts, started.name).inc()

    def count_change(self, change: changes.Change) -> None:
        """The core has changed something."""
        if isinstance(change, changes.TaskChanged):
            if change.reason is not None:
                self._of(self._stopped, change.model, change.reason.name.lower()).inc()
            elif change.end is not None:
                self._of(self._ended, change.model, change.state.name.lower()).inc()
        elif isinstance(change, changes.LeaseChanged):
            self._count_lease(change)
        elif isinstance(change, changes.InstanceForgotten):
            self._kv_tokens.pop(change.instance_id, None)
        elif isinstance(change, changes.ModelForgotten):
            self._of_steps.pop(change.name, None)
            self._found.pop(change.name, None)
            if self._names.forget(change.name):
                for family in self._of_models:
                    family.forget(change.name)

    def _count_lease(self, change: changes.LeaseChanged) -> None:
        if change.change is LeaseChange.GRANT:
            lease = self._machine.leases.known.get(change.lease_id)
            if lease is not None and lease.granted is not None:
                self._lease_waits.observe(max(0.0, lease.granted - lease.created))
        elif change.change is not None and change.state not in LIVING:
            self._leases_ended.labels(change.state.name.lower()).inc()

    def count_end(self, change: changes.TaskChanged, finished: Finished) -> None:
        """A task has ended, and this is what it has cost."""
        receipt, outcome, model = finished.receipt, finished.outcome, change.model
        task = self._machine.tasks.known.get(change.task_id)
        operation = table.OTHER if task is None else task.spec.operation or table.OTHER
        error = "" if outcome.error is None else outcome.error.reason
        lasted_s = receipt.queue_s + receipt.run_s
        self._of(self._requests, model, operation, table.PROVIDER, error).observe(lasted_s)
        usage = outcome.usage
        if (first_s := receipt.first_token_s) is not None:
            self._of(self._first_tokens, model, operation, table.PROVIDER).observe(max(0.0, first_s))
            if usage.output_tokens > 1 and change.attempt == FIRST_ATTEMPT:
                each_s = max(0.0, lasted_s - first_s) / (usage.output_tokens - 1)
                self._of(self._each_token, model, operation, table.PROVIDER).observe(each_s)
        for metric, tokens in (
            (self._inputs, usage.prompt_tokens),
            (self._cached, usage.cached_tokens),
            (self._drafted, usage.drafted_tokens),
            (self._accepted, usage.accepted_tokens),
        ):
            if tokens:
                self._of(metric, model).inc(tokens)

    def counted(self, model: str) -> Counted | None:
        """What was counted of a model; None where more are known than are told by name, and several share figures."""
        if model not in self._found:
            return Counted()
        if self._names.find(model) != model:
            return None
        sums = dict.fromkeys((True, False, None), (0, 0.0))  # those that succeeded, that did not, and waits
        for (family, *labels), figure in self._found.get(model, {}).items():
            if family is self._requests or family is self._waits:
                key = None if family is self._waits else not labels[-1]
                count, total = sums[key]
                sums[key] = count + figure.count, total + figure.total
        steps = self._of_steps.get(model)
        return Counted(*sums[True], *sums[False], *sums[None], 0 if steps is None else steps[0].count)

    def count_death(self, model: str) -> None:
        """A worker died."""
        self._of(self._deaths, model).inc()

    def count_step(self, instance: Instance, step: step_pb2.StepOutput) -> None:
        """A worker has computed a step, or several that are told as one."""
        if (of_model := self._of_steps.get(instance.model)) is None:  # looking them up costs more than counting
            label = self._names.take(instance.model)
            metrics = self._steps.labels(label), self._sequences.labels(label), self._outputs.labels(label)
            of_model = self._of_steps[instance.model] = metrics
        seconds, sequences, tokens = of_model
        if step.seconds:
            seconds.observe(step.seconds)
        if step.sequences:
            sequences.observe(step.sequences)
        for each_seconds in step.each_seconds:
            seconds.observe(each_seconds)
        for each_sequences in step.each_sequences:
            sequences.observe(each_sequences)
        if step.token_ids:
            tokens.inc(len(step.token_ids))
        if step.preempted:
            self._of(self._preemptions, instance.model).inc(step.preempted)
        if step.pictures_computed or step.pictures_kept:
            self._of(self._pictures, instance.model, "computed").inc(step.pictures_computed)
            self._of(self._pictures, instance.model, "kept").inc(step.pictures_kept)
        if step.HasField("kv_tokens"):
            self._kv_tokens[instance.instance_id] = step.kv_tokens

    def _of(self, family: Family[F], model: str, *labels: str) -> F:
        """A figure of a model with such labels."""
        of_model = self._found.setdefault(model, {})
        key = (family, *labels)
        if key not in of_model:
            of_model[key] = family.labels(self._names.take(model), *labels)
        found: F = of_model[key]
        return found

    def _counter(self, metric: table.Metric) -> Family[Count]:
        """A counter by model; all of a model are gone when it is forgotten."""
        made = self.registry.count(metric)
        self._of_models.append(made)
        return made

    def _histogram(self, metric: table.Metric) -> Family[Spread]:
        """A histogram by model; all of a model are gone when it is forgotten."""
        made = self.registry.spread(metric)
        self._of_models.append(made)
        return made

    def _task(self, command: commands.SendTask) -> Task:
        return self._machine.tasks.known[command.spec.task_id]


def standing_registry(others: Callable[[], Collection[object]]) -> Registry:
    """What a kernel that stands by tells: that it does, and how many others there are."""
    registry = Registry()
    registry.read(partial(of_kernels, others))
    registry.read(OfProcess().read)
    return registry
