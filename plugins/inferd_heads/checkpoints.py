"""Where a training stands, in a folder: `state.safetensors` has its numbers, `state.json` says of which training."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from inferd.plugin import LoadError, TrainError, TrainingRecipe
from inferd_heads.head import Head
from inferd_heads.table import Table
from inferd_heads.tensor_files import TensorFile, digest_file, read_json, write_json, write_tensors

STATE, NUMBERS = "state.json", "state.safetensors"
FORMAT, VERSION = "inferd-heads-training", 1
_STEP: Final = "step"


def identify(recipe: TrainingRecipe, rows: Table, held: Table | None) -> str:
    """A digest of all that decides what a training does, each of its steps included."""
    told = {**asdict(recipe), "method": recipe.method.name, "rows": rows.digest, "held": held.digest if held else ""}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def save_state(folder: Path, head: Head, *, step: int, training: str) -> None:
    """Write a checkpoint."""
    numbers = write_tensors(folder / NUMBERS, {**head.tensors(), _STEP: np.array([step], np.int64)})
    write_json(folder / STATE, {"format": FORMAT, "version": VERSION, "training": training, "numbers": numbers})


def restore_state(folder: Path, head: Head, *, training: str, steps: int) -> int:
    """Fill a head from a checkpoint; the step that it stands at. Nothing is changed unless all of it is sound.

    Raises:
        TrainError: It is of another training, or damaged.
    """
    try:
        return _restore(folder, head, training=training, steps=steps)
    except LoadError as error:
        raise TrainError(f"the checkpoint cannot be used: {error}") from None


def _restore(folder: Path, head: Head, *, training: str, steps: int) -> int:
    state = read_json(folder / STATE)
    if state.get("format") != FORMAT or state.get("version") != VERSION:
        raise LoadError(
            f"{folder / STATE} is of format {state.get('format')!r}, version {state.get('version')!r}; it must be"
            f" {FORMAT!r}, version {VERSION}"
        )
    if state.get("training") != training:
        raise LoadError(
            f"{folder / STATE} is of another training: {str(state.get('training'))[:12]!r}, not {training[:12]!r};"
            " recipe and rows must be the same"
        )
    digest = digest_file(folder / NUMBERS)
    if state.get("numbers") != digest:
        raise LoadError(
            f"{folder / NUMBERS} is damaged: its SHA-256 begins with {digest[:12]}, by {STATE} with"
            f" {str(state.get('numbers'))[:12]}"
        )
    file = TensorFile(folder / NUMBERS)
    tensors = {name: file.read(name, "<f4", mine.ndim) for name, mine in head.tensors().items()}
    for name, mine in head.tensors().items():
        if tensors[name].shape != mine.shape:
            raise LoadError(f"{file.path}: {name!r} has shape {list(tensors[name].shape)}, not {list(mine.shape)}")
    step = int(file.read(_STEP, "<i8", 1)[0])
    if not 0 <= step <= steps:
        raise LoadError(f"{file.path}: is of step {step}; the training has {steps}")
    head.fill(tensors)
    return step
