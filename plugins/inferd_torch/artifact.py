"""A model on disk, checked, before anything of it is in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inferd.plugin import EmbeddingDefaults, SamplingDefaults, Vocabulary
from inferd_torch.packed.schemes import Packing


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What transformers is told to load.

    Attributes:
        path: The folder or file, for errors.
        folder: Where transformers looks.
        options: What `from_pretrained` gets besides.
        parameters: Number of weights.
        weight_format: As stored, for example "BF16".
        vocabulary: Read from the same place.
        sampling: How it advises to sample.
        embedding: How it wants embeddings to be made.
        metadata: Of a GGUF file, what nobody has read yet.
        names: Of a folder's weights.
        packing: How its weights of 4 bits are stored; None where it has none.
        rounded: Whether the weights of its layers are rounded to 8 bits when they are read.
    """

    path: Path
    folder: Path
    options: Mapping[str, Any]
    parameters: int
    weight_format: str
    vocabulary: Vocabulary
    sampling: SamplingDefaults
    embedding: EmbeddingDefaults = field(default_factory=EmbeddingDefaults)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    packing: Packing | None = None
    rounded: bool = False
