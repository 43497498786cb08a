"""Weights in fp32, in the layouts that the session multiplies with.

All weights lie in one array, so that their memory is taken at once, after its size is known to fit. Queries, keys and
values of a layer form one matrix, and so do gate and up: one product each. A matrix has a row for each output, as in
the file. Query and key rows that the file keeps for neighbouring rotary pairs (2i, 2i + 1) are put into the order for
pairs (i, i + half), which leaves every attention score as it is: one rotation serves all architectures.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_cpu.finder import Source
from inferd_cpu.inventory import Inventory, Parts
from inferd_cpu.shapes import Architecture
from inferd_cpu.stored_rows import StoredRows
from inferd_weights.model_file import ModelFile

Floats = NDArray[np.float32]
CHUNK_ELEMENTS = 1 << 18  # decoded at once: they stay in the processor's cache
REPORTS = 100  # of progress, in one load
DIVISORS = {
    "rope_divisors": "rope_freqs.weight",
    "long_divisors": "rope_factors_long.weight",
    "short_divisors": "rope_factors_short.weight",
}
"""The tensors that divide rotary frequencies, by their fields in the inventory."""


Layer = Mapping[str, Floats]
"""One decoder block: the arrays that its architecture has of these. Biases have the name of their matrix and `_bias`.

W is the width, Q that of queries, keys and values together, F the feed-forward width, X the number of experts and E the
width inside one, S the width inside those that are shared.

    attention_norm, attention_post_norm, feed_norm, feed_post_norm    (W,)
    qkv                                      (Q, W)
    query_norm, key_norm                     (key width,), or (heads * key width,)
    sinks                                    (heads,)
    mix                                      (W, heads * value width)
    gate_up, or up where there are no gates  (2F, W); (F, W)
    down                                     (W, F)
    router; choice_bias                      (X, W); (X,)
    expert_gate, expert_up; expert_down      (X, E, W); (X, W, E)
    shared_router                            (1, W) or (W,)
    shared_gate_up; shared_down              (2S, W); (W, S)

of latent keys and values:

    query_down; query_rank_norm              (query rank, W); (query rank,)
    query_up                                 (heads * (key width + rotated), query rank or W)
    kv_down; kv_norm                         (rank + rotated, W); (rank,)
    kv_up                                    (heads * (key width + value width), rank), or instead of it
    key_up; value_up                         (heads, rank, key width); (heads, value width, rank)

of attention whose output has gates:

    output_gate                              (heads * value width, W)

of gated delta nets, with C numbers of queries, keys and values, V of values and H value heads:

    delta_in                                 (C + V, W): queries, keys, values, and gates of the output
    delta_rates                              (2H, W): how much is written, how much is kept
    delta_convolution                        (C, taps), or with a 1 between
    delta_decay, delta_step; delta_norm      (H,); (value width,)
    delta_out                                (W, V)

of tokens with numbers for each layer, I of them:

    input_gate; input_projection             (I, W); (W, I)
    input_post_norm                          (W,)

of N hidden states of a token, and of the way around attention:

    stream_router; stream_router_norm        (N, W); (W,)
    stream_predict; stream_correct           (N * N, N); (N, N)
    stream_scale                             (W,)
    around_left; around_right; around_norm   (rank, W); (W, rank); (W,)

of experts beside a dense part:

    dense_post_norm, expert_norm, expert_post_norm, router_scale    (W,)
    expert_scale                             (X,)
    expert_both, or expert_gate and expert_up    (X, 2E, W)

and of convolutions, and of what a layer gives:

    convolution_in; convolution_out          (3W, W); (W, W)
    convolution                              (W, tokens), or with a 1 between
    output_scale                             (1,)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All weights of a model. V is the size of the vocabulary."""

    embedding: Floats  # (V, W)
    layers: tuple[Layer, ...]
    input_embedding: StoredRows | None = None  # (tokens, layers * I): what a token has for each layer
    input_model: Floats | None = None  # (layers * I, W)
    input_norm: Floats | None = None  # (I,)
    streams_in: Floats | None = None  # (N - 1, W, W)
    streams_out: Floats | None = None  # (N - 1, W, W)
    positions: Floats | None = None  # (context, W)
    types: Floats | None = None  # (types of tokens, W)
    embedding_norm: Floats | None = None  # (W,)
    embedding_norm_bias: Floats | None = None  # (W,)
    norm: Floats | None = None  # (W,)
    norm_bias: Floats | None = None  # (W,)
    head: Floats  # (V, W); the embedding itself when the file has no other
    head_bias: Floats | None = None  # (V,)
    frequencies: tuple[Floats, ...]  # of each rotation: (rope width / 2,), radians per position
    long_frequencies: tuple[Floats, ...] = ()  # the same of sequences beyond the border, where there is one


def load_weights(
    file: ModelFile,
    architecture: Architecture,
    inventory: Parts,
    report: Callable[[float], None],
) -> Weights:
    """Decode all weights but what stays in the file; `report` gets the part that is done, rising to 1.

    Raises:
        LoadError: A weight is not a finite number.
    """
    arena = np.empty(sum(prod(part.shape) for part in inventory.parts if not part.stored), np.float32)
    decode = _Decoder(file, inventory.parameters, report)
    stored: dict[str, StoredRows] = {}
    arrays: dict[int | None, dict[str, Floats]] = defaultdict(dict)
    end = 0
    for part in inventory.parts:
        if part.stored:
            (source,) = part.sources
            decode(source)
            file.release(source.tensor)
            stored[part.field] = StoredRows(file, source)
            continue
        start, end = end, end + prod(part.shape)
        array = arrays[part.layer][part.field] = arena[start:end].reshape(part.shape)
        first = 0
        for source in part.sources:
            rows = array[first : first + source.shape[0]]
            decode(source, rows)
            order = order_rotary(source, architecture)
            if order is not None:
                rows[:] = rows[order]
            first += len(rows)
            file.release(source.tensor)
    rest = arrays[None]
    divisors = {field: rest.pop(field) for field in DIVISORS if field in rest}
    fields: dict[str, Any] = {"head": rest["embedding"]} | rest | stored
    frequencies, long_frequencies = compute_frequencies(file, architecture, divisors)
    return Weights(
        layers=tuple(arrays[layer] for layer in range(len(architecture.layers))),
        frequencies=frequencies,
        long_frequencies=long_frequencies,
        **fields,
    )


class _Decoder:
    """Decodes tensors chunk by chunk and reports how much of all `elements` is done."""

    def __init__(self, file: ModelFile, elements: int, report: Callable[[float], None]) -> None:
        self._file = file
        self._elements = elements
        self._done = 0
        self._reported = 0
        self._report = report

    def __call__(self, source: Source, out: Floats | None = None) -> None:
        """Decode rows into `out`, or only look whether they are numbers."""
        tensor, flat = source.tensor, None if out is None else out.reshape(-1)
        blocks, form = rows_of(self._file, source), tensor.format
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
            if flat is not None:
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


def rows_of(file: ModelFile, source: Source) -> NDArray[np.uint8]:
    """The stored blocks of a source's rows, shape (blocks, block bytes), without a copy.

    Raises:
        LoadError: Rows share blocks.
    """
    blocks, tensor = file.blocks(source.tensor), source.tensor
    if source.flat or source.rows in (0, tensor.shape[0]):
        return blocks
    each, rest = divmod(len(blocks), tensor.shape[0])  # of a row
    if rest or not each:
        raise LoadError(
            f"{file.path}: tensor {tensor.name!r} of shape {list(tensor.shape)} is {tensor.format.name}, of which a"
            " part of a row cannot be taken"
        )
    return blocks[source.first * each : (source.first + source.shape[0]) * each]


def order_rotary(source: Source, architecture: Architecture) -> NDArray[np.intp] | None:
    """The order of a source's rows in which rotary pairs are halves; None for that of the file."""
    if not source.rotary_heads:
        return None
    rows, rotated = source.shape[0], architecture.ropes[0].width
    head, start = rows // source.rotary_heads, source.rotary_from
    part = order_halves(head - start, rotated, head - start) + start
    each = np.concatenate([np.arange(start), part])
    order: NDArray[np.intp] = np.arange(0, rows, head)[:, None] + each
    return order.reshape(-1)


def find_border(a: Architecture, inventory: Inventory) -> int:
    """Most tokens of a sequence that rotates by the short divisors, others by the long ones; 0 where all are alike."""
    both = {"long_divisors", "short_divisors"} <= {part.field for part in inventory.parts}
    return a.original_tokens if both else 0


def compute_frequencies(
    file: ModelFile, a: Architecture, divisors: Mapping[str, Floats]
) -> tuple[tuple[Floats, ...], tuple[Floats, ...]]:
    """Radians per position of each rotary pair of each rotation, scaled as the file says.

    Args:
        file: For the message of an error.
        a: The shape.
        divisors: What frequencies are divided by, by the field of `DIVISORS`; each of shape (rope width / 2,).

    Returns:
        Those of sequences up to the border, and those of longer ones; where all are alike the latter are none.

    Raises:
        LoadError: A divisor is not above 0, or there are not those that the file's scaling needs.
    """
    for field, numbers in divisors.items():
        if (numbers <= 0).any():
            raise LoadError(f"{file.path}: tensor {DIVISORS[field]!r} has {numbers.min()}; all must be above 0")
    if "long_divisors" in divisors and "short_divisors" in divisors:
        short, long = (
            tuple(rope.frequencies(divisors[f"{x}_divisors"]) for rope in a.ropes) for x in ("short", "long")
        )
        return short, long
    if a.ropes[0].scaling == "longrope" or len(divisors) > len({"rope_divisors"} & divisors.keys()):
        raise LoadError(f"{file.path}: the file has not both {DIVISORS['long_divisors']!r} and the short ones")
    return tuple(rope.frequencies(divisors.get("rope_divisors")) for rope in a.ropes), ()
