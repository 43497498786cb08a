"""A model on disk, read as far as that takes no memory to speak of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inferd.plugin import EmbeddingDefaults, LoadError, SamplingDefaults, UnsupportedModelError, Vocabulary
from inferd_onnx.decoder.shape import Shape
from inferd_onnx.decoder.sources import Weight

LAYER_NORMS = ("attention_norm", "inner_norm")
HEAD_NORMS = ("q_norm", "k_norm")
HEAD_STEP = 16
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderModel:
    """A network and what a session needs beside it.

    Attributes:
        path: The file or folder, for errors.
        shape: Of the network.
        weights: By what they are: "embedding", "norm", "head" (absent where it is the embedding), and of each layer
            "0.q", "0.q_bias", "0.attention_norm" and so on.
        parameters: Number of weights.
        weight_format: As most are stored, for example "Q4_1".
        vocabulary: Of its tokens.
        sampling: How it advises to sample.
        embedding: How it wants embeddings to be made.
    """

    path: Path
    shape: Shape
    weights: Mapping[str, Weight]
    parameters: int
    weight_format: str
    vocabulary: Vocabulary
    sampling: SamplingDefaults
    embedding: EmbeddingDefaults = field(default_factory=EmbeddingDefaults)

    @property
    def head(self) -> Weight:
        """What makes logits of hidden states."""
        return self.weights.get("head") or self.weights["embedding"]


def expected_weights(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every weight that a network has, and its sizes; the head apart, which may be the embedding."""
    sizes: dict[str, tuple[int, ...]] = {"embedding": (shape.vocabulary_size, shape.width), "norm": (shape.width,)}
    matrices = shape.matrices()
    for layer in range(shape.layers):
        sizes |= {f"{layer}.{what}": matrices[what] for what in MATRICES}
        sizes |= {f"{layer}.{what}": (shape.width,) for what in LAYER_NORMS}
        if shape.head_norms:
            sizes |= {f"{layer}.{what}": (shape.head_width,) for what in HEAD_NORMS}
        sizes |= {f"{layer}.{what}_bias": matrices[what][:1] for what in shape.biased}
    return sizes


def check_weights(path: Path, shape: Shape, weights: Mapping[str, Weight]) -> None:
    """Check that every weight is there and as large as the sizes of the network say.

    Raises:
        UnsupportedModelError: There is one more, or the runtime does not compute such heads.
        LoadError: One is missing, or has other sizes.
    """
    if shape.heads % shape.kv_heads:
        raise LoadError(f"{path}: {shape.heads} heads of queries cannot share {shape.kv_heads} of keys and values")
    if shape.head_width % HEAD_STEP:
        raise UnsupportedModelError(
            f"{path}: heads are {shape.head_width} wide; ONNX Runtime's GroupQueryAttention takes multiples of"
            f" {HEAD_STEP}"
        )
    expected = expected_weights(shape)
    if "head" in weights:
        expected["head"] = (shape.vocabulary_size, shape.width)
    if left := sorted(weights.keys() - expected.keys()):
        name = weights[left[0]].name
        raise UnsupportedModelError(f"{path}: the backend 'onnx' has no use for the weight {name[:80]!r}")
    for what, sizes in expected.items():
        if what not in weights:
            raise LoadError(f"{path}: the weight {what!r} is missing")
        if weights[what].sizes != sizes:
            found = weights[what]
            raise LoadError(f"{path}: weight {found.name!r} has the sizes {found.sizes}; they must be {sizes}")


def find_biased(weights: Mapping[str, Weight]) -> frozenset[str]:
    """Which matrices have a bias, by those of the first layer."""
    return frozenset(what for what in MATRICES if f"0.{what}_bias" in weights)
