"""The hosts whose agents are attached, and which of them are lost."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Protocol

import structlog

from inferd import __version__
from inferd.core import events
from inferd.core.host import check_facts, check_host_id, device_on
from inferd.errors import InvalidFieldError, LimitExceededError, PermissionDeniedError
from inferd.runtime.devices import TOLD_STEP_BYTES
from inferd.runtime.far.host import Facts, FarHost
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.core.accounts import Account
    from inferd.core.host import Host
    from inferd.core.ids import DeviceId, HostId
    from inferd.core.resources import DeviceCapacity
    from inferd.host_settings import Hosts as Settings
    from inferd.runtime.launcher import Launcher
    from inferd_api.worker.v1 import sandbox_pb2

LOOKS = 8  # at who is silent, in the time after which a host is lost
PARCEL_BYTES = 1 << 20
MESSAGE_MARGIN_BYTES = 16 << 10  # by which a message can be larger than what its parcels carry

log = structlog.get_logger()


class Teller(Protocol):
    """Who is told of hosts: the driver."""

    def tell_host(self, event: events.HostEvent) -> None:
        """Something happens to a host."""

    def check_open(self) -> None:
        """Refuse what comes too late."""

    def measure_foreign(self, device_id: DeviceId, foreign_bytes: int) -> None:
        """Programs that the kernel does not know hold so much of a device."""


def link_bounds(
    settings: Settings, *, message_bytes: int, frame_bytes: int, sandbox: sandbox_pb2.SandboxLimits
) -> wire.LinkBounds:
    """The bounds of the link to an agent, by the configuration."""
    parcel_bytes = max(512, min(PARCEL_BYTES, settings.window_bytes, message_bytes - MESSAGE_MARGIN_BYTES))
    return wire.LinkBounds(
        beat_s=settings.beat_s,
        detection_s=settings.detection_s,
        grace_s=settings.grace_s,
        parcel_bytes=parcel_bytes,
        window_bytes=settings.window_bytes,
        held_bytes=settings.held_bytes,
        frame_bytes=frame_bytes,
        memory_bytes=settings.memory_bytes,
        sandbox=sandbox,
    )


class FarHosts:
    """Attaches agents, and says which hosts are lost. One writer: itself, on the loop of the kernel.

    Args:
        settings: Bounds and times.
        bounds: Of links.
        teller: Is told of hosts.
        launchers: Where it puts who starts workers on a host.
        known: The hosts that the core knows.
        accounts: Of their devices.
        epoch: That of this kernel, which rises from one to the next; 0 where it does not.

    Attributes:
        kernel: Names this life of the kernel.
        kernel_epoch: See `epoch`.
        attached: Hosts whose agents are not lost, by name.
        answer_s: How long what agents are to say is waited for.
    """

    def __init__(
        self,
        settings: Settings,
        bounds: wire.LinkBounds,
        *,
        teller: Teller,
        launchers: dict[HostId, Launcher],
        known: Mapping[HostId, Host],
        accounts: Mapping[DeviceId, Account],
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.kernel = secrets.randbits(63) | 1
        self.attached: dict[HostId, FarHost] = {}
        self.answer_s = settings.answer_s
        self._settings = settings
        self._bounds = bounds
        self._teller = teller
        self._launchers = launchers
        self._known = known
        self._accounts = accounts
        self.kernel_epoch = epoch
        self._epoch = 0
        self._looked_at = 0.0
        self._owners: dict[HostId, str] = {}

    def attach(self, facts: Facts, *, incarnation: int, kernel: int, epoch: int, principal: str) -> FarHost:
        """An agent comes, or comes back; the host, which goes on where it was if it may.

        Args:
            facts: What it says of its host.
            incarnation: Names its process.
            kernel: Names the kernel to which it was attached.
            epoch: In which it was.
            principal: Who attaches it.

        Raises:
            InvalidFieldError: Another agent of this name is attached, or its version is another one.
            PermissionDeniedError: The name is of somebody else.
            LimitExceededError: There are as many hosts as may be.
            ShuttingDownError: The kernel is shutting down.
        """
        self._teller.check_open()
        self._check(facts, principal)
        host = self.attached.get(facts.name)
        if host is not None and (host.incarnation, host.epoch, self.kernel) == (incarnation, epoch, kernel):
            return host
        if host is not None and host.incarnation == incarnation:  # it has heard nothing of the time that began
            self.lose(host, "its agent begins anew")
        elif host is not None:
            silent_s = asyncio.get_running_loop().time() - host.control.heard_at
            raise InvalidFieldError(
                f"host {facts.name!r} has an agent, which was heard {silent_s:.1f} s ago; end that one, or give this "
                f"one another name (--name). After {self._settings.detection_s:g} s of silence "
                "(hosts.detection_s) it would be taken for lost, and the name be free",
                field="facts.name",
                retry_after_s=self._settings.detection_s,
            )
        return self._begin(facts, incarnation, principal)

    def _check(self, facts: Facts, principal: str) -> None:
        if facts.told.version != __version__:
            raise InvalidFieldError(
                f"the agent is of version {facts.told.version[:40]}, the kernel of {__version__}; install the same",
                field="facts.version",
            )
        check_host_id(facts.name, "facts.name")
        check_facts(facts.told, 0)
        owner = self._owners.get(facts.name) if facts.name in self._known else None
        if owner is not None and owner != principal:
            raise PermissionDeniedError(
                f"host {facts.name!r} was attached by {owner!r}, not by {principal!r}; name another one (--name)",
                metadata={"principal": principal},
            )
        most = self._settings.most
        if facts.name not in self._known and len(self._known) - 1 >= most:  # the kernel's own is among them
            raise LimitExceededError(
                f"{len(self._known) - 1} other hosts are known and hosts.most is {most}; have some forgotten that are"
                " gone for good, or raise it",
                metadata={"bound": "hosts.most", "value": str(len(self._known) - 1), "limit": str(most)},
            )

    def _begin(self, facts: Facts, incarnation: int, principal: str) -> FarHost:
        self._epoch += 1
        host = self.attached[facts.name] = FarHost(
            facts,
            incarnation=incarnation,
            epoch=self._epoch,
            principal=principal,
            bounds=self._bounds,
            answer_s=self.answer_s,
            owner=self,
        )
        self._owners = {name: who for name, who in self._owners.items() if name in self._known}
        self._owners[facts.name] = principal
        log.info("an agent is attached", host=facts.name, principal=principal, epoch=host.epoch)
        self._teller.tell_host(events.HostFound(facts.name))
        return host

    def find(self, name: HostId, *, incarnation: int, epoch: int, principal: str) -> FarHost:
        """The host of a stream of frames.

        Raises:
            InvalidFieldError: It has begun anew since, or is lost.
        """
        host = self.attached.get(name)
        if host is None or (host.incarnation, host.epoch, host.principal) != (incarnation, epoch, principal):
            raise InvalidFieldError(f"host {name!r} is not attached in epoch {epoch} any more", field="epoch")
        return host

    # As the owner of hosts.

    def ready(self, host: FarHost, devices: tuple[DeviceCapacity, ...]) -> None:
        """A host takes workers."""
        if self.attached.get(host.name) is host:
            self._launchers[host.name] = host
            self._teller.tell_host(events.HostJoined(devices, host_id=host.name, facts=host.facts.told))

    def lose(self, host: FarHost, why: str) -> None:
        """A host is lost: first the core hears of it, so that nobody is suspected of what ends with it."""
        if self.attached.get(host.name) is not host:
            return
        del self.attached[host.name]
        self._launchers.pop(host.name, None)
        log.warning("a host is lost", host=host.name, why=why)
        self._teller.tell_host(events.HostLost(host.name, why))
        host.lost(why)

    def used(self, host: FarHost, device_id: DeviceId) -> None:
        """What others hold of a device, less what leases give to programs, and workers where it does not tell them."""
        account = self._accounts.get(name := device_on(host.name, device_id))
        if account is None or self.attached.get(host.name) is not host:
            return
        said = host.used[device_id]
        known_bytes = account.lease_bytes - account.drawn_bytes
        if said.with_workers:
            known_bytes += account.instance_bytes + account.drawn_bytes
        foreign_bytes, told_bytes = max(0, said.held_bytes - known_bytes), host.told.get(device_id, 0)
        if abs(foreign_bytes - told_bytes) >= TOLD_STEP_BYTES or (told_bytes and not foreign_bytes):
            host.told[device_id] = foreign_bytes
            self._teller.measure_foreign(name, foreign_bytes)

    async def run(self) -> None:
        """Look for silent hosts, until it is cancelled; then no host is attached any more."""
        loop = asyncio.get_running_loop()
        self._looked_at = loop.time()
        try:
            while True:
                await asyncio.sleep(self._settings.detection_s / LOOKS)
                self.look(loop.time())
        finally:
            for host in tuple(self.attached.values()):
                host.lost("the kernel ends")

    def look(self, now: float) -> None:
        """Lose silent hosts. A kernel that was stopped, or was busy, has heard nobody: all are given the time anew.

        Args:
            now: On the clock of the loop.
        """
        limit_s = self._settings.detection_s
        gap_s, self._looked_at = now - self._looked_at, now
        for host in tuple(self.attached.values()):
            if host.name not in self._known:
                self.lose(host, "an operator has removed it")
                continue
            for device_id in host.used:  # leases come and go without a word of the host
                self.used(host, device_id)
            if gap_s > limit_s / 2:
                host.control.heard_at = now
            if (silent_s := now - host.control.heard_at) > limit_s:
                self.lose(
                    host,
                    f"nothing was heard of its agent for {silent_s:.1f} s, longer than the {limit_s:g} s that it may be"
                    " silent (hosts.detection_s)",
                )
