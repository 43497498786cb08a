"""What may be done with pipelines: runs of them are made, told of, read and ended."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from inferd.core.expressions import read_json
from inferd.core.index import Page
from inferd.core.lifecycle import advance
from inferd.core.pipeline import PIPELINE_TABLE, PipelineChange
from inferd.core.shapes import check_few
from inferd.errors import (
    InferdError,
    InternalError,
    InvalidFieldError,
    RequestConflictError,
    ShuttingDownError,
    StoreUnavailableError,
)
from inferd.runtime.ask_grants import NOBODY, MayRun
from inferd.runtime.front.pipeline_check import PipelineCheck
from inferd.runtime.pipelines.book import Known, RunBook
from inferd.runtime.pipelines.journal import RETRY_S, Happened
from inferd.runtime.pipelines.order import Order
from inferd.runtime.pipelines.running import HeldValues, PipelineLimits, Run, StepFailedError
from inferd.runtime.pipelines.series import Series, check_size
from inferd.runtime.pipelines.tasking import TaskRunner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from inferd.config import Settings
    from inferd.core.pipeline import PipelineFormat
    from inferd.core.priority import Priority
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.dataset_rows import DatasetRows
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.pipelines.journal import Entry, Journal
    from inferd.runtime.pipelines.running import Ended
    from inferd.runtime.pipelines.tasking import Wire
    from inferd.runtime.shelf import Shelf

EVENTS = 1000  # that are told in one batch
ANSWER_BYTES, ANSWER_ITEMS = 512 << 10, 1000  # that are read in one answer, about
ID_BYTES = 10
LASTING = ("damaged", "memory:", "shredded")  # causes for which a store is not there that do not pass

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRun:
    """What is asked for.

    Attributes:
        written: The pipeline, as the wire has it.
        json: The input; None where a blob is.
        blob: The digest of a blob that is; "" for none.
        format: What that is.
        dataset: The name and the version of a dataset that is; None for none.
        request_id: Makes it idempotent.
        ttl_s: After how long it expires; None for the default.
        seed: From which those of tasks are made; None for one that is drawn.
        fingerprint: Equal for two calls with the same contents.
        check_only: Whether nothing is to be made.
        may_run: Which models calls of functions may ask.
    """

    written: bytes = field(repr=False)
    json: str | None = field(repr=False)
    blob: str
    format: PipelineFormat
    request_id: str
    ttl_s: float | None
    priority: Priority
    labels: Mapping[str, str]
    seed: int | None
    fingerprint: str
    check_only: bool
    may_run: MayRun = NOBODY
    dataset: tuple[str, int] | None = None


class Pipelines:
    """Makes runs of pipelines, and carries them out. One writer: the kernel's loop.

    Args:
        driver: Of the kernel.
        tasks: By which steps are done.
        shelf: Where models and functions are.
        wire: Reads pipelines and makes tasks.
        settings: Of the kernel.
        rows: Of datasets.
    """

    def __init__(  # noqa: PLR0917 - parts of a kernel
        self, driver: Driver, tasks: Tasks, shelf: Shelf, wire: Wire, settings: Settings, rows: DatasetRows
    ) -> None:
        limits = self._settings = settings.pipelines
        self._driver, self._tasks = driver, tasks
        self._limits = PipelineLimits(
            items=limits.items, value_bytes=limits.value_bytes, prompt_bytes=settings.limits.prompt_bytes
        )
        self._check = PipelineCheck(driver, shelf, wire)
        self._runner = TaskRunner(tasks, driver.clock, wire, limits.value_bytes)
        self._book = RunBook(driver, wire, limits, rows)
        self._held = HeldValues(limits.held_bytes)
        self._serves = False

    # The life of all.

    async def adopt(self) -> None:
        """Those that are kept are known again; they go on when `run` begins.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        await self._book.adopt()

    async def run(self) -> None:
        """Carry out runs until this is cancelled; they go on with the next kernel that has the store."""
        self._serves = True
        try:
            for known in list(self._book.known.values()):
                if not known.order.over and known.settled.is_set():
                    self._begin(known)
            while True:
                await asyncio.sleep(self._settings.sweep_s)
                await self._book.sweep()
        finally:
            self._serves = False
            carrying = [each.carrying for each in self._book.known.values() if each.carrying is not None]
            for known in self._book.known.values():
                if known.journal is not None:
                    known.journal.close()
            for each in carrying:
                each.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)

    def _begin(self, known: Known) -> None:
        known.carrying = asyncio.create_task(self._carry_out(known), name=f"pipeline run {known.order.run_id}")

    async def _carry_out(self, known: Known) -> None:
        """From where it stands to its end, unless the kernel ends before."""
        order = known.order
        try:
            try:
                ended, change = await self._outcome(known)
            except asyncio.CancelledError:
                if not known.cancelled or not self._serves:
                    raise
                ended, change = order, PipelineChange.CANCEL
            await self._end(known, ended, change)
        except ShuttingDownError:
            log.info("a run of a pipeline goes on with the next kernel", run=order.run_id)
        except InferdError as error:
            log.warning(
                "a run of a pipeline stands still until the kernel starts again", run=order.run_id, why=str(error)
            )
        except Exception as error:
            log.exception("defect in a run of a pipeline", run=order.run_id)
            defect = InternalError(f"a defect of inferd: {type(error).__name__}; see its log")
            await self._end(known, order.failed(defect, "", 0), PipelineChange.FAIL)

    async def _outcome(self, known: Known) -> tuple[Order, PipelineChange]:
        """How it ends, unless somebody ends it."""
        order, clock = known.order, self._driver.clock
        if known.cancelled:
            return order, PipelineChange.CANCEL
        try:
            async with asyncio.timeout(max(0.0, order.expires - clock.wall(clock.now()))) as expiry:
                output = None
                while output is None:
                    output = await self._tried(known)
                return replace(order, output=output), PipelineChange.SUCCEED
        except TimeoutError:
            if not expiry.expired():
                raise
            return order, PipelineChange.EXPIRE
        except StepFailedError as failed:
            return order.failed(failed.error, failed.step, failed.index), PipelineChange.FAIL
        except ShuttingDownError:
            raise
        except InferdError as error:
            if known.journal is None:  # nothing can be told of it
                raise
            return order.failed(error, "", 0), PipelineChange.FAIL

    async def _tried(self, known: Known) -> Ended | None:
        """What it gives; None, after a while, where the store cannot be used now: it goes on from its journal then."""
        try:
            journal = await self._book.journal(known)
            given = await self._book.given(known)
            pipeline = self._book.pipeline(known)
            return await Run(known.order, pipeline, journal, given, self._runner, self._limits, self._held).go()
        except (StoreUnavailableError, StepFailedError) as failed:
            error = failed.error if isinstance(failed, StepFailedError) else failed
            lasts = error.metadata.get("cause") in LASTING or not isinstance(error, StoreUnavailableError)
            if lasts or not self._serves:
                raise
            log.warning("a run of a pipeline stands still until the store can be used", run=known.order.run_id)
            await asyncio.sleep(RETRY_S)
            return None

    async def _end(self, known: Known, ended: Order, change: PipelineChange) -> None:
        """It has ended: that is kept, and told then."""
        known.ending = True  # from here on nobody ends it otherwise
        journal = await self._book.journal(known)
        clock, state = self._driver.clock, advance(PIPELINE_TABLE, known.order.state, change)
        used = journal.usage
        ended = replace(
            ended,
            state=state,
            ended=clock.wall(clock.now()),
            size_bytes=journal.size_bytes,
            usage=(used[0], used[1], used[2]),
        )
        await journal.add(Happened.ENDED, 0, state.value, also=(ended.put(),))
        self._book.let_go(known.order)
        known.order = ended
        known.carrying, known.ending = None, False
        self._book.end(known)
        journal.changed.notify()

    # Making.

    async def create(self, wanted: WantedRun, caller: Caller) -> Known:
        """Check a pipeline, and begin a run of it, or find the one that the same `request_id` made; it is kept.

        Raises:
            InferdError: It is refused.
        """
        self._driver.check_open()
        if (made := await self._book.requested(caller.tenant, wanted.request_id)) is not None:
            return _repeated(made, wanted)
        size, most = len(wanted.written), self._settings.written_bytes
        check_few("pipelines.written_bytes", size, most, "the pipeline has {} bytes")
        pipeline, written = await self._check.checked(wanted.written)
        if wanted.json is not None:
            check_size(len(wanted.json.encode()), self._limits.value_bytes, "json")
            read_json(wanted.json, "json")
        if wanted.blob:
            self._book.check_blob(caller.tenant, wanted.blob, wanted.format)
        dataset = None if wanted.dataset is None else self._book.find_dataset(caller.tenant, *wanted.dataset)
        now = self._driver.clock.wall(self._driver.clock.now())
        order = Order(
            run_id="" if wanted.check_only else f"{int(now * 1000):012x}{secrets.token_hex(ID_BYTES)}",
            tenant=caller.tenant,
            number=self._book.next_number(),
            written=written,
            created=now,
            expires=now + (self._settings.expire_s if wanted.ttl_s is None else wanted.ttl_s),
            priority=wanted.priority,
            lease_id=caller.lease_id,
            seed=secrets.randbits(63) if wanted.seed is None else wanted.seed,
            labels=dict(wanted.labels),
            request_id=wanted.request_id,
            fingerprint=wanted.fingerprint,
            blob=wanted.blob,
            format=wanted.format,
            allows=wanted.may_run.grant.allows,
            denies=wanted.may_run.grant.denies,
            who=wanted.may_run.name,
            roles=wanted.may_run.roles,
            key_id=wanted.may_run.key_id,
            dataset=dataset,
        )
        if wanted.check_only:
            return Known(order, pipeline)
        if (made := await self._book.requested(caller.tenant, wanted.request_id)) is not None:  # it came twice at once
            return _repeated(made, wanted)
        known = await self._book.make(order, pipeline, wanted.json)
        if self._serves and known.carrying is None:
            self._begin(known)
        return known

    # Telling.

    def get(self, run_id: str, caller: Caller) -> Known:
        """A run.

        Raises:
            PipelineRunNotFoundError: The tenant has none of this id; so for all that follow.
        """
        return self._book.find(run_id, caller.tenant)

    async def journal(self, known: Known) -> Journal:
        """What has happened of it.

        Raises:
            StoreUnavailableError: It cannot be read.
        """
        with self._still_there(known):
            journal = await self._book.journal(known)
        self._book.find(known.order.run_id, known.order.tenant)  # else what was read may be half of it
        return journal

    @contextmanager
    def _still_there(self, known: Known) -> Iterator[None]:
        """A run that is deleted while it is read is told as one that there is not, whatever fails of that."""
        try:
            yield
        except InferdError:
            self._book.find(known.order.run_id, known.order.tenant)
            raise

    def page(self, caller: Caller, *, before: int | None, size: int) -> Page[Known]:
        """Runs of the tenant, newest first, behind the one of number `before`."""
        found = [
            known
            for known in reversed(self._book.known.values())
            if known.order.tenant == caller.tenant and (before is None or known.order.number < before)
        ]
        return Page(found[:size], more=len(found) > size)

    async def watch(self, run_id: str, caller: Caller, *, after: int) -> AsyncGenerator[list[Entry]]:
        """Its events behind number `after`, in batches as they come, to its end.

        Raises:
            InvalidFieldError: There is no such event yet.
            LimitExceededError: The tenant has as many streams as it may have.
            ShuttingDownError: The kernel is shutting down.
        """
        known = self._book.find(run_id, caller.tenant)
        journal = await self._book.journal(known)
        if after > journal.last:
            raise InvalidFieldError(
                f"after_sequence is {after}; the newest event of run {run_id} is {journal.last}", field="after_sequence"
            )
        with self._tasks.streams.place(caller.tenant):
            while True:
                seen = journal.changed.version
                while batch := journal.entries(after, EVENTS):
                    after = batch[-1].sequence
                    yield batch
                if known.order.over and after >= journal.last:
                    return
                async with self._driver.closing.cut_short():
                    await journal.changed.wait(seen)

    async def read(self, run_id: str, caller: Caller, *, step: str, begin: int) -> AsyncGenerator[list[str]]:
        """What it, or a step of it, has given, from the item of a place on, in parts.

        Raises:
            InvalidFieldError: There is no such step, or it is not finished.
            StoreUnavailableError: It cannot be read now.
        """
        known = self._book.find(run_id, caller.tenant)
        with self._tasks.streams.place(caller.tenant), self._still_there(known):
            series = await self._series(known, await self._book.journal(known), step)
            while begin < series.count:
                end, size = begin + 1, series.size_of(begin)
                while end < min(series.count, begin + ANSWER_ITEMS) and size + series.size_of(end) <= ANSWER_BYTES:
                    size += series.size_of(end)
                    end += 1
                yield await series.some(begin, end)
                begin = end

    async def _series(self, known: Known, journal: Journal, step: str) -> Series:
        pipeline = self._book.pipeline(known)
        run = Run(
            known.order, pipeline, journal, lambda: self._book.given(known), self._runner, self._limits, self._held
        )
        number = pipeline.numbers.get(step) if step else pipeline.find(pipeline.output)
        if step and number is None:
            raise InvalidFieldError(f"step is {step[:80]!r}; there are {', '.join(pipeline.numbers)}", field="step")
        if number is not None and not journal.steps[number].finished:
            name = pipeline.steps[number].name
            raise InvalidFieldError(f"step {name!r} is not finished; watch the run, and read it then", field="step")
        series, _ = await (run.told(number) if step and number is not None else run.output())
        return series

    # Ending.

    async def cancel(self, run_id: str, caller: Caller) -> Known:
        """End a run; one that has ended stays as it is.

        Raises:
            StoreUnavailableError: Nothing can be written now: it goes on.
        """
        known = self._book.find(run_id, caller.tenant)
        if self._driver.keeper is not None and not known.order.over:
            self._driver.keeper.check()
        await known.settled.wait()
        known = self._book.find(run_id, caller.tenant)
        if not known.order.over and self._serves:
            await self._stop(known)
            if not known.order.over:
                self._driver.check_open()
                raise StoreUnavailableError(f"the end of pipeline run {run_id} could not be kept: see the kernel's log")
        return known

    async def delete(self, run_id: str, caller: Caller) -> None:
        """Forget a run that has ended, and all that it gave.

        Raises:
            InvalidFieldError: It goes on.
            StoreUnavailableError: It cannot be forgotten now.
        """
        known = self._book.find(run_id, caller.tenant)
        if not known.order.over:
            raise InvalidFieldError(
                f"pipeline run {run_id} is {known.order.state.name}; cancel it first", field="run_id"
            )
        await self._book.remove(known)

    async def _stop(self, known: Known) -> None:
        """Have a run ended by whatever carries it out; it is begun once more where that stood still, to end it."""
        first, known.cancelled = not known.cancelled, True
        if first and known.carrying is not None and not known.ending:
            known.carrying.cancel()
            await asyncio.wait([known.carrying])
        if known.order.over:
            return
        if known.carrying is None or known.carrying.done():
            self._begin(known)
        if known.carrying is not None:
            await asyncio.wait([known.carrying])


def _repeated(known: Known, wanted: WantedRun) -> Known:
    if known.order.fingerprint != wanted.fingerprint:
        run_id = known.order.run_id
        raise RequestConflictError(
            f"request_id {wanted.request_id!r} made pipeline run {run_id} with other contents; choose another one",
            metadata={"request_id": wanted.request_id, "run_id": run_id},
            field="request_id",
        )
    return known
