"""Which tensors of a file make up which weights. Only names and shapes are read: no memory is taken for weights."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Protocol

from inferd.plugin import LoadError
from inferd_cpu.finder import Part, Source
from inferd_cpu.rare_parts import RareParts
from inferd_cpu.shapes import Architecture, Latent, LayerShape, Routing
from inferd_weights.model_file import ModelFile


class Parts(Protocol):
    """What is read of weights: all of an inventory, or some."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every array of the weights."""
        ...

    @property
    def parameters(self) -> int:
        """Number of weights."""
        ...


class Inventory(RareParts):
    """The parts of a model, each tensor found and its shape checked.

    Attributes:
        parts: Every array of the weights.

    Raises:
        LoadError: A tensor is missing, has another shape than the metadata says, or has no place in the architecture.
    """

    def __init__(self, file: ModelFile, architecture: Architecture, *, vocabulary_size: int) -> None:
        super().__init__(file.path, architecture, dict(file.tensors))
        self._vocabulary_size = vocabulary_size
        self._skip_farther_blocks()
        self.parts = tuple(self._find_parts())
        if self._left:
            raise LoadError(
                f"{file.path}: {len(self._left)} tensors, {next(iter(self._left))!r} among them, have no place in"
                f" architecture {architecture.name!r}: without them the results would be wrong"
            )

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights in fp32; what stays in the file counts as it is stored there."""
        kept = sum(source.tensor.size_bytes for part in self.parts if part.stored for source in part.sources)
        return kept + sum(4 * prod(part.shape) for part in self.parts if not part.stored)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(prod(part.shape) for part in self.parts)

    @property
    def weight_format(self) -> str:
        """How most weights of the decoder blocks are stored."""
        elements: Counter[str] = Counter()
        for part in self.parts:
            for source in part.sources if part.layer is not None else ():
                elements[source.tensor.format.name] += prod(source.shape)
        return elements.most_common(1)[0][0]

    def _skip_farther_blocks(self) -> None:
        """Blocks behind the last one predict tokens farther ahead; a text is the same without them."""
        last, farther = len(self._architecture.layers), self._architecture.farther
        starts = tuple(f"blk.{layer}." for layer in range(last, last + farther))
        for name in [name for name in self._left if farther and name.startswith(starts)]:
            del self._left[name]

    def _find_parts(self) -> Iterator[Part]:
        a, vocabulary = self._architecture, self._vocabulary_size
        yield self._part("embedding", self._take("token_embd.weight", vocabulary, a.width))
        if a.family.positions or (a.family.slopes and "position_embd.weight" in self._left):
            yield self._part("positions", self._take("position_embd.weight", a.context_tokens, a.width))
        if a.family.embedded:
            if (types := self._left.get("token_types.weight")) is not None:
                yield self._part("types", self._take("token_types.weight", types.shape[0], a.width))
            yield from self._find_norm("embedding_norm", "token_embd_norm", (a.width,), None)
        yield from self._find_inputs(vocabulary)
        for index, shape in enumerate(a.layers):
            yield from self._find_layer(index, shape)
        if a.family.final_norm:
            yield from self._find_norm("norm", self._named_norm(), (a.width,), None)
        if "output.weight" in self._left:
            yield self._part("head", self._take("output.weight", vocabulary, a.width))
        if "output.bias" in self._left:
            yield self._part("head_bias", self._take("output.bias", vocabulary))
        pairs = a.ropes[0].width // 2
        for field, name in (
            ("rope_divisors", "rope_freqs.weight"),
            ("long_divisors", "rope_factors_long.weight"),
            ("short_divisors", "rope_factors_short.weight"),
        ):
            if name in self._left or (field == "rope_divisors" and a.family.divided):
                yield self._part(field, self._take(name, pairs))

    def _named_norm(self) -> str:
        """The last norm; some files have it under another name than others."""
        name = self._architecture.family.final_norm
        return name if f"{name}.weight" in self._left else "output_norm"

    def _find_layer(self, layer: int, shape: LayerShape) -> Iterator[Part]:
        a, family = self._architecture, self._architecture.family
        width = (a.width,)
        own = family.attention_norm_own
        if own and f"blk.{layer}.{own}.weight" in self._left:
            yield from self._find_norm("attention_norm", f"blk.{layer}.{own}", width, layer)
            yield from self._find_norm("feed_norm", f"blk.{layer}.{family.attention_norm}", width, layer)
        elif family.attention_norm and not (
            layer == 0 and family.first_unnormed and f"blk.0.{family.attention_norm}.weight" not in self._left
        ):
            yield from self._find_norm("attention_norm", f"blk.{layer}.{family.attention_norm}", width, layer)
        if shape.recurrent and a.delta:
            yield from self._find_delta(layer, a.delta)
        elif shape.convolves:
            yield from self._find_convolution(layer)
        elif a.latent:
            yield from self._find_latent(layer, shape, a.latent)
        else:
            yield from self._find_attention(layer, shape)
        if family.attention_post_norm:
            yield from self._find_norm("attention_post_norm", f"blk.{layer}.{family.attention_post_norm}", width, layer)
        may_lack = family.parallel is None and a.parallel  # then the one before attention serves both
        if family.feed_norm and not (may_lack and f"blk.{layer}.{family.feed_norm}.weight" not in self._left):
            yield from self._find_norm("feed_norm", f"blk.{layer}.{family.feed_norm}", width, layer)
        yield from self._find_feeds(layer, shape)
        if family.feed_post_norm:
            yield from self._find_norm("feed_post_norm", f"blk.{layer}.{family.feed_post_norm}", width, layer)
        yield from self._find_additions(layer)

    def _find_attention(self, layer: int, shape: LayerShape) -> Iterator[Part]:
        family, name = self._architecture.family, f"blk.{layer}.{{}}".format
        heads = {"q": shape.heads, "k": shape.own_heads, "v": shape.own_heads}
        self._skip_shared(layer, shape)
        rows = {x: heads[x] * (shape.value_width if x == "v" else shape.key_width) for x in heads}
        rotary = {x: heads[x] if family.interleaved and x != "v" else 0 for x in heads}
        yield from self._find_qkv(layer, shape, rows, rotary)
        if family.head_norms and (not family.head_norms_optional or name("attn_q_norm.weight") in self._left):
            for field, x in (("query_norm", "q"), ("key_norm", "k")):
                if not rows[x]:
                    continue
                shapes = {"head": (shape.key_width,), "heads": (heads[x], shape.key_width), "row": (rows[x],)}
                norm = self._take(name(f"attn_{x}_norm.weight"), *shapes[family.head_norms])
                each = 1 if family.head_norms == "head" else heads[x]
                norm = replace(norm, rotary_heads=each if family.interleaved else 0, flat=True)
                yield self._part(field, norm, layer=layer)
        yield from self._find_output(layer, shape.mixed_width)
        if family.sinks:
            yield self._part("sinks", self._take(name("attn_sinks.weight"), shape.heads), layer=layer)

    def _find_qkv(self, layer: int, shape: LayerShape, rows: dict[str, int], rotary: dict[str, int]) -> Iterator[Part]:
        a, family, name = self._architecture, self._architecture.family, f"blk.{layer}.{{}}".format
        for field, ending, inputs in (("qkv", "weight", (a.width,)), ("qkv_bias", "bias", ())):
            if (whole := name(f"attn_qkv.{ending}")) in self._left:
                tensor = self._take(whole, sum(rows.values()), *inputs).tensor
                first, sources = 0, []
                for x, count in rows.items():
                    sources.append(Source(tensor, rotary[x], first=first, rows=count))
                    first += count
                yield self._part(field, *sources, layer=layer)
            elif ending == "weight" and family.output_gated:
                queries, gates = self._split_gates(layer, shape)
                others = [self._take(name(f"attn_{x}.weight"), rows[x], *inputs) for x in "kv"]
                yield self._part(field, *queries, *others, layer=layer)
                yield self._part("output_gate", *gates, layer=layer)
            elif ending == "weight" or name("attn_q.bias") in self._left:
                yield self._part(field, *self._take_qkv(layer, rows, rotary, ending, inputs), layer=layer)

    def _take_qkv(
        self, layer: int, rows: dict[str, int], rotary: dict[str, int], ending: str, inputs: tuple[int, ...]
    ) -> list[Source]:
        """Queries, keys and values, where there are some; keys serve as values that a file has not."""
        name = f"blk.{layer}.attn_{{}}.{ending}".format
        as_keys = self._architecture.family.value_norm and name("v") not in self._left
        taken = [x for x in "qkv" if rows[x] and not (x == "v" and as_keys)]
        sources = [self._take(name(x), rows[x], *inputs, rotary_heads=rotary[x]) for x in taken]
        return [*sources, sources[-1]] if as_keys and rows["v"] else sources

    def _skip_shared(self, layer: int, shape: LayerShape) -> None:
        """Files may have keys and values of layers that read those of others; nothing is made of them."""
        for x in ("attn_k", "attn_v", "attn_k_norm", "attn_v_norm") if shape.shares >= 0 else ():
            self._left.pop(f"blk.{layer}.{x}.weight", None)

    def _split_gates(self, layer: int, shape: LayerShape) -> tuple[list[Source], list[Source]]:
        """Queries and gates, of which a file has those of a head one behind the other."""
        width, rows = shape.key_width, 2 * shape.heads * shape.key_width
        both = self._take(f"blk.{layer}.attn_q.weight", rows, self._architecture.width).tensor
        each = [Source(both, first=first, rows=width) for first in range(0, rows, width)]
        return each[::2], each[1::2]

    def _find_output(self, layer: int, inputs: int) -> Iterator[Part]:
        yield from self._find_matrix("mix", f"blk.{layer}.attn_output", (self._architecture.width, inputs), layer)

    def _find_latent(self, layer: int, shape: LayerShape, latent: Latent) -> Iterator[Part]:
        a, name = self._architecture, f"blk.{layer}.{{}}".format
        rotated = shape.key_width - latent.rank
        rows = shape.heads * (latent.key_width + rotated)
        inputs = latent.query_rank or a.width
        if latent.query_rank:
            yield from self._find_matrix("query_down", name("attn_q_a"), (inputs, a.width), layer)
            yield from self._find_norm("query_rank_norm", name("attn_q_a_norm"), (inputs,), layer)
        taken = self._take(
            name("attn_q_b.weight" if latent.query_rank else "attn_q.weight"),
            rows,
            inputs,
            rotary_heads=shape.heads,
            rotary_from=latent.key_width,
        )
        yield self._part("query_up", taken, layer=layer)
        down = self._take(
            name("attn_kv_a_mqa.weight"), shape.key_width, a.width, rotary_heads=1, rotary_from=latent.rank
        )
        yield self._part("kv_down", down, layer=layer)
        yield from self._find_norm("kv_norm", name("attn_kv_a_norm"), (latent.rank,), layer)
        if name("attn_kv_b.weight") in self._left:
            both = shape.heads * (latent.key_width + latent.value_width)
            yield self._part("kv_up", self._take(name("attn_kv_b.weight"), both, latent.rank), layer=layer)
        else:
            keys = self._take(name("attn_k_b.weight"), shape.heads, latent.rank, latent.key_width)
            yield self._part("key_up", keys, layer=layer)
            values = self._take(name("attn_v_b.weight"), shape.heads, latent.value_width, latent.rank)
            yield self._part("value_up", values, layer=layer)
        yield from self._find_output(layer, shape.heads * latent.value_width)

    def _find_feeds(self, layer: int, shape: LayerShape) -> Iterator[Part]:
        """Experts, a dense part, or one beside the other."""
        if shape.routed and self._architecture.routing:
            yield from self._find_experts(layer, self._architecture.routing)
        if shape.feed_width:
            yield from self._find_feed(layer, shape.feed_width)

    def _find_feed(self, layer: int, feed: int) -> Iterator[Part]:
        width, name = self._architecture.width, f"blk.{layer}.{{}}".format
        if not self._architecture.family.gated:
            yield from self._find_matrix("up", name("ffn_up"), (feed, width), layer)
        elif name("ffn_gate.weight") not in self._left and name("ffn_up.weight") in self._left:
            yield from self._find_matrix("gate_up", name("ffn_up"), (2 * feed, width), layer, halves=True)
        else:
            yield from self._find_gated("gate_up", layer, ("ffn_gate", "ffn_up"), feed)
        yield from self._find_matrix("down", name("ffn_down"), (width, feed), layer)

    def _find_gated(self, field: str, layer: int, names: tuple[str, str], feed: int) -> Iterator[Part]:
        width, (gate, up) = self._architecture.width, (f"blk.{layer}.{name}" for name in names)
        both = (self._take(f"{x}.weight", feed, width) for x in (gate, up))
        yield self._part(field, *both, layer=layer)
        if f"{gate}.bias" in self._left:
            biases = (self._take(f"{x}.bias", feed) for x in (gate, up))
            yield self._part(f"{field}_bias", *biases, layer=layer)

    def _find_experts(self, layer: int, routing: Routing) -> Iterator[Part]:
        width, name, count = self._architecture.width, f"blk.{layer}.{{}}".format, routing.count
        feed = routing.feed_width
        yield from self._find_matrix("router", name("ffn_gate_inp"), (count, width), layer)
        kinds = self._architecture.family.experts
        if kinds and kinds.choice_bias and (bias := name("exp_probs_b.bias")) in self._left:
            yield self._part("choice_bias", self._take(bias, count), layer=layer)
        if kinds and kinds.beside:
            for field, tensor in (
                ("dense_post_norm", "post_ffw_norm_1"),
                ("expert_norm", "pre_ffw_norm_2"),
                ("expert_post_norm", "post_ffw_norm_2"),
            ):
                yield from self._find_norm(field, name(tensor), (width,), layer)
            yield self._part("router_scale", self._take(name("ffn_gate_inp.scale"), width), layer=layer)
            if (scale := name("ffn_down_exps.scale")) in self._left:
                yield self._part("expert_scale", self._take(scale, count), layer=layer)
        parts = {"gate": (count, feed, width), "up": (count, feed, width), "down": (count, width, feed)}
        if name("ffn_gate_up_exps.weight") in self._left:
            yield from self._find_matrix("expert_both", name("ffn_gate_up_exps"), (count, 2 * feed, width), layer)
            parts = {"down": parts["down"]}
        for x, shape in parts.items():
            yield from self._find_matrix(f"expert_{x}", name(f"ffn_{x}_exps"), shape, layer)
        if routing.shared_width == 0:
            return
        if routing.shared_gated:
            shared = f"{name('ffn_gate_inp_shexp')}.weight"
            gate = (width,) if shared in self._left and self._left[shared].shape == (width,) else (1, width)
            yield self._part("shared_router", self._take(shared, *gate), layer=layer)
        yield from self._find_gated("shared_gate_up", layer, ("ffn_gate_shexp", "ffn_up_shexp"), routing.shared_width)
        yield from self._find_matrix("shared_down", name("ffn_down_shexp"), (width, routing.shared_width), layer)
