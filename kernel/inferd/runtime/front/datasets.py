"""What may be done with datasets: they are begun, grow by blobs, become whole, are read and forgotten."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from inferd.core.dataset import Dataset, DatasetState, Part, Statistics, added, digest_of
from inferd.errors import (
    BlobHeldError,
    BlobNotFoundError,
    InferdError,
    InvalidFieldError,
    LimitExceededError,
    StoreUnavailableError,
)
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.dataset_book import DatasetBook, check_free, check_stays, known_parts
from inferd.runtime.kept_datasets import Entry, Held, cost_bytes, kept_datasets, writes_of
from inferd.runtime.whole import Whole
from inferd.store.store import Drop, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from inferd.core.dataset import Column, Lineage
    from inferd.dataset_settings import Datasets as Chosen
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.bounds import Bound
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.keeper import Keeper

TOUCH_S = 3600.0  # how exactly is written when a version was used

log = structlog.get_logger()


class Datasets:
    """Keeps datasets, each tenant's by name and version. One writer: the loop.

    A version holds the blobs of its parts from before its record says that it has them. Whoever opens what is in them
    is a client or a worker: here it is bytes.

    Args:
        driver: Of the kernel.
        chosen: The settings.
        streams: Bounds the calls of a tenant that read.
        wall: The time.

    Attributes:
        lines_bytes: Of the rows of a part as JSON.
    """

    def __init__(
        self, driver: Driver, chosen: Chosen, *, streams: Bound, wall: Callable[[], float] = time.time
    ) -> None:
        self._driver = driver
        self._chosen = chosen
        self._streams = streams
        self._wall = wall
        self.lines_bytes = chosen.lines_bytes
        self._book = DatasetBook()
        self._changing = asyncio.Lock()
        self._left = Whole()
        if driver.keeper is not None:
            driver.keeper.forgets.append(self._book.forget_tenant)

    async def adopt(self) -> None:
        """Those that are kept are here again, and hold their blobs.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        if self._driver.keeper is None:
            return
        _, blobs = self._kept
        for entry in await self._driver.keeper.read(kept_datasets):
            self._book.add(entry)
            lost = 0
            for part in entry.parts:
                try:
                    blobs.hold(entry.tenant, part.digest, entry.holder)
                except BlobNotFoundError:
                    lost += 1
            if lost:
                log.error("parts of a dataset are not there", tenant=entry.tenant, dataset=entry.key, parts=lost)

    @property
    def _kept(self) -> tuple[Keeper, Blobs]:
        keeper, blobs = self._driver.keeper, blobs_of(self._driver.keeper)
        if keeper is None or blobs is None:
            raise StoreUnavailableError(
                "this kernel keeps nothing, and so has no datasets: its store.url is memory:; name a store",
                metadata={"cause": "memory:"},
            )
        return keeper, blobs

    def get(self, caller: Caller, name: str, version: int) -> Dataset:
        """A version of a dataset; of 0 the highest that is whole.

        Raises:
            DatasetNotFoundError: There is none.
            StoreUnavailableError: Nothing is kept.
        """
        self._check()
        return self._book.find(caller.tenant, name, version).dataset

    def list(self, caller: Caller, name: str = "") -> list[Dataset]:
        """The tenant's datasets, or those of a name, by name and the highest version first."""
        self._check()
        found = [entry.dataset for entry in self._book.all(caller.tenant) if not name or entry.dataset.name == name]
        return sorted(found, key=lambda each: (each.name, -each.version))

    def parts(self, caller: Caller, name: str, version: int) -> Sequence[Part]:
        """The parts of a version.

        Raises:
            DatasetNotFoundError: There is none.
        """
        self._check()
        return tuple(self._book.find(caller.tenant, name, version).parts)

    def _check(self) -> None:
        _ = self._kept

    # Making.

    async def create(
        self, caller: Caller, name: str, columns: tuple[Column, ...], lineage: Lineage, retention_s: float | None
    ) -> Dataset:
        """A version that grows: the one that has this lineage and these columns, or a new one.

        Raises:
            LimitExceededError: There are as many as may be, or too many columns.
            StoreUnavailableError: It cannot be kept.
        """
        self._driver.check_open()
        if len(columns) > self._chosen.columns:
            raise self._exceeded("columns", len(columns), self._chosen.columns, "have fewer")
        return await self._left.do(self._create(caller.tenant, name, columns, lineage, retention_s))

    async def _create(
        self, tenant: str, name: str, columns: tuple[Column, ...], lineage: Lineage, retention_s: float | None
    ) -> Dataset:
        keeper, _ = self._kept
        async with self._changing:
            versions = self._book.versions(tenant, name)
            for entry in versions.values():
                known = entry.dataset
                same = [(e.name, e.type) for e in known.columns] == [(e.name, e.type) for e in columns]
                if known.state is DatasetState.GROWING and known.lineage == lineage and same:
                    return known
            self._check_count(tenant)
            now = self._wall()
            dataset = Dataset(
                name=name,
                version=max(versions, default=0) + 1,
                columns=columns,
                lineage=lineage,
                created=now,
                used=now,
                retention_s=self._chosen.retention_s if retention_s is None else retention_s,
            )
            entry = Entry(tenant=tenant, dataset=dataset, written_use=now)
            writes = writes_of(entry, dataset)
            entry.cost_bytes = self._cost(entry, writes[0].value, 0)
            await keeper.keep_records(writes)
            self._book.add(entry)
            return dataset

    def _check_count(self, tenant: str) -> None:
        have = len(self._book.all(tenant))
        if have >= self._chosen.tenant_count:
            raise self._exceeded("tenant_count", have + 1, self._chosen.tenant_count, "delete some")
        if self._book.count >= self._chosen.all_count:
            raise self._exceeded("all_count", self._book.count + 1, self._chosen.all_count, "delete some")

    async def append(
        self,
        caller: Caller,
        name: str,
        version: int,
        first: int,
        parts: Sequence[tuple[str, int, Sequence[Statistics]]],
    ) -> Dataset:
        """More parts of a growing version, each the digest of a blob, how many rows it has, and what is known of them.

        Raises:
            DatasetNotFoundError: There is none.
            BlobNotFoundError: A part is not there, or not whole.
            InvalidFieldError: It does not grow, or has another part in that place.
            LimitExceededError: They are too many, or too large.
            StoreUnavailableError: They cannot be kept.
        """
        self._driver.check_open()
        return await self._left.do(self._append(caller.tenant, name, version, first, parts))

    async def _append(
        self, tenant: str, name: str, version: int, first: int, parts: Sequence[tuple[str, int, Sequence[Statistics]]]
    ) -> Dataset:
        keeper, blobs = self._kept
        async with self._changing:
            entry = self._book.find(tenant, name, version)
            new = parts[known_parts(entry, first, parts) :]
            if not new:
                return entry.dataset
            held: list[Part] = []
            try:
                for digest, rows, _ in new:
                    held.append(Part(digest, rows, blobs.hold(tenant, digest, entry.holder).size_bytes))
                dataset = self._grown(entry, held, [known for *_, known in new], len(parts) - len(new))
                writes = writes_of(entry, dataset, held)
                cost = self._cost(entry, writes[0].value, dataset.parts)
                await keeper.keep_records(writes)
            except BaseException:
                for part in held:
                    blobs.let_go(tenant, part.digest, entry.holder)
                raise
            entry.dataset = dataset
            entry.parts += held
            entry.pieces += 1
            self._book.charge(entry, cost - entry.cost_bytes)
            entry.cost_bytes = cost
            return dataset

    def _cost(self, entry: Entry, head: bytes, parts: int) -> int:
        """What it takes of memory with this record and so many parts, in bytes.

        Raises:
            LimitExceededError: That is too much.
        """
        cost = cost_bytes(head, parts)
        more = cost - entry.cost_bytes
        for name, have, most in (
            ("tenant_record_bytes", self._book.cost_of(entry.tenant), self._chosen.tenant_record_bytes),
            ("all_record_bytes", self._book.cost_bytes, self._chosen.all_record_bytes),
        ):
            if have + more > most:
                raise self._exceeded(name, have + more, most, "delete some, or make fewer and larger parts")
        return cost

    def _grown(self, entry: Entry, parts: Sequence[Part], known: Sequence[Sequence[Statistics]], at: int) -> Dataset:
        """How it stands with these parts; `at` is the place of the first of them in its request."""
        dataset, columns = entry.dataset, list(entry.dataset.columns)
        if len(entry.parts) + len(parts) > self._chosen.parts:
            raise self._exceeded("parts", len(entry.parts) + len(parts), self._chosen.parts, "make larger parts")
        size_bytes = sum(part.size_bytes for part in parts)
        total = sum(each.dataset.size_bytes for each in self._book.all(entry.tenant)) + size_bytes
        if total > self._chosen.tenant_bytes:
            raise self._exceeded("tenant_bytes", total, self._chosen.tenant_bytes, "delete some datasets")
        rows = dataset.rows
        for number, (part, each) in enumerate(zip(parts, known, strict=True), start=at):
            for place, column in enumerate(columns):
                path = f"parts[{number}].statistics[{place}]"
                said = each[place] if place < len(each) else Statistics()
                both = added(column.statistics, said, path, rows=(rows, part.rows))
                columns[place] = replace(column, statistics=both)
            rows += part.rows
        return replace(
            dataset,
            columns=tuple(columns),
            rows=dataset.rows + sum(part.rows for part in parts),
            size_bytes=dataset.size_bytes + size_bytes,
            parts=dataset.parts + len(parts),
            used=self._wall(),
        )

    async def finish(self, caller: Caller, name: str, version: int, parts: int) -> Dataset:
        """A version has all its parts, so many; it, or the whole one that is the same.

        Raises:
            DatasetNotFoundError: There is none.
            InvalidFieldError: It has another number of parts.
            StoreUnavailableError: It cannot be kept.
        """
        self._driver.check_open()
        return await self._left.do(self._finish(caller.tenant, name, version, parts))

    async def _finish(self, tenant: str, name: str, version: int, parts: int) -> Dataset:
        keeper, _ = self._kept
        async with self._changing:
            entry = self._book.find(tenant, name, version)
            if parts != entry.dataset.parts:
                raise InvalidFieldError(
                    f"parts is {parts} and dataset {entry.key} has {entry.dataset.parts}; append the others first",
                    field="parts",
                )
            if entry.dataset.state is DatasetState.WHOLE:
                return entry.dataset
            digest = await asyncio.to_thread(digest_of, entry.dataset.columns, list(entry.parts))
            for other in self._book.versions(tenant, name).values():
                if other.dataset.digest == digest and other.dataset.lineage == entry.dataset.lineage:
                    await self._drop([entry])
                    return other.dataset
            now = self._wall()
            dataset = replace(entry.dataset, state=DatasetState.WHOLE, digest=digest, used=now)
            await keeper.keep_records(writes_of(entry, dataset))
            entry.dataset, entry.written_use = dataset, now
            return dataset

    def _exceeded(self, name: str, value: int, limit: int, fix: str) -> LimitExceededError:
        return LimitExceededError(
            f"there would be {value}, and datasets.{name} is {limit}; {fix}, or raise that setting of the kernel",
            metadata={"bound": f"datasets.{name}", "value": str(value), "limit": str(limit)},
        )

    # Reading.

    async def read(
        self, caller: Caller, name: str, version: int, *, first: int, count: int | None
    ) -> AsyncGenerator[tuple[int, int, bytes]]:
        """The number of the version, the places of its parts from one on, and their bytes.

        Raises:
            DatasetNotFoundError, BlobNotFoundError, BlobDamagedError: There is none, or some of it cannot be read.
            InvalidFieldError: It has fewer parts.
        """
        self._driver.check_open()
        _, blobs = self._kept
        entry = self._book.find(caller.tenant, name, version)
        end = len(entry.parts) if count is None else first + count
        if end > len(entry.parts) or first > end:
            raise InvalidFieldError(
                f"parts {first} to {end} are asked for and dataset {entry.key} has {len(entry.parts)}",
                field="first_part",
            )
        with self._streams.place(caller.tenant):
            entry.dataset = replace(entry.dataset, used=self._wall())
            for place, part in enumerate(entry.parts[first:end], start=first):
                async with aclosing(blobs.pieces(caller.tenant, part.digest)) as pieces:
                    async for piece in pieces:
                        yield entry.dataset.version, place, piece

    def cut_short(self) -> AbstractAsyncContextManager[None]:
        """Whatever the block waits for, it ends when the kernel closes.

        Raises:
            ShuttingDownError: It did.
        """
        return self._driver.closing.cut_short()

    def hold(self, tenant: str, name: str, version: int, holder: str) -> Held:
        """A whole version, which stays until `let_go`, once for each `hold`.

        Raises:
            DatasetNotFoundError: There is none that is whole, or it is being deleted.
            StoreUnavailableError: Nothing is kept.
        """
        self._check()
        entry = self._book.whole(tenant, name, version)
        check_stays(entry)
        entry.readers[holder] += 1
        entry.dataset = replace(entry.dataset, used=self._wall())
        return Held(entry.dataset, tuple(entry.parts))

    def let_go(self, tenant: str, name: str, version: int, holder: str) -> None:
        """It is read by this holder once less; nothing where it was not, or is gone with its tenant."""
        if (entry := self._book.versions(tenant, name).get(version)) is not None:
            entry.readers[holder] -= 1
            entry.readers += Counter()  # which leaves out those that read it no more
            entry.dataset = replace(entry.dataset, used=self._wall())

    # Going.

    async def delete(self, caller: Caller, name: str, version: int) -> Sequence[int]:
        """Forget a version, or all of a name; the numbers of those that went.

        Raises:
            DatasetNotFoundError: There is none.
            DatasetHeldError: Something reads one.
            StoreUnavailableError: They cannot be forgotten now.
        """
        return await self._left.do(self._delete(caller.tenant, name, version))

    async def _delete(self, tenant: str, name: str, version: int) -> Sequence[int]:
        self._check()
        async with self._changing:
            if version:
                gone = [self._book.find(tenant, name, version)]
            else:
                gone = list(self._book.versions(tenant, name).values()) or [self._book.find(tenant, name, 0)]
            for entry in gone:
                check_free(entry)
            await self._drop(gone)
        return sorted(entry.dataset.version for entry in gone)

    async def _drop(self, entries: Sequence[Entry]) -> None:
        """Records first, then the blobs that nobody else holds: what is left of those is forgotten as blobs are."""
        keeper, blobs = self._kept
        for entry in entries:  # while the store is waited for, nothing begins to read them
            entry.going = True
        try:
            await keeper.keep_records([Drop(entry.tenant, Kind.DATASET, entry.key) for entry in entries])
        except BaseException:
            for entry in entries:
                entry.going = False
            raise
        free: dict[tuple[str, str], None] = {}
        for entry in entries:
            self._book.forget(entry)
            for part in entry.parts:
                blobs.let_go(entry.tenant, part.digest, entry.holder)
                free[entry.tenant, part.digest] = None
        for tenant, digest in free:
            with suppress(BlobHeldError, BlobNotFoundError, StoreUnavailableError):
                await blobs.remove(tenant, digest)

    async def run(self) -> None:
        """Forget from time to time what was not used for long, until this is cancelled."""
        while self._driver.keeper is not None:
            await asyncio.sleep(self._chosen.sweep_s)
            try:
                await self.sweep()
            except InferdError as error:
                log.warning("datasets cannot be swept now", why=error.message)

    async def sweep(self) -> None:
        """Forget what was not used for long, and write when others were used.

        Raises:
            StoreUnavailableError: That cannot be now.
        """
        keeper, _ = self._kept
        async with self._changing:
            now, entries = self._wall(), [entry for tenant in self._book.tenants() for entry in self._book.all(tenant)]
            if old := [entry for entry in entries if not entry.readers and self._is_old(entry.dataset, now)]:
                await self._drop(old)
            gone = set(map(id, old))
            used = [e for e in entries if id(e) not in gone and e.dataset.used - e.written_use > TOUCH_S]
            if used:
                await keeper.keep_records([write for entry in used for write in writes_of(entry, entry.dataset)])
                for entry in used:
                    entry.written_use = entry.dataset.used

    def _is_old(self, dataset: Dataset, now: float) -> bool:
        most_s = self._chosen.upload_s if dataset.state is DatasetState.GROWING else dataset.retention_s
        return most_s is not None and now - dataset.used > most_s
