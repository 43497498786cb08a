"""Cells that the tests of a process share: a stem takes a tenth of a second to start."""

from functools import cache
from typing import Any

from inferd.engine.cells.cell import Cells
from inferd.engine.token.limits import CELL_MEMORY_BYTES
from inferd.plugin import Vocabulary
from inferd.testing.fake import VOCABULARY

_MADE: dict[Any, Cells] = {}


class SharedCells(Cells):
    """They are not closed by who used them first; they end with this process."""

    def close(self) -> None:
        pass


@cache
def fake_cells() -> Cells:
    """The cells of all models of the fake backend: they have one vocabulary."""
    return cells_of(VOCABULARY)


def cells_of(vocabulary: Vocabulary) -> Cells:
    """The cells of all models with these tokens, which split texts by the same rule."""
    rules = (vocabulary.algorithm, vocabulary.pre_tokenizer, vocabulary.definition)
    key = (*rules, tuple(vocabulary.tokens), tuple(vocabulary.kinds))
    if key not in _MADE:
        size = max(1, len(vocabulary.tokens))
        _MADE[key] = SharedCells(vocabulary, size=size, memory_bytes=CELL_MEMORY_BYTES)
    return _MADE[key]


def make_cells(vocabulary: Vocabulary, *, memory_bytes: int = CELL_MEMORY_BYTES) -> Cells:
    """Cells of their own for a vocabulary; they start when one is wanted."""
    return Cells(vocabulary, size=max(1, len(vocabulary.tokens)), memory_bytes=memory_bytes)
