"""What `inferd top` shows, pane by pane: which things, in which columns, and by what they are sorted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from inferd.cli import hosts, leases, quotas
from inferd.cli.amounts import size, span
from inferd.cli.models import pairs
from inferd.cli.plain import plain
from inferd.cli.tasks import class_name, state
from inferd_api.v1.model_pb2 import InstanceState, ModelState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd_api.v1.host_pb2 import Device, Host, TenantLoad
    from inferd_api.v1.host_service_pb2 import WatchHostResponse
    from inferd_api.v1.lease_pb2 import Lease
    from inferd_api.v1.model_pb2 import Instance, Model
    from inferd_api.v1.quota_pb2 import QuotaUse
    from inferd_api.v1.task_pb2 import Task

NOTHING: Final[Mapping[str, Callable[[Any], Any]]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How things stand; of each so many as are shown at most.

    Attributes:
        told: The host that was asked for, and its instances.
        leases: Those of the tenant that are held or wait, the oldest ones.
        quotas: The fullest.
        tasks: Those of the tenant that have not ended, the newest.
        hosts: All.
        models: All.
    """

    told: WatchHostResponse
    leases: Sequence[Lease] = ()
    quotas: Sequence[QuotaUse] = ()
    tasks: Sequence[Task] = ()
    hosts: Sequence[Host] = ()
    models: Sequence[Model] = ()

    def plain(self) -> dict[str, object]:
        """For JSON."""
        lists = {
            "leases": self.leases,
            "quota_uses": self.quotas,
            "tasks": self.tasks,
            "hosts": self.hosts,
            "models": self.models,
        }
        return {**plain(self.told), **{name: [*map(plain, each)] for name, each in lists.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pane:
    """A pane.

    Attributes:
        title: Its name.
        columns: Their heads.
        things: What it shows.
        row: A text for each column.
        keys: By what a column is sorted whose texts do not say it.
        gives_way: The column that is cut where there is no room; "" for none.
        least: It is left out of tables with fewer things.
        most: So many at most in tables.
    """

    title: str
    columns: tuple[str, ...]
    things: Callable[[Look], Sequence[Any]]
    row: Callable[[Any], tuple[str, ...]]
    keys: Mapping[str, Callable[[Any], Any]] = field(default_factory=lambda: NOTHING)
    gives_way: str = ""
    least: int = 1
    most: int = 20

    def sorted(self, things: Sequence[Any], column: int | None, *, falling: bool) -> list[Any]:
        """The things by a column; as they came for None."""
        if column is None:
            return [*reversed(things)] if falling else [*things]
        key = self.keys.get(self.columns[column])
        if key is None:
            return sorted(things, key=lambda each: self.row(each)[column], reverse=falling)
        return sorted(things, key=key, reverse=falling)


def summary(host: Host) -> str:
    """The first line."""
    return " · ".join(
        (
            f"inferd {host.version} on {host.name}",
            f"{host.tokens_per_second:.1f} tok/s",
            f"{host.running_tasks} running",
            f"{host.queued_tasks} waiting",
            f"{host.leases} lease{'' if host.leases == 1 else 's'}",
        )
    )


def _device(device: Device) -> tuple[str, ...]:
    capacity, instances, held, foreign, free = map(
        size,
        (
            device.capacity_bytes,
            device.instance_bytes,
            device.lease_bytes,
            device.foreign_bytes,
            device.free_bytes,
        ),
    )
    foreign += "?" if device.unmeasured else ""
    return (
        device.device_id,
        capacity,
        instances,
        held,
        foreign,
        free,
        f"{device.leased_cores}/{device.cores}" if device.cores else "",
    )


def _instance(instance: Instance) -> tuple[str, ...]:
    name = InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_").lower()
    loading = instance.state == InstanceState.INSTANCE_STATE_LOADING
    return (
        instance.instance_id,
        instance.lease_id,
        instance.model,
        f"{name} {instance.load_fraction:.0%}" if loading else name,
        " ".join((instance.device, *instance.devices_beside)),
        size(instance.reserved_bytes),
        size(instance.memory_bytes),
        f"{instance.running_tasks}/{instance.max_tasks}",
    )


def _model(model: Model) -> tuple[str, ...]:
    running = sum(each.running_tasks for each in model.instances)
    places = sum(each.max_tasks for each in model.instances)
    return (
        model.name,
        ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower(),
        model.backend,
        str(len(model.instances)),
        f"{running}/{places}" if places else "",
        size(model.size_bytes),
        pairs(model.labels),
    )


def _load(load: TenantLoad) -> tuple[str, ...]:
    return load.tenant, class_name(load.priority), str(load.queued_tasks), str(load.running_tasks)


def _age_s(task: Task) -> float:
    return max(0.0, time.time() - task.create_time.ToMilliseconds() / 1000)


def _task(task: Task) -> tuple[str, ...]:
    return (
        task.task_id,
        task.model,
        state(task),
        class_name(task.priority),
        span(_age_s(task)),
        str(task.attempt),
        task.instance_id,
        task.lease_id,
    )


DEVICES = Pane(
    title="devices",
    columns=("DEVICE", "CAPACITY", "INSTANCES", "LEASES", "OTHERS", "FREE", "CORES LEASED"),
    things=lambda look: look.told.host.devices,
    row=_device,
    keys={
        "CAPACITY": lambda device: device.capacity_bytes,
        "INSTANCES": lambda device: device.instance_bytes,
        "LEASES": lambda device: device.lease_bytes,
        "OTHERS": lambda device: device.foreign_bytes,
        "FREE": lambda device: device.free_bytes,
        "CORES LEASED": lambda device: device.leased_cores,
    },
    most=1000,
)
HOSTS = Pane(
    title="hosts",
    columns=hosts.COLUMNS,
    things=lambda look: look.hosts,
    row=hosts.row,
    keys={
        "DEVICES": lambda host: len(host.devices),
        "FREE": lambda host: sum(device.free_bytes for device in host.devices),
        "MODELS": lambda host: len(host.models),
        "LOAD": lambda host: host.placed_tasks / (host.places or 1),
        "LAG": lambda host: host.silence.ToNanoseconds(),
    },
    gives_way="WHY",
    least=2,  # one is the first line
)
MODELS = Pane(
    title="models",
    columns=("MODEL", "STATE", "BACKEND", "INSTANCES", "TASKS", "SIZE", "LABELS"),
    things=lambda look: look.models,
    row=_model,
    keys={
        "INSTANCES": lambda model: len(model.instances),
        "TASKS": lambda model: sum(each.running_tasks for each in model.instances),
        "SIZE": lambda model: model.size_bytes,
    },
    gives_way="LABELS",
)
INSTANCES = Pane(
    title="instances",
    columns=("INSTANCE", "LEASE", "MODEL", "STATE", "DEVICE", "RESERVED", "MEASURED", "TASKS"),
    things=lambda look: look.told.instances,
    row=_instance,
    keys={
        "RESERVED": lambda instance: instance.reserved_bytes,
        "MEASURED": lambda instance: instance.memory_bytes,
        "TASKS": lambda instance: instance.running_tasks,
    },
    most=1000,
)
QUEUES = Pane(
    title="queues",
    columns=("TENANT", "CLASS", "WAITING", "RUNNING"),
    things=lambda look: look.told.host.loads,
    row=_load,
    keys={
        "CLASS": lambda load: load.priority,
        "WAITING": lambda load: load.queued_tasks,
        "RUNNING": lambda load: load.running_tasks,
    },
    most=1000,
)
TASKS = Pane(
    title="tasks",
    columns=("TASK", "MODEL", "STATE", "CLASS", "AGE", "ATTEMPT", "INSTANCE", "LEASE"),
    things=lambda look: look.tasks,
    row=_task,
    keys={"CLASS": lambda task: task.priority, "AGE": _age_s, "ATTEMPT": lambda task: task.attempt},
)
LEASES = Pane(
    title="leases",
    columns=leases.COLUMNS,
    things=lambda look: look.leases,
    row=leases.row,
    keys={
        "CLASS": lambda lease: lease.spec.priority,
        "LEFT": lambda lease: lease.remaining.ToNanoseconds(),
        "TASKS": lambda lease: lease.tasks,
    },
    gives_way="WAITS FOR",
)
QUOTAS = Pane(
    title="quotas",
    columns=quotas.USE_COLUMNS,
    things=lambda look: look.quotas,
    row=quotas.use_row,
    keys={head: attrgetter(name) for name, head in quotas.MEASURES.items()},
    most=10,
)

PANES: Final = (DEVICES, HOSTS, MODELS, INSTANCES, QUEUES, TASKS, LEASES, QUOTAS)
"""In the order of their numbers, from 1."""
