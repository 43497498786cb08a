"""Weights in fp32, in the layouts that the session multiplies with.

All weights lie in one array, so that their memory is taken at once, after its size is known to fit. Queries, keys and
values of a layer form one matrix, and so do gate and up: one product each. A matrix has a row for each output, as in
the file. Query and key rows that the file keeps for neighbouring rotary pairs (2i, 2i + 1) are put into the order for
pairs (i, i + half), which leaves every attention score as it is: one rotation serves all architectures.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_cpu.architecture import Architecture
from inferd_cpu.gguf import GgufFile, Tensor
from inferd_cpu.inventory import Inventory

Floats = NDArray[np.float32]
CHUNK_ELEMENTS = 1 << 18  # decoded at once: they stay in the processor's cache
REPORTS = 100  # of progress, in one load


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder block. W is the width, Q the width of queries, keys and values together, F the feed-forward width."""

    attention_norm: Floats  # (W,)
    qkv: Floats  # (Q, W)
    qkv_bias: Floats | None = None  # (Q,)
    query_norm: Floats | None = None  # (key width,)
    key_norm: Floats | None = None  # (key width,)
    mix: Floats  # (W, heads * value width)
    feed_norm: Floats  # (W,)
    gate_up: Floats  # (2F, W)
    down: Floats  # (W, F)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All weights of a model. V is the size of the vocabulary."""

    embedding: Floats  # (V, W)
    layers: tuple[Layer, ...]
    norm: Floats  # (W,)
    head: Floats  # (V, W); the embedding itself when the file has no other
    frequencies: Floats  # (rope width / 2,): radians per position


def load_weights(
    file: GgufFile, architecture: Architecture, inventory: Inventory, report: Callable[[float], None]
) -> Weights:
    """Decode all weights; `report` gets the part that is done, rising to 1.

    Raises:
        LoadError: A weight is not a finite number.
    """
    arena = np.empty(inventory.parameters, np.float32)
    decode = _Decoder(file, arena.size, report)
    arrays: dict[int | None, dict[str, Floats]] = defaultdict(dict)
    end = 0
    for part in inventory.parts:
        start, end = end, end + prod(part.shape)
        array = arrays[part.layer][part.field] = arena[start:end].reshape(part.shape)
        first = 0
        for source in part.sources:
            rows = array[first : first + source.tensor.shape[0]]
            decode(source.tensor, rows)
            if source.rotary_heads:
                rows[:] = rows[order_halves(len(rows) // source.rotary_heads, architecture.rope_width, len(rows))]
            first += len(rows)
    rest = arrays[None]
    return Weights(
        embedding=rest["embedding"],
        layers=tuple(Layer(**arrays[layer]) for layer in range(architecture.layers)),
        norm=rest["norm"],
        head=rest.get("head", rest["embedding"]),
        frequencies=compute_frequencies(file, architecture, rest.get("rope_divisors")),
    )


class _Decoder:
    """Decodes tensors chunk by chunk and reports how much of all `elements` is done."""

    def __init__(self, file: GgufFile, elements: int, report: Callable[[float], None]) -> None:
        self._file = file
        self._elements = elements
        self._done = 0
        self._reported = 0
        self._report = report

    def __call__(self, tensor: Tensor, out: Floats) -> None:
        blocks, form, flat = self._file.blocks(tensor), tensor.format, out.reshape(-1)
        step = CHUNK_ELEMENTS // form.block_elements
        for first in range(0, len(blocks), step):
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told below
                numbers = form.decode(blocks[first : first + step]).reshape(-1)
            if not np.isfinite(numbers).all():
                raise LoadError(
                    f"{self._file.path}: tensor {tensor.name!r} ({form.name}, at byte {tensor.offset}) has weights that"
                    " are not finite: the file is corrupt; fetch it again"
                )
            start = first * form.block_elements
            flat[start : start + numbers.size] = numbers
            self._advance(numbers.size)

    def _advance(self, elements: int) -> None:
        self._done += elements
        hundredths = self._done * REPORTS // self._elements
        if hundredths > self._reported:
            self._reported = hundredths
            self._report(self._done / self._elements)


def order_halves(head_rows: int, rope_width: int, rows: int) -> NDArray[np.intp]:
    """The rows of heads with neighbouring rotary pairs, in the order of halves: 0, 2, 4, …, 1, 3, 5, … in each head.

    Args:
        head_rows: Rows of a head.
        rope_width: How many of them are rotated.
        rows: Rows of all heads.
    """
    order = np.arange(head_rows)
    order[:rope_width] = np.concatenate([np.arange(0, rope_width, 2), np.arange(1, rope_width, 2)])
    return (np.arange(0, rows, head_rows)[:, None] + order).reshape(-1)


def compute_frequencies(file: GgufFile, a: Architecture, divisors: Floats | None) -> Floats:
    """Radians per position of each rotary pair (RoFormer, arXiv:2104.09864), scaled as the file says.

    Args:
        file: For the message of an error.
        a: The shape.
        divisors: What each frequency is divided by, shape (rope width / 2,); None for nothing.

    Raises:
        LoadError: A divisor is not above 0.
    """
    exponents = np.arange(0, a.rope_width, 2, dtype=np.float64) / a.rope_width
    frequencies = a.rope_base**-exponents / a.rope_factor
    if divisors is not None:
        if (divisors <= 0).any():
            raise LoadError(f"{file.path}: tensor 'rope_freqs.weight' has {divisors.min()}; all must be above 0")
        frequencies /= divisors
    return frequencies.astype(np.float32)
