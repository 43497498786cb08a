"""The sizes of towers that see, as files of projectors say them, and the weights that each kind must have."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Final, Literal

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_cpu.family import Activation
from inferd_weights.metadata import Metadata

Kind = Literal["idefics3", "gemma3", "qwen2.5vl_merger"]
KINDS: Final[tuple[Kind, ...]] = ("idefics3", "gemma3", "qwen2.5vl_merger")
"""Projectors that are known, by `clip.projector_type`."""
GRID: Final[Kind] = "qwen2.5vl_merger"
"""Of them, the one whose pictures keep nearly their own sizes."""
MOST_SIDE: Final = 1 << 14  # pixels
MOST_LAYERS: Final = 1 << 10
MOST_WIDTH: Final = 1 << 16
MOST_PIXELS: Final = 1 << 28  # of a picture, whatever a file says
COLOURS: Final = 3
MOST_COLOUR: Final = 1000.0  # colours are from 0 to 1; with far larger ones vectors would be no numbers
_IGNORED: Final = frozenset({"clip.has_vision_encoder", "clip.vision.projection_dim", "clip.has_text_encoder"})
_POOLED: Final = 4  # rows and columns of patches of which Gemma 3 makes a vector, unless a file says it
_MERGED: Final = 2  # the same of Qwen2.5-VL
_WINDOW: Final = 112  # pixels of a side of its windows, which the usual files do not say
_LEAST_CELLS: Final = 4  # vectors of its smallest pictures
_MOST_CELLS: Final = 16384  # and of its largest ones
_AXES: Final = 4  # pieces of a head: rows and columns, each of pairs
_LAYER: Final = (
    *(("ln1", "attention_norm"), ("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_out", "mix")),
    *(("ln2", "feed_norm"), ("ffn_up", "up"), ("ffn_down", "down")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerShape:
    """The sizes of a tower (a vision transformer, arXiv:2010.11929) and of what is behind it.

    Attributes:
        kind: Of the projector.
        image_size: Rows and columns of a tile, in pixels; 0 where pictures have sizes of their own.
        patch_size: Of a patch.
        width: Numbers of a hidden state.
        feed_width: Inside the feed-forward part.
        heads: Of attention.
        layers: Its blocks.
        epsilon: Of norms.
        activation: Of the feed-forward part.
        scale_factor: So many rows and columns of patches become one vector.
        mean: Of the colours, which is subtracted.
        deviation: Of the colours, by which they are divided.
        out_width: Numbers of a vector.
        longest_edge: Pixels of the longer side that a picture is brought to before it is cut into tiles.
        window: Rows and columns of vectors whose patches see each other in layers that do not see all; 0 where all do.
        whole_every: Every so manieth layer sees all of a tile.
        least_pixels: Of a picture of a size of its own; smaller ones are made larger.
        most_pixels: The same; larger ones are made smaller. 0 where the file does not say it.
    """

    kind: Kind
    image_size: int
    patch_size: int
    width: int
    feed_width: int
    heads: int
    layers: int
    epsilon: float
    activation: Activation
    scale_factor: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    out_width: int
    longest_edge: int = 0
    window: int = 0
    whole_every: int = 1
    least_pixels: int = 0
    most_pixels: int = 0

    @property
    def side(self) -> int:
        """Patches in a row of a tile."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of a tile; 0 where each picture has its own number of them."""
        return self.side**2

    @property
    def merged(self) -> int:
        """Patches that become one vector."""
        return self.scale_factor**2

    @property
    def cell(self) -> int:
        """Pixels of a side of what becomes one vector."""
        return self.patch_size * self.scale_factor

    @property
    def tile_tokens(self) -> int:
        """Vectors of a tile; 0 where each picture has its own number of them."""
        return self.patches // self.merged

    @property
    def norm(self) -> Literal["rms", "layer"]:
        """Of its blocks, and behind them."""
        return "rms" if self.kind == GRID else "layer"

    @property
    def gated(self) -> bool:
        """Whether its feed-forward parts have gates."""
        return self.kind == GRID

    @property
    def rotated(self) -> int:
        """Pairs of a head that are rotated by rows and columns."""
        return self.width // self.heads // 2 if self.kind == GRID else 0

    @property
    def whole(self) -> bool:
        """Whether the vectors of a picture see each other in the decoder."""
        return self.kind == "gemma3"

    @property
    def turns(self) -> bool:
        """Whether positions in the decoder go by the rows and columns of a picture."""
        return self.kind == GRID

    @property
    def sized_by_tokens(self) -> bool:
        """Whether pictures are made as small as a setting says."""
        return self.kind == GRID and not self.most_pixels

    def sees_all(self, layer: int) -> bool:
        """Whether the patches of a tile all see each other in a layer."""
        return not self.window or (layer + 1) % self.whole_every == 0


def read_shape(path: Path, metadata: Metadata, kind: Kind, out_width: int) -> TowerShape:
    """The sizes that a file says.

    Raises:
        LoadError: They contradict each other, or something is not supported that may change results.
    """
    vision = "clip.vision.{}".format

    def count(name: str, most: int, default: int | None = None, *, least: int = 1) -> int:
        return metadata.integer(vision(name), default, minimum=least, maximum=most)

    mean, deviation = _read_colours(path, metadata)
    patch, sizes = count("patch_size", MOST_SIDE), {}
    if kind == GRID:
        merge = count("spatial_merge_size", MOST_SIDE, _MERGED)
        window = count("window_size", MOST_SIDE, _WINDOW) // merge // patch
        every, cell = count("n_wa_pattern", MOST_LAYERS, least=0), (patch * merge) ** 2
        sizes = {
            "image_size": 0,
            "scale_factor": merge,
            "window": window if every else 0,
            "whole_every": every or 1,
            "least_pixels": count("image_min_pixels", MOST_PIXELS, min(_LEAST_CELLS * cell, MOST_PIXELS)),
            "most_pixels": count("image_max_pixels", MOST_PIXELS, 0, least=0),
        }
        if every and not window:
            told = metadata.content(vision("window_size")) or _WINDOW
            raise LoadError(
                f"{path}: metadata 'clip.vision.window_size' is {told}, less than {merge} patches of {patch}"
            )
    else:
        sizes["image_size"] = count("image_size", MOST_SIDE)
        pooled = None if kind == "idefics3" else _POOLED
        sizes["scale_factor"] = count("projector.scale_factor", MOST_SIDE, pooled)
        if kind == "idefics3":
            sizes["longest_edge"] = count("preproc_image_size", MOST_SIDE)
    shape = TowerShape(
        kind=kind,
        patch_size=patch,
        width=count("embedding_length", MOST_WIDTH),
        feed_width=count("feed_forward_length", MOST_WIDTH),
        heads=count("attention.head_count", MOST_WIDTH),
        layers=count("block_count", MOST_LAYERS),
        epsilon=metadata.positive(vision("attention.layer_norm_epsilon")),
        activation=_read_activation(path, metadata),
        mean=mean,
        deviation=deviation,
        out_width=out_width,
        **sizes,
    )
    _check_sizes(path, shape)
    _refuse_more(path, metadata, shape)
    return shape


def _read_colours(path: Path, metadata: Metadata) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean of colours, and their deviation."""
    colours = {name: tuple(metadata.numbers(f"clip.vision.{name}")) for name in ("image_mean", "image_std")}
    sound = all(len(each) == COLOURS and all(map(isfinite, each)) for each in colours.values())
    if sound:
        sound = max(map(abs, colours["image_mean"])) <= MOST_COLOUR and min(colours["image_std"]) >= 1 / MOST_COLOUR
    if not sound:
        raise LoadError(
            f"{path}: metadata 'clip.vision.image_mean' is {list(colours['image_mean'])[:COLOURS]} and 'image_std'"
            f" {list(colours['image_std'])[:COLOURS]}; they must be three numbers each, these at least"
            f" {1 / MOST_COLOUR:g} and those at most {MOST_COLOUR:g} either way: fetch the file again"
        )
    return colours["image_mean"], colours["image_std"]


def _read_activation(path: Path, metadata: Metadata) -> Activation:
    if metadata.flag("clip.use_gelu", default=False):
        return "gelu_tanh"
    if not metadata.flag("clip.use_silu", default=False):
        raise UnsupportedModelError(
            f"{path}: neither 'clip.use_gelu' nor 'clip.use_silu' is true: QuickGELU is not known"
        )
    return "silu"


def _check_sizes(path: Path, shape: TowerShape) -> None:
    divided = [("embedding_length", shape.width, shape.heads)]
    if shape.kind == GRID:
        divided.append(("embedding_length / attention.head_count", shape.width // shape.heads, _AXES))
    else:
        divided.append(("image_size", shape.image_size, shape.patch_size))
        divided.append(("image_size / patch_size", shape.side, shape.scale_factor))
    for what, size, step in divided:
        if not size or size % step:
            raise LoadError(f"{path}: metadata 'clip.vision.{what}' is {size}, which is not a multiple of {step}")
    if shape.kind == GRID and 0 < shape.most_pixels < max(shape.least_pixels, shape.cell**2):
        raise LoadError(
            f"{path}: metadata 'clip.vision.image_max_pixels' is {shape.most_pixels}; it must be at least"
            f" {max(shape.least_pixels, shape.cell**2)}"
        )


def _refuse_more(path: Path, metadata: Metadata, shape: TowerShape) -> None:
    """Refuse keys that nobody has read."""
    known = metadata.used | _IGNORED | ({"clip.vision.image_size"} if shape.kind == GRID else set())
    for key in metadata:
        if key.startswith("clip.") and key not in known:
            raise UnsupportedModelError(
                f"{path}: metadata {key!r} is {metadata.content(key)!r}, which is not supported and may change results"
            )


def most_cells(shape: TowerShape, most_tokens: int) -> int:
    """The most vectors that a picture of a size of its own gets; `most_tokens` where the file says nothing."""
    if shape.most_pixels:
        return max(shape.most_pixels // shape.cell**2, 1)
    return min(most_tokens, _MOST_CELLS)


def expect_tensors(shape: TowerShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors that a file must have, with their shapes."""
    width, patch, together = shape.width, shape.patch_size, shape.width * shape.merged
    yield "v.patch_embd.weight", (width, COLOURS, patch, patch)
    if shape.kind == GRID:
        yield "v.patch_embd.weight.1", (width, COLOURS, patch, patch)
    else:
        yield "v.patch_embd.bias", (width,)
        yield "v.position_embd.weight", (shape.patches, width)
    for layer in range(shape.layers):
        for name, field in (*_LAYER, *((("ffn_gate", "up"),) if shape.gated else ())):
            outputs = shape.feed_width if field == "up" else width
            inputs = shape.feed_width if field == "down" else width
            norm = field.endswith("norm")
            yield f"v.blk.{layer}.{name}.weight", (width,) if norm else (outputs, inputs)
            if not norm or shape.norm == "layer":
                yield f"v.blk.{layer}.{name}.bias", (outputs,)
    yield "v.post_ln.weight", (width,)
    if shape.norm == "layer":
        yield "v.post_ln.bias", (width,)
    if shape.kind == "idefics3":
        yield "mm.model.fc.weight", (shape.out_width, together)
    elif shape.kind == "gemma3":
        yield "mm.soft_emb_norm.weight", (width,)
        yield "mm.input_projection.weight", (width, shape.out_width)
    else:
        yield "mm.0.weight", (together, together)
        yield "mm.0.bias", (together,)
        yield "mm.2.weight", (shape.out_width, together)
        yield "mm.2.bias", (shape.out_width,)


def out_axis(name: str) -> int | None:
    """Which axis of a tensor has the numbers of a vector; None where it is not the last matrix of a projector."""
    return {"mm.model.fc.weight": 0, "mm.input_projection.weight": 1, "mm.2.weight": 0}.get(name)
