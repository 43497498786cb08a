"""What tenants use of quotas, reckoned from events and commands alone, with every task that was made in mind."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from rules import BrokenRuleError, Rule

from inferd.core import changes, commands
from inferd.core.ids import InstanceId, LeaseId, TaskId, Tenant
from inferd.core.lease import LEASE_TABLE, LeaseSpec, MemoryClaim, ModelClaim
from inferd.core.lifecycle import terminal
from inferd.core.machine import KernelMachine
from inferd.core.quota import Quota
from inferd.core.task import TaskSpec, TaskState

MINUTE_S = 60.0


@dataclass(slots=True)
class Made:
    """A task that was made; `tokens` is the least that it counts for."""

    spec: TaskSpec
    at: float
    tokens: float
    living: bool = True
    sent: bool = False


@dataclass(slots=True)
class Shared:
    """An instance: its tasks with their parts of its time, and up to when."""

    at: float
    parts: dict[TaskId, float] = field(default_factory=dict)

    def turn(self, now: float) -> None:
        for task_id in self.parts:
            self.parts[task_id] += (now - self.at) / len(self.parts)
        self.at = now


class QuotaBook:
    """All that quotas count. One writer: the mirror."""

    def __init__(self, quotas: Sequence[Quota]) -> None:
        self._quotas = quotas
        self._made: dict[TaskId, Made] = {}
        self._instances: dict[InstanceId, Shared] = {}
        self._homes: dict[TaskId, InstanceId] = {}
        self._device_s = Counter[tuple[Tenant, str]]()
        self._before = Counter[tuple[Tenant, str]]()  # with the last event
        self._leases: dict[LeaseId, LeaseSpec] = {}
        self._new: list[TaskSpec | LeaseSpec] = []

    def submitted(self, spec: TaskSpec, now: float) -> None:
        if self._quotas:
            self._made[spec.task_id] = Made(spec, now, spec.demand.prompt_tokens)
            self._new.append(spec)

    def claimed(self, spec: LeaseSpec) -> None:
        if self._quotas:
            self._leases[spec.lease_id] = spec
            self._new.append(spec)

    def take(self, reply: commands.Reply, now: float) -> None:
        """The machine has asked for something, or told of it."""
        match reply:
            case commands.SendTask() if self._quotas:
                shared = self._instances.setdefault(reply.instance_id, Shared(now))
                shared.turn(now)
                shared.parts[reply.spec.task_id] = 0.0
                self._homes[reply.spec.task_id] = reply.instance_id
                self._made[reply.spec.task_id].sent = True
            case changes.TaskChanged() if reply.task_id in self._made and reply.state is not TaskState.RUNNING:
                self._left(reply, now)
            case changes.LeaseChanged() if terminal(LEASE_TABLE, reply.state):
                self._leases.pop(reply.lease_id, None)
            case _:
                pass

    def _left(self, change: changes.TaskChanged, now: float) -> None:
        made = self._made[change.task_id]
        if (instance_id := self._homes.pop(change.task_id, None)) is not None:
            shared = self._instances[instance_id]
            shared.turn(now)
            self._device_s[made.spec.tenant, made.spec.model] += shared.parts.pop(change.task_id)
        if change.end is not None:
            usage = change.end.outcome.usage
            told = usage.prompt_tokens + usage.output_tokens
            made.living = False
            made.tokens = told or (made.tokens if made.sent else 0)

    def check(self, now: float) -> None:
        """What was allowed with this event is within each quota that is about it."""
        for spec in self._new:
            for quota in [quota for quota in self._quotas if fnmatchcase(spec.tenant, quota.tenants)]:
                if isinstance(spec, LeaseSpec):
                    self._check(quota, spec.tenant, now, self._leased(quota, spec.tenant))
                elif fnmatchcase(spec.model, quota.models):
                    self._check(quota, spec.tenant, now, self._used(quota, spec.tenant, now))
        self._new.clear()
        if self._quotas:
            self._before = self._device_s.copy()

    def check_over(self, machine: KernelMachine, now: float) -> None:
        """All has ended: nothing is counted that lives."""
        held = [
            use
            for use in machine.quotas.uses(now)
            if use.tasks or use.input_bytes or use.lease_bytes or use.lease_sequences
        ]
        if held:
            raise BrokenRuleError(Rule.GIVEN_BACK, f"quotas count what has ended: {held[:3]}")

    def _leased(self, quota: Quota, tenant: Tenant) -> dict[str, float]:
        claims = [claim for spec in self._leases.values() if spec.tenant == tenant for claim in spec.claims]
        own = [each for each in claims if isinstance(each, ModelClaim) and fnmatchcase(each.model, quota.models)]
        return {
            "lease_bytes": sum(claim.memory_bytes for claim in claims if isinstance(claim, MemoryClaim)),
            "lease_sequences": sum(claim.sequences for claim in own),
        }

    def _used(self, quota: Quota, tenant: Tenant, now: float) -> dict[str, float]:
        made = [
            each
            for each in self._made.values()
            if each.spec.tenant == tenant and fnmatchcase(each.spec.model, quota.models)
        ]
        last = [each for each in made if each.at > now - MINUTE_S]
        living = [each.spec for each in made if each.living]
        return {
            "requests_per_minute": len(last),
            "tokens_per_minute": sum(each.tokens for each in last),
            "tasks": len(living),
            "input_bytes": sum(spec.demand.memory_bytes for spec in living),
            "device_seconds_per_day": sum(
                seconds
                for (owner, model), seconds in self._before.items()
                if owner == tenant and fnmatchcase(model, quota.models)
            ),
        }

    def _check(self, quota: Quota, tenant: Tenant, now: float, used: dict[str, float]) -> None:
        for name, value in used.items():
            limit = getattr(quota, name)
            if limit is not None and value > limit + 1e-6:
                raise BrokenRuleError(Rule.QUOTA, f"{tenant} has {value} of {limit} {name} of {quota.models} at {now}")
