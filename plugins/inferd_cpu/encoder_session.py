"""A session of an encoder whose layers the native library computes; what is around them is computed with numpy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import StepResult, TokenBatch, TokenLimits
from inferd_cpu.embedding import embed
from inferd_cpu.native_encoder import NativeEncoder
from inferd_cpu.norms import normalize
from inferd_cpu.plan import check_batch, check_pairs, check_whole
from inferd_cpu.shapes import Architecture
from inferd_cpu.weights import Weights

Floats = NDArray[np.float32]


class EncoderSession:
    """A loaded encoder. It keeps nothing of a step: its KV blocks are numbers without bytes.

    Args:
        architecture: Of the model.
        weights: All but those of layers.
        encoder: These.
        limits: What it can do.
        separator: The token behind which tokens are of another type; -1 for none.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        encoder: NativeEncoder,
        *,
        limits: TokenLimits,
        separator: int,
    ) -> None:
        self._architecture = architecture
        self._weights = weights
        self._encoder = encoder
        self._limits = limits
        self._separator = separator
        self._residual = np.empty((limits.max_step_tokens, architecture.width), np.float32)

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        return self._limits

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step.

        Raises:
            ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits. Nothing has changed.
        """
        check_batch(batch, self._limits)
        check_whole(batch)
        a, weights = self._architecture, self._weights
        residual = self._residual[: len(batch.token_ids)]
        positions, starts = batch.positions.astype(np.intp), batch.starts.astype(np.intp)
        token_ids = batch.token_ids.astype(np.intp)
        embed(a, weights, token_ids, positions, starts, separator=self._separator, out=residual)
        self._encoder.encode(residual, starts, self._turn(positions))
        hidden = None
        if batch.hidden_rows is not None:
            hidden = residual[batch.hidden_rows]
            if weights.norm is not None:
                norm, bias = weights.norm, weights.norm_bias
                normalize(hidden, norm, bias, kind=a.family.norm, epsilon=a.epsilon, out=hidden)
        # It has no head, and nobody asks for a next token.
        logits = np.zeros((len(batch.logit_rows), self._limits.vocabulary_size), np.float32)
        return StepResult(logits=logits, hidden=hidden)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Nothing is in a block.

        Raises:
            ValueError: A block is outside the pool.
        """
        check_pairs(pairs, self._limits)

    def close(self) -> None:
        """End the threads and give the memory back."""
        self._encoder.close()
        self._residual = self._residual[:0].copy()

    def _turn(self, positions: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Cosines and sines of each rotation, shape (ropes, T, rope width / 2)."""
        ropes, frequencies = self._architecture.ropes, self._weights.frequencies
        angles = np.stack([positions.astype(np.float32)[:, None] * each for each in frequencies])
        sizes = np.array([rope.magnitude for rope in ropes], np.float32)[:, None, None]
        return np.cos(angles) * sizes, np.sin(angles) * sizes
