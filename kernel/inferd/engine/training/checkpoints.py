"""Checkpoints of a training: each a folder that is whole once it has its name, the newest two kept and the best."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 2
NEW: Final = ".new"  # what a folder is called until it is whole
BEST: Final = "best-"
PROGRESS, SESSION = "progress.json", "session"
DIGITS: Final = 10


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a training is. One writer: its loop.

    Attributes:
        step: The last step that was done.
        tokens: That all steps have read.
        cut: Rows that were cut.
        computed_s: Seconds that the steps took.
        best: The lowest loss that an evaluation has found; None before the first.
        best_step: After which step.
        stale: Evaluations since then.
        judged: The step after which it was judged last; 0 for never.
        early: Whether it has ended early.
        points: The curve until there: step, loss, rate of learning and tokens of each.
        judgements: What evaluations found, as it is told; a confusion matrix has the last one
            alone, labels that and the best one: a thousand of each, a thousand times, would be in no message.
    """

    step: int = 0
    tokens: int = 0
    cut: int = 0
    computed_s: float = 0.0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    judged: int = 0
    early: bool = False
    points: list[list[float]] = field(default_factory=list)
    judgements: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints in a folder. One writer: the loop of the training.

    Args:
        folder: Where they are; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        for each in folder.iterdir():
            if each.name.startswith(NEW):  # of a worker that ended while it wrote
                shutil.rmtree(each, ignore_errors=True)

    def all(self) -> list[Path]:
        """Those that are whole, the newest first; the best one is not among them."""
        return self._named("")

    @property
    def best(self) -> Path | None:
        """The one with the best judgement; None where none is kept."""
        return next(iter(self._named(BEST)), None)

    def write(self, progress: Progress, save: Callable[[Path], None]) -> int:
        """Write a checkpoint and drop the oldest; its size in bytes.

        Raises:
            OSError: It cannot be written; those of before are as they were.
            Exception: Whatever `save` raises.
        """
        size_bytes = self._write(f"{progress.step:0{DIGITS}}", progress, save)
        for each in self.all()[KEPT:]:
            shutil.rmtree(each, ignore_errors=True)
        return size_bytes

    def write_best(self, progress: Progress, save: Callable[[Path], None]) -> None:
        """Write the best one, in place of the one before; raises as `write`."""
        self._write(f"{BEST}{progress.step:0{DIGITS}}", progress, save)
        for each in self._named(BEST)[1:]:
            shutil.rmtree(each, ignore_errors=True)

    def _named(self, before: str) -> list[Path]:
        """Those that are whole and have names of this and a number, the highest first."""
        found = [
            each
            for each in self._folder.iterdir()
            if each.name.startswith(before) and each.name.removeprefix(before).isdecimal()
        ]
        return sorted(found, reverse=True)

    def _write(self, name: str, progress: Progress, save: Callable[[Path], None]) -> int:
        new, path = self._folder / (NEW + name), self._folder / name
        shutil.rmtree(new, ignore_errors=True)
        (new / SESSION).mkdir(parents=True)
        save(new / SESSION)
        (new / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
        size_bytes = settle(new)
        shutil.rmtree(path, ignore_errors=True)  # of the same step: it holds the same, and one before it is there still
        new.rename(path)
        sync_folder(self._folder)
        return size_bytes


def read_progress(checkpoint: Path) -> Progress:
    """How far a training was when a checkpoint was written.

    Raises:
        OSError, ValueError, TypeError: It cannot be read.
    """
    said: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    return Progress(**said)


def settle(folder: Path) -> int:
    """Have all that is in a folder be on the disk; its size in bytes."""
    size_bytes = 0
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(parent, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
                size_bytes += os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        sync_folder(Path(parent))
    return size_bytes


def sync_folder(folder: Path) -> None:
    """Have the names in a folder be on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(Path(parent, name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)
