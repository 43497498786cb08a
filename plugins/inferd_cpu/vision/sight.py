"""Whether a model sees, and what that takes beside the model: known before any weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Final

from inferd.plugin import LoadError, LoadRequest, MemoryNeed, Vocabulary
from inferd_cpu.native import Native
from inferd_cpu.native_encoder import measure_encoder
from inferd_cpu.shapes import Architecture
from inferd_cpu.vision import gemma3, idefics3, qwen25
from inferd_cpu.vision.eyes import Eye
from inferd_cpu.vision.layers import (
    ROWS,
    ExactLayers,
    Layers,
    NativeLayers,
    find_tower_obstacle,
    is_of_layer,
    make_tower_shape,
    measure_tower,
)
from inferd_cpu.vision.projector import Projector
from inferd_cpu.vision.shape import GRID, Kind, TowerShape, expect_tensors
from inferd_cpu.vision.tower import Tower

Reader = idefics3.TileReader | gemma3.SquareReader | qwen25.GridReader
_DECODERS: Final[Mapping[Kind, str]] = {"gemma3": "gemma3", GRID: "qwen2vl"}
_PLACEHOLDERS: Final = (idefics3.PLACEHOLDER, gemma3.OF_PICTURES, qwen25.PLACEHOLDER)


@dataclass(frozen=True, slots=True)
class Sight:
    """What a model sees with.

    Attributes:
        projector: The file.
        reader: What it does with pictures before it computes.
        kept_tokens: Vectors that are kept.
    """

    projector: Projector
    reader: Reader
    kept_tokens: int

    @property
    def whole(self) -> bool:
        """Whether the tokens of a picture see each other."""
        return self.projector.shape.whole

    def measure(self, native: Native | None, *, threads: int) -> MemoryNeed:
        """What it takes; without a library in fp32."""
        shape, patches = self.projector.shape, self.reader.most_patches
        vectors = (self.kept_tokens + self.reader.most_tokens) * shape.out_width
        hidden = patches * (4 * shape.width + 3 * shape.patch_size**2)
        library = self._choose(native)
        if library is None:
            scores = patches * (min(patches, ROWS) + 4 * shape.width + 3 * shape.feed_width)
            return MemoryNeed(weights_bytes=4 * self.projector.floats, workspace_bytes=4 * (vectors + hidden + scores))
        around = sum(prod(sizes) for name, sizes in expect_tensors(shape) if not is_of_layer(name))
        made = make_tower_shape(shape, patches=patches, threads=threads)
        return MemoryNeed(
            weights_bytes=4 * around + measure_tower(library, shape),
            workspace_bytes=4 * (vectors + hidden) + measure_encoder(library, made),
        )

    def raise_tower(self, native: Native | None, *, threads: int) -> Tower:
        """Read its weights.

        Raises:
            LoadError: One is not a finite number, or the memory cannot be had.
        """
        shape, weights, library = self.projector.shape, self.projector.weights, self._choose(native)
        around = {name: weights[name] for name in weights if not is_of_layer(name)}
        if library is None:
            layers: Layers = ExactLayers(shape, {name: weights[name] for name in weights if is_of_layer(name)})
        else:
            layers = NativeLayers(library, shape, weights, patches=self.reader.most_patches, threads=threads)
        eye = Eye(shape, around, layers)
        return Tower(shape, eye, name=str(self.projector.path), kept_tokens=self.kept_tokens)

    def _choose(self, native: Native | None) -> Native | None:
        """The library, where it can compute the tower."""
        return None if native is None or find_tower_obstacle(self.projector.shape) else native


def look(request: LoadRequest, architecture: Architecture, vocabulary: Vocabulary) -> Sight | str:
    """What the model of a GGUF file sees with; where it sees nothing, why.

    Raises:
        LoadError: The file that the setting names is no projector, or one of another model.
    """
    settings: dict[str, Any] = dict(request.settings)
    path = settings.get("projector")
    if not path:
        has = not set(vocabulary.tokens).isdisjoint(_PLACEHOLDERS)
        return "its setting 'projector' names no file that it sees with, mmproj" if has else ""
    if request.path.is_dir() or architecture.family.encodes:
        raise LoadError(f"{request.path}: setting 'projector' is for GGUF files of models that write text")
    if find_spec("PIL") is None:
        return "Pillow, which reads pictures, is not installed: pip install 'inferd[files]'"
    projector = Projector(Path(str(path)), out_width=architecture.width)
    reader = _make_reader(str(request.path), projector, architecture, vocabulary, int(settings["picture_tokens"]))
    return Sight(projector, reader, int(settings["picture_cache_tokens"]))


def _make_reader(
    where: str, projector: Projector, architecture: Architecture, vocabulary: Vocabulary, most_tokens: int
) -> Reader:
    shape: TowerShape = projector.shape
    decoder = _DECODERS.get(shape.kind, architecture.name)
    if architecture.name != decoder:
        raise LoadError(
            f"{projector.path}: is a projector of the kind {shape.kind!r}, for models of architecture {decoder!r}, and"
            f" {where} is of {architecture.name!r}: it is the projector of another model"
        )
    if shape.kind == GRID and not architecture.ropes[0].sections:
        raise LoadError(
            f"{where}: metadata '{decoder}.rope.dimension_sections' is missing, by which positions in pictures go:"
            " convert the model anew"
        )
    tokens = vocabulary.tokens
    if shape.kind == "gemma3":
        return gemma3.SquareReader(shape, gemma3.find_tokens(where, tokens), most_tokens)
    if shape.kind == GRID:
        return qwen25.GridReader(shape, qwen25.find_tokens(where, tokens), most_tokens)
    return idefics3.TileReader(shape, idefics3.find_tokens(where, shape, tokens), most_tokens)
