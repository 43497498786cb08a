"""What may be done with evaluations, and the running of them one after the other."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import structlog

from inferd.core.evaluation import EVALUATION_TABLE, Evaluation, EvaluationChange, EvaluationKind, EvaluationState
from inferd.core.lifecycle import advance
from inferd.errors import (
    InferdError,
    InternalError,
    InvalidFieldError,
    LimitExceededError,
    NotLeaderError,
    RequestConflictError,
    ShuttingDownError,
    StoreUnavailableError,
)
from inferd.evaluation_errors import EvaluationNotFoundError
from inferd.runtime.evaluation_work import Whose
from inferd.runtime.front.evaluation_compare import Compared, Comparison, Wanted, compare
from inferd.runtime.front.evaluation_run import EvaluationRun, check_lines, fingerprint_of, over, scores_of
from inferd.runtime.front.evaluation_tasks import EvaluationTasks
from inferd.runtime.kept_evaluations import Answer, HeldParts, StoredParts, lines_of
from inferd.runtime.signal import Signal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from inferd.core.dataset import Source
    from inferd.core.evaluation import EvaluationSpec
    from inferd.core.ids import Tenant
    from inferd.evaluation_settings import Evaluate
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.kept_evaluations import EvaluationParts

TIME_BYTES, RANDOM_BYTES = 6, 8  # of an id: later ones are above
LINES_AT_ONCE: Final = 50  # whose answers are read together
RETRY_S: Final = 5.0  # until an end that could not be kept is written again
GOES_ON = (ShuttingDownError, NotLeaderError)
"""What ends an evaluation here, which goes on with the kernel that follows."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Known:
    """An evaluation that is known. One writer: `Evaluations`."""

    evaluation: Evaluation
    changed: Signal = field(default_factory=Signal)
    running: asyncio.Task[None] | None = None
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the data, its answer, and what was measured of it."""

    data: str
    answer: Answer
    scores: dict[str, float]


class Evaluations:
    """Has models evaluated. One writer: the kernel's loop.

    Args:
        driver: Of the kernel.
        tasks: By which models are asked, and functions called.
        settings: Bounds.
        share: A tenant may have so many times what is free of `evaluate.kept` (`scheduler.tenant_share`).

    Attributes:
        most_bytes: Of the data of one.
    """

    def __init__(self, driver: Driver, tasks: Tasks, settings: Evaluate, *, share: float) -> None:
        self._driver = driver
        self._streams = tasks.streams
        self._tasks = EvaluationTasks(driver, tasks)
        self._settings = settings
        self._share = share
        self.most_bytes = settings.data_bytes
        keeper = driver.keeper
        self._parts: EvaluationParts = (
            HeldParts(settings.held_bytes, share=share) if keeper is None else StoredParts(keeper)
        )
        self._known: dict[str, _Known] = {}  # by id, which rise
        self._making: Counter[str] = Counter()  # by tenant: those whose data is read
        self._making_one = asyncio.Lock()
        self._queue = Signal()
        if keeper is not None:
            keeper.forgets.append(self._forget)

    async def adopt(self) -> None:
        """Those that were kept are here again; those that have not ended go on.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        found = await self._parts.evaluations()
        for each in sorted(found, key=lambda evaluation: evaluation.evaluation_id):
            self._known[each.evaluation_id] = _Known(each)

    # What clients ask.

    async def create(
        self,
        spec: EvaluationSpec,
        data: bytes,
        caller: Caller,
        *,
        request_id: str = "",
        dataset: Source | None = None,
        fingerprint: str = "",
    ) -> Evaluation:
        """A new evaluation, kept when this returns; or the one of this `request_id`, which had the same `fingerprint`.

        Raises:
            InvalidFieldError: A line of the data is wrong.
            RequestConflictError: The same `request_id` came with other contents.
            LimitExceededError: There are too many, or the data is too large.
            InferdError: Its data cannot be read or kept now.
        """
        fingerprint = fingerprint or fingerprint_of(spec, data)
        if (made := self.find_made(caller.tenant, request_id, fingerprint)) is not None:
            return made
        self._driver.views.model(spec.model)
        lines = self._read(data)
        if spec.kind is EvaluationKind.CODE and not self._settings.code:
            raise InvalidFieldError(
                "kind is CODE, for which programs that models write are run, and evaluate.code is off; an operator of"
                " the kernel may turn it on",
                field="spec.kind",
            )
        self._check_room(caller.tenant)
        evaluation = Evaluation(
            evaluation_id=new_id(),
            tenant=caller.tenant,
            spec=spec,
            digest=sha256(data).hexdigest(),
            lines=len(lines),
            created=time.time(),
            request_id=request_id,
            fingerprint=fingerprint,
            dataset=dataset,
        )
        self._making[caller.tenant] += 1
        try:
            await self._check_lines(evaluation, data)
            return await asyncio.shield(self._make(evaluation, data))  # one that is kept is known, whoever has gone
        finally:
            self._making[caller.tenant] -= 1

    async def _make(self, evaluation: Evaluation, data: bytes) -> Evaluation:
        """Keep a new one and have it run; or find the one that the same call has made meanwhile."""
        async with self._making_one:
            made = self.find_made(evaluation.tenant, evaluation.request_id, evaluation.fingerprint)
            if made is None:
                await self._parts.make(evaluation, data)
                self._known[evaluation.evaluation_id] = _Known(evaluation)
                self._queue.notify()
        return made or evaluation

    async def _check_lines(self, evaluation: Evaluation, data: bytes) -> None:
        whose = Whose(tenant=evaluation.tenant, evaluation_id=evaluation.evaluation_id)
        try:
            await check_lines(self._tasks, whose, evaluation, data)
        except InvalidFieldError as error:
            raise InvalidFieldError(f"data: {error.message}", field="data") from None

    def find_made(self, tenant: Tenant, request_id: str, fingerprint: str) -> Evaluation | None:
        """The evaluation that the same `request_id` made; None for none. Raises RequestConflictError."""
        for known in reversed(self._known.values()) if request_id else ():
            made = known.evaluation
            if made.tenant == tenant and made.request_id == request_id:
                if made.fingerprint != fingerprint:
                    raise RequestConflictError(
                        f"request_id {request_id!r} has made evaluation {made.evaluation_id} with other contents;"
                        " take a new one",
                        field="request_id",
                    )
                return made
        return None

    def _read(self, data: bytes) -> list[str]:
        most = self._settings.lines
        self.check_size(len(data))
        try:
            lines = lines_of(data)
        except UnicodeDecodeError as error:
            message = f"data is no text in UTF-8: byte {error.start} is {data[error.start]:#x}"
            raise InvalidFieldError(message, field="data") from None
        if not lines:
            raise InvalidFieldError("data has no lines; give JSON Lines, one object each", field="data")
        if len(lines) > most:
            raise over("evaluate.lines", len(lines), most, "lines")
        return lines

    def check_size(self, size_bytes: int) -> None:
        """Refuse data that is too large.

        Raises:
            LimitExceededError: It is.
        """
        if size_bytes > self._settings.data_bytes:
            raise over("evaluate.data_bytes", size_bytes, self._settings.data_bytes, "bytes")

    def _check_room(self, tenant: Tenant) -> None:
        have = sum(known.evaluation.tenant == tenant for known in self._known.values()) + self._making[tenant]
        free = self._settings.kept - len(self._known) - self._making.total()
        if free < 1 or have + 1 > self._share * free:
            raise LimitExceededError(
                f"{len(self._known)} evaluations are known, {have} of tenant {tenant!r}, and evaluate.kept is"
                f" {self._settings.kept}, of which a tenant may have {self._share:g} times what is free for it; delete"
                " some",
                metadata={"bound": "evaluate.kept", "value": str(have), "limit": str(self._settings.kept)},
            )

    def get(self, evaluation_id: str, caller: Caller) -> Evaluation:
        """The evaluation of this id.

        Raises:
            EvaluationNotFoundError: The tenant has none; so for all that follow.
        """
        return self._get(evaluation_id, caller).evaluation

    def _get(self, evaluation_id: str, caller: Caller) -> _Known:
        known = self._known.get(evaluation_id)
        if known is None or known.evaluation.tenant != caller.tenant:
            raise EvaluationNotFoundError(
                f"no evaluation {evaluation_id[:80]!r}; `inferd evaluations list` lists the known ones",
                metadata={"evaluation_id": evaluation_id[:80]},
                field="evaluation_id",
            )
        return known

    def all(self, caller: Caller) -> list[Evaluation]:
        """Those of the tenant, newest first."""
        known = (known.evaluation for known in reversed(self._known.values()))
        return [evaluation for evaluation in known if evaluation.tenant == caller.tenant]

    async def watch(self, evaluation_id: str, caller: Caller) -> AsyncGenerator[Evaluation, None]:
        """An evaluation as it stands, then as it changes, until it has ended; what nobody reads is merged.

        Raises:
            LimitExceededError: The tenant has as many streams as it may have.
            ShuttingDownError: The kernel is shutting down.
        """
        known = self._get(evaluation_id, caller)
        with self._streams.place(caller.tenant):
            async with self._driver.closing.cut_short():
                while True:
                    version = known.changed.version
                    yield known.evaluation
                    if known.evaluation.ended:
                        return
                    await known.changed.wait(version)

    async def lines(
        self, evaluation_id: str, caller: Caller, *, after: int, size: int, most_bytes: int
    ) -> tuple[list[Line], bool]:
        """Lines of an evaluation behind this number that were answered, and whether there may be more.

        So many at most, and no more are read where those that were have so many bytes.

        Raises:
            StoreUnavailableError: They cannot be read now.
        """
        evaluation = self._get(evaluation_id, caller).evaluation
        data = lines_of(await self._parts.data(evaluation))
        answers: list[Answer] = []
        begin, size_bytes = after + 1, 0
        while begin <= len(data) and len(answers) <= size and size_bytes <= most_bytes:
            numbers = range(begin, begin + min(LINES_AT_ONCE, size + 1))
            found = await self._parts.answers(evaluation, numbers)
            size_bytes += sum(len(data[each.number - 1]) + len(each.text) + len(each.why) for each in found)
            answers += found
            begin = numbers.stop
        rows = await self._parts.rows(evaluation)
        scores = dict(scores_of(json.loads(rows))) if rows else {}
        lines = [Line(data[answer.number - 1], answer, scores.get(answer.number, {})) for answer in answers[:size]]
        return lines, len(answers) > size or begin <= len(data)

    async def cancel(self, evaluation_id: str, caller: Caller) -> Evaluation:
        """End an evaluation; one that has ended stays as it is.

        Raises:
            StoreUnavailableError: It cannot be kept now: the evaluation goes on.
        """
        known = self._get(evaluation_id, caller)
        if not known.evaluation.ended:
            await self._move(known, EvaluationChange.CANCEL)
            if known.running is not None:
                known.running.cancel()
        return known.evaluation

    async def delete(self, evaluation_id: str, caller: Caller) -> None:
        """Forget an evaluation that has ended.

        Raises:
            InvalidFieldError: It goes on.
            StoreUnavailableError: It cannot be forgotten now.
        """
        known = self._get(evaluation_id, caller)
        if not known.evaluation.ended:
            raise InvalidFieldError(
                f"evaluation {evaluation_id} is {known.evaluation.state.name}; cancel it first", field="evaluation_id"
            )
        await self._parts.drop(known.evaluation)
        self._known.pop(evaluation_id, None)

    async def compare(self, evaluation_ids: Sequence[str], caller: Caller, wanted: Wanted) -> Comparison:
        """Compare evaluations with the first one.

        Raises:
            InvalidFieldError: One has not succeeded, or is of another kind, or of other data.
            InferdError: They cannot be read, or not be compared now.
        """
        compared = []
        for number, each in enumerate(evaluation_ids):
            evaluation = self._get(each, caller).evaluation
            if evaluation.state is not EvaluationState.SUCCEEDED:
                raise InvalidFieldError(
                    f"evaluation {each} is {evaluation.state.name}; only what has SUCCEEDED has figures",
                    field=f"evaluation_ids[{number}]",
                )
            compared.append(Compared(evaluation, json.loads(await self._parts.rows(evaluation))))
        return await compare(self._tasks, self._parts, Whose(tenant=caller.tenant), compared, wanted)

    # The running of them.

    async def run(self) -> None:
        """Run those that wait, so many at once, until this is cancelled; they go on with the kernel that follows."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                version = self._queue.version
                while len(running) < self._settings.at_once and (known := self._next()) is not None:
                    known.running = asyncio.create_task(self._see_to(known), name="evaluation")
                    running.add(known.running)
                    known.running.add_done_callback(running.discard)
                    known.running.add_done_callback(lambda _: self._queue.notify())
                await self._queue.wait(version)
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _next(self) -> _Known | None:
        """The one that has waited longest, of the tenant that has the fewest going on."""
        going = Counter(
            known.evaluation.tenant
            for known in self._known.values()
            if known.running is not None and not known.running.done()
        )
        most = max(1, self._settings.at_once // 2)
        waiting = [
            known
            for known in self._known.values()
            if not known.evaluation.ended and known.running is None and going[known.evaluation.tenant] < most
        ]
        return min(waiting, key=lambda known: going[known.evaluation.tenant], default=None)

    async def _see_to(self, known: _Known) -> None:
        """Bring an evaluation to its end, whatever that is."""
        if known.evaluation.state is EvaluationState.QUEUED:
            await self._end(known, EvaluationChange.BEGIN, started=known.evaluation.started or time.time())
        if known.evaluation.ended:  # meanwhile
            return
        try:
            async with asyncio.timeout(self._left_s(known.evaluation)):
                changes, rows = await EvaluationRun(
                    evaluation=known.evaluation,
                    parts=self._parts,
                    tasks=self._tasks,
                    in_flight=self._settings.in_flight,
                    tell=lambda **changed: self._show(known, **changed),
                ).go()
        except GOES_ON:
            return
        except TimeoutError:
            most = f"{self._settings.most_s:g}"
            error: InferdError = LimitExceededError(
                f"the evaluation took longer than {most} s, which is evaluate.most_s",
                metadata={"bound": "evaluate.most_s", "limit": most},
            )
        except InferdError as failed:
            error = failed
        except Exception as defect:
            log.exception("an evaluation could not be run", evaluation=known.evaluation.evaluation_id)
            error = InternalError(f"the evaluation could not be run: {type(defect).__name__}")
        else:
            await self._end(known, EvaluationChange.SUCCEED, rows, finished=time.time(), **changes)
            return
        await self._end(known, EvaluationChange.FAIL, finished=time.time(), error=error)

    def _left_s(self, evaluation: Evaluation) -> float:
        """How long it may still take: what it took before a kernel ended counts, and so does the time between."""
        return self._settings.most_s + (evaluation.started or time.time()) - time.time()

    async def _end(self, known: _Known, change: EvaluationChange, rows: bytes | None = None, **changes: Any) -> None:
        """Move it, when that can be kept."""
        while not known.evaluation.ended:
            try:
                await self._move(known, change, rows, **changes)
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _move(self, known: _Known, change: EvaluationChange, rows: bytes | None = None, **changes: Any) -> None:
        if change is EvaluationChange.CANCEL:
            changes["finished"] = time.time()
        async with known.moving:  # one at a time: what was kept last is what it is
            if known.evaluation.ended:
                return
            state = advance(EVALUATION_TABLE, known.evaluation.state, change)
            await self._parts.put(replace(known.evaluation, state=state, **changes), rows)
            known.evaluation = replace(known.evaluation, state=state, **changes)
            known.changed.notify()

    def _show(self, known: _Known, **changed: Any) -> None:
        """What has become of its lines; that is not kept with it, as the lines themselves are."""
        known.evaluation = replace(known.evaluation, **changed)
        known.changed.notify()

    def _forget(self, tenant: Tenant) -> None:
        for known in [each for each in self._known.values() if each.evaluation.tenant == tenant]:
            self._known.pop(known.evaluation.evaluation_id)
            self._parts.forget(known.evaluation)
            if known.running is not None:
                known.running.cancel()


def new_id() -> str:
    """An id: later ones are above."""
    return (time.time_ns() // 1_000_000).to_bytes(TIME_BYTES).hex() + token_hex(RANDOM_BYTES)
