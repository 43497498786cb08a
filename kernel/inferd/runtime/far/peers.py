"""Which hosts give files of models to which others: one at a time to each, and never more than a few by one.

A kernel gives a model to one host that gives files itself, and has others wait for that: so it leaves the kernel about
once, however many hosts load it together, and reaches twice or thrice as many of them each time.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final

from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from inferd.core.ids import HostId
    from inferd.runtime.far.host import FarHost

LOOKED_AT: Final = 16  # hosts that have a model, for one that asks: those first that were named longest ago
TICKET_BYTES: Final = 32
HOLDS_S: Final = 3600.0  # a ticket: a fetch that goes on for longer asks for another one
SAYS_S: Final = 10.0  # how long it is waited for that a host says that it has what it was given
ZONE: Final = "zone"


class Peers:
    """One writer: the loop of the kernel.

    Args:
        most: Hosts that one gives to at once (`hosts.gives`).
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._holders: dict[str, dict[FarHost, None]] = {}  # by model; who has given last comes last
        self._gives: dict[FarHost, dict[HostId, float]] = {}  # to whom, and until when at most
        self._giver: dict[HostId, FarHost] = {}  # of each who is given to
        self._tickets: dict[HostId, tuple[FarHost, bytes, str]] = {}  # the last one of each, for whose files it is
        self._waiting: set[FarHost] = set()
        self._coming: dict[
            str, dict[FarHost, float]
        ] = {}  # to whom the kernel gives a model, and until when that counts

    def held(self, host: FarHost, before: Collection[str], after: Collection[str], *, grown: bool = False) -> None:
        """A host can give other models than before; it may have `grown` by what another one gave it."""
        if grown:
            self.done(host.name)
        for version in set(before) - set(after):
            self._drop(version, host)
        for version in set(after) - set(before):
            self._holders.setdefault(version, {})[host] = None
            self._drop_coming(version, host)

    def lost(self, host: FarHost) -> None:
        """A host is lost, with all that it had, and is given nothing any more: its place at who gave is another's.

        What it gave ends when those whom it gave to say so.
        """
        self.held(host, host.gives, ())
        self.done(host.name)
        self._revoke(host.name)
        for fetcher in [each for each, (giver, *_) in self._tickets.items() if giver is host]:
            del self._tickets[fetcher]
        for fetcher in self._gives.pop(host, {}):
            self._giver.pop(fetcher, None)
        for version in [each for each, hosts in self._coming.items() if host in hosts]:
            self._drop_coming(version, host)

    def done(self, fetcher: HostId) -> None:
        """A host is not given anything any more."""
        if (giver := self._giver.pop(fetcher, None)) is not None:
            self._gives[giver].pop(fetcher, None)
            if not self._gives[giver]:
                del self._gives[giver]

    def _revoke(self, fetcher: HostId) -> None:
        """The last ticket of a host holds no longer: it has one at most."""
        if (had := self._tickets.pop(fetcher, None)) is not None:
            giver, ticket, folder = had
            giver.give(ticket, folder, 0.0)

    def find(self, version: str, folder: str, fetcher: FarHost, failed: Collection[str]) -> wire.FilePeer | None:
        """Who gives a model to a host from now on; None where nobody who has it can now.

        Of those that can one in the same zone, then one that gives to fewer.

        Args:
            version: What the kernel calls the model's files.
            folder: What agents call it.
            fetcher: Who asks.
            failed: Hosts that have given nothing, or what it is not.
        """
        self.done(fetcher.name)
        self._revoke(fetcher.name)
        now, zone = asyncio.get_running_loop().time(), fetcher.facts.told.labels.get(ZONE)
        free: list[tuple[bool, int, int, FarHost]] = []
        for number, host in enumerate(islice(self._holders.get(version, ()), LOOKED_AT)):
            gives = self._living(host, now)
            if host is not fetcher and host.name not in failed and gives < self._most:
                free.append((host.facts.told.labels.get(ZONE) != zone, gives, number, host))
        if not free:
            return None
        *_, giver = min(free, key=lambda each: each[:3])
        holders = self._holders[version]
        holders[giver] = holders.pop(giver)
        ticket = secrets.token_bytes(TICKET_BYTES)
        giver.give(ticket, folder, HOLDS_S)
        self._tickets[fetcher.name] = giver, ticket, folder
        self._gives.setdefault(giver, {})[fetcher.name] = now + HOLDS_S
        self._giver[fetcher.name] = giver
        return wire.FilePeer(host=giver.name, server=giver.facts.files, ticket=ticket)

    def expects(self, version: str, fetcher: FarHost, failed: Collection[str]) -> bool:
        """Whether somebody will be able to give a model: who gives it to others now, or is about to have it."""
        now = asyncio.get_running_loop().time()
        for host, until in tuple(self._coming.get(version, {}).items()):
            if until < now:
                self._drop_coming(version, host)
        found = (*islice(self._holders.get(version, ()), LOOKED_AT), *self._coming.get(version, ()))
        return any(host is not fetcher and host.name not in failed for host in found)

    @contextmanager
    def waiting(self, fetcher: FarHost) -> Iterator[bool]:
        """As long as the block a host waits for another one; False where it does so already: it fetches one model."""
        if fetcher in self._waiting:
            yield False
            return
        self._waiting.add(fetcher)
        try:
            yield True
        finally:
            self._waiting.discard(fetcher)

    @contextmanager
    def coming(self, version: str, host: FarHost) -> Iterator[None]:
        """As long as the block the kernel gives a model to a host, which gives it to others then, if it gives any."""
        if not host.facts.files.address or host.gone:
            yield
            return
        self._coming.setdefault(version, {})[host] = math.inf
        try:
            yield
        finally:
            if host in self._coming.get(version, ()):
                self._coming[version][host] = asyncio.get_running_loop().time() + SAYS_S

    def _living(self, host: FarHost, now: float) -> int:
        """To how many a host gives now."""
        for fetcher in [each for each, until in self._gives.get(host, {}).items() if until < now]:
            self.done(fetcher)
        return len(self._gives.get(host, ()))

    def _drop(self, version: str, host: FarHost) -> None:
        if (holders := self._holders.get(version)) is not None:
            holders.pop(host, None)
            if not holders:
                del self._holders[version]

    def _drop_coming(self, version: str, host: FarHost) -> None:
        if (coming := self._coming.get(version)) is not None:
            coming.pop(host, None)
            if not coming:
                del self._coming[version]
