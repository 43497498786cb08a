"""What there is when Prometheus reads: read of the kernel's records then, and not counted before.

Read in the thread of the scrape: copies of what the event loop changes.
"""

from __future__ import annotations

import resource
from collections import Counter
from typing import TYPE_CHECKING

import psutil

from inferd import __version__
from inferd.core.lease import LIVING
from inferd.core.model import InstanceState
from inferd.runtime.telemetry import table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from inferd.core.ids import InstanceId
    from inferd.core.machine import KernelMachine
    from inferd.core.model import Instance
    from inferd.runtime.store_state import StoreState
    from inferd.runtime.telemetry.figures import Gauges
    from inferd.runtime.telemetry.names import Names
    from inferd.runtime.telemetry.otlp import Exporter


class Present:
    """What the core has.

    Args:
        machine: It.
        names: Which models are told by name.
        kv_tokens: Tokens of the KV pool that an instance held when it last computed.
        devices: Most devices that are told by name.
    """

    def __init__(
        self, machine: KernelMachine, names: Names, kv_tokens: Mapping[InstanceId, int], *, devices: int
    ) -> None:
        self._machine = machine
        self._names = names
        self._kv_tokens = kv_tokens
        self._devices = devices

    def read(self) -> Gauges:
        """Its figures."""
        census = self._machine.tasks.census.all
        yield (
            table.TASKS,
            {
                ("queued",): census.queued,
                ("running",): census.running,
                ("suspended",): census.suspended,
            },
        )
        yield from self._instances()
        yield table.DEVICE_BYTES, self._memory()
        states = Counter(host.state.name.lower() for host in [*self._machine.hosts.known.values()])
        yield table.HOSTS, {(state,): count for state, count in states.items()}
        leases = Counter(lease.state for lease in [*self._machine.leases.known.values()])
        yield table.LEASES, {(state.name.lower(),): leases[state] for state in LIVING}

    def _instances(self) -> Gauges:
        states, capacity, used = Counter[tuple[str, ...]](), Counter[str](), Counter[str]()
        for name, model in [*self._machine.fleet.models.items()]:
            label = self._names.find(name)
            for instance in [*model.instances.values()]:
                states[label, instance.state.name.lower()] += 1
                if (facts := instance.facts) is not None and instance.state is InstanceState.READY and facts.kv_tokens:
                    capacity[label] += facts.kv_tokens
                    used[label] += self._held(instance)
        yield table.INSTANCES, states
        yield table.KV_CAPACITY, {(label,): tokens for label, tokens in capacity.items()}
        yield table.KV_USED, {(label,): used[label] for label in capacity}

    def _held(self, instance: Instance) -> int:
        """A step tells what is held; that of tasks which were dropped since, all of them, is free."""
        return self._kv_tokens.get(instance.instance_id, 0) if instance.running else 0

    def _memory(self) -> Mapping[tuple[str, ...], float]:
        held = Counter[tuple[str, ...]]()
        for place, (device_id, account) in enumerate([*self._machine.broker.devices.items()]):
            label = device_id if place < self._devices else table.OTHER
            held[label, "capacity"] += account.capacity_bytes
            held[label, "instances"] += account.instance_bytes
            held[label, "leases"] += account.lease_bytes
        return held


def of_store(state: StoreState) -> Gauges:
    """Whether what is to be kept can be."""
    yield table.STORE_WRITES, {(): int(state.writes)}
    yield table.STORE_FAILURES, {(): state.failures}


def of_calls(ended: Mapping[tuple[str, str], int]) -> Gauges:
    """How the calls of clients ended; their methods and reasons are those that there are."""
    yield (
        table.CALLS,
        {(method.rpartition("inferd.v1.")[2], reason): count for (method, reason), count in [*ended.items()]},
    )


def of_traces(exporter: Exporter) -> Gauges:
    """What has become of traces."""
    yield table.SPANS_SENT, {(): exporter.sent}
    yield table.SPANS_DROPPED, {(): exporter.dropped}


def of_kernels(others: Callable[[], Collection[object]], *, epoch: int = 0) -> Gauges:
    """Whether this kernel leads, and how many others have its store.

    Args:
        others: Those.
        epoch: That it leads; 0 where it stands by.
    """
    yield table.LEADS, {(): int(epoch > 0)}
    yield table.EPOCH, {(): epoch}
    yield table.OTHER_KERNELS, {(): len(others())}


class OfProcess:
    """What this process takes, by the names that all have."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._began = self._process.create_time()

    def read(self) -> Gauges:
        """Its figures."""
        process = self._process
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
        yield table.BUILD, {(__version__,): 1}
        yield table.CPU, {(): times.user + times.system}
        yield table.RESIDENT, {(): memory.rss}
        yield table.VIRTUAL, {(): memory.vms}
        yield table.OPEN_FDS, {(): process.num_fds()}
        yield table.MAX_FDS, {(): resource.getrlimit(resource.RLIMIT_NOFILE)[0]}
        yield table.BEGAN, {(): self._began}
