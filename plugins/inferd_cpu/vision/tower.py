"""The vectors of pictures: computed once by a tower, and kept by the picture's key."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, StepResult, TokenBatch
from inferd.plugin.pictures import Picture
from inferd_cpu.feeds import activate
from inferd_cpu.native import ACTIVATIONS, PARTS, VECTORS, W8, EncoderKind, EncoderShape, Native
from inferd_cpu.native_encoder import MATRICES, NativeEncoder
from inferd_cpu.native_weights import BLOCK, LANES, TYPES
from inferd_cpu.norms import multiply, normalize
from inferd_cpu.vision.projector import TowerShape

Floats = NDArray[np.float32]
Advance = Callable[[], None]
_HEAD_SOURCES: Final = ("attn_q", "attn_k", "attn_v")
_PARTS: Final = {"mix": "attn_out", "gate_up": "ffn_up", "down": "ffn_down"}
_VECTORS: Final = {
    "attention_norm": "ln1.weight",
    "attention_norm_bias": "ln1.bias",
    "mix_bias": "attn_out.bias",
    "feed_norm": "ln2.weight",
    "feed_norm_bias": "ln2.bias",
    "gate_up_bias": "ffn_up.bias",
    "down_bias": "ffn_down.bias",
}


class Layers(Protocol):
    """The blocks of a tower."""

    def encode(self, hidden: Floats, advance: Advance) -> None:
        """Make hidden states of the embeddings of a tile, shape (patches, width), which are overwritten."""
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

    def encode(self, hidden: Floats, advance: Advance) -> None:
        """See `Layers`."""
        for layer in range(self._shape.layers):
            self._add_attention(layer, hidden)
            self._add_feed(layer, hidden)
            advance()

    def close(self) -> None:
        """See `Layers`."""
        self._weights = {}

    def _multiply(self, name: str, rows: Floats) -> Floats:
        matrix = self._weights[f"{name}.weight"]
        return multiply(rows, matrix, self._weights[f"{name}.bias"], out=np.empty((len(rows), len(matrix)), np.float32))

    def _normalize(self, name: str, hidden: Floats) -> Floats:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return normalize(hidden, weight, bias, kind="layer", epsilon=self._shape.epsilon, out=np.empty_like(hidden))

    def _add_attention(self, layer: int, hidden: Floats) -> None:
        heads, name = self._shape.heads, f"v.blk.{layer}.{{}}".format
        normed = self._normalize(name("ln1"), hidden)
        queries, keys, values = (
            self._multiply(name(each), normed).reshape(len(hidden), heads, -1).transpose(1, 0, 2)
            for each in _HEAD_SOURCES
        )
        queries = queries * np.float32(queries.shape[-1] ** -0.5)
        mixed = np.empty((len(hidden), heads, values.shape[-1]), np.float32)
        for head in range(heads):  # the scores of one head at a time
            scores = queries[head] @ keys[head].T
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            mixed[:, head] = scores @ values[head]
        hidden += self._multiply(name("attn_out"), mixed.reshape(len(hidden), -1))

    def _add_feed(self, layer: int, hidden: Floats) -> None:
        name = f"v.blk.{layer}.{{}}".format
        up = self._multiply(name("ffn_up"), self._normalize(name("ln2"), hidden))
        with np.errstate(over="ignore"):
            gated = activate(self._shape.activation, up, None, out=np.empty_like(up))
        hidden += self._multiply(name("ffn_down"), gated)


def find_tower_obstacle(shape: TowerShape) -> str:
    """Why the library cannot run this tower, as a clause; "" when it can."""
    for what, size, step in (("width", shape.width, BLOCK), ("width of queries", 3 * shape.width, LANES)):
        if size % step:
            return f"the {what} of the tower is {size}, which is not a multiple of {step}"
    return ""


def make_tower_shape(shape: TowerShape, *, threads: int) -> EncoderShape:
    """Its sizes, for the library. What is inside the feed-forward part is filled up with zeros."""
    head = shape.width // shape.heads
    return EncoderShape(
        kinds=(EncoderKind * shape.layers)(*(EncoderKind(0, -1) for _ in range(shape.layers))),
        layers=shape.layers,
        width=shape.width,
        feed_width=_fill_up(shape.feed_width),
        heads=shape.heads,
        kv_heads=shape.heads,
        key_width=head,
        value_width=head,
        threads=threads,
        max_tokens=shape.patches,
        max_length=shape.patches,
        layer_norm=1,
        activation=ACTIVATIONS.index(shape.activation),
        epsilon=shape.epsilon,
        attention_scale=head**-0.5,
        residual_scale=1.0,
    )


def measure_tower(native: Native, shape: TowerShape) -> int:
    """Bytes of the weights of its blocks, packed."""
    feed, width = _fill_up(shape.feed_width), shape.width
    sizes = ((3 * width, width), (width, width), (feed, width), (width, feed))
    packed = sum(native.library.inferd_packed_bytes(native.kernels, W8, *size) for size in sizes)
    return int(shape.layers * (packed + 4 * (10 * width + feed)))


class NativeLayers:
    """In the native library, with 8 bits for each weight.

    Args:
        native: The library.
        shape: Of the tower.
        weights: By their names in the file; each is asked for once, and let go before the next matrix.
        threads: That compute.

    Raises:
        LoadError: The memory cannot be had, or a weight cannot be read or packed.
    """

    def __init__(self, native: Native, shape: TowerShape, weights: Mapping[str, Floats], *, threads: int) -> None:
        made = make_tower_shape(shape, threads=threads)
        formats = np.full(len(MATRICES) * shape.layers, W8, np.int32)
        vector_floats = shape.layers * (10 * shape.width + made.feed_width)
        self._encoder = NativeEncoder(native, made, formats=formats, vector_floats=vector_floats)
        self._library = native.library
        try:
            for layer in range(shape.layers):
                self._pack(layer, weights, made.feed_width)
        except BaseException:
            self._encoder.close()
            raise

    def encode(self, hidden: Floats, advance: Advance) -> None:
        """See `Layers`; all blocks at once."""
        none = np.empty((0, len(hidden), 0), np.float32)
        self._encoder.encode(hidden, [0, len(hidden)], (none, none))
        advance()

    def close(self) -> None:
        """See `Layers`."""
        self._encoder.close()

    def _pack(self, layer: int, weights: Mapping[str, Floats], feed_width: int) -> None:
        name = f"v.blk.{layer}.{{}}".format
        handle = self._encoder.handle
        sources = [("qkv", index, name(f"{each}.weight")) for index, each in enumerate(_HEAD_SOURCES)]
        sources += [(part, 0, name(f"{each}.weight")) for part, each in _PARTS.items()]
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
        vectors = {field: weights[name(each)] for field, each in _VECTORS.items()}
        vectors["qkv_bias"] = np.concatenate([weights[name(f"{each}.bias")] for each in _HEAD_SOURCES])
        for field, vector in vectors.items():
            longer = np.zeros(feed_width if field == "gate_up_bias" else vector.size, np.float32)
            longer[: vector.size] = vector.reshape(-1)
            self._library.inferd_encoder_set(handle, VECTORS.index(field), layer, longer.ctypes.data, longer.size)


def is_of_layer(name: str) -> bool:
    """Whether a weight is of one of the blocks, by its name in the file."""
    return name.startswith("v.blk.")


def _fill_up(width: int) -> int:
    """The next multiple of `BLOCK`."""
    return -(-width // BLOCK) * BLOCK


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Vectors of a picture, shape (tokens, width), and of which tiles they are known, shape (tiles,)."""

    vectors: Floats
    known: NDArray[np.bool_]


class Tower:
    """Of one model. One writer: the thread of the steps.

    Args:
        shape: Its sizes.
        weights: Those around its layers, by their names in the file.
        layers: These.
        kept_tokens: Vectors that are kept, over all pictures; those of one picture at least.

    Attributes:
        computed: Pictures of which something was computed so far.
        kept: How often the first vector of a picture was asked for that had been kept.
    """

    def __init__(self, shape: TowerShape, weights: Mapping[str, Floats], layers: Layers, *, kept_tokens: int) -> None:
        self.computed = self.kept = 0
        self._shape = shape
        self._weights = dict(weights)
        self._layers = layers
        self._kept_tokens = kept_tokens
        self._kept: OrderedDict[bytes, _Seen] = OrderedDict()
        self._held = 0

    def find(self, batch: TokenBatch) -> tuple[NDArray[np.intp], Floats] | None:
        """The rows of a step that are of pictures, and what goes there, shape (rows, width); None where there are none.

        Raises:
            ValueError: A picture gives another number of vectors than its outline said.
        """
        rows, vectors = [], []
        for sequence, pictures in enumerate(batch.pictures or ()):
            begin, end = int(batch.starts[sequence]), int(batch.starts[sequence + 1])
            first = int(batch.positions[begin])
            for placed in pictures:
                low, high = np.searchsorted(placed.places, (first, first + end - begin))
                if low == high:
                    continue
                self.kept += placed.picture.key in self._kept and low == 0
                rows.append(placed.places[low:high].astype(np.intp) - first + begin)
                vectors.append(self.vectors(placed.picture, int(low), int(high), batch.advance))
        return (np.concatenate(rows), np.concatenate(vectors)) if rows else None

    def vectors(self, picture: Picture, low: int, high: int, advance: Advance) -> Floats:
        """Of a picture those from `low` to `high`, shape (high - low, width); `advance` is called now and then.

        Only the tiles that these are of are computed: where a prompt takes several steps, the others come with later
        ones, and what else is in the steps waits for few tiles at a time.

        Raises:
            ValueError: As `find`.
        """
        each = self._shape.tile_tokens
        seen, tiles = self._kept.get(picture.key), None
        if seen is None:
            tiles = picture.values()["tiles"]
            seen = self._keep(picture, len(tiles))
        self._kept.move_to_end(picture.key)
        for tile in range(low // each, -(-high // each)):
            if seen.known[tile]:
                continue
            if tiles is None:
                tiles = picture.values()["tiles"]
            seen.vectors[tile * each : (tile + 1) * each] = self._see(tiles[tile], advance)
            seen.known[tile] = True
        return seen.vectors[low:high]

    def _keep(self, picture: Picture, tiles: int) -> _Seen:
        """Have room for the vectors of a picture of so many tiles, perhaps in place of others."""
        tokens, given = picture.outline.tokens, tiles * self._shape.tile_tokens
        if given != tokens:
            raise ValueError(f"a picture gives {given} vectors, and {tokens} were expected")
        seen = _Seen(np.empty((tokens, self._shape.out_width), np.float32), np.zeros(tiles, np.bool_))
        self.computed += 1
        self._kept[picture.key] = seen
        self._held += tokens
        while self._held > self._kept_tokens and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._held -= len(gone.vectors)
        return seen

    def close(self) -> None:
        """Give the memory back."""
        self._layers.close()
        self._kept.clear()
        self._weights.clear()

    def _see(self, tile: Floats, advance: Advance) -> Floats:
        """The vectors of a tile, shape (3, side, side)."""
        shape, weights = self._shape, self._weights
        side, patch, factor = shape.side, shape.patch_size, shape.scale_factor
        patches = tile.reshape(3, side, patch, side, patch).transpose(1, 3, 0, 2, 4).reshape(shape.patches, -1)
        matrix = weights["v.patch_embd.weight"].reshape(shape.width, -1)
        hidden = multiply(
            np.ascontiguousarray(patches),
            matrix,
            weights["v.patch_embd.bias"],
            out=np.empty((shape.patches, shape.width), np.float32),
        )
        hidden += weights["v.position_embd.weight"]
        self._layers.encode(hidden, advance)
        weight, bias = weights["v.post_ln.weight"], weights["v.post_ln.bias"]
        normalize(hidden, weight, bias, kind="layer", epsilon=shape.epsilon, out=hidden)
        cells = side // factor  # so many patches of rows and columns become one vector (pixel shuffle)
        shuffled = hidden.reshape(cells, factor, cells, factor, -1).transpose(0, 2, 1, 3, 4)
        rows = np.ascontiguousarray(shuffled.reshape(cells * cells, -1))
        matrix = weights["mm.model.fc.weight"]
        return multiply(rows, matrix, out=np.empty((len(rows), len(matrix)), np.float32))


class Watch:
    """What a step asks of a tower, and what it tells of that.

    Args:
        tower: None where the model sees nothing.
    """

    def __init__(self, tower: Tower | None) -> None:
        self._tower = tower
        self._before = (tower.computed, tower.kept) if tower is not None else (0, 0)

    def find(self, batch: TokenBatch) -> tuple[NDArray[np.intp], Floats] | None:
        """See `Tower.find`."""
        return None if self._tower is None or batch.pictures is None else self._tower.find(batch)

    def tell(self, result: StepResult) -> StepResult:
        """The result, with how many pictures were computed and how many were kept."""
        tower, (computed, kept) = self._tower, self._before
        if tower is None or (tower.computed, tower.kept) == self._before:
            return result
        return replace(result, pictures_computed=tower.computed - computed, pictures_kept=tower.kept - kept)
