"""What functions keep for tenants from one call to the next: small values by name, with a number that rises."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from inferd.errors import InvalidFieldError, LimitExceededError, RequestConflictError
from inferd.runtime.kept_records import UNREADABLE
from inferd.runtime.whole import Whole
from inferd.store.store import Drop, Kind, Put

if TYPE_CHECKING:
    from inferd.core.task import TaskSpec
    from inferd.runtime.driver import Driver
    from inferd.store.store import Store

MOST_NAME: Final = 200  # characters
BETWEEN: Final = "/"  # package and name, in a key


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """One value.

    Attributes:
        version: Rises with each that takes its place.
        by: The task of the call that wrote it.
        value: It, as JSON; "" where it is in the store.
    """

    version: int
    by: str
    value: str = ""


Key = tuple[str, str]
"""Tenant, and package with name."""


class Memos:
    """Keeps what functions give it. One writer: the kernel's loop.

    Args:
        driver: Of the kernel.
        most: How many there may be.
        share: A tenant may have so many times what is free (`scheduler.tenant_share`).
        most_bytes: Of one.
    """

    def __init__(self, driver: Driver, *, most: int, share: float, most_bytes: int) -> None:
        self._driver, self._most, self._share, self._most_bytes = driver, most, share, most_bytes
        self._known: dict[Key, Memo] = {}
        self._changing = WeakValueDictionary[Key, asyncio.Lock]()
        self._left = Whole()
        if driver.keeper is not None:
            driver.keeper.forgets.append(self._forget_tenant)

    async def adopt(self) -> None:
        """Those that are kept are here again.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        if self._driver.keeper is not None:
            self._known = await self._driver.keeper.read(_kept)

    def names(self, call: TaskSpec) -> dict[str, Any]:
        """The names of what the package of a call keeps for its tenant."""
        begin = call.model + BETWEEN
        own = (key for tenant, key in self._known if tenant == call.tenant and key.startswith(begin))
        return {"names": sorted(key.removeprefix(begin) for key in own)}

    async def recall(self, call: TaskSpec, name: str) -> dict[str, Any]:
        """What is kept by a name; of version 0 nothing.

        Raises:
            StoreUnavailableError: It cannot be read now.
        """
        key = _key(call, name)
        async with self._one(key):
            if (known := self._known.get(key)) is None:
                return {"version": 0, "kept": "null", "own": False}
            value = known.value
            if self._driver.keeper is not None:
                value = await self._driver.keeper.read(lambda store: _value(store, key))
            return {"version": known.version, "kept": value, "own": known.by == call.task_id}

    async def remember(self, call: TaskSpec, name: str, value: str, after: int) -> dict[str, Any]:
        """Keep a value in the place of version `after`.

        Raises:
            RequestConflictError: Another call has written it since.
            LimitExceededError: It is too large, or there are too many.
            StoreUnavailableError: It cannot be kept now.
        """
        key = _key(call, name)
        if (size := len(value.encode())) > self._most_bytes:
            raise _over(
                "functions.memo_bytes", size, self._most_bytes, f"what is kept as {name[:80]!r} has {size} bytes"
            )
        return await self._left.do(self._remember(call, key, name, value, after))

    async def forget(self, call: TaskSpec, name: str) -> dict[str, Any]:
        """Keep something no longer; whether there was something.

        Raises:
            StoreUnavailableError: That cannot be written now.
        """
        return await self._left.do(self._forget(_key(call, name)))

    async def _remember(self, call: TaskSpec, key: Key, name: str, value: str, after: int) -> dict[str, Any]:
        async with self._one(key):
            known = self._known.get(key)
            if (version := 0 if known is None else known.version) != after:
                raise RequestConflictError(
                    f"{name[:80]!r} has version {version} now and the call has read {after}: another"
                    " one has written it; call again",
                    metadata={"version": str(version), "read": str(after)},
                )
            if known is None:
                own, free = sum(tenant == call.tenant for tenant, _ in self._known), self._most - len(self._known)
                if own + 1 > self._share * (free + own):
                    raise _over(
                        "functions.memos",
                        own + 1,
                        self._most,
                        f"functions keep {own} values for the tenant, {len(self._known)} in all",
                    )
            made = Memo(version=version + 1, by=call.task_id, value=value)
            before, self._known[key] = (
                known,
                made if self._driver.keeper is None else Memo(version=made.version, by=made.by),
            )
            if self._driver.keeper is not None:
                written = json.dumps(
                    {"version": made.version, "by": made.by, "value": value}, separators=(",", ":")
                ).encode()
                try:
                    await self._driver.keeper.keep_records([Put(key[0], Kind.MEMO, key[1], written)])
                except BaseException:
                    if before is None:
                        self._known.pop(key, None)
                    else:
                        self._known[key] = before
                    raise
            return {"version": made.version}

    async def _forget(self, key: Key) -> dict[str, Any]:
        async with self._one(key):
            if key not in self._known:
                return {"version": 0}
            if self._driver.keeper is not None:
                await self._driver.keeper.keep_records([Drop(key[0], Kind.MEMO, key[1])])
            self._known.pop(key, None)
            return {"version": 1}

    def _one(self, key: Key) -> asyncio.Lock:
        """Held by whoever reads or changes what is kept by a name: what is known and what is in the store agree."""
        return self._changing.setdefault(key, asyncio.Lock())

    def _forget_tenant(self, tenant: str) -> None:
        for key in [key for key in self._known if key[0] == tenant]:
            del self._known[key]


def _key(call: TaskSpec, name: str) -> Key:
    if not 0 < len(name) <= MOST_NAME:
        raise InvalidFieldError(f"the name has {len(name)} characters; it must have 1 to {MOST_NAME}", field="ask.name")
    return call.tenant, f"{call.model}{BETWEEN}{name}"


def _over(bound: str, value: int, limit: int, words: str) -> LimitExceededError:
    return LimitExceededError(
        f"{words} and {bound} is {limit}; forget some, or raise that setting of the kernel",
        metadata={"bound": bound, "value": str(value), "limit": str(limit)},
    )


def _kept(store: Store) -> dict[Key, Memo]:
    """What is known of all that is kept, without the values."""
    found = {}
    for record in store.records(Kind.MEMO, lambda *_: None):
        try:
            plain = json.loads(record.value)
            found[record.tenant, record.key] = Memo(version=int(plain["version"]), by=str(plain["by"]))
        except UNREADABLE:
            continue
    return found


def _value(store: Store, key: Key) -> str:
    for record in store.some(Kind.MEMO, [key]):
        return str(json.loads(record.value)["value"])
    return "null"
