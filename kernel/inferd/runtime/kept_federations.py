"""Federations as they are kept: their records, and beside each its weights and what clients gave to the round."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from inferd.core.federation import (
    Federation,
    FederationAggregation,
    FederationClient,
    FederationCompression,
    FederationPlan,
    FederationState,
    Privacy,
    RoundPhase,
    RoundReport,
)
from inferd.errors import LimitExceededError
from inferd.runtime.found import leave_out
from inferd.runtime.kept_events import read_error, write_error
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inferd.core.ids import Tenant
    from inferd.runtime.keeper import Keeper
    from inferd.store.store import Store, Write

WEIGHTS, FIRST, SECOND, COUNTS = "weights", "first", "second", "counts"
LASTING: Final = (WEIGHTS, FIRST, SECOND, COUNTS)
"""Parts that go from round to round."""
NAMED: Final = {"aggregation": FederationAggregation, "compression": FederationCompression}


def part_name(federation: Federation, phase: RoundPhase, client: int, what: str = "") -> str:
    """The name of what a client gave in a phase of this attempt."""
    return f"{federation.round}.{federation.attempt}.{phase.name}.{client}{what}"


def update_name(federation: Federation, client: int) -> str:
    """The name of an update itself; what is told of it is a part of its own."""
    return part_name(federation, RoundPhase.UPDATES, client, ".content")


def write_federation(federation: Federation) -> bytes:
    """The record of a federation."""
    said = {each.name: getattr(federation, each.name) for each in fields(federation)}
    plan = asdict(federation.plan)
    plan |= {name: plan[name].name for name in NAMED}
    return _json(
        {
            **said,
            "plan": plan,
            "clients": [asdict(each) for each in federation.clients],
            "rounds": [asdict(each) for each in federation.rounds],
            "state": federation.state.name,
            "phase": federation.phase.name,
            "error": write_error(federation.error),
        }
    )


def read_federation(value: bytes) -> Federation:
    """What was written; raises one of `UNREADABLE` for what is no record of a federation."""
    said = json.loads(value)
    plan: dict[str, Any] = said["plan"]
    plan |= {name: kind[plan[name]] for name, kind in NAMED.items()}
    plan["privacy"] = None if plan["privacy"] is None else Privacy(**plan["privacy"])
    return Federation(
        **{
            **said,
            "plan": FederationPlan(**plan),
            "clients": tuple(FederationClient(**each) for each in said["clients"]),
            "rounds": tuple(RoundReport(**{**each, "clients": tuple(each["clients"])}) for each in said["rounds"]),
            "state": FederationState[said["state"]],
            "phase": RoundPhase[said["phase"]],
            "error": read_error(said["error"]),
            **{name: tuple(said[name]) for name in ("roster", "sharers", "survivors")},
            "excluded": tuple(said.get("excluded", ())),
        }
    )


class FederationParts(Protocol):
    """Where federations are kept. What is written is kept when a call returns; each raises StoreUnavailableError."""

    async def federations(self) -> list[Federation]:
        """All that are kept."""

    async def put(
        self, federation: Federation | None, parts: Mapping[str, bytes], *, of: Federation, drop: Iterable[str] = ()
    ) -> None:
        """Write a record and parts of it, and forget others, all or nothing; None for the parts alone."""

    async def get(self, federation: Federation, names: Sequence[str]) -> dict[str, bytes]:
        """Parts by name; those that there are not are left out."""

    async def drop(self, federation: Federation, names: Iterable[str]) -> None:
        """Keep nothing of it any more: its record, what lasts, and these parts."""

    def forget(self, federation: Federation) -> None:
        """Hold nothing of it in memory: its tenant was shredded."""


class StoredParts:
    """Keeps federations in the store.

    Args:
        keeper: Of the kernel.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def federations(self) -> list[Federation]:
        """As `FederationParts.federations`."""
        found: list[Federation] = await self._keeper.read(_federations)
        return found

    async def put(
        self, federation: Federation | None, parts: Mapping[str, bytes], *, of: Federation, drop: Iterable[str] = ()
    ) -> None:
        """As `FederationParts.put`."""
        record = () if federation is None else (_record(federation),)
        put = (Put(of.tenant, Kind.FEDERATION_PART, _key(of, name), value) for name, value in parts.items())
        await self._write(*record, *put, *(Drop(of.tenant, Kind.FEDERATION_PART, _key(of, name)) for name in drop))

    async def get(self, federation: Federation, names: Sequence[str]) -> dict[str, bytes]:
        """As `FederationParts.get`."""
        keys = {_key(federation, name): name for name in names}

        def read(store: Store) -> dict[str, bytes]:
            wanted = [(federation.tenant, key) for key in keys]
            return {keys[record.key]: record.value for record in store.some(Kind.FEDERATION_PART, wanted)}

        found: dict[str, bytes] = await self._keeper.read(read)
        return found

    async def drop(self, federation: Federation, names: Iterable[str]) -> None:
        """As `FederationParts.drop`."""
        await self._write(
            Drop(federation.tenant, Kind.FEDERATION, federation.federation_id),
            *(Drop(federation.tenant, Kind.FEDERATION_PART, _key(federation, name)) for name in (*LASTING, *names)),
        )

    def forget(self, federation: Federation) -> None:
        """Nothing of it is in memory."""

    async def _write(self, *writes: Write) -> None:
        await self._keeper.keep_records(writes)


@dataclass(slots=True)
class HeldParts:
    """Holds federations in memory, where the kernel has no store. One writer: `Federations`.

    Args:
        most_bytes: Of all of them, `federate.held_bytes`.
        share: A tenant may have so many times what is free of that for it.
    """

    most_bytes: int
    share: float
    _held: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _bytes: Counter[Tenant] = field(default_factory=Counter)

    async def federations(self) -> list[Federation]:
        """None."""
        return []

    async def put(
        self, federation: Federation | None, parts: Mapping[str, bytes], *, of: Federation, drop: Iterable[str] = ()
    ) -> None:
        """As `FederationParts.put`.

        Raises:
            LimitExceededError: There is no room.
        """
        held = self._held.setdefault(of.federation_id, {}) if federation is not None else self._held[of.federation_id]
        gone = [name for name in drop if name in held]
        more = sum(len(value) - len(held.get(name, b"")) for name, value in parts.items())
        self._take(of.tenant, more - sum(len(held[name]) for name in gone))
        held |= parts
        for name in gone:
            del held[name]

    async def get(self, federation: Federation, names: Sequence[str]) -> dict[str, bytes]:
        """As `FederationParts.get`."""
        held = self._held.get(federation.federation_id, {})
        return {name: held[name] for name in names if name in held}

    async def drop(self, federation: Federation, names: Iterable[str]) -> None:  # noqa: ARG002 - all go
        """As `FederationParts.drop`."""
        self.forget(federation)

    def forget(self, federation: Federation) -> None:
        """As `FederationParts.forget`."""
        held = self._held.pop(federation.federation_id, {})
        self._bytes[federation.tenant] -= sum(map(len, held.values()))
        self._bytes += Counter()  # which leaves out those that have nothing

    def _take(self, tenant: Tenant, size_bytes: int) -> None:
        have, total, most = self._bytes[tenant], self._bytes.total(), self.most_bytes
        free = most - total
        if size_bytes > 0 and (size_bytes > free or have + size_bytes > self.share * free):
            raise LimitExceededError(
                f"federations hold {total} bytes in memory, {have} of them of tenant {tenant!r}, {size_bytes} more are"
                f" wanted, and federate.held_bytes is {most}, of which a tenant may have {self.share:g} times what is"
                " free; delete some, or give the kernel a store",
                metadata={"bound": "federate.held_bytes", "value": str(have), "limit": str(most)},
            )
        self._bytes[tenant] += size_bytes


def _record(federation: Federation) -> Put:
    return Put(federation.tenant, Kind.FEDERATION, federation.federation_id, write_federation(federation))


def _key(federation: Federation, part: str) -> str:
    return f"{federation.federation_id}.{part}"


def _federations(store: Store) -> list[Federation]:
    found: list[Federation] = []
    for record in store.records(Kind.FEDERATION, partial(leave_out, "federation")):
        try:
            found.append(read_federation(record.value))
        except UNREADABLE as error:
            leave_out("federation", record.tenant, record.key, error)
    return found


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
