"""What a store would hold that is told of each change, and nothing else."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rules import BrokenRuleError, Rule

from inferd.core import changes, commands
from inferd.core.host import HOST_TABLE, HostState
from inferd.core.lease import LEASE_TABLE, LeaseState
from inferd.core.lifecycle import Table
from inferd.core.machine import KernelMachine
from inferd.core.model import INSTANCE_TABLE, InstanceState
from inferd.core.task import TASK_TABLE, TaskState
from inferd.core.version import VERSION_TABLE, VersionState


@dataclass(slots=True)
class Shelf:
    """The states of the records of one kind, as they were told."""

    table: Table[Any, Any]
    first: Enum
    states: dict[Hashable, Enum] = field(default_factory=dict)

    def take(self, key: Hashable, change: Enum | None, state: Enum) -> None:
        """A record has come to a state, by a change or in none."""
        before = self.states.get(key)
        goes_on = before if before is None or change is None else self.table[before].get(change)
        expected = self.first if before is None else goes_on
        if expected is not state:
            was = "new" if before is None else before.name
            raise BrokenRuleError(Rule.TOLD, f"{key}, {was}, is told to be {state.name} after {change}")
        self.states[key] = state

    def forget(self, key: Hashable) -> None:
        """A record is known no longer."""
        if self.states.pop(key, None) is None:
            raise BrokenRuleError(Rule.TOLD, f"{key} is told to be forgotten, and never was")

    def check(self, known: Mapping[Any, Any]) -> None:
        """What was told of all records is so."""
        wrong = {key: record.state for key, record in known.items() if self.states.get(key) is not record.state}
        if wrong or len(self.states) != len(known):
            text = (
                f"{len(known)} are known and {len(self.states)} were told of, of {[*wrong.items()][:3]} another state"
            )
            raise BrokenRuleError(Rule.TOLD, text)


@dataclass(slots=True)
class ChangeBook:
    """All that was told. One writer: the mirror."""

    tasks: Shelf = field(default_factory=lambda: Shelf(TASK_TABLE, TaskState.QUEUED))
    leases: Shelf = field(default_factory=lambda: Shelf(LEASE_TABLE, LeaseState.PENDING))
    instances: Shelf = field(default_factory=lambda: Shelf(INSTANCE_TABLE, InstanceState.STARTING))
    hosts: Shelf = field(default_factory=lambda: Shelf(HOST_TABLE, HostState.JOINING))
    versions: Shelf = field(default_factory=lambda: Shelf(VERSION_TABLE, VersionState.ROLLING))
    _models: set[str] = field(default_factory=set)
    _told: list[commands.Reply] = field(default_factory=list)

    def take(self, reply: commands.Reply) -> None:
        """The machine has said something; looked at when all that it said is known."""
        self._told.append(reply)

    def check(self) -> None:
        """What was told with the last event follows from what was told before."""
        for reply in self._told:
            self._book(reply)
        self._told.clear()

    def _book(self, reply: commands.Reply) -> None:  # noqa: C901, PLR0912 - a table: a row for each
        match reply:
            case changes.TaskAccepted():
                self.tasks.take(reply.spec.task_id, None, TaskState.QUEUED)
            case changes.TaskChanged():
                self.tasks.take(reply.task_id, reply.change, reply.state)
            case changes.TaskForgotten():
                self.tasks.forget(reply.task_id)
            case changes.LeaseChanged():
                self.leases.take(reply.lease_id, reply.change, reply.state)
            case changes.LeaseForgotten():
                self.leases.forget(reply.lease_id)
            case changes.ModelChanged() if reply.name not in self._models:
                self._models.add(reply.name)
                self.versions.states[reply.name, 1] = VersionState.SERVING
            case changes.VersionChanged():
                self.versions.take((reply.name, reply.number), reply.change, reply.state)
            case changes.VersionForgotten():
                self.versions.forget((reply.name, reply.number))
            case changes.InstanceChanged():
                self.instances.take(reply.instance_id, reply.change, reply.state)
            case changes.InstanceForgotten():
                self.instances.forget(reply.instance_id)
            case changes.HostChanged():
                self.hosts.take(reply.host_id, reply.change, reply.state)
            case changes.HostForgotten():
                self.hosts.forget(reply.host_id)
            case _:
                pass

    def check_over(self, machine: KernelMachine) -> None:
        """Everything that is so was told, and is as it was told."""
        self.tasks.check(machine.tasks.known)
        self.leases.check(machine.leases.known)
        self.instances.check(machine.fleet.instances)
        self.hosts.check(machine.hosts.known)
        models = machine.fleet.models.items()
        self.versions.check({(name, n): each for name, model in models for n, each in model.versions.items()})
