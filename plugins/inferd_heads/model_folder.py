"""A classifier as a folder: `heads.json` says what it is, `weights.safetensors` has its numbers.

Of texts, a model has the numbers of its features (`columns`, I32, rising), what each counts (`rarity`, F32), the
weights [columns, labels] and the bias [labels] of its head. Of vectors, it has weights [numbers, labels] and a bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from inferd.plugin import LoadError
from inferd_heads.columns import Columns
from inferd_heads.hashing import BITS
from inferd_heads.sparse import Floats
from inferd_heads.table import MOST_LABEL_CHARACTERS, MOST_LABELS
from inferd_heads.tensor_files import TensorFile, read_json, write_json, write_tensors

MARK: Final = "heads.json"
WEIGHTS: Final = "weights.safetensors"
FORMAT, VERSION = "inferd-heads", 1
MOST_WORDS: Final = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What `heads.json` says.

    Attributes:
        labels: In the order of the outputs.
        most_words: Words of a text that are read; 0 for a model of vectors.
    """

    labels: tuple[str, ...]
    most_words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A model in memory.

    Attributes:
        about: What it is.
        columns: Its features; None for a model of vectors.
        weights: Of its head, [columns, labels].
        bias: [labels].
    """

    about: About
    columns: Columns | None
    weights: Floats
    bias: Floats


def write_model(folder: Path, model: Classifier) -> None:
    """Write a model into a folder."""
    arrays: dict[str, Any] = {"weights": model.weights, "bias": model.bias}
    if model.columns:
        arrays |= {"columns": model.columns.numbers.astype(np.int32), "rarity": model.columns.rarity}
    write_tensors(folder / WEIGHTS, arrays)
    about: dict[str, Any] = {"format": FORMAT, "version": VERSION, "labels": list(model.about.labels)}
    if model.columns:
        about |= {"most_words": model.about.most_words, "hash_bits": BITS}
    write_json(folder / MARK, about)


def read_about(folder: Path) -> About:
    """What a folder is.

    Raises:
        LoadError: It is no classifier, or of another version.
    """
    path = folder / MARK
    found = read_json(path)
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise LoadError(
            f"{path}: is of format {found.get('format')!r}, version {found.get('version')!r}; this backend reads"
            f" {FORMAT!r}, version {VERSION}"
        )
    labels, most, bits = found.get("labels"), found.get("most_words", 0), found.get("hash_bits", BITS)
    if not isinstance(labels, list) or not all(isinstance(each, str) and each for each in labels):
        raise LoadError(f"{path}: 'labels' must be a list of texts")
    if not 1 < len(labels) <= MOST_LABELS or max(map(len, labels)) > MOST_LABEL_CHARACTERS:
        raise LoadError(
            f"{path}: has {len(labels)} labels; 2 to {MOST_LABELS} are taken, each of {MOST_LABEL_CHARACTERS}"
            " characters at most"
        )
    if type(most) is not int or not 0 <= most <= MOST_WORDS:
        raise LoadError(f"{path}: 'most_words' is {most!r}; it must be a whole number up to {MOST_WORDS}")
    if bits != BITS:
        raise LoadError(f"{path}: 'hash_bits' is {bits!r}; this backend hashes to {BITS}")
    return About(labels=tuple(labels), most_words=most)


def measure_model(folder: Path) -> tuple[About, int]:
    """What a folder is, and the bytes of its numbers. They are not read.

    Raises:
        LoadError: It is no sound classifier, as far as headers tell.
    """
    about = read_about(folder)
    file = TensorFile(folder / WEIGHTS)
    columns, labels = file.shape("weights", "<f4", 2)
    _expect(file, "bias", file.shape("bias", "<f4", 1), (len(about.labels),))
    _expect(file, "weights", (columns, labels), (columns, len(about.labels)))
    taken = columns * labels + labels
    if about.most_words:
        _expect(file, "columns", file.shape("columns", "<i4", 1), (columns,))
        _expect(file, "rarity", file.shape("rarity", "<f4", 1), (columns,))
        taken += 2 * columns
    return about, 4 * taken


def read_model(folder: Path) -> Classifier:
    """Read a model.

    Raises:
        LoadError: It is no sound classifier.
    """
    about, _ = measure_model(folder)
    file = TensorFile(folder / WEIGHTS)
    weights, bias = file.read("weights", "<f4", 2), file.read("bias", "<f4", 1)
    if not np.isfinite(bias).all() or not all(np.isfinite(each).all() for each in np.array_split(weights, 64)):
        raise LoadError(f"{file.path}: has weights that are no finite numbers: the file is damaged; train it again")
    columns = None
    if about.most_words:
        numbers, rarity = file.read("columns", "<i4", 1), file.read("rarity", "<f4", 1)
        sound = bool(((numbers >= 0) & (numbers < 1 << BITS)).all()) and bool((np.diff(numbers) > 0).all())
        if not sound or not np.isfinite(rarity).all():
            raise LoadError(f"{file.path}: 'columns' must rise from 0 to {(1 << BITS) - 1}, and 'rarity' be finite")
        columns = Columns(numbers.astype(np.uint32), rarity)
    return Classifier(about=about, columns=columns, weights=weights, bias=bias)


def _expect(file: TensorFile, name: str, shape: Sequence[int], wanted: Sequence[int]) -> None:
    if list(shape) != list(wanted):
        raise LoadError(f"{file.path}: {name!r} has shape {list(shape)}; it must be {list(wanted)}")
