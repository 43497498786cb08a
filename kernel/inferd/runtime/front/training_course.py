"""The course of one training: attempt after attempt, and what each tells, until it has ended."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from inferd.core.lifecycle import advance
from inferd.core.training import MOST_JUDGEMENTS, TRAINING_TABLE, Point, Training, TrainingChange, TrainingState
from inferd.errors import (
    BackendUnavailableError,
    DiskFullError,
    InferdError,
    InternalError,
    NotLeaderError,
    ShuttingDownError,
    StoreUnavailableError,
    words_of,
)
from inferd.runtime.front.training_outcome import card_text, make_card, tell_failed
from inferd.runtime.front.trials import GaveWayError, NoRoomError
from inferd.runtime.kept_trainings import read_judged
from inferd.runtime.signal import Signal
from inferd.training_errors import TrainingFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.training import Judged
    from inferd.runtime.front.training_outcome import TrainingOutcome
    from inferd.runtime.front.training_run import TrainingRun
    from inferd.runtime.kept_trainings import TrainingParts
    from inferd.runtime.training_files import TrainingFiles
    from inferd.training_settings import Train

STORE_RETRY_S: Final = 5.0  # until what could not be kept is written again
GOES_ON = (ShuttingDownError, NotLeaderError)
"""What ends a training here, which goes on with the kernel that follows."""
AGAIN: Final = frozenset(
    {
        *("WORKER_DIED", "MODEL_BUSY", "NO_MEMORY", "LEASE_ENDED", "TASK_CANCELLED", "POISON", "EVENTS_DROPPED"),
        *("QUEUE_FULL", "LIMIT_EXCEEDED", "QUOTA_EXCEEDED", "STORE_UNAVAILABLE", "DISK_FULL"),
    }
)
"""Reasons of errors that say nothing against the training: another worker goes on."""

log = structlog.get_logger()


@dataclass(slots=True)
class Known:
    """A training that is known. One writer: its course.

    Attributes:
        settling: Whether what came of it is being made known: it is not cancelled any more.
    """

    training: Training
    changed: Signal = field(default_factory=Signal)
    running: asyncio.Task[None] | None = None
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)
    settling: bool = False


class Course:
    """Brings one training to its end, whatever that is. One writer of it: itself.

    Args:
        known: The training.
        run: By which it is attempted.
        outcome: What becomes of what was trained.
        parts: Where it is kept.
        files: Of trainings.
        settings: Bounds.
    """

    def __init__(
        self,
        known: Known,
        *,
        run: TrainingRun,
        outcome: TrainingOutcome,
        parts: TrainingParts,
        files: TrainingFiles,
        settings: Train,
    ) -> None:
        self._known = known
        self._run = run
        self._outcome = outcome
        self._parts = parts
        self._files = files
        self._settings = settings
        self._versions: dict[str, str] = {}
        self._exported: dict[str, Any] | None = None
        self._vain = 0  # attempts that ended without a step more

    async def go(self) -> None:
        """Attempt it until it has ended, or goes on with the kernel that follows."""
        while not self._known.training.ended:
            before = self._known.training.step
            try:
                await self._run.go(self._known.training, self._take)
            except GOES_ON:
                return
            except NoRoomError as error:
                await self._wait(str(error))
            except GaveWayError as error:
                await self._wait(str(error))
            except BackendUnavailableError as error:
                await self._wait(error.message)
            except InferdError as error:
                await self._fail_or_wait(error, before)
            except Exception as defect:
                log.exception("a training could not be run", training=self._known.training.training_id)
                message = f"the training could not be run: {type(defect).__name__}"
                await self.move(TrainingChange.FAIL, finished=time.time(), error=InternalError(message))
            else:
                await self._settle()
        await self._run.gone(self._known.training)
        await self._files.close(self._known.training.training_id, keeps_result=self._exported is not None)

    async def _fail_or_wait(self, error: InferdError, before: int) -> None:
        """Go on with another worker, unless the error says that it would fare alike, or too many have died in vain."""
        if error.reason not in AGAIN or error.metadata.get("bound", "").startswith("train."):
            await self.move(TrainingChange.FAIL, finished=time.time(), error=error)
            return
        if error.reason == DiskFullError.reason:  # until there is room again: its checkpoints stay
            await self._wait(error.message)
            return
        self._vain = 0 if self._known.training.step > before else self._vain + 1
        if self._vain >= self._settings.vain:
            told = self._known.training
            message = (
                f"{self._vain} workers ended one after the other without a step more than {told.step}; train.vain is"
                f" {self._settings.vain}; the last one: {error.message}"
            )
            failed = TrainingFailedError(message, metadata={**error.metadata, "cause": error.message})
            await self.move(TrainingChange.FAIL, finished=time.time(), error=failed)
            return
        await self._wait(error.message)

    async def _wait(self, why: str) -> None:
        """Let others have the room for a while."""
        known = self._known
        if known.training.state is TrainingState.RUNNING:
            await self.move(TrainingChange.WAIT, waits_for=why, tokens_per_s=0.0)
        elif why != known.training.waits_for:
            self._show(waits_for=why)
        await asyncio.sleep(self._settings.retry_s)

    async def _take(self, what: str, said: dict[str, Any]) -> None:
        """What its worker has told."""
        match what:
            case "begun":
                await self._begin(said)
            case "stepped":
                await self._step(said)
            case "judged":
                judged = read_judged(said)
                before = [each for each in self._known.training.judgements if each.step != judged.step]
                await self._keep(judgements=_latest([*before, judged]))
            case "saved":
                await self._keep(checkpoint=int(said["step"]))
            case "exported":
                self._exported = said
            case _:
                log.debug("a training tells what is not known here", what=what)

    async def _begin(self, said: dict[str, Any]) -> None:
        training = self._known.training
        self._versions = {str(name): str(version) for name, version in said["versions"].items()}
        points = [Point(*each) for each in said["points"]]
        changed = {
            "steps": int(said["steps"]),
            "step": int(said["step"]),
            "checkpoint": int(said["step"]),
            "tokens": int(said["tokens"]),
            "cut": int(said["cut"]),
            "computed_s": float(said["computed_s"]),
            "judgements": _latest(tuple(map(read_judged, said["judgements"]))),
            "attempts": training.attempts + 1,
            "ranks": int(said.get("ranks", 1)),
            "waits_for": "",
        }
        if training.state is TrainingState.QUEUED:
            started = training.started or time.time()
            await self.move(TrainingChange.BEGIN, started=started, points=points, **changed)
        else:
            await self._keep(points, **changed)

    async def _step(self, said: dict[str, Any]) -> None:
        before = self._known.training
        tokens, computed_s = int(said["tokens"]), float(said["computed_s"])
        passed_s = computed_s - before.computed_s
        points = [Point(*each) for each in said["points"]]
        await self._keep(
            points,
            step=int(said["step"]),
            loss=float(said["loss"]),
            learning_rate=float(said["learning_rate"]),
            tokens=tokens,
            cut=int(said["cut"]),
            computed_s=computed_s,
            tokens_per_s=(tokens - before.tokens) / passed_s if passed_s > 0 else 0.0,
        )

    async def _settle(self) -> None:
        """It was trained: make of it what was asked for."""
        exported = self._exported
        if exported is None:
            error = TrainingFailedError("its worker ended it without a result", metadata={"cause": "no result"})
            await self.move(TrainingChange.FAIL, finished=time.time(), error=error)
            return
        while not self._known.training.ended:
            try:
                await self._finish(exported)
            except StoreUnavailableError:
                await asyncio.sleep(STORE_RETRY_S)
            except GOES_ON:
                raise
            except InferdError as error:
                told = tell_failed(error, self._known.training)
                await self.move(TrainingChange.FAIL, finished=time.time(), error=told)

    async def _finish(self, exported: dict[str, Any]) -> None:
        async with self._known.moving:  # one that is being cancelled is so before this, or not at all
            if self._known.training.ended:
                return
            self._known.settling = True
        try:
            await self._make_known(exported)
        finally:
            self._known.settling = False

    async def _make_known(self, exported: dict[str, Any]) -> None:
        training = self._known.training
        result = await self._outcome.settle(training, exported)
        said = exported.get("judged")
        judged: Judged | None = None if said is None else read_judged(said)
        ended = replace(training, result=result, ended_early=bool(exported["early"]))
        card = make_card(ended, await self._parts.points(training), versions=self._versions, judged=judged)
        try:
            await self._files.write_card(training.training_id, card_text(card))
        except OSError as error:
            log.warning("the card of a training cannot be written", training=training.training_id, why=words_of(error))
        await self.move(
            TrainingChange.SUCCEED,
            finished=time.time(),
            result=result,
            ended_early=ended.ended_early,
            card=json.dumps(card, ensure_ascii=False),
            tokens_per_s=0.0,
        )

    async def move(self, change: TrainingChange, *, points: Sequence[Point] = (), **changes: Any) -> None:
        """Move it, when that can be kept."""
        while not self._known.training.ended:
            try:
                await move(self._known, self._parts, change, points=points, **changes)
            except StoreUnavailableError:
                await asyncio.sleep(STORE_RETRY_S)
            else:
                return

    async def _keep(self, points: Sequence[Point] = (), **changes: Any) -> None:
        """Show what has become of it, and keep it when that can be; while it cannot, its worker waits to be heard."""
        while not self._known.training.ended:
            try:
                async with self._known.moving:
                    if self._known.training.ended:
                        return
                    await self._parts.put(replace(self._known.training, **changes), points)
                    self._show(**changes)
            except StoreUnavailableError:
                await asyncio.sleep(STORE_RETRY_S)
            else:
                return

    def _show(self, **changes: Any) -> None:
        self._known.training = replace(self._known.training, **changes)
        self._known.changed.notify()


async def move(
    known: Known, parts: TrainingParts, change: TrainingChange, *, points: Sequence[Point] = (), **changes: Any
) -> None:
    """Move a training, and keep that; one that has ended stays as it is, and one that ends is not cancelled.

    Raises:
        StoreUnavailableError: It cannot be kept now.
    """
    async with known.moving:  # one at a time: what was kept last is what it is
        if known.training.ended or (known.settling and change is TrainingChange.CANCEL):
            return
        state = advance(TRAINING_TABLE, known.training.state, change)
        moved = replace(known.training, state=state, **changes)
        await parts.put(moved, points)
        known.training = moved
        known.changed.notify()


def _latest(judgements: Sequence[Judged]) -> tuple[Judged, ...]:
    """The last ones, by step; a confusion matrix has the last alone, and labels have that and the best one."""
    by_step = sorted(judgements, key=lambda each: each.step)[-MOST_JUDGEMENTS:]
    best = min(by_step, key=lambda each: each.loss, default=None)
    before = (replace(each, confusion=(), labels=each.labels if each is best else ()) for each in by_step[:-1])
    return (*before, *by_step[-1:])
