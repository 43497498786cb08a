"""Reads the shape of a network from the metadata of its GGUF file (keys as in ggml's `docs/gguf.md`)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

import numpy as np

from inferd_cpu.families import FAMILIES, REFUSED
from inferd_cpu.family import Gating
from inferd_cpu.rope import MAX_CONTEXT, yarn_magnitude
from inferd_cpu.rope_keys import RopeKeys
from inferd_cpu.shapes import Architecture, DeltaNet, Latent, LayerShape, Routing
from inferd_weights.metadata import Kind, Metadata

__all__ = ["FAMILIES", "Architecture", "read_architecture"]

MAX_LAYERS: Final = 1 << 12
_GATINGS: Final[dict[int, Gating]] = {1: "softmax", 2: "sigmoid", 3: "chosen"}
DEFAULT_SLOPE_BIAS: Final = 8.0
_OLDER_EMBEDDING: Final = 12.0  # of MiniCPM, before its files had keys for scales
_OLDER_DEPTH: Final = 1.4  # over the root of the layers
_OLDER_WIDTH: Final = 256  # of the model that its settings were found with
MIXED: Final = 2  # experts of a row that SparseMixer is defined for
STATE_WINDOW: Final = 2  # what is kept of a sequence behind the token before, and behind this one


def read_architecture(metadata: Metadata, *, halves: bool = False, grouped: bool = False) -> Architecture:
    """Read the shape.

    Args:
        metadata: Of the file.
        halves: Rotary pairs are (i, i + half), whatever files of the architecture have.
        grouped: So are heads of gated delta nets: those that share a key head are neighbours.

    Raises:
        LoadError: An architecture or a feature that is not supported, or a value that is missing, of the wrong type or
            outside its bounds.
    """
    name = metadata.text("general.architecture")
    family = FAMILIES.get(name)
    if family is None:
        if why := REFUSED.get(name):
            raise metadata.error("general.architecture", f"is {name!r}, {why}")
        near = get_close_matches(name, FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise metadata.error(
            "general.architecture", f"is {name!r}, which is not supported{hint} Supported: {', '.join(FAMILIES)}"
        )
    family = replace(family, interleaved=family.interleaved and not halves)
    return _Reader(metadata, name, replace(family, delta="grouped") if family.delta and grouped else family).read()


class _Reader(RopeKeys):
    """Reads the keys of one architecture."""

    def read(self) -> Architecture:
        family, metadata = self.family, self.metadata
        if metadata.flag(self.key("attention.causal"), not family.encodes) == family.encodes:
            raise metadata.error(self.key("attention.causal"), f"is {family.encodes}, which is not supported")
        width, count = self.size("embedding_length"), self._count_layers()
        latent = self._read_latent() if family.latent else None
        routing = self._read_routing()
        layers = self._read_layers(count, width, latent, routing)
        ropes = self.read_ropes(layers)
        widest = max(layers, key=lambda layer: layer.heads)
        scale = self._read_attention_scale(width, widest, count, latent)
        key = "layer_norm_epsilon" if family.norm == "layer" else "layer_norm_rms_epsilon"
        if self.key(f"attention.{key}") not in metadata:  # files of phimoe say that of the other norm
            key = "layer_norm_rms_epsilon"
        scales = self._read_scales(width, count)
        context = self.size("context_length", maximum=MAX_CONTEXT)
        temperature = self.number("attention.temperature_scale")
        return Architecture(
            name=self.name,
            family=family,
            layers=layers,
            width=width,
            context_tokens=max(context, ropes[0].stretched_tokens),
            original_tokens=self.size("rope.scaling.original_context_length", context, minimum=0, maximum=MAX_CONTEXT),
            epsilon=metadata.positive(self.key(f"attention.{key}")),
            ropes=ropes,
            attention_scale=scale,
            attention_cap=self.number("attn_logit_softcapping"),
            slope_bias=self.number("attention.max_alibi_bias", DEFAULT_SLOPE_BIAS) if family.slopes else 0.0,
            clamp=self.number("attention.clamp_kqv"),
            temperature_scale=temperature,
            temperature_tokens=self._read_temperature_tokens() if temperature else 0,
            activation=family.activation,
            parallel=self._read_parallel(),
            embedding_scale=width**0.5 if family.embedding_root else scales["embedding_scale"],
            residual_scale=scales["residual_scale"],
            logit_scale=1 / scales["logit_scale"] if family.logits_divided else scales["logit_scale"],
            logit_cap=self.number("final_logit_softcapping"),
            routing=routing,
            latent=latent,
            delta=self._read_delta() if family.delta else None,
            layer_inputs=self.size("embedding_length_per_layer_input", 0, minimum=0) if family.layer_inputs else 0,
            streams=(streams := self.size("altup.num_inputs", minimum=2, maximum=64) if family.streams else 1),
            stream=self.size("altup.active_idx", 0, minimum=0, maximum=streams - 1),
            convolution=self.size("shortconv.l_cache", minimum=2) if family.convolutions else 0,
            farther=self.size("nextn_predict_layers", 0, minimum=0),
        )

    def _read_scales(self, width: int, count: int) -> dict[str, float]:
        """Of embeddings, of what layers add and of logits; what a file does not say is 1, or as in the first models."""
        defaults = dict.fromkeys(("embedding_scale", "residual_scale", "logit_scale"), 1.0)
        if self.family.older_scales:
            defaults = {
                "embedding_scale": _OLDER_EMBEDDING,
                "residual_scale": _OLDER_DEPTH / count**0.5,
                "logit_scale": width / _OLDER_WIDTH,
            }
        return {name: self.number(name, default) for name, default in defaults.items()}

    def _count_layers(self) -> int:
        """Blocks of the decoder: those that predict tokens farther ahead come behind them, and are not used."""
        count = self.size("block_count", maximum=MAX_LAYERS)
        ahead = self.size("nextn_predict_layers", 0, minimum=0)
        if ahead >= count:
            raise self.metadata.error(self.key("nextn_predict_layers"), f"is {ahead} of {count} blocks")
        return count - ahead

    def _read_layers(
        self, count: int, width: int, latent: Latent | None, routing: Routing | None
    ) -> tuple[LayerShape, ...]:
        family = self.family
        heads = self.sizes("attention.head_count", count)
        fewest = 0 if family.convolutions else 1
        kv_heads = self.sizes("attention.head_count_kv", count, heads[0], minimum=fewest)
        if latent:
            kv_heads = [1] * count  # files say 1, or as many as heads: both mean one latent that all heads share
            rotated = self.size("rope.dimension_count")
            key_width, value_width = latent.rank + rotated, latent.rank
        else:
            key_width = self.size("attention.key_length", max(width // max(heads), 1))
            value_width = self.size("attention.value_length", key_width)
        window_widths = key_width, value_width
        if family.shared_keys:
            key = self.size("attention.key_length_swa", key_width)
            window_widths = key, self.size("attention.value_length_swa", key)
        routed = self._find_routed(count, routing)
        beside = family.experts is not None and family.experts.beside
        feeds = self.sizes("feed_forward_length", count, None if beside or not all(routed) else 1, minimum=0)
        windows = self._read_windows(count)
        recurrent = self._find_recurrent(count)
        shares, sparsity = self._find_shared(windows), self._read_sparsity(count)
        layers = tuple(
            LayerShape(
                heads=heads[i],
                kv_heads=0 if recurrent[i] else kv_heads[i],
                key_width=window_widths[0] if windows[i] else key_width,
                value_width=window_widths[1] if windows[i] else value_width,
                feed_width=0 if routed[i] and not beside else feeds[i],
                window=STATE_WINDOW if recurrent[i] else windows[i],
                rope=self._choose_rope(i, windows),
                routed=routed[i],
                recurrent=recurrent[i],
                shares=shares[i],
                sparsity=sparsity[i],
            )
            for i in range(count)
        )
        for i, layer in enumerate(layers):
            self._check_layer(i, layer)
        return layers

    def _check_layer(self, index: int, layer: LayerShape) -> None:
        if layer.attends and layer.heads % layer.kv_heads:
            raise self.metadata.error(
                self.key("attention.head_count_kv"),
                f"is {layer.kv_heads}, which does not divide the {layer.heads} heads",
            )
        if not layer.routed and layer.feed_width == 0:
            raise self.metadata.error(self.key("feed_forward_length"), f"is 0 in layer {index}; it must be at least 1")

    def _find_recurrent(self, count: int) -> list[bool]:
        """All layers but every so manieth, or those that the file names."""
        if not self.family.delta:
            return [False] * count
        if (flags := self.flags("attention.recurrent_layers", count)) is not None:
            return flags
        interval = self.size("full_attention_interval", 4)
        return [(i + 1) % interval != 0 for i in range(count)]

    def _find_shared(self, windows: Sequence[int]) -> list[int]:
        """By layer, whose keys and values it reads: the last of its kind before those that have none."""
        count = len(windows)
        shared = self.size("attention.shared_kv_layers", 0, minimum=0) if self.family.shared_keys else 0
        first, found = count - shared, [-1] * count
        for layer in range(max(first, 0), count):
            before = (i for i in range(first - 1, -1, -1) if windows[i] == windows[layer])
            found[layer] = next(before, -1)
            if found[layer] < 0:
                raise self.metadata.error(
                    self.key("attention.shared_kv_layers"),
                    f"is {shared}; before the last {shared} of {count} layers none is of the kind of layer {layer}",
                )
        return found

    def _read_sparsity(self, count: int) -> list[float | None]:
        name = self.key("activation_sparsity_scale")
        numbers = self.metadata.content(name) if self.family.streams else None
        if numbers is None:
            return [None] * count
        if self.metadata[name].item not in (Kind.F32, Kind.F64) or len(numbers) < count or np.isnan(numbers).any():
            raise self.metadata.error(name, f"must be an array of {count} numbers")
        return [float(number) if math.isfinite(number) else None for number in numbers[:count]]  # -inf: all are kept

    def _find_routed(self, count: int, routing: Routing | None) -> list[bool]:
        if routing is None:
            return [False] * count
        dense = self.size("leading_dense_block_count", 0, minimum=0)
        step = self.size("interleave_moe_layer_step", 1)
        return [i >= dense and (i + 1) % step == 0 for i in range(count)]

    def _read_windows(self, count: int) -> list[int]:
        """The window of each layer; 0 where a token sees all before it."""
        window = self.size("attention.sliding_window", 0, minimum=0, maximum=2**31 - 1)
        if window == 0:
            return [0] * count
        if (flags := self.flags("attention.sliding_window_pattern", count)) is not None:
            return [window if flag else 0 for flag in flags]
        pattern = self.size("attention.sliding_window_pattern", self.family.window_pattern)
        whole = 0 if self.family.window_first else pattern - 1
        return [window if pattern == 1 or i % pattern != whole else 0 for i in range(count)]

    def _choose_rope(self, layer: int, windows: Sequence[int]) -> int:
        family = self.family
        if family.rotates_if_said and not self.metadata.flag(self.key("rope.scaling.finetuned"), True):
            return -1
        if family.unrotated and (layer + 1) % family.unrotated == 0:
            return -1
        windowed = not family.full_rope and self.size("attention.sliding_window", 0, minimum=0, maximum=2**31 - 1) > 0
        if windowed and not windows[layer]:
            return -1
        return int(family.window_rope == "plain" and windows[layer] > 0)

    def _read_attention_scale(self, width: int, layer: LayerShape, count: int, latent: Latent | None) -> float:
        """What scores are multiplied with."""
        across = layer.key_width
        if latent:
            across = latent.key_width + self.size("rope.dimension_count")
        if count == self.family.wide_scale:
            across = width // layer.heads
        scale = self.number("attention.scale", 1.0 if self.family.unscaled else across**-0.5)
        if latent and self.metadata.text(self.key("rope.scaling.type"), "none") == "yarn":
            # Files say a tenth of what the scale of scores grows by for each e-fold of the factor.
            multiplier = 10 * self.number("rope.scaling.yarn_log_multiplier")
            scale *= yarn_magnitude(self.metadata.positive(self.key("rope.scaling.factor")), multiplier) ** 2
        return scale

    def _read_temperature_tokens(self) -> int:
        original = self.size("rope.scaling.original_context_length", 0, minimum=0, maximum=2**31 - 1)
        return self.size("attention.temperature_length", original or None, maximum=2**31 - 1)

    def _read_parallel(self) -> bool:
        if self.family.parallel is not None:
            return self.family.parallel
        return self.metadata.flag(self.key("use_parallel_residual"), False)

    def _read_latent(self) -> Latent:
        rank, rotated = self.size("attention.kv_lora_rank"), self.size("rope.dimension_count")
        key_width = self.size("attention.key_length_mla", self.size("attention.key_length"))
        if key_width <= rotated:
            raise self.metadata.error(
                self.key("attention.key_length"), f"is {key_width}; it must be above the {rotated} that are rotated"
            )
        return Latent(
            query_rank=self.size("attention.q_lora_rank", 0, minimum=0),
            rank=rank,
            key_width=key_width - rotated,
            value_width=self.size("attention.value_length_mla", self.size("attention.value_length")),
        )

    def _read_delta(self) -> DeltaNet:
        key_heads, value_heads = self.size("ssm.group_count"), self.size("ssm.time_step_rank")
        inner = self.size("ssm.inner_size")
        for key, size, whole in (
            ("ssm.group_count", key_heads, value_heads),
            ("ssm.time_step_rank", value_heads, inner),
        ):
            if whole % size:
                raise self.metadata.error(self.key(key), f"is {size}, which does not divide {whole}")
        return DeltaNet(
            key_heads=key_heads,
            value_heads=value_heads,
            key_width=self.size("ssm.state_size"),
            value_width=inner // value_heads,
            taps=self.size("ssm.conv_kernel", minimum=2, maximum=64),
        )

    def _read_routing(self) -> Routing | None:
        count, kinds = self.size("expert_count", 0, minimum=0), self.family.experts
        if kinds is None and count:
            raise self.metadata.error(
                self.key("expert_count"), f"is {count}; experts are not supported in {self.name!r}"
            )
        if kinds is None or (kinds.optional and count == 0):
            return None
        count = self.size("expert_count")
        used = self.size("expert_used_count", maximum=count)
        if kinds.gating == "mixer" and used != MIXED:
            raise self.metadata.error(
                self.key("expert_used_count"), f"is {used}, which is not supported; SparseMixer chooses {MIXED}"
            )
        feed = self.size("expert_feed_forward_length", self.size("feed_forward_length", 1))
        groups = self.size("expert_group_count", 1, minimum=0) or 1
        gating = self.size("expert_gating_func", 0, minimum=0, maximum=max(_GATINGS))
        if count % groups:
            raise self.metadata.error(self.key("expert_group_count"), f"is {groups}, which does not divide {count}")
        shared = self.size("expert_shared_count", 1, minimum=0) * feed if kinds.shared else 0
        optional = 0 if kinds.shared == "may" else shared
        return Routing(
            count=count,
            used=used,
            feed_width=feed,
            shared_width=self.size("expert_shared_feed_forward_length", optional, minimum=0),
            gating=_GATINGS.get(gating, kinds.gating),
            normalised=self.metadata.flag(self.key("expert_weights_norm"), kinds.normalised),
            scale=self.number("expert_weights_scale", 1.0),
            groups=groups,
            groups_used=self.size("expert_group_used_count", groups, minimum=0, maximum=groups) or groups,
            shared_gated=kinds.shared == "gated",
        )
