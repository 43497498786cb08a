"""What a config.json says of a network, as the metadata that a GGUF file of it would have."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from inferd_cpu.architecture import MIXED
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_own import CONVOLVES, HfOwn
from inferd_cpu.hf_rope import FULL, MAX_WIDTH, SLIDING
from inferd_cpu.hf_settings import ALWAYS_BIASED, DEFAULTS, FALSY, OWN, WINDOWED
from inferd_cpu.hf_types import ACTIVATIONS, HARMLESS, KEYS, TYPES, WRAPPED, HfType
from inferd_weights.metadata import Kind, Metadata, Value

NEARLY: Final = 0.01  # what SparseMixer is trained with
LINEAR: Final = "linear_attention"
SPARSE: Final = 10  # layers of Gemma 3n of which few activations are kept, where its settings do not say


class HfConfig(HfOwn):
    """Reads the settings of one model.

    Args:
        path: The file, for errors.
        settings: What it holds.

    Attributes:
        type: What is known of its type.
        vocabulary_size: Tokens that it knows.
        tied: The embedding is the head.
        metadata: The settings with the keys of a GGUF file.
        divisors: What frequencies are divided by, under the names of tensors of a GGUF file.
        halves: Rotary pairs are (i, i + half), whatever GGUF files of the architecture have.

    Raises:
        UnsupportedModelError: A type, or a setting that changes results, that is not known here.
        LoadError: A value of a wrong type.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = settings
        self._used = set()
        named = settings.get("model_type")
        if isinstance(named, str) and named in WRAPPED and isinstance(text := settings.get("text_config"), dict):
            tied = settings.get("tie_word_embeddings")
            settings = text if tied is None else text | {"tie_word_embeddings": tied}
            named, self._settings = text.get("model_type") or WRAPPED[named], settings
        known = TYPES.get(named) if isinstance(named, str) else None
        if known is None:
            raise self._error(
                "model_type", f"is {named!r}, which is not supported; supported: {', '.join((*TYPES, *WRAPPED))}"
            )
        self.type = known
        self._named = str(named)
        self._settings = settings = _name_usually(known, settings, DEFAULTS.get(self._named, {}))
        self._family = FAMILIES[known.architecture]
        self._values = {"general.architecture": Value(Kind.STRING, known.architecture)}
        self.divisors = {}
        self.vocabulary_size = self._size("vocab_size")
        self.tied = self._flag("tie_word_embeddings", default=known.tied)
        self.halves = known.halves or not self._flag("rope_interleave", default=True)
        self._refuse_foreign()
        self._read()
        self._refuse_unknown()
        self.metadata = Metadata(path, self._values)

    def _read(self) -> None:
        for key, names in KEYS.items():
            value = self._get(*names)
            if value is not None:
                self._put(key, value)
        if (scalar := self._number("query_pre_attn_scalar")) is not None:
            self._put("attention.scale", scalar**-0.5)
        if (step := self._get("decoder_sparse_step")) not in (None, 1):
            self._put("interleave_moe_layer_step", step)
        if (kind := self._get("position_embedding_type")) not in (None, "absolute", "rotary"):
            raise self._error("position_embedding_type", f"is {str(kind)[:80]!r}, which is not supported")
        if self.type.offset:
            if (pad := self._settings.get("pad_token_id", 1)) != self.type.offset - 1:
                raise self._error("pad_token_id", f"is {str(pad)[:80]}; it must be {self.type.offset - 1}")
            self._put("context_length", self._size("max_position_embeddings") - self.type.offset)
        self._check_activation()
        self._read_windows()
        self._read_delta()
        self._read_gemma()
        self._read_own()
        self._read_type()
        if self._named == "gpt_oss":
            self._used.add("quantization_config")  # the folder has looked at it
        self._read_rope()
        self._check_unrotated()

    @property
    def generates(self) -> bool:
        """Whether there must be a head: a network that is saved without one makes embeddings alone."""
        named = self._settings.get("architectures")
        bare = isinstance(named, list) and bool(named) and str(named[0]).endswith("Model")
        return not (self._family.encodes or bare)

    def denies(self, setting: str) -> bool:
        """Whether the configuration says no, and its type reads that."""
        return self._named not in ALWAYS_BIASED and self._settings.get(setting) is False

    def _check_activation(self) -> None:
        name = self._get("hidden_activation", "hidden_act")
        wanted = self._family.activation
        if name is not None and name not in self.type.activations and ACTIVATIONS.get(str(name)) != wanted:
            raise self._error("hidden_act", f"is {name!r}; of this type {wanted} is supported")

    def _read_windows(self) -> None:
        """Which layers have a window: a list names the kind of each, or a pattern says it."""
        window, kinds = self._get("sliding_window", "local_attention"), self._find_kinds()
        other = LINEAR if self._family.delta else CONVOLVES if self._family.convolutions else SLIDING
        if kinds is not None and not (isinstance(kinds, list) and all(kind in (other, FULL) for kind in kinds)):
            raise self._error("layer_types", f"is {str(kinds)[:80]}; supported are lists of {other!r} and {FULL!r}")
        chosen, slides = self._flag("use_sliding_window", default=True), kinds is not None and SLIDING in kinds
        if slides and (window is None or not chosen or self._named not in WINDOWED):
            raise self._error("layer_types", f"has {SLIDING!r}, but its type or its settings give layers no window")
        if chosen and kinds is None and self._settings.get("use_sliding_window") is True:
            raise self._error("use_sliding_window", "is true, but no layer_types say where")
        if window is None and not self._family.full_rope and self._named == "cohere2":
            raise self._error("sliding_window", "is null; this type needs one")
        if window is None or not chosen or self._named not in WINDOWED:
            return
        if kinds is not None and not slides and self._family.full_rope:
            return  # else the window says that layers without one do not rotate
        self._put("attention.sliding_window", window)
        pattern = self._get("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
        if kinds is not None:
            self._put("attention.sliding_window_pattern", np.array([kind == SLIDING for kind in kinds], np.bool_))
        elif pattern is not None:
            self._put("attention.sliding_window_pattern", pattern)

    def _read_delta(self) -> None:
        """Which layers keep a state, and how wide the values of all heads are."""
        if not self._family.delta:
            return
        self._put("ssm.inner_size", self._size("linear_num_value_heads") * self._size("linear_value_head_dim"))
        if isinstance(kinds := self._get("layer_types"), list):
            self._put("attention.recurrent_layers", np.array([kind == LINEAR for kind in kinds], np.bool_))

    def _read_gemma(self) -> None:
        """What Gemma 3n and 4 say of single layers."""
        if not self._family.shared_keys:
            return
        if (kind := self._get("use_bidirectional_attention")) not in (None, "vision"):  # that is of pictures
            raise self._error("use_bidirectional_attention", f"is {str(kind)[:80]!r}, which is not supported")
        if self._get("altup_correct_scale") is False:
            raise self._error("altup_correct_scale", "is false, which is not supported")
        shares = self._get("activation_sparsity_pattern")
        if shares is None and self.type.architecture == "gemma3n":
            count = self._size("num_hidden_layers")
            shares = [0.95 if count > SPARSE and layer < SPARSE else 0.0 for layer in range(min(count, MAX_WIDTH))]
        if shares is not None:
            given = shares if isinstance(shares, list) else [shares]
            if not all(isinstance(share, int | float) and 0 <= share < 1 for share in given):
                raise self._error("activation_sparsity_pattern", f"is {str(shares)[:80]}; it must be from 0 to below 1")
            cutoffs = [NormalDist().inv_cdf(share) if share else -math.inf for share in given]
            self._put("activation_sparsity_scale", np.array(cutoffs, np.float32))
        if self.type.architecture == "gemma4":
            self._read_gemma4(self._settings.get("layer_types"))

    def _read_own(self) -> None:
        """What single types say in a way of their own."""
        if (
            self._family.experts
            and self._family.experts.gating == "mixer"
            and self._get("router_jitter_noise") != NEARLY
        ):
            raise self._error("router_jitter_noise", f"is not {NEARLY}, which is not supported")
        used = self._settings.get("num_experts_per_tok", MIXED)
        if self._family.experts and self._family.experts.gating == "mixer" and used != MIXED:
            raise self._error("num_experts_per_tok", f"is {str(used)[:80]}, which is not supported; it must be {MIXED}")
        if self._get("expansion_ratio") not in (None, 4):
            raise self._error("expansion_ratio", "is not 4, which is not supported")
        own = self._get("attn_config") if self._family.slopes else None
        if isinstance(own, dict):
            if not own.get("alibi"):
                raise self._error("attn_config", "has no 'alibi', without which it is not supported")
            for name in ("qk_ln", "prefix_lm", "softmax_scale", "attn_uses_sequence_id"):
                if own.get(name):
                    raise self._error("attn_config", f"has {name!r}, which is not supported")
            for name, key in (("alibi_bias_max", "max_alibi_bias"), ("clip_qkv", "clamp_kqv")):
                if (value := self._number(name, of=own)) is not None:
                    self._put(f"attention.{key}", value)

    def _read_gemma4(self, kinds: Any) -> None:
        """Layers that see all have other heads; those that read the keys of others may be twice as wide."""
        if not isinstance(kinds, list):
            raise self._error("layer_types", f"is {str(kinds)[:80]}; it must be a list")
        whole = self._read_whole()
        self._used.update(("per_layer_config", "global_head_dim"))
        narrow, wide = self._size("head_dim"), whole["head_dim"]
        for key, size in (("key_length", wide), ("value_length", wide), ("key_length_swa", narrow)):
            self._put(f"attention.{key}", size)
        self._put("attention.value_length_swa", narrow)
        self._put("rope.dimension_count_swa", narrow)
        kv_heads = {SLIDING: self._size("num_key_value_heads"), FULL: whole["num_key_value_heads"]}
        self._put("attention.head_count_kv", np.array([kv_heads[kind] for kind in kinds], np.int64))
        feed, shared = self._size("intermediate_size"), self._get("num_kv_shared_layers") or 0
        if self._get("use_double_wide_mlp"):
            own = len(kinds) - int(shared)
            self._put("feed_forward_length", np.array([feed * (1 + (i >= own)) for i in range(len(kinds))], np.int64))
        if not self._get("enable_moe_block"):
            self._put("expert_count", 0)

    def _read_whole(self) -> dict[str, int]:
        """Heads of layers that see all: all are alike."""
        kv_heads = self._get("num_global_key_value_heads") if self._get("attention_k_eq_v") else None
        whole = {
            "head_dim": self._get("global_head_dim") or 512,
            "num_key_value_heads": kv_heads or self._size("num_key_value_heads"),
        }
        layers = self._get("per_layer_config") or {}
        each = list(layers.values()) if isinstance(layers, dict) else [layers]
        if each and any(other != each[0] for other in each):
            raise self._error("per_layer_config", "has layers that differ, which is not supported")
        if each and (not isinstance(each[0], dict) or set(each[0]) - set(whole)):
            raise self._error("per_layer_config", f"is {str(layers)[:80]}; supported are {', '.join(whole)}")
        whole |= each[0] if each else {}
        for name, size in whole.items():
            if type(size) is not int or not 0 < size <= MAX_WIDTH:
                raise self._error(name, f"is {str(size)[:80]}; it must be a whole number from 1 to {MAX_WIDTH}")
        return whole

    def _check_unrotated(self) -> None:
        """Layers that do not rotate stand in a fixed pattern, which the architecture says."""
        kinds, every = self._get("no_rope_layers"), self._family.unrotated
        count = min(self._size("num_hidden_layers"), MAX_WIDTH)
        if kinds is None and every > 1 and self._get("no_rope_layer_interval") is not None:
            interval = self._size("no_rope_layer_interval")
            kinds = [int((i + 1) % interval != 0) for i in range(count)]
        if kinds is not None and kinds != [int(not every or (i + 1) % every != 0) for i in range(count)]:
            wish = f"all but each {every}th layer rotate" if every else "all layers rotate"
            raise self._error("no_rope_layers", f"is {str(kinds)[:80]}; supported is that {wish}")

    def _refuse_foreign(self) -> None:
        """What other types apply, and this one does not; and which way tokens see each other."""
        for name, types in OWN.items():
            value = self._get(name)
            neutral = (None,) if name.endswith("softcapping") else (None, 1)
            if value not in neutral and self._named not in types:
                raise self._error(name, f"is {str(value)[:80]}, which is not supported of {self._named!r}")
            self._number(name)
        encodes = self._family.encodes
        if self._flag("is_causal", default=not encodes) == encodes:
            raise self._error("is_causal", f"is {encodes}, which is not supported of {self._named!r}")
        if self._flag("is_encoder_decoder", default=False) or (encodes and self._flag("is_decoder", default=False)):
            raise self._error("is_decoder", "is true, which is not supported: tokens see those behind them")

    def _refuse_unknown(self) -> None:
        """A setting that nobody has looked at may change results, whatever it says but null."""
        for name, value in self._settings.items():
            known = name in self._used or name in HARMLESS or name.endswith("_token_id")
            if value is not None and not known and (value or name not in FALSY):
                shown = str(value)[:80]
                raise self._error(name, f"is {shown}, which is not supported and may change results")


def _name_usually(known: HfType, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings under the names that most types share, and what absent ones mean."""
    usual: dict[str, Any] = {**known.defaults, **defaults}
    for name, value in settings.items():
        usual[known.aliases.get(name, name)] = value
    own = [name for name, usually in known.aliases.items() if usually == "intermediate_size"]
    given = next((settings[name] for name in own if settings.get(name) is not None), None)
    if known.four and isinstance(width := usual.get("hidden_size"), int):
        usual["intermediate_size"] = 4 * width if given is None else given
    return usual
