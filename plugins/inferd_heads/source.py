"""What gives the rows of a training as sparse rows: features of texts, or vectors as they are given."""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TrainError, TrainingRecipe
from inferd_heads.columns import Columns, Counter
from inferd_heads.hashing import Features, find_features
from inferd_heads.serving import vector_row
from inferd_heads.sparse import Row
from inferd_heads.table import Reader, Table

CACHE_BYTES: Final = 256 << 20
"""Of what was found in texts: as much is kept, and the rest found again whenever it is wanted."""
CACHE_SHARE, ROW_BYTES = 8, 512
"""Bytes that are kept of a text, at most: for each of its own, and besides."""

Kept = tuple[NDArray[np.uint32], NDArray[np.uint8], int, int]


class Source:
    """The rows of one table. One user.

    Args:
        table: Which.
        recipe: Which field, and how many words of a text.
        columns: The features of the model, where they are known; None before `learn`, and where rows are vectors.
    """

    def __init__(self, table: Table, recipe: TrainingRecipe, columns: Columns | None) -> None:
        self.table = table
        self._recipe = recipe
        self._columns = columns
        self._reader = Reader(table, recipe.text)
        self._kept: dict[int, Kept] = {}
        self._room = CACHE_BYTES

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.table.width if self._columns is None else len(self._columns.numbers)

    def learn(self, places: Iterable[int], labels: int, advance: Callable[[], None]) -> Columns | None:
        """Find the features of a model in these rows; they are this source's from now on. None where rows are vectors.

        Raises:
            TrainError: A row is wrong.
        """
        if self.table.width:
            return None
        counter = Counter()
        found: dict[int, Features] = {}
        for place in places:
            features = self._find(place)
            counter.add(features)
            if self._room >= features.size_bytes:
                found[place] = features
                self._room -= features.size_bytes
            advance()
        self._columns = counter.choose(labels)
        for place in list(found):
            features = found.pop(place)
            self._kept[place] = (*self._columns.find(features), features.words, features.cut)
        return self._columns

    def read(self, place: int) -> Row:
        """A row.

        Raises:
            TrainError: It is wrong.
        """
        if self._columns is None:
            content = self._reader.read(place)
            if isinstance(content, str) or len(content) != self.table.width:
                raise TrainError(f"{self._reader.where(place)} is not what it was: the file must not change")
            return vector_row(content)
        kept = self._kept.get(place)
        if kept is None:
            features = self._find(place)
            kept = (*self._columns.find(features), features.words, features.cut)
            size_bytes = kept[0].nbytes + kept[1].nbytes + ROW_BYTES
            if self._room >= size_bytes:
                self._kept[place] = kept
                self._room -= size_bytes
        return self._columns.weigh(*kept)

    def _find(self, place: int) -> Features:
        content = self._reader.read(place)
        if not isinstance(content, str):
            raise TrainError(f"{self._reader.where(place)} is not what it was: the file must not change")
        try:
            return find_features(content, self._recipe.most_tokens)
        except ValueError as error:
            raise TrainError(f"{self._reader.where(place)}: {self._recipe.text!r} has {error}") from None

    def close(self) -> None:
        """Let go of the file, and of what is kept."""
        self._kept.clear()
        self._reader.close()


def kept_bytes(table: Table) -> int:
    """What the source of a table keeps, at most."""
    if table.width:
        return 0
    return min(CACHE_BYTES, table.path.stat().st_size * CACHE_SHARE + len(table) * ROW_BYTES)
