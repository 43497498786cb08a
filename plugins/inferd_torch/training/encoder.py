"""The loss of a model of embeddings: texts that belong together are near, those of other rows are far.

A text and its pair are found among the pairs of all rows of a part (in-batch negatives, arXiv:1705.00652), by cosines
that are multiplied with `SCALE`. So parts of a step have fewer negatives than a step of one part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from inferd.plugin import ExportKind, Judgement, Pooling, TrainError
from inferd_torch.training.objective import pad
from inferd_torch.training.rows import Row

SCALE: Final = 20.0
POOLINGS: Final = (Pooling.MEAN, Pooling.FIRST)
_PAIR: Final = 2  # texts of an example
_RANKED: Final = 256  # texts that are looked for at a time


@dataclass(frozen=True, slots=True)
class PairExample:
    """Tokens of a text and of the one that belongs to it."""

    texts: tuple[list[int], list[int]]
    cut: bool = False


class PairModel:
    """An encoder that learns which texts belong together.

    Args:
        network: Of transformers.
        tokenizer: Of it; None where only the size of its steps is asked for.
        fields: Names of both texts in a row.
        most: Tokens of a text.
        pooling: How an embedding is made of the states of its tokens.
        device: Where it is.
        export: Writes what was trained.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Tokenizer | None,
        *,
        fields: tuple[str, str],
        most: int,
        pooling: Pooling,
        device: torch.device,
        export: Callable[[Path], ExportKind],
    ) -> None:
        self.network: Any = network
        self._tokenizer, self._fields, self._most = tokenizer, fields, most
        self._pooling, self._device, self.export = pooling, device, export
        if tokenizer is not None:
            tokenizer.enable_truncation(most)

    def read(self, row: Row, name: str) -> PairExample:
        """An example of a row.

        Raises:
            TrainError: It lacks a text.
        """
        found: list[list[int]] = []
        cut = False
        for field in self._fields:
            text = row.get(field)
            if not isinstance(text, str) or self._tokenizer is None:
                kind = "is not there" if text is None else f"is a {type(text).__name__}"
                raise TrainError(f"{name}: field {field!r} {kind}: a row needs two texts; it has {sorted(row)[:10]}")
            encoded = self._tokenizer.encode(text)
            if not encoded.ids:
                raise TrainError(f"{name}: field {field!r} has no tokens")
            found.append(encoded.ids)
            cut = cut or bool(encoded.overflowing)
        return PairExample((found[0], found[1]), cut)

    def weight(self, example: PairExample) -> int:
        """Rows count alike."""
        del example
        return 1

    def tokens(self, example: PairExample) -> int:
        """That are read, of both texts."""
        return sum(map(len, example.texts))

    def loss(self, examples: Sequence[PairExample]) -> Tensor:
        """The sum of the losses of some rows, each against the pairs of all."""
        return self._lose(*self._embed_pairs(examples))

    def embed(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Embeddings (texts, width) of length 1, of tokens (texts, n); those that are filled in are not `seen`."""
        states = self.network(input_ids=ids, attention_mask=seen.long()).last_hidden_state.float()
        if self._pooling is Pooling.FIRST:
            return normalize(states[:, 0], dim=-1)
        shares = seen.unsqueeze(-1).float()
        return normalize((states * shares).sum(1) / shares.sum(1), dim=-1)

    def judge(self, parts: Sequence[Sequence[PairExample]]) -> Judgement:
        """The loss of rows that are held back, and how many find their own pair among those of all, first or at all."""
        total, firsts, seconds = 0.0, [], []
        for part in parts:
            first, second = self._embed_pairs(part)
            total += self._lose(first, second).item()
            firsts.append(first)
            seconds.append(second)
        mine, others = torch.cat(firsts), torch.cat(seconds)
        ranks = torch.cat([self._rank(mine, others, at) for at in range(0, len(mine), _RANKED)])
        return Judgement(
            loss=total / len(mine),
            figures={
                "found_first": (ranks == 1).double().mean().item(),
                "mean_reciprocal_rank": (1 / ranks.double()).mean().item(),
            },
        )

    def _rank(self, mine: Tensor, others: Tensor, at: int) -> Tensor:
        """The place of each text's own pair among all, from 1; of some texts."""
        some = torch.arange(at, min(at + _RANKED, len(mine)), device=mine.device)
        products = mine[some] @ others.T
        own = products.gather(1, some.unsqueeze(1))
        return (products > own).sum(1) + 1

    def _embed_pairs(self, examples: Sequence[PairExample]) -> tuple[Tensor, Tensor]:
        texts = [each.texts[side] for side in range(_PAIR) for each in examples]
        ids = pad(texts, 0, self._device)
        seen = pad([[1] * len(text) for text in texts], 0, self._device).bool()
        first, second = self.embed(ids, seen).split(len(examples))  # type: ignore[no-untyped-call] # torch has no types
        return first, second

    def _lose(self, first: Tensor, second: Tensor) -> Tensor:
        own = torch.arange(len(first), device=first.device)
        return cross_entropy(SCALE * first @ second.T, own, reduction="sum")
