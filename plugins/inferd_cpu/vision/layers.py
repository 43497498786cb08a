"""The blocks of a tower: in fp32 with numpy, and in the native library with 8 bits for each weight."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_cpu.feeds import activate
from inferd_cpu.native import ACTIVATIONS, PARTS, VECTORS, W8, EncoderKind, EncoderShape, Native
from inferd_cpu.native_encoder import MATRICES, NativeEncoder
from inferd_cpu.native_weights import BLOCK, LANES, TYPES
from inferd_cpu.norms import multiply, normalize
from inferd_cpu.vision.shape import TowerShape

Floats = NDArray[np.float32]
Advance = Callable[[], None]
ROWS: Final = 512  # of a head that attend at a time, with numpy
_HEAD_SOURCES: Final = ("attn_q", "attn_k", "attn_v")
_VECTORS: Final = {
    "attention_norm": "ln1.weight",
    "attention_norm_bias": "ln1.bias",
    "mix_bias": "attn_out.bias",
    "feed_norm": "ln2.weight",
    "feed_norm_bias": "ln2.bias",
    "down_bias": "ffn_down.bias",
}


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How the patches of a tile lie.

    Attributes:
        windows: Where each run of patches begins that see each other in layers that do not see all, and the end of the
            last one; shape (W + 1,).
        cosines: By which queries and keys are rotated, shape (patches, pairs of a head); without pairs not at all.
        sines: The same.
    """

    windows: NDArray[np.int32]
    cosines: Floats
    sines: Floats

    @classmethod
    def plain(cls, patches: int) -> "Layout":
        """Of patches that all see each other, and do not rotate."""
        none = np.empty((patches, 0), np.float32)
        return cls(np.array([0, patches], np.int32), none, none)

    def starts(self, shape: TowerShape, layer: int) -> NDArray[np.int32]:
        """Where the runs begin of patches that see each other in a layer."""
        return self.windows[[0, -1]] if shape.sees_all(layer) else self.windows


class Layers(Protocol):
    """The blocks of a tower."""

    def encode(self, hidden: Floats, layout: Layout, advance: Advance) -> None:
        """Make hidden states of the embeddings of a tile, shape (patches, width), which are overwritten.

        `advance` is called with each block.
        """
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class ExactLayers:
    """In fp32 with numpy.

    Args:
        shape: Of the tower.
        weights: By their names in the file.
    """

    def __init__(self, shape: TowerShape, weights: Mapping[str, Floats]) -> None:
        self._shape = shape
        self._weights = weights

    def encode(self, hidden: Floats, layout: Layout, advance: Advance) -> None:
        """See `Layers`."""
        for layer in range(self._shape.layers):
            self._add_attention(layer, hidden, layout)
            self._add_feed(layer, hidden)
            advance()

    def close(self) -> None:
        """See `Layers`."""
        self._weights = {}

    def _multiply(self, name: str, rows: Floats) -> Floats:
        matrix = self._weights[f"{name}.weight"]
        return multiply(rows, matrix, self._weights[f"{name}.bias"], out=np.empty((len(rows), len(matrix)), np.float32))

    def _normalize(self, name: str, hidden: Floats) -> Floats:
        weight, bias, shape = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"), self._shape
        return normalize(hidden, weight, bias, kind=shape.norm, epsilon=shape.epsilon, out=np.empty_like(hidden))

    def _add_attention(self, layer: int, hidden: Floats, layout: Layout) -> None:
        heads, name = self._shape.heads, f"v.blk.{layer}.{{}}".format
        normed = self._normalize(name("ln1"), hidden)
        queries, keys, values = (
            self._multiply(name(each), normed).reshape(len(hidden), heads, -1).transpose(1, 0, 2)
            for each in _HEAD_SOURCES
        )
        if layout.cosines.shape[1]:
            queries, keys = _rotate(queries, layout), _rotate(keys, layout)
        queries = queries * np.float32(queries.shape[-1] ** -0.5)
        mixed = np.empty((len(hidden), heads, values.shape[-1]), np.float32)
        starts = layout.starts(self._shape, layer).tolist()
        for begin, end in pairwise(starts):
            for head in range(heads):  # the scores of some rows of one head at a time
                for first in range(begin, end, ROWS):
                    some = slice(first, min(first + ROWS, end))
                    scores = queries[head, some] @ keys[head, begin:end].T
                    scores -= scores.max(axis=-1, keepdims=True)
                    np.exp(scores, out=scores)
                    scores /= scores.sum(axis=-1, keepdims=True)
                    mixed[some, head] = scores @ values[head, begin:end]
        hidden += self._multiply(name("attn_out"), mixed.reshape(len(hidden), -1))

    def _add_feed(self, layer: int, hidden: Floats) -> None:
        name = f"v.blk.{layer}.{{}}".format
        normed = self._normalize(name("ln2"), hidden)
        up = self._multiply(name("ffn_up"), normed)
        gate = self._multiply(name("ffn_gate"), normed) if self._shape.gated else up
        with np.errstate(over="ignore"):
            gated = activate(self._shape.activation, gate, up if self._shape.gated else None, out=np.empty_like(up))
        hidden += self._multiply(name("ffn_down"), gated)


def _rotate(heads: Floats, layout: Layout) -> Floats:
    """Heads, shape (heads, patches, width), whose pairs (i, i + half) are rotated (arXiv:2104.09864)."""
    first, second = np.split(heads, 2, axis=-1)
    cosines, sines = layout.cosines, layout.sines
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def find_tower_obstacle(shape: TowerShape) -> str:
    """Why the library cannot run this tower, as a clause; "" when it can."""
    for what, size, step in (("width", shape.width, BLOCK), ("width of queries", 3 * shape.width, LANES)):
        if size % step:
            return f"the {what} of the tower is {size}, which is not a multiple of {step}"
    return ""


def make_tower_shape(shape: TowerShape, *, patches: int, threads: int) -> EncoderShape:
    """Its sizes, for the library, and for tiles of so many patches at most.

    What is inside the feed-forward part is filled up with zeros.
    """
    head, rope = shape.width // shape.heads, 0 if shape.rotated else -1
    return EncoderShape(
        kinds=(EncoderKind * shape.layers)(*(EncoderKind(0, rope) for _ in range(shape.layers))),
        layers=shape.layers,
        width=shape.width,
        feed_width=_fill_up(shape.feed_width),
        heads=shape.heads,
        kv_heads=shape.heads,
        key_width=head,
        value_width=head,
        rope_width=2 * shape.rotated,
        ropes=1 if shape.rotated else 0,
        threads=threads,
        max_tokens=patches,
        max_length=patches,
        layer_norm=shape.norm == "layer",
        activation=ACTIVATIONS.index(shape.activation),
        gated=shape.gated,
        epsilon=shape.epsilon,
        attention_scale=head**-0.5,
        residual_scale=1.0,
    )


def measure_tower(native: Native, shape: TowerShape) -> int:
    """Bytes of the weights of its blocks, packed."""
    feed, width = _fill_up(shape.feed_width), shape.width
    sizes = ((3 * width, width), (width, width), (_ups(shape) * feed, width), (width, feed))
    packed = sum(native.library.inferd_packed_bytes(native.kernels, W8, *size) for size in sizes)
    return int(shape.layers * packed + 4 * _count_floats(shape))


def _ups(shape: TowerShape) -> int:
    """Matrices that go up: gates are another one."""
    return 2 if shape.gated else 1


def _count_floats(shape: TowerShape) -> int:
    """Numbers of all vectors of the blocks, at most."""
    return shape.layers * (10 * shape.width + _ups(shape) * _fill_up(shape.feed_width))


class NativeLayers:
    """In the native library, with 8 bits for each weight.

    Args:
        native: The library.
        shape: Of the tower.
        weights: By their names in the file; each is asked for once, and let go before the next matrix.
        patches: Of a tile, at most.
        threads: That compute.

    Raises:
        LoadError: The memory cannot be had, or a weight cannot be read or packed.
    """

    def __init__(
        self, native: Native, shape: TowerShape, weights: Mapping[str, Floats], *, patches: int, threads: int
    ) -> None:
        made = make_tower_shape(shape, patches=patches, threads=threads)
        formats = np.full(len(MATRICES) * shape.layers, W8, np.int32)
        self._encoder = NativeEncoder(native, made, formats=formats, vector_floats=_count_floats(shape))
        self._library = native.library
        self._shape = shape
        try:
            for layer in range(shape.layers):
                self._pack(layer, weights, made.feed_width)
        except BaseException:
            self._encoder.close()
            raise

    def encode(self, hidden: Floats, layout: Layout, advance: Advance) -> None:
        """See `Layers`."""
        turns = (layout.cosines[None], layout.sines[None])
        for layer in range(self._shape.layers):
            self._encoder.encode(hidden, layout.starts(self._shape, layer), turns, layers=range(layer, layer + 1))
            advance()

    def close(self) -> None:
        """See `Layers`."""
        self._encoder.close()

    def _pack(self, layer: int, weights: Mapping[str, Floats], feed_width: int) -> None:
        name = f"v.blk.{layer}.{{}}".format
        handle = self._encoder.handle
        ups = ("ffn_gate", "ffn_up") if self._shape.gated else ("ffn_up",)
        sources = [("qkv", index, name(f"{each}.weight")) for index, each in enumerate(_HEAD_SOURCES)]
        sources += [("gate_up", index, name(f"{each}.weight")) for index, each in enumerate(ups)]
        sources += [("mix", 0, name("attn_out.weight")), ("down", 0, name("ffn_down.weight"))]
        for part, index, tensor in sources:
            matrix = weights[tensor]
            outputs = feed_width if part == "gate_up" else matrix.shape[0]
            inputs = feed_width if part == "down" else matrix.shape[1]
            filled = np.zeros((outputs, inputs), np.float32)
            filled[: matrix.shape[0], : matrix.shape[1]] = matrix
            error = self._library.inferd_encoder_pack(
                handle, PARTS.index(part), layer, index, TYPES["F32"], filled.ctypes.data, None
            )
            if error:
                raise LoadError(f"tensor {tensor!r}: {self._library.inferd_pack_message(error).decode()}")
            del matrix, filled
        vectors = {field: weights[name(each)] for field, each in _VECTORS.items() if name(each) in weights}
        vectors["qkv_bias"] = np.concatenate([weights[name(f"{each}.bias")] for each in _HEAD_SOURCES])
        biases = np.zeros((len(ups), feed_width), np.float32)
        for row, each in zip(biases, ups, strict=True):
            row[: self._shape.feed_width] = weights[name(f"{each}.bias")]
        # A block of gates, then one of ups, as the matrix is packed.
        vectors["gate_up_bias"] = np.ascontiguousarray(biases.reshape(len(ups), -1, BLOCK).swapaxes(0, 1))
        for field, vector in vectors.items():
            self._library.inferd_encoder_set(handle, VECTORS.index(field), layer, vector.ctypes.data, vector.size)


def is_of_layer(name: str) -> bool:
    """Whether a weight is of one of the blocks, by its name in the file."""
    return name.startswith("v.blk.")


def _fill_up(width: int) -> int:
    """The next multiple of `BLOCK`."""
    return -(-width // BLOCK) * BLOCK
