"""What the devices of a host have to give, and what others than workers hold of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.resources import DeviceCapacity


class Devices(Protocol):
    """The devices of a host."""

    async def devices(self) -> Sequence[DeviceCapacity]:
        """What may be given of each, now."""

    async def measure(self, pids: Callable[[], set[int]], tell: Callable[[wire.DeviceUsed], None]) -> None:
        """Tell what others hold of each beyond what they do now, when it has changed, until this is cancelled."""


class Metering:
    """What is told of the devices, from one kernel to the next as long as workers hold something of them.

    One writer: the agent.

    Args:
        found: The devices.
        pids: The processes of workers.
        tell: Tells the kernel.

    Attributes:
        devices: What they have to give.
    """

    def __init__(
        self, found: Devices, pids: Callable[[], set[int]], tell: Callable[[wire.ControlReport], None]
    ) -> None:
        self.devices: list[wire.DeviceFacts] = []
        self._found = found
        self._pids = pids
        self._tell = tell
        self._used: dict[str, wire.DeviceUsed] = {}  # as it was told last, by device
        self._metering: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """See what the devices have to give, none of which workers hold now."""
        self.end()
        self._used = {}
        self.devices = [
            wire.DeviceFacts(device_id=each.device_id, memory_bytes=each.memory_bytes, cores=each.cores)
            for each in await self._found.devices()
        ]

    def begin(self) -> None:
        """Tell a kernel what others hold of them: what is known, and from now on what changes."""
        for used in self._used.values():
            self._tell(wire.ControlReport(used=used))
        if self._metering is None:
            self._metering = asyncio.create_task(self._found.measure(self._pids, self._note), name="device meter")

    def end(self) -> None:
        """Tell nothing more."""
        if self._metering is not None:
            self._metering.cancel()
            self._metering = None

    def _note(self, used: wire.DeviceUsed) -> None:
        self._used[used.device_id] = used
        self._tell(wire.ControlReport(used=used))
