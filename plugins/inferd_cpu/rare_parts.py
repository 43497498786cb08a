"""The tensors of parts that few architectures have: states, streams, numbers of tokens for each layer."""

from collections.abc import Iterator
from dataclasses import replace

from inferd_cpu.finder import Finder, Part, Source
from inferd_cpu.shapes import DeltaNet


class RareParts(Finder):
    """Finds them."""

    def _find_inputs(self, vocabulary: int) -> Iterator[Part]:
        """What becomes of tokens besides their embeddings."""
        a = self._architecture
        if a.family.embedding_normed:
            yield from self._find_norm("embedding_norm", "token_embd_norm", (a.width,), None)
        if a.layer_inputs:
            yield from self._find_layer_inputs(len(a.layers) * a.layer_inputs, vocabulary)
        if a.streams > 1:
            for field, name in (("streams_in", "altup_proj"), ("streams_out", "altup_unembd_proj")):
                yield self._part(field, self._take(f"{name}.weight", a.streams - 1, a.width, a.width))

    def _find_additions(self, layer: int) -> Iterator[Part]:
        """What a layer has besides attention and a feed-forward part."""
        a, width = self._architecture, (self._architecture.width,)
        if a.layer_inputs:
            yield from self._find_matrix("input_gate", f"blk.{layer}.inp_gate", (a.layer_inputs, a.width), layer)
            yield from self._find_matrix("input_projection", f"blk.{layer}.proj", (a.width, a.layer_inputs), layer)
            yield from self._find_norm("input_post_norm", f"blk.{layer}.post_norm", width, layer)
        if a.streams > 1:
            yield from self._find_streams(layer)
        if (scale := f"blk.{layer}.layer_output_scale.weight") in self._left:
            yield self._part("output_scale", self._take(scale, 1), layer=layer)

    def _find_layer_inputs(self, inputs: int, vocabulary: int) -> Iterator[Part]:
        """What each token has for each layer; files may have it of fewer tokens."""
        a, name = self._architecture, "per_layer_token_embd.weight"
        tokens = self._left[name].shape[0] if name in self._left else vocabulary
        yield replace(self._part("input_embedding", self._take(name, min(tokens, vocabulary), inputs)), stored=True)
        yield self._part("input_model", self._take("per_layer_model_proj.weight", inputs, a.width))
        yield self._part("input_norm", self._take("per_layer_proj_norm.weight", a.layer_inputs))

    def _find_streams(self, layer: int) -> Iterator[Part]:
        a, name = self._architecture, f"blk.{layer}.{{}}.weight".format
        left = self._left.get(name("laurel_l"))
        rank = left.shape[0] if left is not None else 1
        for field, tensor, shape in (
            ("stream_router", "altup_router", (a.streams, a.width)),
            ("stream_router_norm", "altup_router_norm", (a.width,)),
            ("stream_predict", "altup_predict_coef", (a.streams**2, a.streams)),
            ("stream_correct", "altup_correct_coef", (a.streams, a.streams)),
            ("stream_scale", "altup_correct_scale", (a.width,)),
            ("around_left", "laurel_l", (rank, a.width)),
            ("around_right", "laurel_r", (a.width, rank)),
            ("around_norm", "laurel_post_norm", (a.width,)),
        ):
            yield self._part(field, self._take(name(tensor), *shape), layer=layer)

    def _find_convolution(self, layer: int) -> Iterator[Part]:
        a, name = self._architecture, f"blk.{layer}.shortconv.{{}}".format
        yield from self._find_matrix("convolution_in", name("in_proj"), (3 * a.width, a.width), layer)
        kernel = name("conv.weight")
        shape: tuple[int, ...] = (a.width, a.convolution)
        if kernel in self._left and self._left[kernel].shape == (a.width, 1, a.convolution):
            shape = (a.width, 1, a.convolution)
        yield self._part("convolution", self._take(kernel, *shape), layer=layer)
        if name("conv.bias") in self._left:
            yield self._part("convolution_bias", self._take(name("conv.bias"), a.width), layer=layer)
        yield from self._find_matrix("convolution_out", name("out_proj"), (a.width, a.width), layer)

    def _find_delta(self, layer: int, delta: DeltaNet) -> Iterator[Part]:
        a, name, left = self._architecture, f"blk.{layer}.{{}}".format, self._left
        key, value = delta.key_width, delta.values_width // delta.key_heads  # rows of a key head
        if name("ssm_in.weight") in left:  # each key head with all that belongs to it
            rows = delta.convolved_width + delta.values_width
            inputs = self._split_heads(name("ssm_in.weight"), rows, delta.key_heads, (key, key, value, value))
        else:
            inputs = [self._take(name("attn_qkv.weight"), delta.convolved_width, a.width)]
            inputs.append(self._take(name("attn_gate.weight"), delta.values_width, a.width))
        yield self._part("delta_in", *inputs, layer=layer)
        heads, each = delta.value_heads, delta.value_heads // delta.key_heads
        if name("ssm_ba.weight") in left:
            rates = self._split_heads(name("ssm_ba.weight"), 2 * heads, delta.key_heads, (each, each))
        else:
            rates = [self._take(name(f"ssm_{x}.weight"), heads, a.width) for x in ("beta", "alpha")]
        yield self._part("delta_rates", *rates, layer=layer)
        kernel = name("ssm_conv1d.weight")
        plain = kernel not in left or left[kernel].shape != (delta.convolved_width, 1, delta.taps)
        shape = (delta.convolved_width, delta.taps) if plain else (delta.convolved_width, 1, delta.taps)
        yield self._part("delta_convolution", self._take(kernel, *shape), layer=layer)
        yield self._part("delta_decay", self._take(name("ssm_a"), heads), layer=layer)
        yield self._part("delta_step", self._take(name("ssm_dt.bias"), heads), layer=layer)
        yield self._part("delta_norm", self._take(name("ssm_norm.weight"), delta.value_width), layer=layer)
        yield self._part("delta_out", self._take(name("ssm_out.weight"), a.width, delta.values_width), layer=layer)

    def _split_heads(self, name: str, rows: int, heads: int, parts: tuple[int, ...]) -> list[Source]:
        """The parts of a matrix, each over all heads, where a file has all parts of a head one behind the other."""
        tensor, sources = self._take(name, rows, self._architecture.width).tensor, []
        for at, count in enumerate(parts):
            begin = sum(parts[:at])
            sources += [Source(tensor, first=head * sum(parts) + begin, rows=count) for head in range(heads)]
        return sources
