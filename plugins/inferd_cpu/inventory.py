"""Which tensors of a file make up which weights. Only names and shapes are read: no memory is taken for weights."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from inferd.plugin import LoadError
from inferd_cpu.architecture import Architecture
from inferd_cpu.gguf import GgufFile, Tensor


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor, and the number of heads in its rows when they must be reordered for the rotation; else 0."""

    tensor: Tensor
    rotary_heads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One array of the weights.

    Attributes:
        layer: The decoder block that it belongs to; None for the rest of the model.
        field: Its name in `Layer` or `Weights`.
        sources: Tensors with equal columns, whose rows it has one below the other.
    """

    layer: int | None
    field: str
    sources: tuple[Source, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        shapes = [source.tensor.shape for source in self.sources]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


class Inventory:
    """The parts of a model, each tensor found and its shape checked.

    Attributes:
        parts: Every array of the weights.

    Raises:
        LoadError: A tensor is missing, has another shape than the metadata says, or has no place in the architecture.
    """

    def __init__(self, file: GgufFile, architecture: Architecture, *, vocabulary_size: int) -> None:
        self._path = file.path
        self._architecture = architecture
        self._vocabulary_size = vocabulary_size
        self._left = dict(file.tensors)
        self.parts = tuple(self._find_parts())
        if self._left:
            raise LoadError(
                f"{file.path}: {len(self._left)} tensors, {next(iter(self._left))!r} among them, have no place in"
                f" architecture {architecture.name!r}: without them the results would be wrong"
            )

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights in fp32."""
        return sum(4 * prod(part.shape) for part in self.parts)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.size_bytes // 4

    @property
    def weight_format(self) -> str:
        """How most weights of the decoder blocks are stored."""
        elements: Counter[str] = Counter()
        for part in self.parts:
            for source in part.sources if part.layer is not None else ():
                elements[source.tensor.format.name] += source.tensor.elements
        return elements.most_common(1)[0][0]

    def _find_parts(self) -> Iterator[Part]:
        a, vocabulary = self._architecture, self._vocabulary_size
        yield self._part("embedding", self._take("token_embd.weight", vocabulary, a.width))
        for layer in range(a.layers):
            yield from self._find_layer(layer)
        yield self._part("norm", self._take("output_norm.weight", a.width))
        if "output.weight" in self._left:
            yield self._part("head", self._take("output.weight", vocabulary, a.width))
        if "rope_freqs.weight" in self._left:
            yield self._part("rope_divisors", self._take("rope_freqs.weight", a.rope_width // 2))

    def _find_layer(self, layer: int) -> Iterator[Part]:
        a, name = self._architecture, f"blk.{layer}.{{}}".format
        heads = {"q": a.heads, "k": a.kv_heads, "v": a.kv_heads}
        rows = {"q": a.heads * a.key_width, "k": a.kv_heads * a.key_width, "v": a.kv_heads * a.value_width}
        rotary = {x: heads[x] if a.family.interleaved and x != "v" else 0 for x in heads}
        yield self._part("attention_norm", self._take(name("attn_norm.weight"), a.width), layer=layer)
        qkv = [self._take(name(f"attn_{x}.weight"), rows[x], a.width, rotary_heads=rotary[x]) for x in "qkv"]
        yield self._part("qkv", *qkv, layer=layer)
        if name("attn_q.bias") in self._left:
            biases = [self._take(name(f"attn_{x}.bias"), rows[x], rotary_heads=rotary[x]) for x in "qkv"]
            yield self._part("qkv_bias", *biases, layer=layer)
        if a.family.head_norms:
            yield self._part("query_norm", self._take(name("attn_q_norm.weight"), a.key_width), layer=layer)
            yield self._part("key_norm", self._take(name("attn_k_norm.weight"), a.key_width), layer=layer)
        yield self._part("mix", self._take(name("attn_output.weight"), a.width, a.mixed_width), layer=layer)
        yield self._part("feed_norm", self._take(name("ffn_norm.weight"), a.width), layer=layer)
        gate_up = [self._take(name(f"ffn_{x}.weight"), a.feed_width, a.width) for x in ("gate", "up")]
        yield self._part("gate_up", *gate_up, layer=layer)
        yield self._part("down", self._take(name("ffn_down.weight"), a.width, a.feed_width), layer=layer)

    def _take(self, name: str, *shape: int, rotary_heads: int = 0) -> Source:
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise LoadError(f"{self._path}: tensor {name!r} of shape {list(shape)} is missing")
        if tensor.shape != shape:
            raise LoadError(
                f"{self._path}: tensor {name!r} has shape {list(tensor.shape)}; the metadata says {list(shape)}"
            )
        return Source(tensor, rotary_heads)

    @staticmethod
    def _part(field: str, *sources: Source, layer: int | None = None) -> Part:
        return Part(layer=layer, field=field, sources=sources)
