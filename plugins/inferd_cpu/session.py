"""The forward pass of a decoder of the Llama family (arXiv:2302.13971), fp32, several ragged sequences in a step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import StepResult, TokenBatch, TokenLimits
from inferd_cpu.architecture import Architecture
from inferd_cpu.attention import attend
from inferd_cpu.plan import Plan, make_plan
from inferd_cpu.weights import Layer, Weights
from inferd_cpu.workspace import make_workspace

Floats = NDArray[np.float32]
MAX_SINGLE_ROWS = 2  # up to here reading the weights once a row is faster than one product, which first rearranges them


class CpuSession:
    """A loaded model and its pool of KV blocks: keys (layers, blocks, B, H, D), values (layers, blocks, B, H, E)."""

    def __init__(self, *, architecture: Architecture, weights: Weights, limits: TokenLimits) -> None:
        a = self._architecture = architecture
        self._weights = weights
        self._limits = limits
        self._workspace = make_workspace(a, limits)
        # Zeros, not leftovers: a row multiplies values that it must not see with 0, and 0 times NaN is not 0.
        blocks = (a.layers, limits.blocks, limits.block_tokens, a.kv_heads)
        self._keys = np.zeros((*blocks, a.key_width), np.float32)
        self._values = np.zeros((*blocks, a.value_width), np.float32)

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        return self._limits

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step.

        Raises:
            ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits. Nothing has changed.
        """
        a, work = self._architecture, self._workspace
        plan = make_plan(
            batch, self._limits, gathered_blocks=len(work.keys), scores_per_head=len(work.scores) // a.heads
        )
        residual = work.residual[: len(plan.token_ids)]
        np.take(self._weights.embedding, plan.token_ids, axis=0, out=residual, mode="clip")
        angles = plan.positions.astype(np.float32)[:, None] * self._weights.frequencies
        turn = (np.cos(angles)[:, None], np.sin(angles)[:, None])
        with np.errstate(over="ignore"):  # exp of a large number is inf, and a gate divided by that is 0, as it should
            for index, layer in enumerate(self._weights.layers):
                self._add_attention(index, layer, plan, turn, residual)
                self._add_feed_forward(layer, residual)
        hidden = None
        if batch.hidden_rows is not None:
            hidden = residual[batch.hidden_rows]
            self._normalize(hidden, self._weights.norm, out=hidden)
        return StepResult(logits=self._compute_logits(residual[plan.logit_rows]), hidden=hidden)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy KV blocks, each pair from its first to its second; in order.

        Raises:
            ValueError: A block is outside the pool. Nothing has changed.
        """
        for block in (block for pair in pairs for block in pair):
            if not 0 <= block < self._limits.blocks:
                raise ValueError(f"bad pair: block {block}; it must be from 0 to {self._limits.blocks - 1}")
        for source, target in pairs:
            self._keys[:, target] = self._keys[:, source]
            self._values[:, target] = self._values[:, source]

    def close(self) -> None:
        """Give the memory back."""
        del self._weights, self._workspace, self._keys, self._values

    def _add_attention(
        self, index: int, layer: Layer, plan: Plan, turn: tuple[Floats, Floats], residual: Floats
    ) -> None:
        """Add attention to `residual`, after the keys and values of the step have gone into the pool."""
        a, work, rows = self._architecture, self._workspace, len(residual)
        normed = self._normalize(residual, layer.attention_norm, out=work.normed[:rows])
        qkv = work.qkv[:rows]
        _multiply(normed, layer.qkv, out=qkv)
        if layer.qkv_bias is not None:
            qkv += layer.qkv_bias
        heads = qkv[:, : a.qk_width].reshape(rows, -1, a.key_width)  # of queries, then of keys; a view
        queries, keys = heads[:, : a.heads], heads[:, a.heads :]
        if layer.query_norm is not None and layer.key_norm is not None:
            self._normalize(queries, layer.query_norm, out=queries)
            self._normalize(keys, layer.key_norm, out=keys)
        self._rotate(heads, turn)
        queries *= np.float32(a.key_width**-0.5)
        pool_keys, pool_values = self._keys[index], self._values[index]
        pool_keys.reshape(-1, *pool_keys.shape[2:])[plan.slots] = keys
        pool_values.reshape(-1, *pool_values.shape[2:])[plan.slots] = qkv[:, a.qk_width :].reshape(
            rows, a.kv_heads, a.value_width
        )
        mixed = work.mixed[:rows]
        shared = a.heads // a.kv_heads
        grouped = queries.reshape(rows, a.kv_heads, shared, a.key_width)
        out = mixed.reshape(rows, a.kv_heads, shared, a.value_width)
        for group in plan.groups:
            attend(grouped, pool_keys, pool_values, group=group, workspace=work, out=out)
        _multiply(mixed, layer.mix, out=normed)
        residual += normed

    def _add_feed_forward(self, layer: Layer, residual: Floats) -> None:
        """Add down(silu(gate) * up) to `residual` (arXiv:2002.05202)."""
        work, rows = self._workspace, len(residual)
        normed = self._normalize(residual, layer.feed_norm, out=work.normed[:rows])
        gate_up, gated = work.gate_up[:rows], work.gated[:rows]
        _multiply(normed, layer.gate_up, out=gate_up)
        gate, up = gate_up[:, : self._architecture.feed_width], gate_up[:, self._architecture.feed_width :]
        np.negative(gate, out=gated)
        np.exp(gated, out=gated)
        gated += 1
        np.divide(gate, gated, out=gated)
        gated *= up
        _multiply(gated, layer.down, out=normed)
        residual += normed

    def _compute_logits(self, residual: Floats) -> Floats:
        rows, work = len(residual), self._workspace
        # More rows than sequences are for tests and scoring; they pay for their own array.
        fits = rows <= len(work.logits)
        logits = work.logits[:rows] if fits else np.empty((rows, self._limits.vocabulary_size), np.float32)
        _multiply(self._normalize(residual, self._weights.norm, out=residual), self._weights.head, out=logits)
        return logits

    def _normalize(self, numbers: Floats, weight: Floats, *, out: Floats) -> Floats:
        """RMS norm over the last axis (arXiv:1910.07467)."""
        square = np.vecdot(numbers, numbers)[..., None] / np.float32(numbers.shape[-1])
        np.divide(numbers, np.sqrt(square + np.float32(self._architecture.epsilon)), out=out)
        out *= weight
        return out

    def _rotate(self, heads: Floats, turn: tuple[Floats, Floats]) -> None:
        """Rotate the pairs (i, i + half) of the first `rope_width` numbers of each head (arXiv:2104.09864)."""
        cosine, sine = turn
        half = self._architecture.rope_width // 2
        first, second = heads[..., :half], heads[..., half : 2 * half]
        across, back = self._workspace.rotated[:, : len(heads)]
        np.multiply(first, sine, out=across)
        np.multiply(second, sine, out=back)
        first *= cosine
        first -= back
        second *= cosine
        second += across


def _multiply(rows: Floats, matrix: Floats, *, out: Floats) -> None:
    """Set `out` to `rows` times the transposed matrix."""
    if len(rows) <= MAX_SINGLE_ROWS:
        for row, result in zip(rows, out, strict=True):
            np.matmul(matrix, row, out=result)
    else:
        np.matmul(rows, matrix.T, out=out)
