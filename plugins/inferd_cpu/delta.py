"""Gated delta nets (arXiv:2412.06464): layers that keep a matrix for each head, not the keys and values of all tokens.

A token t has for each head a query q, a key k of length 1, a value v, a decay g below 0 and a rate b. The matrix S of
the head becomes e^g S + b k (v - e^g S k), which then maps q to the head's output. Tokens are computed in pieces, as
the paper does: of a piece one triangular system gives all that is written. Pieces end where blocks end, and what is
kept behind the last token of a block lies in that block: so it is shared, found and copied as keys and values are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.norms import multiply, normalize
from inferd_cpu.plan import Plan
from inferd_cpu.shapes import DeltaNet
from inferd_cpu.weights import Layer

Floats = NDArray[np.float32]
MAX_PIECE = 64  # tokens of which one system is solved
_LEAST_SQUARE = np.float32(1e-6)  # under the root of what keys and queries are divided by


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of one sequence: queries and keys (tokens, value heads, key width), values, decays and rates."""

    queries: Floats
    keys: Floats
    values: Floats
    decays: Floats
    rates: Floats

    def part(self, begin: int, end: int) -> "_Tokens":
        """Some of them, in turn by head, then by token."""
        arrays = (self.queries, self.keys, self.values, self.decays, self.rates)
        return _Tokens(*(array[begin:end].swapaxes(0, 1) for array in arrays))


class DeltaMixer:
    """Mixes the tokens of a step in one such layer.

    Args:
        delta: Its sizes.
        tiled: Value heads that share a key head are as many apart as there are key heads.
        epsilon: Of its norm.
    """

    def __init__(self, delta: DeltaNet, *, tiled: bool, epsilon: float) -> None:
        self._delta = delta
        self._epsilon = epsilon
        heads, shared = np.arange(delta.value_heads), delta.value_heads // delta.key_heads
        self._key_head = heads % delta.key_heads if tiled else heads // shared

    def mix(self, plan: Plan, layer: Layer, states: Floats, normed: Floats, *, apart: bool, out: Floats) -> None:
        """Set `out` to what the layer makes of `normed`, both of shape (T, width).

        Args:
            plan: Of the step.
            layer: Its weights.
            states: By block, what is kept behind its last token, shape (blocks, `DeltaNet.state_floats`).
            normed: What it is given.
            apart: The blocks are those of layers with a window.
            out: What it gives.
        """
        delta, rows = self._delta, len(normed)
        wide = multiply(normed, layer["delta_in"], out=np.empty((rows, len(layer["delta_in"])), np.float32))
        given, gates = wide[:, : delta.convolved_width], wide[:, delta.convolved_width :]
        rates = multiply(normed, layer["delta_rates"], out=np.empty((rows, 2 * delta.value_heads), np.float32))
        betas = np.asarray(1 / (1 + np.exp(-rates[:, : delta.value_heads])), np.float32)
        steps = np.logaddexp(np.float32(0), rates[:, delta.value_heads :] + layer["delta_step"])
        decays = np.asarray(layer["delta_decay"] * steps, np.float32)
        mixed = np.empty((rows, delta.value_heads, delta.value_width), np.float32)
        kernel = layer["delta_convolution"].reshape(delta.convolved_width, delta.taps)
        tables = plan.sequence_window_tables if apart else plan.sequence_tables
        for sequence, (first, end) in enumerate(zip(plan.starts[:-1], plan.starts[1:], strict=True)):
            begin = int(plan.positions[first])
            blocks = tables[sequence]
            before = _find_state(delta, states, blocks, begin, plan.block_tokens)
            past = np.concatenate([before[delta.matrix_floats : -1].reshape(delta.taps - 1, -1), given[first:end]])
            tokens = self._split(_convolve(past, kernel), decays[first:end], betas[first:end])
            matrices = before[: delta.matrix_floats].reshape(delta.value_heads, delta.key_width, delta.value_width)
            for at, upto, block in _cut(begin, end - first, plan.block_tokens):
                for piece in range(at, upto, MAX_PIECE):
                    stop = min(piece + MAX_PIECE, upto)
                    read, matrices = _write(matrices, tokens.part(piece, stop))
                    mixed[first + piece : first + stop] = read.swapaxes(0, 1)
                kept = states[blocks[block]]
                kept[: delta.matrix_floats] = matrices.reshape(-1)
                kept[delta.matrix_floats : -1] = past[upto : upto + delta.taps - 1].reshape(-1)
                kept[-1] = begin + upto
        normalize(mixed, layer["delta_norm"], kind="rms", epsilon=self._epsilon, out=mixed)
        gates = gates.reshape(mixed.shape)
        mixed *= gates / (1 + np.exp(-gates))
        multiply(mixed.reshape(rows, -1), layer["delta_out"], out=out)

    def _split(self, convolved: Floats, decays: Floats, rates: Floats) -> _Tokens:
        """Queries, keys and values of each value head."""
        delta, rows = self._delta, len(convolved)
        width = delta.keys_width
        queries, keys = (
            _unit(convolved[:, i * width : (i + 1) * width].reshape(rows, delta.key_heads, -1))[:, self._key_head]
            for i in range(2)
        )
        values = convolved[:, 2 * width :].reshape(rows, delta.value_heads, delta.value_width)
        return _Tokens(queries * np.float32(delta.key_width**-0.5), keys, values, decays, rates)


def check_states(plan: Plan, states: Floats, *, apart: bool) -> None:
    """Check that what is kept of each sequence is what is behind the token before its first one of the step.

    Raises:
        ValueError: It is of more tokens, or of fewer: a state cannot go back.
    """
    tables = plan.sequence_window_tables if apart else plan.sequence_tables
    begins = plan.positions[plan.starts[:-1]]
    for begin, blocks in zip(begins.tolist(), tables, strict=True):
        if begin and (reached := int(states[blocks[(begin - 1) // plan.block_tokens], -1])) != begin:
            raise ValueError(
                f"bad batch: position {begin} behind a state of {reached} tokens; sequences go on where they were, or"
                f" begin again at a block, which has {plan.block_tokens} tokens"
            )


def _find_state(delta: DeltaNet, states: Floats, blocks: NDArray[np.intp], begin: int, block_tokens: int) -> Floats:
    """What is kept behind the token before position `begin`; zeros before the first."""
    if begin == 0:
        return np.zeros(delta.state_floats, np.float32)
    return np.asarray(states[blocks[(begin - 1) // block_tokens]])


def _cut(begin: int, count: int, block_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Where `count` tokens from position `begin` on are cut: from which of them, up to which, and their block."""
    at = 0
    while at < count:
        block = (begin + at) // block_tokens
        upto = min(count, (block + 1) * block_tokens - begin)
        yield at, upto, block
        at = upto


def _convolve(past: Floats, kernel: Floats) -> Floats:
    """Each token and those before it, `taps` in all, then silu; `past` begins with those before the first."""
    taps = kernel.shape[1]
    rows = len(past) - taps + 1
    mixed = np.zeros((rows, past.shape[1]), np.float32)
    for tap in range(taps):
        mixed += past[tap : tap + rows] * kernel[:, tap]
    return np.asarray(mixed / (1 + np.exp(-mixed)), np.float32)


def _unit(heads: Floats) -> Floats:
    """Of length 1."""
    return np.asarray(heads / np.sqrt(np.vecdot(heads, heads)[..., None] + _LEAST_SQUARE), np.float32)


def _write(matrices: Floats, tokens: _Tokens) -> tuple[Floats, Floats]:
    """What the tokens of a piece read, shape (heads, tokens, value width), and the matrices behind them."""
    rates, sums = tokens.rates[..., None], np.cumsum(tokens.decays, axis=1)
    count = sums.shape[1]
    lower = np.tri(count, dtype=bool)
    apart = np.where(lower, sums[:, :, None] - sums[:, None, :], -np.inf)
    faded = np.exp(apart)  # how much of what token j writes is left at token i
    since = np.exp(sums)[..., None]
    turned = tokens.keys.swapaxes(1, 2)
    written = rates * (tokens.values - since * (tokens.keys @ matrices))
    if count > 1:
        system = rates * (tokens.keys @ turned) * faded
        system[:, np.arange(count), np.arange(count)] = 1
        written = np.linalg.solve(system, written)
    read = since * (tokens.queries @ matrices) + ((tokens.queries @ turned) * faded) @ written
    left = np.exp(sums[:, -1:] - sums)[..., None]
    after = matrices * since[:, -1:] + (left * tokens.keys).swapaxes(1, 2) @ written
    return read, np.asarray(after, np.float32)
