"""How workers are started, on whatever host: what a launcher gives, and what it tells."""

from collections.abc import Sequence
from typing import Protocol

from inferd.core.ids import HostId, InstanceId
from inferd.errors import InvalidFieldError
from inferd.runtime.link import OnClosed, OnFrame
from inferd.shared import Memory
from inferd_api.worker.v1 import worker_pb2 as wire


class WorkerLink(Protocol):
    """A worker that was started: frames to it, and its certain end. One user: its `Worker`."""

    @property
    def pid(self) -> int:
        """Its process id on its host."""

    def send(self, frame: wire.KernelFrame, memories: Sequence[Memory] = ()) -> None:
        """Send a frame and the memories that it speaks of; lost when the worker is gone."""

    async def resident_bytes(self) -> int:
        """Its resident memory, as far as that is known; 0 when it is gone."""

    async def tail(self) -> str:
        """What its log says last, as a clause behind why it ended; "" when it says nothing."""

    async def end(self, *, went: bool, hangs: bool) -> str:
        """Have nothing left of it, or of what it started, whatever happens meanwhile.

        Args:
            went: It has closed its end, and is about to be gone by itself.
            hangs: It is to write where it is into its log, if it still can.

        Returns:
            How its process ended, in words; "" when it ended in order.
        """


class Launcher(Protocol):
    """Starts workers on one host."""

    def log_of(self, instance_id: InstanceId) -> str:
        """Where the log of an instance's worker is, for people."""

    def silent_s(self) -> float | None:
        """Since when nothing was heard of the host, in seconds; None where that has no meaning."""

    async def read_log(self, instance_id: InstanceId, offset_bytes: int, most_bytes: int) -> tuple[bytes, int]:
        """A part of the log of an instance's worker, also of one that has ended, and how large the log is now.

        Args:
            instance_id: The instance.
            offset_bytes: Where the part begins; below 0 so many bytes before the end.
            most_bytes: How large it is at most.

        Raises:
            InvalidFieldError: There is no such log, or none that can be read from here.
        """

    async def launch(
        self,
        instance_id: InstanceId,
        *,
        on_frame: OnFrame,
        on_closed: OnClosed,
    ) -> WorkerLink:
        """Start a worker. Whoever asked for it and is cancelled meanwhile leaves nothing behind.

        Args:
            instance_id: The instance that it is to hold.
            on_frame: Called with each frame of it, in order, and its memories; not before the worker is given back.
            on_closed: Called once, after the last frame, with why no other one comes.

        Raises:
            OSError: It could not be started.
        """

    def adopter(self, held_id: int) -> "Adopter":
        """Who gives a worker that the host has kept as one that was started; nothing is asked of the host yet.

        Args:
            held_id: As the host calls it.
        """


class Adopter(Launcher, Protocol):
    """Gives one worker that has loaded its model already."""

    @property
    def first_handle(self) -> int:
        """The first handle of tasks that it was not given before: it may still speak of lower ones."""


def no_log(instance_id: InstanceId, why: str) -> InvalidFieldError:
    """Why a log cannot be read."""
    return InvalidFieldError(f"the log of instance {instance_id[:80]!r} cannot be read: {why}", field="instance_id")


class NoLauncher:
    """Stands for a host where nobody starts workers."""

    def __init__(self, host_id: HostId) -> None:
        self._host_id = host_id

    def log_of(self, _: InstanceId) -> str:
        """There is none."""
        return ""

    def silent_s(self) -> float | None:
        """Nothing is known of it."""
        return None

    async def read_log(self, instance_id: InstanceId, offset_bytes: int, most_bytes: int) -> tuple[bytes, int]:  # noqa: ARG002 - the interface
        """There is none."""
        raise no_log(instance_id, f"host {self._host_id!r} is not attached")

    async def launch(
        self,
        instance_id: InstanceId,
        *,
        on_frame: OnFrame,  # noqa: ARG002 - the interface
        on_closed: OnClosed,  # noqa: ARG002 - the interface
    ) -> WorkerLink:
        """It never starts."""
        raise OSError(f"nobody starts workers on host {self._host_id!r}, where {instance_id!r} was to be")

    first_handle = 1

    def adopter(self, held_id: int) -> Adopter:  # noqa: ARG002 - the interface
        """There is none to be adopted."""
        return self
