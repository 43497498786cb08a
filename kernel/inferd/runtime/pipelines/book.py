"""All runs that are known: which there are, what is kept of each, and which go when there is no room for more."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from inferd.core.dataset import Source
from inferd.core.expressions import Value, write_json
from inferd.core.pipeline import PipelineFormat
from inferd.errors import InferdError, InvalidFieldError, LimitExceededError, StoreUnavailableError
from inferd.pipeline_errors import PipelineRunNotFoundError
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.kept_records import UNREADABLE
from inferd.runtime.pipelines.journal import INPUT, Journal, first_writes
from inferd.runtime.pipelines.order import Order
from inferd.runtime.pipelines.series import Lines, Rows, check_count, check_size
from inferd.store.store import Drop, Kind

if TYPE_CHECKING:
    from inferd.core.ids import Tenant
    from inferd.core.pipeline import Pipeline
    from inferd.pipeline_settings import Pipelines as PipelineSettings
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.dataset_rows import DatasetRows
    from inferd.runtime.pipelines.series import Series
    from inferd.runtime.pipelines.tasking import Wire
    from inferd.store.store import Store

READ_JOURNALS = 16  # of runs that have ended, that are held, and their pipelines
RETRY_AFTER_S = 1.0

log = structlog.get_logger()


@dataclass(slots=True)
class Known:
    """A run. One writer: the front.

    Attributes:
        order: It.
        parsed: Its graph; None where that is not at hand: `RunBook.pipeline` reads it.
        journal: What has happened of it; None until it is read.
        carrying: What carries it out; None where nothing does.
        cancelled: Whether a client has ended it.
        ending: Whether its end is being written: nothing changes it any more.
        given: Its input where there is no store.
        reading: Held by who reads the journal: there is one, whoever asks for it at once.
        settled: Set once it is kept, or is not going to be.
    """

    order: Order
    parsed: Pipeline | None
    journal: Journal | None = None
    carrying: asyncio.Task[None] | None = None
    cancelled: bool = False
    ending: bool = False
    given: str = "null"
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    name: str = field(init=False)
    step_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.parsed is None:
            raise TypeError("a run is made with its pipeline")
        self.name, self.step_names = self.parsed.name, tuple(step.name for step in self.parsed.steps)

    @property
    def size_bytes(self) -> int:
        """Of what its items gave, and of its pipeline."""
        given = self.order.size_bytes if self.journal is None else self.journal.size_bytes
        return len(self.order.written) + given


class RunBook:
    """Runs by id. One writer: the front.

    Args:
        driver: Of the kernel.
        wire: Reads pipelines.
        settings: Bounds.
        rows: Of datasets.

    Attributes:
        known: All of them, oldest first.
    """

    def __init__(self, driver: Driver, wire: Wire, settings: PipelineSettings, rows: DatasetRows) -> None:
        self._driver, self._wire, self._settings, self._rows = driver, wire, settings, rows
        self.known: dict[str, Known] = {}
        self._requests: dict[tuple[str, str], str] = {}  # ids of runs, by tenant and the request that made them
        self._read = OrderedDict[str, None]()  # runs that have ended, whose journals are held
        self._parsed = OrderedDict[str, None]()  # and whose pipelines are
        self._number = 0
        if driver.keeper is not None:
            driver.keeper.forgets.append(self._forget_tenant)

    @property
    def _blobs(self) -> Blobs | None:
        return blobs_of(self._driver.keeper)

    def next_number(self) -> int:
        """That of a new run, above all before."""
        self._number += 1
        return self._number

    def find(self, run_id: str, tenant: str) -> Known:
        """A run of a tenant.

        Raises:
            PipelineRunNotFoundError: It has none of this id.
        """
        known = self.known.get(run_id)
        if known is None or known.order.tenant != tenant:
            raise PipelineRunNotFoundError(
                f"no pipeline run {run_id[:80]!r}; `inferd pipelines list` lists the known ones",
                metadata={"run_id": run_id[:80]},
            )
        return known

    async def requested(self, tenant: str, request_id: str) -> Known | None:
        """The run that a request of this id has made, once it is kept; None for none."""
        while run_id := self._requests.get((tenant, request_id)) if request_id else None:
            known = self.known[run_id]
            if known.settled.is_set():
                return known
            await known.settled.wait()
        return None

    async def adopt(self) -> None:
        """Those that are kept are known again.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        if self._driver.keeper is None:
            return
        orders: list[Order] = await self._driver.keeper.read(_kept_orders)
        for order in sorted(orders, key=lambda each: each.number):
            try:
                pipeline = self._wire.read(order.written)
            except InferdError as error:
                log.warning("a run of a pipeline that was kept cannot be read", run=order.run_id, why=error.message)
                continue
            self._add(known := Known(order, pipeline))
            self.end(known)
            known.settled.set()
            if not order.over:
                with suppress(InferdError):  # the run fails when it looks into that
                    self._hold(order)

    def _add(self, known: Known) -> None:
        order = known.order
        self.known[order.run_id] = known
        self._number = max(self._number, order.number)
        if order.request_id:
            self._requests[order.tenant, order.request_id] = order.run_id

    async def make(self, order: Order, pipeline: Pipeline, given: str | None) -> Known:
        """A new run, which is kept when this returns.

        Raises:
            LimitExceededError: There are too many.
            BlobNotFoundError, DatasetNotFoundError: Its input is gone.
            StoreUnavailableError: It cannot be kept now.
        """
        self._check_places(order.tenant)
        known = Known(order, pipeline, self._journal(order, len(pipeline.steps)), given=given or "null")
        self._add(known)  # before anything is waited for: it has its place, and its request is known
        try:
            await self._make_room()
            if (keeper := self._driver.keeper) is not None:
                keeper.check()
                self._hold(order)
                first = None if order.blob or order.dataset else known.given
                known.given = "null"
                await keeper.keep_records(first_writes(order.tenant, order.run_id, order.put(), first))
        except BaseException:
            self._forget(known)
            raise
        finally:
            known.settled.set()
        return known

    def _hold(self, order: Order) -> None:
        """Have its input stay as long as it.

        Raises:
            BlobNotFoundError, DatasetNotFoundError: It is gone.
        """
        if order.blob and (blobs := self._blobs) is not None:
            blobs.hold(order.tenant, order.blob, order.holder)
        if order.dataset is not None:
            self._rows.hold(order.tenant, order.dataset.name, order.dataset.version, order.holder)

    def find_dataset(self, tenant: Tenant, name: str, version: int) -> Source:
        """The dataset that is to be an input.

        Raises:
            StoreUnavailableError: This kernel has no datasets.
            DatasetNotFoundError: There is none that is whole.
            LimitExceededError: It has too many rows.
        """
        with self._rows.held(tenant, name, version, "a run that is being made") as held:
            dataset = held.dataset
        check_count(dataset.rows, self._settings.items, "dataset")
        return Source(name=dataset.name, version=dataset.version, digest=dataset.digest)

    def check_blob(self, tenant: str, digest: str, form: PipelineFormat) -> None:
        """Refuse a blob that cannot be an input.

        Raises:
            StoreUnavailableError: This kernel has no blobs.
            BlobNotFoundError: The tenant has none of this digest.
            LimitExceededError: It is too large for what it is to be.
        """
        if (blobs := self._blobs) is None:
            raise StoreUnavailableError(
                "this kernel keeps nothing, and so has no blobs: its store.url is memory:; give the input as json, or"
                " name a store",
                metadata={"cause": "memory:"},
            )
        blob = blobs.hold(tenant, digest, "a run that is being made")
        blobs.let_go(tenant, digest, "a run that is being made")
        if not form.listed:
            check_size(blob.size_bytes, self._settings.value_bytes, "blob")

    async def given(self, known: Known) -> Value | Series:
        """The input of a run.

        Raises:
            InferdError: It cannot be read, or is too long.
        """
        order, keeper = known.order, self._driver.keeper
        if order.dataset is not None:
            return self._rows_of(order, order.dataset)
        if not order.blob:
            if keeper is None:
                return Value(known.given)

            def read(store: Store) -> bytes:
                return next(store.pieces(order.tenant, Kind.PIPELINE, order.run_id, after=INPUT - 1), b"")

            if not (given := await keeper.read(read)):
                message = f"the input of pipeline run {order.run_id} is not in the store any more"
                raise StoreUnavailableError(message, metadata={"cause": "damaged"})
            return Value(given.decode())
        if (blobs := self._blobs) is None:
            raise StoreUnavailableError("this kernel keeps nothing, and has no blobs", metadata={"cause": "memory:"})
        if order.format.listed:
            most = self._settings.items, self._settings.value_bytes
            return await Lines.read(
                blobs, order.tenant, order.blob, *most, json=order.format is PipelineFormat.JSON_LINES
            )
        data = b"".join([piece async for piece in blobs.pieces(order.tenant, order.blob)])
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            why = f"the blob is no UTF-8: byte {error.start} is {data[error.start]:#x}"
            raise InvalidFieldError(why, field="blob") from None
        value = Value(text) if order.format is PipelineFormat.JSON else Value.of(text)
        return Value(write_json(value.data))

    def _rows_of(self, order: Order, source: Source) -> Rows:
        """The rows of the dataset that is its input.

        Raises:
            DatasetNotFoundError: It is gone.
        """
        with self._rows.held(order.tenant, source.name, source.version, f"reading of {order.holder}") as held:
            most = self._settings.value_bytes
            return Rows(self._rows, order.tenant, order.priority, held.dataset, held.parts, most)

    def _journal(self, order: Order, steps: int) -> Journal:
        return Journal(
            self._driver.keeper,
            order.tenant,
            order.run_id,
            steps=steps,
            most_bytes=self._settings.run_bytes,
        )

    async def journal(self, known: Known) -> Journal:
        """What has happened of a run, read where that is not at hand.

        Raises:
            StoreUnavailableError: It cannot be read, now or ever.
        """
        order = known.order
        async with known.reading:  # of two that were read only one would be told what follows
            if (journal := known.journal) is None:
                journal = self._journal(order, len(known.step_names))
                try:
                    await journal.replay()
                except UNREADABLE as error:
                    message = f"what is kept of pipeline run {order.run_id} is damaged: {error}"
                    raise StoreUnavailableError(message, metadata={"cause": "damaged"}) from None
                known.journal = journal
        if order.over and self._driver.keeper is not None:
            self._read[order.run_id] = None
            self._read.move_to_end(order.run_id)
            while len(self._read) > READ_JOURNALS:
                oldest, _ = self._read.popitem(last=False)
                if (other := self.known.get(oldest)) is not None and other.order.over:
                    other.journal = None
        return journal

    def pipeline(self, known: Known) -> Pipeline:
        """The graph of a run. Of those that have ended only the last ones stay at hand: parsed ones are large."""
        if known.parsed is None:
            known.parsed = self._wire.read(known.order.written)
        if known.order.over:
            self._parsed[known.order.run_id] = None
            self._parsed.move_to_end(known.order.run_id)
            while len(self._parsed) > READ_JOURNALS:
                oldest, _ = self._parsed.popitem(last=False)
                if (other := self.known.get(oldest)) is not None:
                    other.parsed = None
        return known.parsed

    def end(self, known: Known) -> None:
        """Of a run that has ended the graph is needed only by who reads what it gave."""
        if known.order.over:
            known.parsed = None

    def _check_places(self, tenant: str) -> None:
        """Refuse one more run where there are as many as there may be."""
        limits = self._settings
        living = [each for each in self.known.values() if not each.order.over]
        own = sum(each.order.tenant == tenant for each in living)
        _check_room("pipelines.running", len(living) + 1, limits.running, "runs of pipelines that have not ended")
        _check_room("pipelines.tenant_running", own + 1, limits.tenant_running, "such runs of the tenant")
        held = sum(each.size_bytes for each in living)
        _check_room("pipelines.bytes", held, limits.bytes, "bytes that runs which have not ended keep")

    async def _make_room(self) -> None:
        """Let go of runs that have ended, where there are too many: of the oldest of the tenant that has most."""
        limits = self._settings
        while True:
            counts, sizes = Counter[str](), Counter[str]()
            for each in self.known.values():
                counts[each.order.tenant] += 1
                sizes[each.order.tenant] += each.size_bytes
            if len(self.known) <= limits.runs and sizes.total() <= limits.bytes:
                return
            most = sizes if len(self.known) <= limits.runs else counts
            ended = [each for each in self.known.values() if each.order.over]
            if not ended:
                return
            whose = max((each.order.tenant for each in ended), key=lambda tenant: most[tenant])
            await self.remove(next(each for each in ended if each.order.tenant == whose))

    async def sweep(self) -> None:
        """Let go of runs that ended long ago."""
        oldest = time.time() - self._settings.retention_s
        for known in [each for each in self.known.values() if each.order.over and (each.order.ended or 0.0) < oldest]:
            with suppress(InferdError):  # it is tried again
                await self.remove(known)

    async def remove(self, known: Known) -> None:
        """Let go of a run that has ended, and of all that it gave.

        Raises:
            StoreUnavailableError: That cannot be written now.
        """
        order = known.order
        if self._driver.keeper is not None:
            await self._driver.keeper.keep_records([Drop(order.tenant, Kind.PIPELINE, order.run_id)])
        self._forget(known)

    def _forget(self, known: Known) -> None:
        order = known.order
        self.known.pop(order.run_id, None)
        if self._requests.get(key := (order.tenant, order.request_id)) == order.run_id:  # not of one that came after
            del self._requests[key]
        self._read.pop(order.run_id, None)
        self._parsed.pop(order.run_id, None)
        self.let_go(order)

    def let_go(self, order: Order) -> None:
        """Its input is needed no longer."""
        if order.over:
            return
        if order.blob and (blobs := self._blobs) is not None:
            blobs.let_go(order.tenant, order.blob, order.holder)
        if order.dataset is not None:
            self._rows.let_go(order.tenant, order.dataset.name, order.dataset.version, order.holder)

    def _forget_tenant(self, tenant: str) -> None:
        for known in [each for each in self.known.values() if each.order.tenant == tenant]:
            if known.journal is not None:
                known.journal.close()
            if known.carrying is not None:
                known.carrying.cancel()
            self._forget(known)


def _check_room(bound: str, value: int, limit: int, what: str) -> None:
    if value > limit:
        raise LimitExceededError(
            f"there would be {value} {what}, and {bound} is {limit}; try again when one has ended, or raise that"
            " setting of the kernel",
            metadata={"bound": bound, "value": str(value), "limit": str(limit)},
            retry_after_s=RETRY_AFTER_S,
        )


def _kept_orders(store: Store) -> list[Order]:
    found = []
    for record in store.records(Kind.PIPELINE, lambda *_: None):
        try:
            found.append(Order.read(record.value))
        except UNREADABLE as error:
            log.warning("a run of a pipeline that was kept cannot be read", run=record.key, why=str(error)[:200])
    return found
