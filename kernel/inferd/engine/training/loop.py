"""The loop of a training: steps, judgements, checkpoints and the end, and what is told of them meanwhile."""

from __future__ import annotations

import errno
import json
import logging
import math
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from inferd.content import content_digest
from inferd.core.training import MOST_CONFUSED, MOST_JUDGEMENTS, RESULT
from inferd.core.vigil import Doing
from inferd.engine.activity import Activity
from inferd.engine.cause import last_line, placed_line
from inferd.engine.function.call import CallResult
from inferd.engine.token.holds import Holds
from inferd.engine.token.output import Ended
from inferd.engine.training.cadence import epoch_ends, is_told
from inferd.engine.training.checkpoints import NEW, SESSION, settle, size_of, sync_folder
from inferd.errors import BackendFailedError, DiskFullError, InferdError, LimitExceededError, is_failure, words_of
from inferd.plugin.training import ExportKind, TrainError
from inferd.training_errors import TrainingFailedError

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says of a disk that takes no more: once there is room the training can go on."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.vigil import Pulse
    from inferd.engine.training.backend import LoadedTraining
    from inferd.plugin.training import Judgement, TrainStep

LIBRARIES: Final = ("numpy", "torch", "transformers", "peft", "safetensors", "tokenizers", "scikit-learn", "optuna")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A task on its way in: bring the training to its end.

    Attributes:
        handle: Names it; rises with each task.
        checkpoint_s: Between checkpoints, where the recipe does not say steps.
        report_s: Least time between two reports of steps.
        curve_steps: Most steps of the curve.
        disk_bytes: Most bytes of the folder.
        lease_id, fencing_token: Of the lease that it runs under; "" for none.
    """

    handle: int
    checkpoint_s: float
    report_s: float
    curve_steps: int
    disk_bytes: int
    lease_id: str = ""
    fencing_token: int = 0


class LeftError(Exception):
    """The task was cancelled, or the worker is to end: the training stands where its last step has left it."""


class TrainingLoop:
    """Does the steps of one training.

    `run` belongs to the thread that loaded it; `submit`, `cancel`, `hold` and `stop` come from any thread. What says
    which task is under way is written under one lock, all else by the thread of `run`.

    Args:
        loaded: The training.
        deliver: Called with what is told of it. May block.
        activity: Told what is being done.
        now: A monotonic clock, in seconds.

    Attributes:
        places: Tasks that it can have at once.
    """

    def __init__(
        self,
        loaded: LoadedTraining,
        deliver: Callable[[CallResult], None],
        *,
        activity: Activity | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = 1
        self._loaded = loaded
        self._deliver = deliver
        self._activity = activity or Activity()
        self._now = now
        self._holds = Holds(rows=1, blocks=0)
        self._waiting: list[Drive] = []
        self._under_way: Drive | None = None
        self._cancelled = self._stopping = False
        self._changed = threading.Condition()
        self._saved_step, self._saved_at = loaded.progress.step, now()
        self._sound = True  # the session may be saved: it stands where `progress` says
        self._told_at = now()
        self._told = 0  # of the points of the curve
        self._last: TrainStep | None = None

    def submit(self, drive: Drive) -> None:
        """Bring the training to its end. Its handle is in `CallResult.ended` once, unless it is cancelled."""
        try:
            with self._changed:
                self._holds.find(drive.lease_id, drive.fencing_token)
                self._waiting.append(drive)
                self._changed.notify()
        except InferdError as error:
            self._deliver(CallResult(ended=[Ended(handle=drive.handle, error=error)]))

    def cancel(self, handle: int, *, again: bool = False) -> None:  # noqa: ARG002 - what was done is kept either way
        """Do no more steps for a task: the session stays, and is saved when the worker ends."""
        with self._changed:
            self._waiting = [each for each in self._waiting if each.handle != handle]
            if self._under_way is not None and self._under_way.handle == handle:
                self._cancelled = True

    def hold(self, lease_id: str, fencing_token: int, *, sequences: int, kv_tokens: int) -> None:
        """Note the grant of a lease, which its tasks must name.

        Raises:
            ValueError: It is more than there is: a defect of the caller, who was told the bounds.
        """
        if sequences > self.places or kv_tokens:
            raise ValueError(
                f"lease {lease_id} is to hold {sequences} sequences and {kv_tokens} KV tokens; 1 and 0 are"
            )
        with self._changed:
            self._holds.change(lease_id, fencing_token, rows=sequences, blocks=0)

    def stop(self) -> None:
        """Let `run` return once the step is done that is under way and what was done is saved."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify_all()

    def run(self) -> None:
        """Train until `stop`; sleeps while there is nothing to do."""
        while (drive := self._next()) is not None:
            self._drive(drive)
            self._activity.begin(Doing.IDLE)
        self._activity.begin(Doing.TEND)
        if self._sound and self._loaded.progress.step != self._saved_step:
            try:
                self._loaded.checkpoints.write(self._loaded.progress, self._loaded.session.save)
            except Exception:  # noqa: BLE001 - foreign code; the checkpoint before is there
                _log.exception("what was done since the last checkpoint is lost: it cannot be saved")

    def pulse(self) -> Pulse:
        """What it is doing."""
        return self._activity.pulse(self._loaded.progress.step)

    def _next(self) -> Drive | None:
        self._activity.begin(Doing.IDLE)
        with self._changed:
            while not self._stopping and not self._waiting:
                self._changed.wait()
            if self._stopping:
                return None
            self._under_way, self._cancelled = self._waiting.pop(0), False
            return self._under_way

    def _drive(self, drive: Drive) -> None:
        """Bring the training to its end, or as far as it comes."""
        began, error = self._now(), None
        try:
            self._train(drive)
        except LeftError:
            return
        except InferdError as refused:
            error = refused
        except (TrainError, OSError) as wrong:
            cause, full = words_of(wrong), isinstance(wrong, OSError) and wrong.errno in FULL
            message = f"the folder of the training cannot be written: {cause}" if full else cause
            error = (DiskFullError if full else TrainingFailedError)(message, metadata={"cause": cause})
        except BaseException as defect:
            if not is_failure(defect):
                raise
            _log.exception("the training failed at step %d", self._loaded.progress.step + 1)
            cause = placed_line(defect, self._loaded.session)
            message = f"the backend raised at step {self._loaded.progress.step + 1} of the training: {cause}"
            error = BackendFailedError(message, metadata={"cause": cause})
        finally:
            with self._changed:
                self._under_way = None
        self._sound = self._sound and error is None
        self._deliver(CallResult(ended=[Ended(handle=drive.handle, error=error)], seconds=self._now() - began))

    def _train(self, drive: Drive) -> None:
        """Do all steps that are left, and write what came of them.

        Raises:
            LeftError: It was cut short.
            TrainError: It cannot go on.
            InferdError, OSError: Likewise.
        """
        loaded, recipe = self._loaded, self._loaded.order.recipe
        progress, steps = loaded.progress, loaded.session.steps
        self._told = len(progress.points)
        self._tell(
            drive,
            begun={
                "step": progress.step,
                "steps": steps,
                "tokens": progress.tokens,
                "cut": progress.cut,
                "computed_s": progress.computed_s,
                "points": progress.points,
                "judgements": progress.judgements,
                "versions": _versions(),
            },
        )
        self._saved_at = self._told_at = self._now()
        ends = epoch_ends(steps, recipe.epochs)
        while progress.step < steps and not progress.early:
            self._check_wanted(drive)
            self._step(drive)
            if progress.step % recipe.evaluate_every == 0 if recipe.evaluate_every else progress.step in ends:
                self._judge(drive)
            if self._is_due(drive):
                self._save(drive)
        if progress.judged != progress.step:
            self._judge(drive)
        if progress.step != self._saved_step:
            self._save(drive)
        self._report(drive)
        self._check_wanted(drive)
        self._export(drive)

    def _check_wanted(self, drive: Drive) -> None:
        with self._changed:
            wanted = not (self._cancelled or self._stopping)
        if not wanted:
            self._report(drive)
            raise LeftError

    def _step(self, drive: Drive) -> None:
        progress, session = self._loaded.progress, self._loaded.session
        self._activity.begin(Doing.STEP, self._loaded.order.recipe.batch)
        began = self._now()
        done = session.step()
        self._activity.begin(Doing.TEND)
        if done.step != progress.step + 1:
            raise TrainError(f"TrainSession.step gave step {done.step}; it must give {progress.step + 1}")
        if not math.isfinite(done.loss):
            raise TrainError(
                f"the loss of step {done.step} is {done.loss}, at a learning rate of {done.learning_rate:g}; take a"
                " lower learning_rate, or a lower clip"
            )
        progress.step = done.step
        progress.tokens += done.tokens
        progress.cut += done.cut
        progress.computed_s += self._now() - began
        self._last = done
        if is_told(done.step, session.steps, drive.curve_steps):
            progress.points.append([done.step, done.loss, done.learning_rate, done.tokens])
        if self._now() - self._told_at >= drive.report_s:
            self._report(drive)

    def _report(self, drive: Drive) -> None:
        """Tell the steps that were done since the last report."""
        self._told_at = self._now()
        if (last := self._last) is None:
            return
        progress, self._last = self._loaded.progress, None
        points, self._told = progress.points[self._told :], len(progress.points)
        self._tell(
            drive,
            stepped={
                "points": points,
                "step": last.step,
                "loss": last.loss,
                "learning_rate": last.learning_rate,
                "tokens": progress.tokens,
                "cut": progress.cut,
                "computed_s": progress.computed_s,
            },
        )

    def _judge(self, drive: Drive) -> None:
        loaded, recipe, progress = self._loaded, self._loaded.order.recipe, self._loaded.progress
        self._report(drive)
        self._activity.begin(Doing.TEND)
        found = loaded.session.evaluate()
        if not math.isfinite(found.loss):
            raise TrainError(f"the loss on rows that are held back is {found.loss} after step {progress.step}")
        progress.judged, plain = progress.step, _plain(progress.step, found)
        before = [
            each | {"confusion": []} | ({} if each["step"] == progress.best_step else {"labels": []})
            for each in progress.judgements
            if each["step"] < progress.step
        ]
        progress.judgements = [*before[1 - MOST_JUDGEMENTS :], plain]
        self._tell(drive, judged=plain)
        if progress.best is None or found.loss < progress.best:
            progress.best, progress.best_step, progress.stale = found.loss, progress.step, 0
            if recipe.patience:
                loaded.checkpoints.write_best(progress, loaded.session.save)
        else:
            progress.stale += 1
            if recipe.patience and progress.stale >= recipe.patience and progress.step < loaded.session.steps:
                progress.early = True

    def _is_due(self, drive: Drive) -> bool:
        every = self._loaded.order.recipe.checkpoint_every
        if every:
            return self._loaded.progress.step % every == 0
        return self._now() - self._saved_at >= drive.checkpoint_s

    def _save(self, drive: Drive) -> None:
        loaded = self._loaded
        self._report(drive)
        self._activity.begin(Doing.TEND)
        size_bytes = loaded.checkpoints.write(loaded.progress, loaded.session.save)
        self._saved_step, self._saved_at = loaded.progress.step, self._now()
        self._check_disk(drive)
        self._tell(drive, saved={"step": loaded.progress.step, "size_bytes": size_bytes})

    def _check_disk(self, drive: Drive) -> None:
        taken = size_of(self._loaded.folder)
        if taken > drive.disk_bytes:
            raise LimitExceededError(
                f"the folder of the training has {taken} bytes, its data and checkpoints too, and train.disk_bytes is"
                f" {drive.disk_bytes}; give it less data or a smaller model, or raise that",
                metadata={"bound": "train.disk_bytes", "value": str(taken), "limit": str(drive.disk_bytes)},
            )

    def _export(self, drive: Drive) -> None:
        """Write what was trained; where it may have ended early, as it was when it was best."""
        loaded, progress = self._loaded, self._loaded.progress
        self._activity.begin(Doing.TEND)
        step, best = progress.step, loaded.checkpoints.best
        if loaded.order.recipe.patience and best is not None and progress.best_step != progress.step:
            self._sound, step = False, progress.best_step
            loaded.session.close()
            loaded.session = loaded.make()
            loaded.session.restore(best / SESSION)
        new, path = loaded.folder / (NEW + RESULT), loaded.folder / RESULT
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        kind = ExportKind(loaded.session.export(new))
        size_bytes = settle(new)
        shutil.rmtree(path, ignore_errors=True)  # of a worker whose kernel ended before it knew
        new.rename(path)
        sync_folder(loaded.folder)
        self._check_disk(drive)
        digest = content_digest(path)
        self._tell(
            drive,
            exported={
                "kind": kind.value,
                "size_bytes": size_bytes,
                "digest": digest,
                "step": step,
                "early": progress.early,
                "judged": next((each for each in progress.judgements if each["step"] == step), None),
            },
        )

    def _tell(self, drive: Drive, **what: dict[str, Any]) -> None:
        self._deliver(CallResult(pieces=[(drive.handle, json.dumps(what, ensure_ascii=False).encode())]))


def _plain(step: int, found: Judgement) -> dict[str, Any]:
    labels = [
        {
            "label": each.label,
            "precision": each.precision,
            "recall": each.recall,
            "f1": each.f1,
            "support": each.support,
        }
        for each in found.labels
    ]
    confusion = [[int(each) for each in row] for row in found.confusion] if len(labels) <= MOST_CONFUSED else []
    figures = {str(name): float(value) for name, value in found.figures.items() if math.isfinite(value)}
    return {"step": step, "loss": float(found.loss), "figures": figures, "labels": labels, "confusion": confusion}


def _versions() -> dict[str, str]:
    """Of Python and of the libraries that this process has imported."""
    found = {"python": sys.version.partition(" ")[0]}
    for name in LIBRARIES:
        if {"scikit-learn": "sklearn"}.get(name, name) in sys.modules:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError as error:
                _log.debug("no version of %s: %s", name, last_line(error))
    return found
