"""Bounds on what is open at once."""

from collections import Counter
from collections.abc import Callable
from functools import partial

from inferd.errors import LimitExceededError

RETRY_AFTER_S = 1.0


class Place:
    """What was taken, until its block ends: one for each task, for which a generator takes three times as long."""

    __slots__ = ("_give_back",)

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    def __enter__(self) -> None:
        """It was taken before."""

    def __exit__(self, *_: object) -> None:
        self._give_back()


class ByteBound:
    """Counts the bytes of what is open, or the like, against a bound of the configuration and shares of what is free.

    Args:
        name: Of the bound, for example "limits.request_bytes".
        limit: Most bytes.
        share: A tenant may have so many times what is free (`scheduler.tenant_share`).
        what: What is counted, in words.
        unit: In which.
    """

    def __init__(self, name: str, limit: int, share: float, what: str, unit: str = "bytes") -> None:
        self._name = name
        self._limit = limit
        self._share = share
        self._what = what
        self._unit = unit
        self._total = 0
        self._tenants: dict[str, int] = {}

    def place(self, tenant: str, size_bytes: int) -> Place:
        """So many bytes of a tenant are open, until the block ends that is to follow.

        Raises:
            LimitExceededError: They are more than are free, or than its share of that.
        """
        have, free = self._tenants.get(tenant, 0), self._limit - self._total
        if size_bytes > free or have + size_bytes > self._share * free:
            raise LimitExceededError(
                f"the {self._what} takes {size_bytes} {self._unit}, those that are open take {self._total}, {have} "
                f"of them of tenant {tenant!r}, and {self._name} is {self._limit}; it may have {self._share:g} times "
                "what is free",
                metadata={"bound": self._name, "value": str(size_bytes), "held": str(have), "limit": str(self._limit)},
                retry_after_s=RETRY_AFTER_S,
            )
        self._add(tenant, size_bytes)
        return Place(partial(self._add, tenant, -size_bytes))

    def _add(self, tenant: str, size_bytes: int) -> None:
        self._total += size_bytes
        self._tenants[tenant] = self._tenants.get(tenant, 0) + size_bytes
        if not self._tenants[tenant]:
            del self._tenants[tenant]


class Bound:
    """Counts what is open at once, for each key by itself, against a bound of the configuration.

    Args:
        name: Of the bound, for example "scheduler.tenant_streams".
        limit: Most that may be open.
        what: What is counted, in words.
        why: What made of the bound what it is, as a clause; else "".
    """

    def __init__(self, name: str, limit: int, what: str, why: str = "") -> None:
        self._name = name
        self._limit = limit
        self._what = what
        self._why = why
        self._open: dict[str, int] = {}

    def take(self, key: str = "") -> None:
        """One more of `key` is open, until `give_back`.

        Raises:
            LimitExceededError: There are as many as may be.
        """
        count = self._open.get(key, 0)
        if count >= self._limit:
            whose = f" of {key!r}" if key else ""
            raise LimitExceededError(
                f"{count} {self._what}{whose} are open and {self._name} is {self._limit}{self._why}",
                metadata={"bound": self._name, "value": str(count), "limit": str(self._limit)},
                retry_after_s=RETRY_AFTER_S,
            )
        self._open[key] = count + 1

    def give_back(self, key: str = "") -> None:
        """One of `key` is open no longer."""
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def place(self, key: str = "") -> Place:
        """One of `key` is open, until the block ends that is to follow.

        Raises:
            LimitExceededError: There are as many as may be.
        """
        self.take(key)
        return Place(partial(self.give_back, key))


class SharedBound:
    """Counts what is open at once of all, with a share of what is free for each tenant.

    Args:
        name: Of the bound, for example "leases.keepers".
        limit: Most that may be open.
        share: A tenant may have so many times what is free (`scheduler.tenant_share`).
        what: What is counted, in words.
    """

    def __init__(self, name: str, limit: int, share: float, what: str) -> None:
        self._name = name
        self._limit = limit
        self._share = share
        self._what = what
        self._total = 0
        self._tenants: Counter[str] = Counter()

    def place(self, tenant: str) -> Place:
        """One of a tenant is open, until the block ends that is to follow.

        Raises:
            LimitExceededError: There are as many as may be, or the tenant has its share.
        """
        have, free = self._tenants[tenant], self._limit - self._total
        if free < 1:
            raise LimitExceededError(
                f"{self._total} {self._what} are open and {self._name} is {self._limit}",
                metadata={"bound": self._name, "value": str(self._total), "limit": str(self._limit)},
                retry_after_s=RETRY_AFTER_S,
            )
        if have + 1 > self._share * free:
            raise LimitExceededError(
                f"tenant {tenant!r} has {have} {self._what} open, and may have {self._share:g} times the {free} that "
                f"are left of {self._limit} (scheduler.tenant_share, {self._name}); end some, or try again later",
                metadata={"bound": "scheduler.tenant_share", "value": str(have), "free": str(free)},
                retry_after_s=RETRY_AFTER_S,
            )
        self._add(tenant, 1)
        return Place(partial(self._add, tenant, -1))

    def _add(self, tenant: str, more: int) -> None:
        self._total += more
        self._tenants[tenant] += more
        if not self._tenants[tenant]:
            del self._tenants[tenant]


class Calls:
    """Counts the calls that are open, over all connections and for each tenant. One writer: the door of a transport.

    Strangers, who need no login for what they ask, are counted for each method by itself: whatever watches health, its
    checks are answered. Agents of hosts are counted apart, each by itself: they and clients leave each other room.

    Args:
        calls_limit: Of all.
        tenant_calls_limit: Of one tenant, or one host.
        bounds: What both are called.
        why: What made of the first what it is, as a clause; else "".

    Attributes:
        ended: Those that are over, by method and the reason of their error: "" for none, LEFT where the client left.
    """

    def __init__(
        self,
        *,
        calls_limit: int,
        tenant_calls_limit: int,
        bounds: tuple[str, str] = ("limits.calls", "scheduler.tenant_calls"),
        why: str = "",
    ) -> None:
        self._all = Bound(bounds[0], calls_limit, "calls", why)
        self._tenants = Bound(bounds[1], tenant_calls_limit, "calls")
        self.ended = Counter[tuple[str, str]]()

    def take(self, tenant: str) -> None:
        """One more call of `tenant` is open, until `give_back`.

        Raises:
            LimitExceededError: There are as many as may be.
        """
        self._all.take()
        try:
            self._tenants.take(tenant)
        except LimitExceededError:
            self._all.give_back()
            raise

    def give_back(self, tenant: str) -> None:
        """A call of `tenant` is over."""
        self._all.give_back()
        self._tenants.give_back(tenant)
