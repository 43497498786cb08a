"""What a config.json says of a network, as the metadata that a GGUF file of it would have."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import UnsupportedModelError
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_types import ACTIVATIONS, HARMLESS, KEYS, TYPES, WRAPPED, HfType
from inferd_cpu.metadata import Kind, Metadata, Value
from inferd_cpu.rope import yarn_magnitude

Floats = NDArray[np.float32]
MAX_WIDTH: Final = 1 << 20  # of a head
_LARGEST: Final = 1e30  # of a setting that is a number
NEARLY: Final = 0.01  # what SparseMixer is trained with
_NEVER: Final = 1e30  # divides the frequency of a pair that does not rotate
SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
_DIVISORS: Final = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}


class HfConfig:
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

    Raises:
        UnsupportedModelError: A type, or a setting that changes results, that is not known here.
        LoadError: A value of a wrong type.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = settings
        self._used: set[str] = set()
        named = settings.get("model_type")
        if isinstance(named, str) and named in WRAPPED and isinstance(text := settings.get("text_config"), dict):
            tied = settings.get("tie_word_embeddings")
            settings = text if tied is None else text | {"tie_word_embeddings": tied}
            named, self._settings = WRAPPED[named], settings
        known = TYPES.get(named) if isinstance(named, str) else None
        if known is None:
            raise self._error(
                "model_type", f"is {named!r}, which is not supported; supported: {', '.join((*TYPES, *WRAPPED))}"
            )
        self.type: HfType = known
        self._settings = settings = _name_usually(known, settings)
        self._family = FAMILIES[known.architecture]
        self._values: dict[str, Value] = {"general.architecture": Value(Kind.STRING, known.architecture)}
        self.divisors: dict[str, Floats] = {}
        self.vocabulary_size = self._size("vocab_size")
        self.tied = bool(settings.get("tie_word_embeddings", known.tied))
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
        self._read_rope()
        self._check_unrotated()

    def _get(self, *names: str) -> Any:
        """The first of these settings that has a value."""
        self._used.update(names)
        return next((self._settings[name] for name in names if self._settings.get(name) is not None), None)

    def _number(self, name: str, default: float | None = None, *, of: Mapping[str, Any] | None = None) -> float | None:
        value = self._get(name) if of is None else of.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
            raise self._error(name, f"is {str(value)[:80]!r}; it must be a number above 0 and below {_LARGEST:g}")
        return float(value)

    def _size(self, name: str) -> int:
        value = self._get(name)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self._error(name, f"is {value!r}; it must be a whole number above 0")
        return value

    def _put(self, key: str, value: Any) -> None:
        kinds = {bool: Kind.BOOL, int: Kind.I64, float: Kind.F64, str: Kind.STRING}
        name = f"{self.type.architecture}.{key}"
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            value = np.array(value, np.int64)
        if isinstance(value, np.ndarray):
            items = {"b": Kind.BOOL, "i": Kind.I64, "f": Kind.F32}
            self._values[name] = Value(Kind.ARRAY, value, items[value.dtype.kind])
        elif (kind := kinds.get(type(value))) is None:
            raise self._error(key, f"is {str(value)[:80]!r}, which is not supported")
        else:
            self._values[name] = Value(kind, value)

    def _error(self, name: str, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self._path}: setting {name!r} {why}")

    def _check_activation(self) -> None:
        name = self._get("hidden_activation", "hidden_act")
        wanted = self._family.activation
        if name is not None and name not in self.type.activations and ACTIVATIONS.get(str(name)) != wanted:
            raise self._error("hidden_act", f"is {name!r}; of this type {wanted} is supported")

    def _read_windows(self) -> None:
        """Which layers have a window: a list names the kind of each, or a pattern says it."""
        window, kinds = self._get("sliding_window", "local_attention"), self._get("layer_types")
        other = LINEAR if self._family.delta else SLIDING
        if kinds is not None and not (isinstance(kinds, list) and all(kind in (other, FULL) for kind in kinds)):
            raise self._error("layer_types", f"is {str(kinds)[:80]}; supported are lists of {other!r} and {FULL!r}")
        off = self._settings.get("use_sliding_window") is False
        if kinds is not None:
            off = off or SLIDING not in kinds
        elif self._settings.get("use_sliding_window") is True:
            raise self._error("use_sliding_window", "is true, but no layer_types say where")
        if window is None or off:
            return
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
        if (shares := self._get("activation_sparsity_pattern")) is not None:
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

    def _read_rope(self) -> None:
        """How layers rotate; those with a window may do so in a way of their own."""
        given = self._get("rope_parameters") or self._get("rope_scaling") or {}
        if not isinstance(given, dict):
            raise self._error("rope_scaling", f"is {given!r}; it must be an object")
        local = given.get(SLIDING)
        if FULL in given:
            given = given[FULL] if isinstance(given[FULL], dict) else {}
        older = self._number("rope_theta") or self._number("global_rope_theta", 10000.0)
        base = self._number("rope_theta", older, of=given)
        self._put("rope.freq_base", base)
        other = self._number("rope_local_base_freq") or self._number("local_rope_theta")
        if isinstance(local, dict):
            if local.get("rope_type", "default") != "default":
                raise self._error("rope_parameters", f"scale layers with a window, {local!r}, which is not supported")
            other = self._number("rope_theta", base, of=local)
        if other is not None and self._family.window_rope == "plain":
            self._put("rope.freq_base_swa", other)
        elif other is not None and other != base:
            raise self._error("rope_parameters", f"rotate layers with a window by base {other:g}, others by {base:g}")
        rotated = self._number("partial_rotary_factor", self._number("partial_rotary_factor"), of=given)
        width = self._head_width()
        rotated_width = int(width * (self.type.partial if rotated is None else rotated))
        self._put("rope.dimension_count", rotated_width)
        kind = given.get("rope_type", given.get("type", "default"))
        readers = {"linear": self._read_linear, "llama3": self._read_llama3, "yarn": self._read_yarn}
        readers |= {"longrope": self._read_longrope, "su": self._read_longrope}
        if kind == "proportional":  # the others do not rotate, and a rotated pair is as if all did
            self.divisors["rope_freqs.weight"] = np.where(
                np.arange(width // 2) < rotated_width // 2, np.float32(1), np.float32(_NEVER)
            )
            self._put("rope.dimension_count", width)
            return
        if isinstance(kind, str) and kind in readers:
            readers[kind](given, rotated_width)
        elif kind not in ("default", "dynamic"):  # the dynamic one scales nothing in the context that is offered
            raise self._error("rope_type", f"is {kind!r}; supported: default, dynamic, {', '.join(readers)}")

    def _head_width(self) -> int:
        width = self._size("hidden_size") // self._size("num_attention_heads")
        if self._get("head_dim") is not None:
            width = self._size("head_dim")
        if (whole := self._values.get(f"{self.type.architecture}.attention.key_length")) is not None:
            width = whole.content
        if width > MAX_WIDTH:
            raise self._error("head_dim", f"is {width}; it must be at most {MAX_WIDTH}")
        return width

    def _read_linear(self, given: Mapping[str, Any], width: int) -> None:  # noqa: ARG002 - as the others
        self._put("rope.scaling.type", "linear")
        self._put("rope.scaling.factor", self._need("factor", given))

    def _need(self, name: str, given: Mapping[str, Any]) -> float:
        value = self._number(name, of=given)
        if value is None:
            raise self._error(name, "is missing in how positions are scaled")
        return value

    def _read_llama3(self, given: Mapping[str, Any], width: int) -> None:
        """Long waves are divided by the factor, short ones by nothing."""
        factor, low = self._need("factor", given), self._need("low_freq_factor", given)
        high, original = self._need("high_freq_factor", given), self._need("original_max_position_embeddings", given)
        if high <= low:
            raise self._error("high_freq_factor", f"is {high:g}; it must be above low_freq_factor, which is {low:g}")
        base = self._values[f"{self.type.architecture}.rope.freq_base"].content
        turns = original * base ** -(np.arange(0, width, 2) / width) / (2 * math.pi)  # within what was trained first
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        self.divisors["rope_freqs.weight"] = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)

    def _read_yarn(self, given: Mapping[str, Any], width: int) -> None:  # noqa: ARG002 - as the others
        for name in ("mscale", "mscale_all_dim"):
            if given.get(name):
                raise self._error(name, f"is {given[name]!r}, which is not supported")
        if given.get("truncate", True) != self._family.yarn_truncates:
            raise self._error("truncate", f"is {given.get('truncate')!r}, which is not supported")
        factor = self._need("factor", given)
        self._put("rope.scaling.type", "yarn")
        self._put("rope.scaling.factor", factor)
        original = given.get("original_max_position_embeddings") or self._get("original_max_position_embeddings")
        self._put("rope.scaling.original_context_length", original or self._size("max_position_embeddings"))
        for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
            self._put(f"rope.scaling.yarn_{name}", self._number(name, default, of=given))
        if (magnitude := self._number("attention_factor", of=given)) is not None:
            self._put("rope.scaling.attn_factor", magnitude / yarn_magnitude(factor))

    def _read_longrope(self, given: Mapping[str, Any], width: int) -> None:
        """Frequencies are divided by lists, one for texts up to what was trained first, and one for longer ones."""
        original = self._get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
        most = self._size("max_position_embeddings")
        if type(original) is not int or original < 2:  # noqa: PLR2004 - of which the logarithm divides
            raise self._error("original_max_position_embeddings", f"is {original!r}; it must be a number above 1")
        for name, tensor in _DIVISORS.items():
            numbers = given.get(name)
            if not isinstance(numbers, list) or len(numbers) != width // 2:
                raise self._error(name, f"must be a list of {width // 2} numbers")
            self.divisors[tensor] = np.array([self._need(name, {name: x}) for x in numbers], np.float32)
        scales = [self._number(f"{name}_mscale", of=given) for name in ("short", "long")]
        if scales[0] != scales[1]:
            raise self._error("long_mscale", f"is {scales[1]}; it must be short_mscale, which is {scales[0]}")
        magnitude = scales[0] if scales[0] is not None else self._number("attention_factor", of=given)
        if magnitude is None:
            factor = self._number("factor", most / original, of=given) or 1.0
            magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        self._put("rope.scaling.type", "longrope")
        self._put("rope.scaling.original_context_length", original)
        self._put("rope.scaling.attn_factor", magnitude)

    def _check_unrotated(self) -> None:
        """Layers that do not rotate stand in a fixed pattern, which the architecture says."""
        kinds, every = self._get("no_rope_layers"), self._family.unrotated
        count = len(kinds) if isinstance(kinds, list) else 0
        if kinds and kinds != [int(not every or (i + 1) % every != 0) for i in range(count)]:
            wish = f"all but each {every}th layer rotate" if every else "all layers rotate"
            raise self._error("no_rope_layers", f"is {str(kinds)[:80]}; supported is that {wish}")

    def _refuse_unknown(self) -> None:
        """A setting that nobody has looked at, and that says something, may change results."""
        for name, value in self._settings.items():
            if value and name not in self._used and name not in HARMLESS and not name.endswith("_token_id"):
                shown = str(value)[:80]
                raise self._error(name, f"is {shown}, which is not supported and may change results")


def _name_usually(known: HfType, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings under the names that most types share."""
    usual: dict[str, Any] = {**known.defaults}
    for name, value in settings.items():
        usual[known.aliases.get(name, name)] = value
    if known.four and isinstance(width := usual.get("hidden_size"), int):
        usual["intermediate_size"] = 4 * width
    return usual
