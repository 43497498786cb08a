"""Reads the shape of a network from the metadata of its GGUF file (keys as in ggml's `docs/gguf.md`)."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from inferd_cpu.families import FAMILIES
from inferd_cpu.family import Family, Gating
from inferd_cpu.metadata import Kind, Metadata
from inferd_cpu.rope import Rope, Scaling, yarn_magnitude
from inferd_cpu.shapes import Architecture, DeltaNet, Latent, LayerShape, Routing

__all__ = ["FAMILIES", "Architecture", "read_architecture"]

MAX_WIDTH: Final = 1 << 20
MAX_LAYERS: Final = 1 << 12
_GATINGS: Final[dict[int, Gating]] = {1: "softmax", 2: "sigmoid", 3: "chosen"}
_SCALINGS: Final[tuple[Scaling, ...]] = ("none", "linear", "yarn", "longrope")
STATE_WINDOW: Final = 2  # what is kept of a sequence behind the token before, and behind this one
_LOCAL_BASE: Final = 10000.0  # of layers with a window, where they rotate in a way of their own


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
        near = get_close_matches(name, FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise metadata.error(
            "general.architecture", f"is {name!r}, which is not supported{hint} Supported: {', '.join(FAMILIES)}"
        )
    family = replace(family, interleaved=family.interleaved and not halves)
    return _Reader(metadata, name, replace(family, delta="grouped") if family.delta and grouped else family).read()


class _Reader:
    """Reads the keys of one architecture."""

    def __init__(self, metadata: Metadata, name: str, family: Family) -> None:
        self._metadata = metadata
        self._name = name
        self._family = family

    def read(self) -> Architecture:
        family, metadata = self._family, self._metadata
        if metadata.flag(self._key("attention.causal"), not family.encodes) == family.encodes:
            raise metadata.error(self._key("attention.causal"), f"is {family.encodes}, which is not supported")
        width, count = self._size("embedding_length"), self._count_layers()
        latent = self._read_latent() if family.latent else None
        routing = self._read_routing()
        layers = self._read_layers(count, width, latent, routing)
        ropes = self._read_ropes(layers)
        widest = max(layers, key=lambda layer: layer.heads)
        scale = self._read_attention_scale(width, widest, count, latent)
        key = "layer_norm_epsilon" if family.norm == "layer" else "layer_norm_rms_epsilon"
        logit_scale = self._number("logit_scale", 1.0)
        temperature = self._number("attention.temperature_scale")
        return Architecture(
            name=self._name,
            family=family,
            layers=layers,
            width=width,
            context_tokens=self._size("context_length", maximum=2**31 - 1),
            epsilon=metadata.positive(self._key(f"attention.{key}")),
            ropes=ropes,
            attention_scale=scale,
            attention_cap=self._number("attn_logit_softcapping"),
            clamp=self._number("attention.clamp_kqv"),
            temperature_scale=temperature,
            temperature_tokens=self._read_temperature_tokens() if temperature else 0,
            activation=family.activation,
            parallel=self._read_parallel(),
            embedding_scale=width**0.5 if family.embedding_root else self._number("embedding_scale", 1.0),
            residual_scale=self._number("residual_scale", 1.0),
            logit_scale=1 / logit_scale if family.logits_divided else logit_scale,
            logit_cap=self._number("final_logit_softcapping"),
            routing=routing,
            latent=latent,
            delta=self._read_delta() if family.delta else None,
            convolution=self._size("shortconv.l_cache", minimum=2) if family.convolutions else 0,
            farther=self._size("nextn_predict_layers", 0, minimum=0),
        )

    def _key(self, key: str) -> str:
        return f"{self._name}.{key}"

    def _size(self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = MAX_WIDTH) -> int:
        return self._metadata.integer(self._key(key), default, minimum=minimum, maximum=maximum)

    def _number(self, key: str, default: float = 0.0) -> float:
        """A number above 0, or `default` where the file has none or 0."""
        name = self._key(key)
        value = self._metadata.content(name)
        absent = value is None or (isinstance(value, int | float) and value == 0)
        return default if absent else self._metadata.positive(name)

    def _sizes(self, key: str, count: int, default: int | None = None, *, minimum: int = 1) -> Sequence[int]:
        """A size for each layer: one number for all, or an array."""
        name = self._key(key)
        value = self._metadata.get(name)
        if value is None or value.kind is not Kind.ARRAY:
            return [self._size(key, default, minimum=minimum)] * count
        sizes = self._metadata.integers(name)
        if len(sizes) < count:
            raise self._metadata.error(name, f"has {len(sizes)} numbers for {count} layers")
        wrong = next((size for size in sizes[:count] if not minimum <= size <= MAX_WIDTH), None)
        if wrong is not None:
            raise self._metadata.error(name, f"has {wrong}; its numbers must be from {minimum} to {MAX_WIDTH}")
        return sizes[:count]

    def _count_layers(self) -> int:
        """Blocks of the decoder: those that predict tokens farther ahead come behind them, and are not used."""
        count = self._size("block_count", maximum=MAX_LAYERS)
        ahead = self._size("nextn_predict_layers", 0, minimum=0)
        if ahead >= count:
            raise self._metadata.error(self._key("nextn_predict_layers"), f"is {ahead} of {count} blocks")
        return count - ahead

    def _read_layers(
        self, count: int, width: int, latent: Latent | None, routing: Routing | None
    ) -> tuple[LayerShape, ...]:
        family = self._family
        heads = self._sizes("attention.head_count", count)
        fewest = 0 if family.convolutions else 1
        kv_heads = self._sizes("attention.head_count_kv", count, heads[0], minimum=fewest)
        if latent:
            kv_heads = [1] * count  # files say 1, or as many as heads: both mean one latent that all heads share
            rotated = self._size("rope.dimension_count")
            key_width, value_width = latent.rank + rotated, latent.rank
        else:
            key_width = self._size("attention.key_length", max(width // max(heads), 1))
            value_width = self._size("attention.value_length", key_width)
        routed = self._find_routed(count, routing)
        feeds = self._sizes("feed_forward_length", count, None if not all(routed) else 1, minimum=0)
        windows = self._read_windows(count)
        recurrent = self._find_recurrent(count)
        layers = tuple(
            LayerShape(
                heads=heads[i],
                kv_heads=0 if recurrent[i] else kv_heads[i],
                key_width=key_width,
                value_width=value_width,
                feed_width=0 if routed[i] else feeds[i],
                window=STATE_WINDOW if recurrent[i] else windows[i],
                rope=self._choose_rope(i, windows),
                routed=routed[i],
                recurrent=recurrent[i],
            )
            for i in range(count)
        )
        for i, layer in enumerate(layers):
            self._check_layer(i, layer)
        return layers

    def _check_layer(self, index: int, layer: LayerShape) -> None:
        if layer.attends and layer.heads % layer.kv_heads:
            raise self._metadata.error(
                self._key("attention.head_count_kv"),
                f"is {layer.kv_heads}, which does not divide the {layer.heads} heads",
            )
        if not layer.routed and layer.feed_width == 0:
            raise self._metadata.error(
                self._key("feed_forward_length"), f"is 0 in layer {index}; it must be at least 1"
            )

    def _find_recurrent(self, count: int) -> list[bool]:
        """All layers but every so manieth, or those that the file names."""
        if not self._family.delta:
            return [False] * count
        if (flags := self._read_flags("attention.recurrent_layers", count)) is not None:
            return flags
        interval = self._size("full_attention_interval", 4)
        return [(i + 1) % interval != 0 for i in range(count)]

    def _find_routed(self, count: int, routing: Routing | None) -> list[bool]:
        if routing is None:
            return [False] * count
        dense = self._size("leading_dense_block_count", 0, minimum=0)
        step = self._size("interleave_moe_layer_step", 1)
        return [i >= dense and (i + 1) % step == 0 for i in range(count)]

    def _read_windows(self, count: int) -> list[int]:
        """The window of each layer; 0 where a token sees all before it."""
        window = self._size("attention.sliding_window", 0, minimum=0, maximum=2**31 - 1)
        if window == 0:
            return [0] * count
        if (flags := self._read_flags("attention.sliding_window_pattern", count)) is not None:
            return [window if flag else 0 for flag in flags]
        pattern = self._size("attention.sliding_window_pattern", self._family.window_pattern)
        whole = 0 if self._family.window_first else pattern - 1
        return [window if pattern == 1 or i % pattern != whole else 0 for i in range(count)]

    def _read_flags(self, key: str, count: int) -> list[bool] | None:
        """True or false for each layer; None where the file has no array of them."""
        name = self._key(key)
        value = self._metadata.get(name)
        if value is None or value.kind is not Kind.ARRAY:
            return None
        self._metadata.used.add(name)
        if value.item not in (Kind.BOOL, Kind.U32, Kind.I32, Kind.U8) or len(value.content) < count:
            raise self._metadata.error(name, f"must have true or false for each of {count} layers")
        return [bool(flag) for flag in value.content[:count]]

    def _choose_rope(self, layer: int, windows: Sequence[int]) -> int:
        family = self._family
        if family.unrotated and (layer + 1) % family.unrotated == 0:
            return -1
        if not family.full_rope and any(windows) and not windows[layer]:
            return -1
        return int(family.window_rope == "plain" and windows[layer] > 0)

    def _read_ropes(self, layers: Sequence[LayerShape]) -> tuple[Rope, ...]:
        """The rotation of layers that see all, and where it differs that of layers with a window."""
        widest = max(layers, key=lambda layer: layer.heads)
        rotated_of = widest.key_width if not self._family.latent else MAX_WIDTH
        width = self._size("rope.dimension_count", widest.key_width)
        if width > rotated_of or width % 2:
            raise self._metadata.error(
                self._key("rope.dimension_count"), f"is {width}; it must be even and at most {rotated_of}"
            )
        if self._family.sections:
            self._read_sections(width // 2)
        base = self._metadata.positive(self._key("rope.freq_base"), 10000.0)
        rope = self._read_scaling(width, base)
        if not any(layer.rope == 1 for layer in layers):
            return (rope,)
        local_default = base if self._name.startswith("olmo") else _LOCAL_BASE
        local = self._metadata.positive(self._key("rope.freq_base_swa"), local_default)
        return (rope, Rope(width=width, base=local, divided=False))

    def _read_sections(self, pairs: int) -> None:
        """In a text all sections of the pairs have one position; what pictures add to layers is not asked for."""
        self._size("n_deepstack_layers", 0, minimum=0)
        name = self._key("rope.dimension_sections")
        if name in self._metadata and sum(sections := self._metadata.integers(name)) != pairs:
            raise self._metadata.error(name, f"is {sections}, which does not divide {pairs} pairs")

    def _read_scaling(self, width: int, base: float) -> Rope:
        key = self._key("rope.scaling.type")
        kind = self._metadata.text(key, "linear")
        if kind not in _SCALINGS:
            supported = ", ".join(map(repr, _SCALINGS))
            raise self._metadata.error(key, f"is {kind!r}, which is not supported; supported are {supported}")
        older = self._metadata.positive(self._key("rope.scale_linear"), 1.0)
        factor = self._metadata.positive(self._key("rope.scaling.factor"), older)
        magnitude = self._metadata.positive(self._key("rope.scaling.attn_factor"), 1.0)
        if kind in ("none", "linear"):
            return Rope(
                width=width, base=base, scaling=kind, factor=factor if kind == "linear" else 1.0, magnitude=magnitude
            )
        if kind == "longrope":
            return Rope(width=width, base=base, scaling="longrope", magnitude=magnitude)
        original = self._size("rope.scaling.original_context_length", maximum=2**31 - 1)
        for part in ("ext", "attn"):
            name = self._key(f"rope.scaling.yarn_{part}_factor")
            if (share := self._metadata.positive(name, 1.0)) != 1.0:
                raise self._metadata.error(name, f"is {share:g}, which is not supported; supported is 1")
        if not self._family.latent:
            multiplier = self._number("rope.scaling.yarn_log_multiplier")
            magnitude *= yarn_magnitude(factor) / (yarn_magnitude(factor, multiplier) if multiplier else 1.0)
        return Rope(
            width=width,
            base=base,
            scaling="yarn",
            factor=factor,
            original_tokens=original,
            magnitude=magnitude,
            beta_fast=self._metadata.positive(self._key("rope.scaling.yarn_beta_fast"), 32.0),
            beta_slow=self._metadata.positive(self._key("rope.scaling.yarn_beta_slow"), 1.0),
            truncates=self._family.yarn_truncates,
        )

    def _read_attention_scale(self, width: int, layer: LayerShape, count: int, latent: Latent | None) -> float:
        """What scores are multiplied with."""
        across = layer.key_width
        if latent:
            across = latent.key_width + self._size("rope.dimension_count")
        if count == self._family.wide_scale:
            across = width // layer.heads
        scale = self._number("attention.scale", across**-0.5)
        if latent and self._metadata.text(self._key("rope.scaling.type"), "none") == "yarn":
            # Files say a tenth of what the scale of scores grows by for each e-fold of the factor.
            multiplier = 10 * self._number("rope.scaling.yarn_log_multiplier")
            scale *= yarn_magnitude(self._metadata.positive(self._key("rope.scaling.factor")), multiplier) ** 2
        return scale

    def _read_temperature_tokens(self) -> int:
        original = self._size("rope.scaling.original_context_length", 0, minimum=0, maximum=2**31 - 1)
        return self._size("attention.temperature_length", original or None, maximum=2**31 - 1)

    def _read_parallel(self) -> bool:
        if self._family.parallel is not None:
            return self._family.parallel
        return self._metadata.flag(self._key("use_parallel_residual"), False)

    def _read_latent(self) -> Latent:
        rank, rotated = self._size("attention.kv_lora_rank"), self._size("rope.dimension_count")
        key_width = self._size("attention.key_length_mla", self._size("attention.key_length"))
        if key_width <= rotated:
            raise self._metadata.error(
                self._key("attention.key_length"), f"is {key_width}; it must be above the {rotated} that are rotated"
            )
        return Latent(
            query_rank=self._size("attention.q_lora_rank", 0, minimum=0),
            rank=rank,
            key_width=key_width - rotated,
            value_width=self._size("attention.value_length_mla", self._size("attention.value_length")),
        )

    def _read_delta(self) -> DeltaNet:
        key_heads, value_heads = self._size("ssm.group_count"), self._size("ssm.time_step_rank")
        inner = self._size("ssm.inner_size")
        for key, size, whole in (
            ("ssm.group_count", key_heads, value_heads),
            ("ssm.time_step_rank", value_heads, inner),
        ):
            if whole % size:
                raise self._metadata.error(self._key(key), f"is {size}, which does not divide {whole}")
        return DeltaNet(
            key_heads=key_heads,
            value_heads=value_heads,
            key_width=self._size("ssm.state_size"),
            value_width=inner // value_heads,
            taps=self._size("ssm.conv_kernel", minimum=2, maximum=64),
        )

    def _read_routing(self) -> Routing | None:
        count, kinds = self._size("expert_count", 0, minimum=0), self._family.experts
        if kinds is None and count:
            raise self._metadata.error(
                self._key("expert_count"), f"is {count}; experts are not supported in {self._name!r}"
            )
        if kinds is None or (kinds.optional and count == 0):
            return None
        count = self._size("expert_count")
        used = self._size("expert_used_count", maximum=count)
        feed = self._size("expert_feed_forward_length", self._size("feed_forward_length", 1))
        groups = self._size("expert_group_count", 1, minimum=0) or 1
        gating = self._size("expert_gating_func", 0, minimum=0, maximum=max(_GATINGS))
        if count % groups:
            raise self._metadata.error(self._key("expert_group_count"), f"is {groups}, which does not divide {count}")
        shared = self._size("expert_shared_count", 1, minimum=0) * feed if kinds.shared else 0
        optional = 0 if kinds.shared == "may" else shared
        return Routing(
            count=count,
            used=used,
            feed_width=feed,
            shared_width=self._size("expert_shared_feed_forward_length", optional, minimum=0),
            gating=_GATINGS.get(gating, kinds.gating),
            normalised=self._metadata.flag(self._key("expert_weights_norm"), kinds.normalised),
            scale=self._number("expert_weights_scale", 1.0),
            groups=groups,
            groups_used=self._size("expert_group_used_count", groups, minimum=0, maximum=groups) or groups,
            shared_gated=kinds.shared == "gated",
        )
