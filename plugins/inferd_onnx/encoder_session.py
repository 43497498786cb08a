"""The session of an encoder: sequences of a step, padded to each other and computed in as few calls as is of use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import ElementType, StepResult, Tensor, TokenBatch, TokenLimits
from inferd.plugin.tensor import NUMPY
from inferd_onnx.session import OnnxSession

INTEGERS: Final = frozenset({ElementType.INT32, ElementType.INT64})
FLOATS: Final = frozenset({ElementType.FLOAT, ElementType.FLOAT16, ElementType.DOUBLE})
BLOCK_TOKENS, MAX_SEQUENCES, MAX_STEP_TOKENS = 16, 64, 1 << 16
SHORT = 16  # texts of so many tokens are computed together, whatever their lengths

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderGraph:
    """A graph that takes token ids.

    Attributes:
        graph: It.
        inputs: Those that it is given, by name; the others have values of their own.
        output: What is taken of it.
        pooled: Whether that is a vector for each text, not for each token.
        padding: The token behind texts that are shorter than others.
        separator: The token between two texts, of which the second is of another type; -1 for none.
        rows: Texts that it takes at once; None for any number.
        tokens: Of each text; None for any number.
        alone: Whether each text is computed alone, not filled up, as others beside it would change what it gives.
    """

    graph: OnnxSession
    inputs: Mapping[str, ElementType]
    output: str
    pooled: bool
    padding: int
    separator: int
    rows: int | None
    tokens: int | None
    alone: bool = False

    @property
    def pads(self) -> bool:
        """Whether it is told what is padding; else only texts of one length are computed together."""
        return "attention_mask" in self.inputs

    def compute(self, texts: Sequence[Ids]) -> list[Floats]:
        """What it gives for each text, shape (tokens, width), or (1, width) where it pools.

        Raises:
            ValueError: The graph does not take the ids, or gives something of another shape.
        """
        found: list[Floats] = []
        most = 1 if self.alone else self.rows or len(texts)
        for first in range(0, len(texts), most):
            found += self._compute_some(texts[first : first + most])
        return found

    def _compute_some(self, texts: Sequence[Ids]) -> list[Floats]:
        rows, width = self.rows or len(texts), self.tokens or max(map(len, texts))
        ids = np.full((rows, width), self.padding, np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
            parts = np.flatnonzero(text == self.separator)
            if len(parts):
                types[row, parts[0] + 1 : len(text)] = 1
        mask[len(texts) :, 0] = 1  # nobody's, and not to be divided by nothing
        positions = np.broadcast_to(np.arange(width), ids.shape)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "position_ids": positions}
        told = self.graph.predict(
            {name: _tensor(given[name], kind) for name, kind in self.inputs.items()}, [self.output]
        )
        array: NDArray[Any] = told[self.output].array
        shape = (rows,) if self.pooled else (rows, width)
        if array.shape[:-1] != shape or not array.shape[-1]:
            raise ValueError(f"output {self.output!r} has shape {list(array.shape)}; it must be {[*shape, 'width']}")
        numbers = array.astype(np.float32, copy=False)
        return [numbers[row : row + 1] if self.pooled else numbers[row, : len(text)] for row, text in enumerate(texts)]


class EncoderSession:
    """An encoder: of a step all sequences are whole, and hidden states are what is wanted."""

    def __init__(self, graph: EncoderGraph, *, vocabulary_size: int, context_tokens: int, width: int) -> None:
        self._graph = graph
        self._limits = TokenLimits(
            vocabulary_size=vocabulary_size,
            context_tokens=context_tokens,
            block_tokens=BLOCK_TOKENS,
            blocks=MAX_SEQUENCES * -(-context_tokens // BLOCK_TOKENS),
            max_sequences=MAX_SEQUENCES,
            max_step_tokens=MAX_STEP_TOKENS,
            embedding_size=width,
            whole_prompts=True,
        )

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        return self._limits

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step; its logits are zeros.

        Raises:
            ValueError: The batch is not what `TokenBatch` promises, or the graph does not take it.
        """
        logits = np.zeros((len(batch.logit_rows), self._limits.vocabulary_size), np.float32)
        if batch.hidden_rows is None:
            return StepResult(logits=logits)
        low, high = int(batch.token_ids.min(initial=0)), int(batch.token_ids.max(initial=0))
        if low < 0 or high >= self._limits.vocabulary_size:
            raise ValueError(
                f"token ids go from {low} to {high}; they must lie from 0 to {self._limits.vocabulary_size - 1}"
            )
        return StepResult(logits=logits, hidden=self._compute(batch, batch.hidden_rows))

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Nothing: it keeps nothing of a sequence."""

    def close(self) -> None:
        """Give the memory back."""
        self._graph.graph.close()

    def _compute(self, batch: TokenBatch, wanted: Ids) -> Floats:
        hidden = np.empty((len(wanted), self._limits.embedding_size), np.float32)
        starts = batch.starts
        bounds = np.searchsorted(wanted, starts)  # of the wanted rows of each sequence
        asked = [place for place in range(len(starts) - 1) if bounds[place] < bounds[place + 1]]
        alone = [[place] for place in asked]
        groups = alone if self._graph.alone else _group(asked, np.diff(starts), pads=self._graph.pads)
        for places in groups:
            texts = [batch.token_ids[starts[place] : starts[place + 1]] for place in places]
            for place, numbers in zip(places, self._graph.compute(texts), strict=True):
                rows = wanted[bounds[place] : bounds[place + 1]] - starts[place]
                hidden[bounds[place] : bounds[place + 1]] = numbers[:1] if self._graph.pooled else numbers[rows]
        return hidden


def _group(places: Sequence[int], lengths: NDArray[np.int32], *, pads: bool) -> list[list[int]]:
    """Texts that are padded to each other: none to more than twice its length, unless all are short."""
    groups: list[list[int]] = []
    for place in sorted(places, key=lambda place: -int(lengths[place])):
        longest = lengths[groups[-1][0]] if groups else 0
        joins = longest <= SHORT or 2 * lengths[place] >= longest if pads else lengths[place] == longest
        if groups and joins:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _tensor(array: NDArray[np.int64], kind: ElementType) -> Tensor:
    made = np.ascontiguousarray(array, NUMPY[kind])
    return Tensor(element_type=kind, shape=made.shape, array=made)
