"""What leases and loads want, in figures and in lines."""

from collections import Counter
from dataclasses import dataclass, field

from inferd.core.ids import DeviceId, InstanceId, ModelName
from inferd.core.lease import CoresClaim, LeaseSpec, MemoryClaim, ModelClaim
from inferd.core.model import Instance, Model
from inferd.core.resources import size_text
from inferd.errors import NoMemoryError, present

MEMORY, CORES, MODEL = "memory/", "cores/", "model/"


@dataclass(slots=True)
class Lack:
    """What stands between a lease and its grant.

    Attributes:
        blocked: What it can only wait for, in words; "" when nothing.
        elsewhere: Whether it is blocked by something else than memory.
        metadata: The same in figures.
        evict: Idle instances to stop first.
        load: Models to load first.
        holds: The instances that would keep its parts of models.
    """

    blocked: str = ""
    elsewhere: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    evict: list[InstanceId] = field(default_factory=list)
    load: list[Model] = field(default_factory=list)
    holds: list[tuple[ModelClaim, Instance]] = field(default_factory=list)

    @property
    def words(self) -> str:
        """What it waits for; "" when nothing is lacking."""
        if self.blocked:
            return self.blocked
        if self.load:
            return f"model {self.load[0].spec.name!r} to be loaded"
        return f"idle instances to end: {', '.join(self.evict)}" if self.evict else ""


def sums(spec: LeaseSpec) -> tuple[Counter[DeviceId], Counter[DeviceId]]:
    """Memory and cores that a lease claims of each device."""
    memory: Counter[DeviceId] = Counter()
    cores: Counter[DeviceId] = Counter()
    for claim in spec.claims:
        match claim:
            case MemoryClaim():
                memory[claim.device_id] += claim.memory_bytes
            case CoresClaim():
                cores[claim.device_id] += claim.cores
    return memory, cores


def wants_of(spec: LeaseSpec) -> Counter[str]:
    """The lines that a lease stands in, each with what it wants there: bytes, cores, or 1 part of a model."""
    wants: Counter[str] = Counter()
    for claim in spec.claims:
        match claim:
            case MemoryClaim():
                wants[memory_line(claim.device_id)] += claim.memory_bytes
            case CoresClaim():
                wants[cores_line(claim.device_id)] += claim.cores
            case ModelClaim():
                wants[model_line(claim.model)] += 1
    return wants


def lines_of(spec: LeaseSpec) -> tuple[str, ...]:
    """The lines that a lease stands in, each once."""
    return tuple(wants_of(spec))


def device_of(line: str) -> DeviceId:
    """The device of a line for memory or cores."""
    return DeviceId(line.partition("/")[2])


def cores_line(device_id: DeviceId) -> str:
    """The line for the cores of a device."""
    return f"{CORES}{device_id}"


def memory_line(device_id: DeviceId) -> str:
    """The line for the memory of a device."""
    return f"{MEMORY}{device_id}"


def model_line(name: ModelName) -> str:
    """The line for parts of a model."""
    return f"{MODEL}{name}"


def has_room(instance: Instance, claim: ModelClaim) -> bool:
    """Whether an instance could keep a part of its model for one lease more."""
    facts = present(instance.facts)  # it is READY
    sequences = sum(hold.sequences for hold in instance.holds.values())
    kv_tokens = sum(hold.kv_tokens for hold in instance.holds.values())
    fits = sequences + claim.sequences <= facts.max_tasks
    return fits and kv_tokens + claim.kv_tokens <= facts.kv_tokens


def no_memory(instance: Instance, wanted: int, free: int, capacity: int, why: str) -> NoMemoryError:
    """Why an instance gets no memory."""
    figures = {"needed_bytes": wanted, "free_bytes": free, "capacity_bytes": capacity}
    return NoMemoryError(
        f"model {instance.model!r} needs {size_text(wanted)}: {why}; lower its settings, or free memory",
        metadata={"device": instance.device_id, **{name: str(value) for name, value in figures.items()}},
    )
