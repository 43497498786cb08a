"""The loop of a training: steps, judgements, checkpoints and the end, and what is told of them meanwhile."""

from __future__ import annotations

import errno
import logging
import math
import shutil
import sys
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from inferd.content import content_digest
from inferd.core.training import MOST_CONFUSED, MOST_JUDGEMENTS, RESULT
from inferd.core.vigil import Doing
from inferd.engine.cause import last_line, placed_line
from inferd.engine.function.call import CallResult
from inferd.engine.token.output import Ended
from inferd.engine.training.cadence import epoch_ends, is_told
from inferd.engine.training.checkpoints import NEW, SESSION, settle, size_of, sync_folder
from inferd.engine.training.drives import Drives, LeftError
from inferd.errors import (
    BackendFailedError,
    DiskFullError,
    InferdError,
    LimitExceededError,
    WorkerDiedError,
    is_failure,
    words_of,
)
from inferd.plugin.ranks import RankLostError
from inferd.plugin.training import ExportKind, TrainError
from inferd.training_errors import TrainingFailedError

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says of a disk that takes no more: once there is room the training can go on."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.vigil import Pulse
    from inferd.engine.activity import Activity
    from inferd.engine.training.backend import LoadedTraining
    from inferd.engine.training.drives import Drive
    from inferd.plugin.training import Judgement, TrainStep

LIBRARIES: Final = ("numpy", "torch", "transformers", "peft", "safetensors", "tokenizers", "scikit-learn", "optuna")
_log = logging.getLogger(__name__)


class TrainingLoop(Drives):
    """Does the steps of one training.

    `run` belongs to the thread that loaded it, and so does all that is written here.

    Args:
        loaded: The training.
        deliver: Called with what is told of it. May block.
        activity: Told what is being done.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        loaded: LoadedTraining,
        deliver: Callable[[CallResult], None],
        *,
        activity: Activity | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(deliver, activity=activity, now=now)
        self._loaded = loaded
        self._saved_step, self._saved_at = loaded.progress.step, now()
        self._sound = True  # the session may be saved: it stands where `progress` says
        self._told_at = now()
        self._told = 0  # of the points of the curve
        self._last: TrainStep | None = None

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

    def _drive(self, drive: Drive) -> None:
        """Bring the training to its end, or as far as it comes."""
        began, error = self._now(), None
        try:
            self._train(drive)
        except LeftError:
            return
        except InferdError as refused:
            error = refused
        except RankLostError as lost:  # what it has done stays done
            cause = words_of(lost)
            error = WorkerDiedError(f"one of {drive.ranks} workers is lost: {cause}", metadata={"cause": cause})
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
            self._end()
        self._sound = self._sound and (error is None or isinstance(error, WorkerDiedError))
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
        if drive.ranks > 1:
            self._gather(drive)
        self._tell(
            drive,
            begun={
                "step": progress.step,
                "steps": steps,
                "ranks": drive.ranks,
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

    def _gather(self, drive: Drive) -> None:
        """Have the others come, with which the steps are done."""
        leading: Any = self._loaded.session  # held against the interface when it was loaded
        self._activity.begin(Doing.TEND)
        self._tell(drive, awaits={"meeting": leading.listen(drive.ranks, drive.address, drive.join_s)})
        leading.gather()

    def _check_wanted(self, drive: Drive) -> None:
        if not self._wanted:
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
