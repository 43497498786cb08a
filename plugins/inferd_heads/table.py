"""The rows of a training: where each lies in its file, what it is labelled, and which are held back.

Nothing of the texts stays in memory: a file is looked through once, and rows are read again when they are wanted.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TrainError, TrainingRecipe

MOST_LINE_BYTES: Final = 4 << 20
MOST_ROWS: Final = 4_000_000
MOST_LABELS: Final = 1000
MOST_LABEL_CHARACTERS: Final = 256
MOST_NUMBERS: Final = 16384
"""Of a row whose text is given as a vector."""
FEWEST: Final = 2
"""Labels of a training; and rows of a label, where some are held back."""

Content = str | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Table:
    """One file of rows.

    Attributes:
        name: What it is called in errors: "row 3 of …".
        path: Where it is.
        offsets: Of each row, in bytes.
        lines: Of each row, from 1.
        labels: Of each row, by its place in `names`.
        names: The labels, in their order.
        width: Numbers of each row; 0 where rows are texts.
        digest: SHA-256 of the file.
    """

    name: str
    path: Path
    offsets: NDArray[np.int64]
    lines: NDArray[np.int32]
    labels: NDArray[np.int32]
    names: tuple[str, ...]
    width: int
    digest: str

    def __len__(self) -> int:
        return len(self.offsets)


def read_table(path: Path, recipe: TrainingRecipe, *, name: str, known: Table | None = None) -> Table:
    """Look through a file.

    Args:
        path: The file.
        recipe: The fields of its rows.
        name: What it is called in errors.
        known: The rows that are trained on, where these are held back: other labels than those are refused.

    Raises:
        TrainError: A row is wrong, or there are too few or too many.
    """
    offsets: list[int] = []
    lines: list[int] = []
    labels: list[int] = []
    places: dict[str, int] = {label: at for at, label in enumerate(known.names)} if known else {}
    width = known.width if known else -1
    digest = hashlib.sha256()
    for line, offset, raw in _read_lines(path, name):
        digest.update(raw)
        if not raw.strip():
            continue
        where = f"row {line} of {name}"
        row = _parse(raw, where)
        label = _read_label(row, recipe.label, where)
        content = read_content(row, recipe.text, where)
        size = 0 if isinstance(content, str) else len(content)
        width = size if width < 0 else width
        if size != width:
            raise TrainError(f"{where}: {recipe.text!r} is {_kind(size)}; in the rows before it is {_kind(width)}")
        if label not in places:
            if known:
                raise TrainError(f"{where}: no row that is trained on has the label {label!r}: it could not be found")
            if len(places) == MOST_LABELS:
                raise TrainError(
                    f"{where}: {label!r} is label number {MOST_LABELS + 1}; a classifier has at most {MOST_LABELS}."
                    f" Is {recipe.label!r} the field of the labels?"
                )
            places[label] = len(places)
        if len(offsets) == MOST_ROWS:
            raise TrainError(f"{where}: a training has at most {MOST_ROWS} rows")
        offsets.append(offset)
        lines.append(line)
        labels.append(places[label])
    if not offsets:
        raise TrainError(f"{name} are none: the file has no rows")
    if len(places) < FEWEST:
        raise TrainError(
            f"all {len(offsets)} of {name} have the label {next(iter(places))!r}; a classifier needs {FEWEST} labels"
        )
    names = known.names if known else tuple(sorted(places))
    order = np.array([names.index(label) for label in places], np.int32)
    return Table(
        name=name,
        path=path,
        offsets=np.array(offsets, np.int64),
        lines=np.array(lines, np.int32),
        labels=order[np.array(labels, np.int32)],
        names=names,
        width=width,
        digest=digest.hexdigest(),
    )


def _read_lines(path: Path, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and bytes of each line."""
    try:
        with path.open("rb") as file:
            offset = number = 0
            while raw := file.readline(MOST_LINE_BYTES + 1):
                number += 1
                if len(raw) > MOST_LINE_BYTES:
                    raise TrainError(f"row {number} of {name} has more than {MOST_LINE_BYTES} bytes: split its text")
                yield number, offset, raw
                offset += len(raw)
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}") from None


def _parse(raw: bytes, where: str) -> Mapping[str, Any]:
    try:
        row: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise TrainError(f"{where} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise TrainError(f"{where} is a {type(row).__name__}; it must be an object")
    return row


def _read_label(row: Mapping[str, Any], field: str, where: str) -> str:
    """A label is a text, or a whole number, which is taken as a text."""
    label = _get(row, field, where)
    if type(label) is int:
        label = str(label)
    if not isinstance(label, str):
        raise TrainError(f"{where}: {field!r} is a {type(label).__name__}; a label is a text or a whole number")
    if not label.strip():
        raise TrainError(f"{where}: {field!r} is empty; each row needs a label")
    if len(label) > MOST_LABEL_CHARACTERS:
        raise TrainError(f"{where}: {field!r} has {len(label)} characters; a label has at most {MOST_LABEL_CHARACTERS}")
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raise TrainError(
            f"{where}: {field!r} has half of a character, {label[error.start]!a}: a label is a text"
        ) from None
    return label


def read_content(row: Mapping[str, Any], field: str, where: str) -> Content:
    """A text, or the numbers of a vector.

    Raises:
        TrainError: It is neither.
    """
    content = _get(row, field, where)
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(type(each) in {int, float} for each in content):
        raise TrainError(f"{where}: {field!r} must be a text, or the numbers of a vector")
    if not 0 < len(content) <= MOST_NUMBERS:
        raise TrainError(f"{where}: {field!r} has {len(content)} numbers; 1 to {MOST_NUMBERS} are taken")
    try:
        with np.errstate(over="ignore"):
            vector = np.array(content, np.float32)
        finite = bool(np.isfinite(vector).all())
    except OverflowError:
        finite = False
    if not finite:
        raise TrainError(f"{where}: {field!r} has a number that is none, or too large for 32 bits")
    return vector


def _get(row: Mapping[str, Any], field: str, where: str) -> Any:
    if field not in row:
        raise TrainError(f"{where} has no field {field!r}; it has {', '.join(map(repr, list(row)[:8])) or 'none'}")
    return row[field]


def _kind(width: int) -> str:
    return f"a vector of {width} numbers" if width else "a text"


class Reader:
    """Reads rows of a table again, in any order. One user; closed by who made it."""

    def __init__(self, table: Table, field: str) -> None:
        self._table = table
        self._field = field
        self._file: BinaryIO = table.path.open("rb")

    def read(self, place: int) -> Content:
        """What stands in a row.

        Raises:
            TrainError: The file is not what it was.
        """
        where = self.where(place)
        self._file.seek(int(self._table.offsets[place]))
        return read_content(_parse(self._file.readline(MOST_LINE_BYTES), where), self._field, where)

    def where(self, place: int) -> str:
        """The row, for errors."""
        return f"row {self._table.lines[place]} of {self._table.name}"

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def split(table: Table, share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The places of the rows that are trained on, and of those that are held back: that share of each label's rows.

    Raises:
        TrainError: A label has fewer than two rows.
    """
    held: list[NDArray[np.intp]] = []
    for label, name in enumerate(table.names):
        members = np.flatnonzero(table.labels == label)
        if len(members) < FEWEST:
            raise TrainError(
                f"row {table.lines[members[0]]} of {table.name} is the only one with the label {name!r}; {FEWEST} are"
                " needed, one to train on and one to hold back: add rows, or give rows to hold back of their own"
            )
        count = min(max(1, math.floor(len(members) * share + 0.5)), len(members) - 1)
        generator = np.random.Generator(np.random.PCG64([seed, 1, label]))
        held.append(members[generator.permutation(len(members))[:count]])
    kept = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(table)), kept), kept
