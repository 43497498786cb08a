"""The shape of a network, from the metadata of its GGUF file (keys as in ggml's `docs/gguf.md`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from inferd_cpu.metadata import Metadata

MAX_WIDTH = 1 << 20


@dataclass(frozen=True, slots=True)
class Family:
    """What tells one architecture from another.

    Attributes:
        interleaved: The rows of queries and keys are stored so that rotary pairs are neighbours (2i, 2i + 1); else a
            pair is (i, i + half).
        head_norms: Each head's query and key pass an RMS norm before they are rotated.
    """

    interleaved: bool
    head_norms: bool


FAMILIES: Mapping[str, Family] = {
    "llama": Family(interleaved=True, head_norms=False),  # mistral and smollm files say llama, too
    "qwen2": Family(interleaved=False, head_norms=False),
    "qwen3": Family(interleaved=False, head_norms=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a decoder of the Llama family.

    Attributes:
        name: As in the file.
        family: How it differs from the others.
        layers: Decoder blocks.
        width: Numbers in a hidden state.
        feed_width: Numbers inside the feed-forward part.
        heads: Query heads.
        kv_heads: Key and value heads; each serves `heads / kv_heads` query heads.
        key_width: Numbers in a query and in a key of one head.
        value_width: Numbers in a value of one head.
        context_tokens: Tokens that the model was trained for.
        epsilon: Added to the mean square in RMS norms.
        rope_width: Numbers of a head that are rotated; even.
        rope_base: Base of the rotary frequencies.
        rope_factor: Positions are divided by it (linear scaling).
        window: How many tokens back a token sees, itself among them; 0 for all. No layer computes it: see `capacity`.
    """

    name: str
    family: Family
    layers: int
    width: int
    feed_width: int
    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    context_tokens: int
    epsilon: float
    rope_width: int
    rope_base: float
    rope_factor: float
    window: int = 0

    @property
    def qk_width(self) -> int:
        """Numbers in the queries and keys of all heads."""
        return (self.heads + self.kv_heads) * self.key_width

    @property
    def qkv_width(self) -> int:
        """Numbers in the queries, keys and values of all heads."""
        return self.qk_width + self.kv_heads * self.value_width

    @property
    def mixed_width(self) -> int:
        """Numbers that attention gives, over all heads."""
        return self.heads * self.value_width

    @property
    def kv_token_bytes(self) -> int:
        """Bytes of the keys and values of one token, over all layers, in fp32."""
        return 4 * self.layers * self.kv_heads * (self.key_width + self.value_width)


def read_architecture(metadata: Metadata) -> Architecture:
    """Read the shape.

    Raises:
        LoadError: An architecture or a feature that is not supported, or a value that is missing, of the wrong type or
            outside its bounds.
    """
    name = metadata.text("general.architecture")
    family = FAMILIES.get(name)
    if family is None:
        near = get_close_matches(name, FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise metadata.error(
            "general.architecture", f"is {name!r}, which is not supported{hint} Supported: {', '.join(FAMILIES)}"
        )
    if (parts := metadata.integer("split.count", 1)) > 1:
        raise metadata.error("split.count", f"is {parts}; join the parts of the model into one file first")
    if (experts := metadata.integer(f"{name}.expert_count", 0)) > 0:
        raise metadata.error(f"{name}.expert_count", f"is {experts}; mixtures of experts are not supported")

    def size(key: str, default: int | None = None, maximum: int = MAX_WIDTH) -> int:
        return metadata.integer(f"{name}.{key}", default, minimum=1, maximum=maximum)

    width = size("embedding_length")
    heads = size("attention.head_count")
    key_width = size("attention.key_length", max(width // heads, 1))
    architecture = Architecture(
        name=name,
        family=family,
        layers=size("block_count"),
        width=width,
        feed_width=size("feed_forward_length"),
        heads=heads,
        kv_heads=size("attention.head_count_kv", heads),
        key_width=key_width,
        value_width=size("attention.value_length", key_width),
        context_tokens=size("context_length", maximum=2**31 - 1),
        epsilon=metadata.positive(f"{name}.attention.layer_norm_rms_epsilon"),
        rope_width=size("rope.dimension_count", key_width),
        rope_base=metadata.positive(f"{name}.rope.freq_base", 10000.0),
        rope_factor=_read_rope_factor(metadata, name),
        window=metadata.integer(f"{name}.attention.sliding_window", 0),
    )
    _check_heads(metadata, architecture)
    return architecture


def _read_rope_factor(metadata: Metadata, name: str) -> float:
    key = f"{name}.rope.scaling.type"
    kind = metadata.text(key, "linear")
    if kind not in ("none", "linear"):
        raise metadata.error(key, f"is {kind!r}, which is not supported; supported are 'none', 'linear'")
    if kind == "none":
        return 1.0
    older = metadata.positive(f"{name}.rope.scale_linear", 1.0)
    return metadata.positive(f"{name}.rope.scaling.factor", older)


def _check_heads(metadata: Metadata, a: Architecture) -> None:
    if a.heads % a.kv_heads:
        raise metadata.error(
            f"{a.name}.attention.head_count_kv", f"is {a.kv_heads}, which does not divide the {a.heads} heads"
        )
    if a.rope_width > a.key_width or a.rope_width % 2:
        raise metadata.error(
            f"{a.name}.rope.dimension_count", f"is {a.rope_width}; it must be even and at most {a.key_width}"
        )
