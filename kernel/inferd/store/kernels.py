"""The kernels that have a store in common: one leads, the others stand by."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEntry:
    """A kernel, as it tells of itself in the store.

    Attributes:
        kernel: Its id, another one each time that a kernel begins.
        host: The name of its host.
        pid: Its process id there.
        version: Of inferd.
        addresses: Where clients reach it; those of files and of the loopback from its host alone.
        epoch: That it leads; 0 for one that stands by.
        age_s: How long ago it told that, as the store's server has it.
    """

    kernel: str
    host: str
    pid: int
    version: str
    addresses: tuple[str, ...]
    epoch: int = 0
    age_s: float = 0.0

    def addresses_for(self, host: str) -> tuple[str, ...]:
        """Where it is reached from a host."""
        return tuple(each for each in self.addresses if host == self.host or not is_local(each))

    def __str__(self) -> str:
        """It, for people."""
        at = f" at {' and '.join(self.addresses)}" if self.addresses else ""
        return f"process {self.pid} on {self.host}{at}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a kernel saw of the others when it told of itself.

    Attributes:
        epoch: The newest that was begun; 0 for none.
        holder: The server's process that has the lock of the store; 0 where nobody has it.
        others: All kernels but this one that have told of themselves of late.
        holder_s: How long ago the kernel that has the lock told of itself; None where it is none that did.
        now: When that was, on the clock of the store's server, in seconds: all ages are of then.
    """

    epoch: int
    holder: int
    others: tuple[KernelEntry, ...] = ()
    holder_s: float | None = None
    now: float = 0.0

    @property
    def leader(self) -> KernelEntry | None:
        """The other one that leads, as far as it has told so."""
        return next((each for each in self.others if self.epoch and each.epoch == self.epoch), None)


class Roll(Protocol):
    """Where kernels tell of themselves. Used by one thread."""

    def sign(self, entry: KernelEntry, *, backend: int = 0) -> Seen:
        """Tell of a kernel, which has the lock by this process of the server; what is seen of the others.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """

    def end_silent(self, entry: KernelEntry, silence_s: float) -> bool:
        """End the epoch of the kernel that has the lock and has told nothing for so long, and its connection.

        Whether there was one. It is another one than who asks.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """

    def check_keys(self) -> None:
        """See that this kernel could open the store, as it is sealed.

        Raises:
            SealError: It could not: its key is another one, or none.
            StoreUnavailableError: The store cannot be reached.
        """

    def leave(self, kernel: str) -> None:
        """Tell no more of a kernel, and let go of the store; whatever comes of it."""


def is_local(address: str) -> bool:
    """Whether only the kernel's own host reaches an address."""
    bare = address.removeprefix("tls:").removeprefix("mtls:")
    host = bare.rpartition(":")[0].strip("[]")
    return address.startswith("unix:") or host in {"localhost", "::1"} or host.startswith("127.")
