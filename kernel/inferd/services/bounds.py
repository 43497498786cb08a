"""Bounds on what is open at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from inferd.errors import LimitExceededError

RETRY_AFTER_S = 1.0


class Bound:
    """Counts what is open at once, for each key by itself, against a bound of the configuration.

    Args:
        name: Of the bound, for example "scheduler.tenant_streams".
        limit: Most that may be open.
        what: What is counted, in words.
    """

    def __init__(self, name: str, limit: int, what: str) -> None:
        self._name = name
        self._limit = limit
        self._what = what
        self._open: dict[str, int] = {}

    @contextmanager
    def place(self, key: str = "") -> Iterator[None]:
        """One of `key` is open as long as the block.

        Raises:
            LimitExceededError: There are as many as may be.
        """
        count = self._open.get(key, 0)
        if count >= self._limit:
            whose = f" of {key!r}" if key else ""
            raise LimitExceededError(
                f"{count} {self._what}{whose} are open and {self._name} is {self._limit}",
                metadata={"bound": self._name, "value": str(count), "limit": str(self._limit)},
                retry_after_s=RETRY_AFTER_S,
            )
        self._open[key] = count + 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]


class Calls:
    """Counts the calls that are open, over all connections and for each tenant. One writer: the interceptor."""

    def __init__(self, *, calls_limit: int, tenant_calls_limit: int) -> None:
        self._all = Bound("limits.calls", calls_limit, "calls")
        self._tenants = Bound("scheduler.tenant_calls", tenant_calls_limit, "calls")

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """A call of `tenant` is open as long as the block.

        Raises:
            LimitExceededError: There are as many as may be.
        """
        with self._all.place(), self._tenants.place(tenant):
            yield
