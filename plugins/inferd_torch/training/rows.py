"""Rows of a file of JSON Lines: found once, read when they are needed, in an order that a seed decides."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TrainError

MOST_ROW_BYTES: Final = 16 << 20
"""Of one row; a longer one is refused, so that no row takes the memory of the others."""

Row = dict[str, Any]


class Rows:
    """A file, looked through once: where each row is.

    Args:
        path: Of JSON Lines; blank lines are no rows.

    Attributes:
        digest: SHA-256 of the file, in hexadecimal digits.
        longest_bytes: Of a row.

    Raises:
        TrainError: It cannot be read, has no rows, or one that is no object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.longest_bytes = 0
        hashed, starts, at = hashlib.sha256(), [], 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(MOST_ROW_BYTES + 1), b""), 1):
                    if len(line) > MOST_ROW_BYTES:
                        raise TrainError(f"{path}: line {number} has over {MOST_ROW_BYTES} bytes, the most of a row")
                    hashed.update(line)
                    if line.strip():
                        _parse(path, number, line)
                        starts.append((at, number))
                        self.longest_bytes = max(self.longest_bytes, len(line))
                    at += len(line)
        except OSError as error:
            raise TrainError(f"{path} cannot be read: {error.strerror}") from error
        if not starts:
            raise TrainError(f"{path} has 0 rows; at least 1 is needed")
        self.digest = hashed.hexdigest()
        self._starts = np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, place: int) -> Row:
        at, number = map(int, self._starts[place])
        with self.path.open("rb") as file:
            file.seek(at)
            return _parse(self.path, number, file.readline(MOST_ROW_BYTES + 1))

    def name(self, place: int) -> str:
        """What an error calls a row: its file and line."""
        return f"{self.path}, line {int(self._starts[place][1])}"


def _parse(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TrainError(f"{path}: line {number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise TrainError(f"{path}: line {number} holds a {type(row).__name__}; a row is an object")
    return row


def divide(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the rows to learn from, and of those that are held back: `share` of `count`, at least one of each.

    Raises:
        TrainError: There are too few rows, or no share.
    """
    if not 0 < share < 1:
        raise TrainError(f"'held' is {share}; where no rows of their own are given it must lie between 0 and 1")
    least = 2
    if count < least:
        raise TrainError(f"there is {count} row, and 'held' is {share}: {least} are needed, or held rows of their own")
    held = min(max(round(count * share), 1), count - 1)
    mixed = np.random.default_rng([seed, 0]).permutation(count)
    return np.sort(mixed[held:]), np.sort(mixed[:held])


class Order:
    """Which rows each step has: all of them in another order in each epoch, which a seed and its number decide.

    So nothing has to be kept to go on: a step's rows follow from its number.

    Args:
        places: Of the rows to learn from.
        epochs: Times that all are seen.
        batch: Rows of a step.
        seed: Of the orders.

    Attributes:
        steps: In all.
    """

    def __init__(self, places: Sequence[int], *, epochs: float, batch: int, seed: int) -> None:
        self._places, self._batch, self._seed = np.array(places, np.int64), batch, seed
        self._total = max(math.ceil(len(places) * epochs), 1)
        self.steps = -(-self._total // batch)
        self._epoch, self._mixed = -1, self._places

    def rows(self, step: int) -> list[int]:
        """Places of the rows of a step; the first one is 1."""
        return list(self._each((step - 1) * self._batch, min(step * self._batch, self._total)))

    def _each(self, begin: int, end: int) -> Iterator[int]:
        for at in range(begin, end):
            epoch, place = divmod(at, len(self._places))
            if epoch != self._epoch:
                mixed = np.random.default_rng([self._seed, epoch + 1]).permutation(self._places)
                self._epoch, self._mixed = epoch, mixed
            yield int(self._mixed[place])
