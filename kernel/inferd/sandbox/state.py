"""What a sandbox is to be, and what it has become."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

THREADS: Final = 4096
"""Most threads and processes of a worker and of what works beside it."""


class SandboxLevel(Enum):
    """How much of a sandbox there is; the values are those of `inferd.v1.SandboxLevel`."""

    FULL = 1
    PARTIAL = 2
    OFF = 3


@dataclass(frozen=True, slots=True)
class State:
    """What has become of a sandbox.

    Attributes:
        level: How much of it there is.
        reasons: What is lacking and why, a clause each; empty where it is full.
    """

    level: SandboxLevel
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people: `full`, `partial(why; why)` or `off(why)`."""
        why = "; ".join(self.reasons)
        return f"{self.level.name.lower()}({why})" if why else self.level.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a process with a model reaches of its host, besides Python, libraries, its model and its scratch.

    Attributes:
        devices: Device files that it uses, as patterns of a shell, for example "/dev/nvidia*".
        reads: Files and folders that it reads.
        writes: Those that it writes.
        network: Whether it uses the network. Then its sandbox is never full.
        programs: Whether it starts programs. Likewise.
        compilers: Whether it does so where it computes on another device than the host's processor. Likewise, there.
        listens: Whether others reach it by the network that it uses.
    """

    devices: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    network: bool = False
    programs: bool = False
    compilers: bool = False
    listens: bool = False


NOTHING: Final = Access()


def read_access(written: Mapping[str, Any]) -> Access:
    """What `dataclasses.asdict` has made of one, once it was JSON."""
    devices, reads, writes = (tuple(map(str, written[name])) for name in ("devices", "reads", "writes"))
    allowed = {name: bool(written.get(name)) for name in ("network", "programs", "compilers", "listens")}
    return Access(devices=devices, reads=reads, writes=writes, **allowed)


NVIDIA: Final = Access(devices=("/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/dxg"))
"""Of what computes on devices of NVIDIA; the last one is that of Windows' subsystem for Linux."""


LIBRARY_BYTES: Final = 2 << 30
"""What a framework takes before anything is loaded, and some files in memory."""


def group_bytes(memory_bytes: int, machine_bytes: int) -> int:
    """What all memory of a worker may be, libraries and files in memory as well: the machine keeps some in any case.

    Args:
        memory_bytes: What it may take of its own once it is sealed; 0 for as much as the machine has.
        machine_bytes: That.
    """
    most = machine_bytes - machine_bytes // 16
    return min(most, memory_bytes + LIBRARY_BYTES) if memory_bytes else most


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a process with a model is to reach. Paths that are not there are passed over.

    Attributes:
        reads: Files and folders that it reads: its model, what its settings name.
        writes: Folders that it writes to, its scratch first.
        shares: Folders in which it makes files for others, and opens those that it knows the names of.
        devices: Device files that it uses.
        network: Whether its backend asks for the network.
        listens: Whether others reach it there.
        loopback: Whether it and its children reach each other through a network that has nothing else.
        programs: Whether it asks to start programs.
        memory_bytes: Most memory of its own beyond what it has when it is sealed; 0 for no bound.
        threads: Most threads and processes.
        file_bytes: Most bytes of a file that it writes; 0 for no bound.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    network: bool = False
    listens: bool = False
    loopback: bool = False
    programs: bool = False
    memory_bytes: int = 0
    threads: int = THREADS
    file_bytes: int = 0
