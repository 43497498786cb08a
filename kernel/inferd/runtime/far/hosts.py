"""The hosts whose agents are attached, and which of them are lost."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from inferd.core import events
from inferd.core.host import UNSEEN, check_facts, check_host_id, device_on
from inferd.core.host_events import AdoptWorkers, AwaitHosts, HeldWorker, HostHolds
from inferd.errors import InvalidFieldError, LimitExceededError, PermissionDeniedError
from inferd.runtime.devices import TOLD_STEP_BYTES
from inferd.runtime.far.host import Facts, FarHost
from inferd.runtime.far.pace import Pace
from inferd.runtime.far.peers import Peers
from inferd.skew import skew_words, works_with
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.core.accounts import Account
    from inferd.core.host import Host
    from inferd.core.ids import DeviceId, HostId
    from inferd.core.resources import DeviceCapacity
    from inferd.host_settings import Hosts as Settings
    from inferd.runtime.far.adopting import Held
    from inferd.runtime.far.identities import Identities
    from inferd.runtime.launcher import Launcher
    from inferd_api.worker.v1 import sandbox_pb2

LOOKS = 8  # at who is silent, in the time after which a host is lost
PARCEL_BYTES = 1 << 20
WINDOW_PARCELS = 2  # that a window has room for at least: else each is acknowledged alone before the next one goes
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
    parcel_bytes = max(
        512, min(settings.window_bytes // WINDOW_PARCELS, message_bytes - MESSAGE_MARGIN_BYTES, PARCEL_BYTES)
    )
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
        identities: Says what workers are; None for a kernel whose workers do not outlive it.

    Attributes:
        kernel: Names this life of the kernel.
        kernel_epoch: See `epoch`.
        attached: Hosts whose agents are not lost, by name.
        answer_s: How long what agents are to say is waited for.
        peers: Which of them give files to which others.
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
        identities: Identities | None = None,
    ) -> None:
        self._identities = identities
        self._deciding: set[asyncio.Task[None]] = set()
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
        self.peers = Peers(settings.gives)
        self._pace = Pace(settings.gather_s)
        self._epoch = 0
        self._looked_at = 0.0
        self._returns: asyncio.TimerHandle | None = None
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
        if not works_with(facts.told.version):
            raise InvalidFieldError(skew_words("the agent", facts.told.version), field="facts.version")
        check_host_id(facts.name, "facts.name")
        check_facts(facts.told, 0)
        owner = self._owners.get(facts.name) if facts.name in self._known else None
        if owner is not None and owner != principal:
            raise PermissionDeniedError(
                f"host {facts.name!r} was attached by {owner!r}, not by {principal!r}; name another one (--name)",
                metadata={"principal": principal},
            )
        most, known = self._settings.most, self._known.get(facts.name)
        if known is not None and known.why != UNSEEN:
            return
        others = sum(host.why != UNSEEN for host in self._known.values()) - 1  # the kernel's own is among them
        if others >= most:
            raise LimitExceededError(
                f"{others} other hosts are known and hosts.most is {most}; have some forgotten that are"
                " gone for good, or raise it",
                metadata={"bound": "hosts.most", "value": str(others), "limit": str(most)},
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
            identities=self._identities,
            pace=self._pace,
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
            facts = replace(host.facts.told, holds=host.holds)
            self._teller.tell_host(events.HostJoined(devices, host_id=host.name, facts=facts))

    def held(self, host: FarHost, held: Held) -> None:
        """A host has kept workers: the core says which of them it goes on with, once their files were looked at."""
        deciding = asyncio.create_task(self._decide(host, held), name=f"kept workers of {host.name}")
        self._deciding.add(deciding)
        deciding.add_done_callback(self._deciding.discard)

    async def _decide(self, host: FarHost, held: Held) -> None:
        workers: tuple[HeldWorker, ...] = ()
        identities, packages = self._identities, host.facts.packages
        if identities is not None:
            changed = await asyncio.to_thread(identities.changed, held.models)
            workers = tuple(held.workers(changed, lambda told, on: identities.differs(told, on, packages)))
        if self.attached.get(host.name) is host and not host.gone:
            self._launchers[host.name] = host
            try:
                self._teller.tell_host(AdoptWorkers(host.name, held.devices, host.facts.told, workers))
            except InvalidFieldError as error:
                self.lose(host, error.message)
            host.keep()

    def leave(self) -> None:
        """The kernel ends: workers of other hosts stay, for the next one, as long as their agents keep them."""
        for host in tuple(self.attached.values()):
            host.lost("the kernel ends")

    def lose(self, host: FarHost, why: str) -> None:
        """A host is lost: first the core hears of it, so that nobody is suspected of what ends with it."""
        if self.attached.get(host.name) is not host:
            return
        del self.attached[host.name]
        self._launchers.pop(host.name, None)
        self.peers.lost(host)
        log.warning("a host is lost", host=host.name, why=why)
        self._teller.tell_host(events.HostLost(host.name, why))
        host.lost(why)

    def has_files(self, host: FarHost, before: frozenset[str], *, grown: bool) -> None:
        """A host can give other models than before."""
        if self.attached.get(host.name) is host:
            self.peers.held(host, before, host.gives, grown=grown)

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
        self._expect()
        try:
            while True:
                await asyncio.sleep(self._settings.detection_s / LOOKS)
                self.look(loop.time())
        finally:
            if self._returns is not None:
                self._returns.cancel()
            self.leave()

    def remove(self, name: HostId) -> None:
        """A host is to be known no longer; if its agent runs, it comes again at once: what needs it waits for that."""
        if name in self.attached:
            self._expect()

    def _expect(self) -> None:
        """What needs a host of before waits for `hosts.return_s`."""
        if self._returns is not None:
            self._returns.cancel()
        self._await(waits=True)
        loop = asyncio.get_running_loop()
        self._returns = loop.call_later(self._settings.return_s, lambda: self._await(waits=False))

    def _await(self, *, waits: bool) -> None:
        """Agents of a kernel before this one may come at any moment, or had time enough."""
        self._teller.tell_host(AwaitHosts(waits=waits))

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
            if host.devices and host.holds != self._known[host.name].facts.holds:
                self._teller.tell_host(HostHolds(host.name, host.holds or frozenset()))
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
