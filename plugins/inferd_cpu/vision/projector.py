"""Files of projectors as llama.cpp has them (mmproj): a tower that sees, and what a decoder is given of that."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_cpu.family import Activation
from inferd_weights.gguf import GgufFile
from inferd_weights.metadata import Metadata

Floats = NDArray[np.float32]
ARCHITECTURE: Final = "clip"
KINDS: Final = ("idefics3",)
"""Projectors that are known, by `clip.projector_type`."""
MOST_SIDE: Final = 1 << 14  # pixels
MOST_LAYERS: Final = 1 << 10
MOST_WIDTH: Final = 1 << 16
COLOURS: Final = 3
MOST_COLOUR: Final = 1000.0  # colours are from 0 to 1; with far larger ones vectors would be no numbers
_IGNORED: Final = frozenset({"clip.has_vision_encoder", "clip.vision.projection_dim", "clip.has_text_encoder"})
_LAYER: Final = (
    *(("ln1", "attention_norm"), ("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_out", "mix")),
    *(("ln2", "feed_norm"), ("ffn_up", "up"), ("ffn_down", "down")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerShape:
    """The sizes of a tower (a vision transformer, arXiv:2010.11929) and of what is behind it.

    Attributes:
        image_size: Rows and columns of a tile, in pixels.
        patch_size: Of a patch.
        width: Numbers of a hidden state.
        feed_width: Inside the feed-forward part.
        heads: Of attention.
        layers: Its blocks.
        epsilon: Of norms.
        activation: Of the feed-forward part.
        scale_factor: So many rows and columns of patches become one vector.
        longest_edge: Pixels of the longer side that a picture is brought to before it is cut into tiles.
        mean: Of the colours, which is subtracted.
        deviation: Of the colours, by which they are divided.
        out_width: Numbers of a vector.
    """

    image_size: int
    patch_size: int
    width: int
    feed_width: int
    heads: int
    layers: int
    epsilon: float
    activation: Activation
    scale_factor: int
    longest_edge: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    out_width: int

    @property
    def side(self) -> int:
        """Patches in a row of a tile."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return self.side**2

    @property
    def tile_tokens(self) -> int:
        """Vectors of a tile."""
        return (self.side // self.scale_factor) ** 2


class Projector:
    """A file of a projector, checked; `weights` reads its weights.

    Args:
        path: The file.
        out_width: Numbers of a hidden state of the decoder that it is for.

    Attributes:
        path: See above.
        shape: Its sizes.
        floats: Numbers of all its weights.

    Raises:
        LoadError: It is no projector, contradicts itself, or is for another decoder.
    """

    def __init__(self, path: Path, *, out_width: int) -> None:
        self.path = path
        self._file = GgufFile(path)
        _check_kind(path, self._file.metadata)
        self.shape = _read_shape(path, self._file.metadata, out_width)
        self._shapes = dict(_expect(self.shape))
        self._check_tensors()
        self.floats = sum(prod(shape) for shape in self._shapes.values())

    def _check_tensors(self) -> None:
        tensors = self._file.tensors
        for name, shape in self._shapes.items():
            tensor = tensors.get(name)
            if tensor is None:
                raise LoadError(f"{self.path}: tensor {name!r} of shape {list(shape)} is missing")
            if tensor.shape == shape:
                continue
            if name == "mm.model.fc.weight" and len(tensor.shape) == len(shape) and tensor.shape[1] == shape[1]:
                raise LoadError(
                    f"{self.path}: gives vectors of {tensor.shape[0]} numbers, and the model takes {shape[0]}: it is"
                    " the projector of another model"
                )
            raise LoadError(
                f"{self.path}: tensor {name!r} has shape {list(tensor.shape)}; the metadata says {list(shape)}"
            )
        if more := tensors.keys() - self._shapes.keys():
            raise LoadError(
                f"{self.path}: {len(more)} tensors, {min(more)!r} among them, have no place in a projector of the kind"
                f" {KINDS[0]!r}: without them the results would be wrong"
            )

    @property
    def weights(self) -> "ProjectorWeights":
        """All weights, by their names in the file; each is read when it is asked for."""
        return ProjectorWeights(self, self._shapes)

    def read(self, name: str) -> Floats:
        """A weight in fp32.

        Raises:
            LoadError: It is not a finite number.
        """
        tensor = self._file.tensors[name]
        with np.errstate(invalid="ignore", over="ignore"):  # told below
            numbers = tensor.format.decode(self._file.blocks(tensor)).reshape(tensor.shape)
        self._file.release(tensor)
        if not np.isfinite(numbers).all():
            raise LoadError(
                f"{self.path}: tensor {name!r} ({tensor.format.name}, at byte {tensor.offset}) has weights that are not"
                " finite: the file is corrupt; fetch it again"
            )
        return np.ascontiguousarray(numbers, np.float32)


class ProjectorWeights(Mapping[str, Floats]):
    """The weights of a projector; each is read anew whenever it is asked for, so that not all are held at once.

    Args:
        projector: The file.
        names: Of its weights.
    """

    def __init__(self, projector: Projector, names: Collection[str]) -> None:
        self._projector = projector
        self._names = names

    def __getitem__(self, name: str) -> Floats:
        """See `Projector.read`.

        Raises:
            LoadError: As it does.
        """
        return self._projector.read(name)

    def __iter__(self) -> Iterator[str]:
        """Names of weights."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)


def _check_kind(path: Path, metadata: Metadata) -> None:
    architecture = metadata.text("general.architecture", "")
    if architecture != ARCHITECTURE:
        kind = metadata.text("general.type", "model")
        what = f"of the type {kind!r}" if kind != "model" else f"a model of architecture {architecture!r}"
        raise LoadError(
            f"{path}: setting 'projector' names a file {what}; it wants what the model sees with, a file whose"
            f" architecture is {ARCHITECTURE!r} (mmproj)"
        )
    if not metadata.flag("clip.has_vision_encoder", default=False):
        raise LoadError(f"{path}: this projector does not see ('clip.has_vision_encoder' is not true)")
    key = "clip.projector_type" if "clip.projector_type" in metadata else "clip.vision.projector_type"
    kind = metadata.text(key, "")
    if kind not in KINDS:
        raise UnsupportedModelError(
            f"{path}: metadata {key!r} is {kind!r}; projectors that are known: {', '.join(KINDS)}"
        )


def _read_shape(path: Path, metadata: Metadata, out_width: int) -> TowerShape:
    vision = "clip.vision.{}".format

    def count(name: str, most: int) -> int:
        return metadata.integer(vision(name), minimum=1, maximum=most)

    colours = {name: tuple(metadata.numbers(vision(name))) for name in ("image_mean", "image_std")}
    sound = all(len(each) == COLOURS and all(map(isfinite, each)) for each in colours.values())
    if sound:
        sound = max(map(abs, colours["image_mean"])) <= MOST_COLOUR and min(colours["image_std"]) >= 1 / MOST_COLOUR
    if not sound:
        raise LoadError(
            f"{path}: metadata 'clip.vision.image_mean' is {list(colours['image_mean'])[:COLOURS]} and 'image_std'"
            f" {list(colours['image_std'])[:COLOURS]}; they must be three numbers each, these at least"
            f" {1 / MOST_COLOUR:g} and those at most {MOST_COLOUR:g} either way: fetch the file again"
        )
    shape = TowerShape(
        image_size=count("image_size", MOST_SIDE),
        patch_size=count("patch_size", MOST_SIDE),
        width=count("embedding_length", MOST_WIDTH),
        feed_width=count("feed_forward_length", MOST_WIDTH),
        heads=count("attention.head_count", MOST_WIDTH),
        layers=count("block_count", MOST_LAYERS),
        epsilon=metadata.positive(vision("attention.layer_norm_epsilon")),
        activation="gelu_tanh" if metadata.flag("clip.use_gelu", default=False) else "silu",
        scale_factor=metadata.integer(vision("projector.scale_factor"), minimum=1, maximum=MOST_SIDE),
        longest_edge=count("preproc_image_size", MOST_SIDE),
        mean=colours["image_mean"],
        deviation=colours["image_std"],
        out_width=out_width,
    )
    if shape.activation == "silu" and not metadata.flag("clip.use_silu", default=False):
        raise UnsupportedModelError(
            f"{path}: neither 'clip.use_gelu' nor 'clip.use_silu' is true: QuickGELU is not known"
        )
    for what, size, step in (
        ("image_size", shape.image_size, shape.patch_size),
        ("image_size / patch_size", shape.side, shape.scale_factor),
        ("embedding_length", shape.width, shape.heads),
    ):
        if size % step:
            raise LoadError(f"{path}: metadata 'clip.vision.{what}' is {size}, which is not a multiple of {step}")
    known = metadata.used | _IGNORED
    for key in metadata:
        if key.startswith("clip.") and key not in known:
            raise UnsupportedModelError(
                f"{path}: metadata {key!r} is {metadata.content(key)!r}, which is not supported and may change results"
            )
    return shape


def _expect(shape: TowerShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors that a file must have, with their shapes."""
    width, patch = shape.width, shape.patch_size
    yield "v.patch_embd.weight", (width, COLOURS, patch, patch)
    yield "v.patch_embd.bias", (width,)
    yield "v.position_embd.weight", (shape.patches, width)
    for layer in range(shape.layers):
        for name, field in _LAYER:
            outputs = shape.feed_width if field == "up" else width
            inputs = shape.feed_width if field == "down" else width
            yield f"v.blk.{layer}.{name}.weight", (width,) if field.endswith("norm") else (outputs, inputs)
            yield f"v.blk.{layer}.{name}.bias", (outputs,)
    yield "v.post_ln.weight", (width,)
    yield "v.post_ln.bias", (width,)
    yield "mm.model.fc.weight", (shape.out_width, width * shape.scale_factor**2)
