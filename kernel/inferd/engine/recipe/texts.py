"""Texts: to the ids of their tokens, filled up to rows of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from tokenizers import Tokenizer

from inferd.errors import is_failure, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from inferd.plugin.recipe import TextInput

    Ids = NDArray[np.int64]

MOST_TEXTS: Final = 1024


class Tokens:
    """Makes tokens as a recipe says. May be called from several threads.

    Raises:
        ValueError: The tokenizer is none.
    """

    def __init__(self, step: TextInput, folder: Path) -> None:
        self._step = step
        try:
            self._inner = Tokenizer.from_file(str(folder / step.tokenizer))
        except BaseException as error:  # the library raises bare exceptions, and panics
            if not is_failure(error):
                raise
            raise ValueError(f"{step.tokenizer} is no tokenizer: {words_of(error)}") from None
        self._inner.no_truncation()
        self._inner.no_padding()

    def read(self, texts: Sequence[str]) -> dict[str, Ids]:
        """The rows of texts, by the inputs of the model.

        Raises:
            ValueError: One has too many tokens, or there is none.
        """
        step = self._step
        if not 0 < len(texts) <= MOST_TEXTS:
            raise ValueError(f"has {len(texts)} texts; 1 to {MOST_TEXTS} are taken")
        found = self._inner.encode_batch_fast(list(texts))
        longest = max(len(each.ids) for each in found)
        if longest > step.length:
            raise ValueError(f"has a text of {longest} tokens; the model takes {step.length}")
        width = min(max(1, -(-longest // step.multiple)) * step.multiple, step.length)
        ids = np.full((len(found), width), step.padding, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, each in enumerate(found):
            count = len(each.ids)
            ids[row, :count], mask[row, :count], types[row, :count] = each.ids, 1, each.type_ids
        made = {step.gives: ids, step.mask: mask, step.types: types}
        return {name: array for name, array in made.items() if name}
