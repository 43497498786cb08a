"""Whether a model sees, and what that takes beside the model: known before any weights are read."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inferd.plugin import LoadError, LoadRequest, MemoryNeed, Vocabulary
from inferd_cpu.native import Native
from inferd_cpu.native_encoder import measure_encoder
from inferd_cpu.shapes import Architecture
from inferd_cpu.vision.idefics3 import PLACEHOLDER, TileReader, find_tokens
from inferd_cpu.vision.projector import Projector
from inferd_cpu.vision.tower import (
    ExactLayers,
    Layers,
    NativeLayers,
    Tower,
    find_tower_obstacle,
    is_of_layer,
    make_tower_shape,
    measure_tower,
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What a model sees with.

    Attributes:
        projector: The file.
        reader: What it does with pictures before it computes.
        kept_tokens: Vectors that are kept.
    """

    projector: Projector
    reader: TileReader
    kept_tokens: int

    def measure(self, native: Native | None, *, threads: int) -> MemoryNeed:
        """What it takes; without a library in fp32."""
        shape = self.projector.shape
        vectors = (self.kept_tokens + self.reader.most_tokens) * shape.out_width
        hidden = shape.patches * (4 * shape.width + 3 * shape.patch_size**2)
        library = self._choose(native)
        if library is None:
            scores = shape.patches * (shape.patches + 4 * shape.width + 2 * shape.feed_width)
            return MemoryNeed(weights_bytes=4 * self.projector.floats, workspace_bytes=4 * (vectors + hidden + scores))
        around = shape.width * (3 * shape.patch_size**2 + shape.patches + shape.out_width * shape.scale_factor**2 + 3)
        return MemoryNeed(
            weights_bytes=4 * around + measure_tower(library, shape),
            workspace_bytes=4 * (vectors + hidden) + measure_encoder(library, make_tower_shape(shape, threads=threads)),
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
            layers = NativeLayers(library, shape, weights, threads=threads)
        return Tower(shape, around, layers, kept_tokens=self.kept_tokens)

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
        has = PLACEHOLDER in vocabulary.tokens
        return "its setting 'projector' names no file that it sees with, mmproj" if has else ""
    if request.path.is_dir() or architecture.family.encodes:
        raise LoadError(f"{request.path}: setting 'projector' is for GGUF files of models that write text")
    if find_spec("PIL") is None:
        return "Pillow, which reads pictures, is not installed: pip install 'inferd[files]'"
    projector = Projector(Path(str(path)), out_width=architecture.width)
    token_id = find_tokens(str(request.path), projector.shape, vocabulary.tokens)
    reader = TileReader(projector.shape, token_id, int(settings["picture_tokens"]))
    return Sight(projector, reader, int(settings["picture_cache_tokens"]))
