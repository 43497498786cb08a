"""Records of a kind by tenant and state, in the order in which they were made."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

from inferd.core.ids import Tenant
from inferd.core.roll import Roll


class Owned(Protocol):
    """A spec that says whose it is."""

    @property
    def tenant(self) -> Tenant:
        """Whose it is."""


class Record(Protocol):
    """A record that can be indexed."""

    @property
    def spec(self) -> Owned:
        """What it was made with."""

    @property
    def number(self) -> int:
        """Rises with each record."""

    @property
    def state(self) -> Enum:
        """Where it stands."""


R = TypeVar("R", bound=Record)
T = TypeVar("T")

NUMBER = attrgetter("number")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of many records, in their order.

    Attributes:
        records: These.
        more: Whether others follow them.
    """

    records: list[T]
    more: bool


class Index(Generic[R]):
    """Which records a tenant has in which state. One writer: the owner of the records, told of each change.

    A page costs its size, and not what there is besides: of other tenants, in other states, before or behind it.
    """

    def __init__(self) -> None:
        self._tenants: dict[Tenant, dict[int, Roll[int, R]]] = {}  # by the value of the state, which hashes faster

    def add(self, record: R) -> None:
        """A record was made."""
        _enter(self._tenants.setdefault(record.spec.tenant, {}), record)

    def move(self, record: R, before: Enum) -> None:
        """A record came from another state to the one that it has."""
        rolls = self._tenants[record.spec.tenant]
        rolls[before._value_].remove(record)
        _enter(rolls, record)

    def remove(self, record: R) -> None:
        """A record is forgotten."""
        tenant = record.spec.tenant
        rolls = self._tenants[tenant]
        roll = rolls[record.state._value_]
        roll.remove(record)
        if not roll and not any(rolls.values()):
            del self._tenants[tenant]  # there may be any number of tenants

    def page(
        self, tenant: Tenant, states: Collection[Enum], *, after: int | None, size: int, newest_first: bool
    ) -> Page[R]:
        """A tenant's records in some states.

        Args:
            tenant: Whose.
            states: Which; none for all.
            after: The number of the record before the page; None for the first page.
            size: Most records of the page.
            newest_first: In descending order of their numbers, else in ascending order.
        """
        rolls = self._tenants.get(tenant, {})
        values = {state.value for state in states} or rolls.keys()
        chosen = [roll for value, roll in rolls.items() if value in values]
        parts = [roll.below(after) if newest_first else roll.above(after) for roll in chosen]
        return first(merge(*parts, key=NUMBER, reverse=newest_first), size)


def _enter(rolls: dict[int, Roll[int, R]], record: R) -> None:
    value = record.state._value_
    roll = rolls.get(value)
    if roll is None:
        roll = rolls[value] = Roll(NUMBER)
    roll.add(record)


def first(records: Any, size: int) -> Page[Any]:
    """The first records of an iterator as a page."""
    taken = list(islice(records, size + 1))
    return Page(taken[:size], len(taken) > size)
