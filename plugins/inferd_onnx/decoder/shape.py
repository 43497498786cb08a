"""What a network of the Llama family is: sizes, rotation, and the parts that not every one has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rotation:
    """How positions turn queries and keys.

    Attributes:
        base: Of the frequencies.
        scale: By which positions are divided.
        factors: By which each frequency is divided, shape (head_width / 2,); None for 1.
        neighbours: Whether the two numbers of a pair are neighbours (GGUF's llama), or half a head apart.
    """

    base: float = 10000.0
    scale: float = 1.0
    factors: Float32Array | None = None
    neighbours: bool = False

    def tables(self, positions: int, head_width: int) -> tuple[Float32Array, Float32Array]:
        """Cosines and sines, each of shape (positions, head_width / 2)."""
        frequencies = self.base ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width)
        if self.factors is not None:
            frequencies = frequencies / self.factors.astype(np.float64)
        angles = np.arange(positions)[:, None] / self.scale * frequencies
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a network.

    Attributes:
        architecture: As its file names it.
        layers: How many.
        width: Of the hidden states.
        heads: Of queries.
        kv_heads: Of keys and values.
        head_width: Numbers of one head.
        inner: Width between the two matrices of a layer's second half.
        vocabulary_size: Logits of a row.
        context_tokens: Most tokens of a sequence; of a model with a window, no more than the window.
        epsilon: Of the norms.
        window: How far back a token sees; 0 for all the way.
        rotation: Of positions.
        unrotated: Layers without it.
        biased: Which matrices of a layer have a bias.
        head_norms: Whether each head of queries and keys is normed.
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocabulary_size: int
    context_tokens: int
    epsilon: float
    window: int = 0
    rotation: Rotation = field(default_factory=Rotation)
    unrotated: frozenset[int] = frozenset()
    biased: frozenset[str] = frozenset()
    head_norms: bool = False

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token, over all layers, as float32."""
        return self.layers * 2 * self.kv_heads * self.head_width * 4

    def matrices(self) -> dict[str, tuple[int, int]]:
        """The matrices of each layer by what they are, with outputs and inputs."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        return {
            "q": (queries, self.width),
            "k": (keys, self.width),
            "v": (keys, self.width),
            "o": (self.width, queries),
            "gate": (self.inner, self.width),
            "up": (self.inner, self.width),
            "down": (self.width, self.inner),
        }


def llama3_factors(parameters: Mapping[str, Any], *, base: float, head_width: int) -> Float32Array:
    """By which Llama 3.1 divides each frequency.

    Source: transformers' documentation of the rope type "llama3": waves longer than what the model was first trained
    on are stretched by `factor`, short ones are not, and between them it goes over smoothly.
    """
    factor, trained = float(parameters["factor"]), float(parameters["original_max_position_embeddings"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    waves = 2 * math.pi * base ** (np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    smooth = np.clip((trained / waves - low) / (high - low), 0, 1)
    factors: Float32Array = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    return factors
