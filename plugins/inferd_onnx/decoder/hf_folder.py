"""What a Hugging Face folder of the Llama family says. Nothing in it is executed.

Defaults are those of transformers' configurations; what changes results and is not known is refused by name.
"""

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from inferd.plugin import (
    LoadError,
    UnsupportedModelError,
    list_hf_weights,
    read_hf_json,
    read_hf_pooling,
    read_hf_sampling,
    read_hf_vocabulary,
)
from inferd_onnx.decoder.model import DecoderModel, check_weights, find_biased
from inferd_onnx.decoder.settings import ARCHITECTURES
from inferd_onnx.decoder.shape import Rotation, Shape, llama3_factors
from inferd_onnx.decoder.sources import Weight
from inferd_weights.safetensors import KINDS, SafetensorsFiles

CONFIG, GENERATION = "config.json", "generation_config.json"
WINDOWED = {"mistral": 4096}  # types that have a window where nothing is said; others need use_sliding_window
THETA = {"smollm3": 2e6}
TIED = ("smollm3",)
UNROTATED_EVERY = 4  # of smollm3
GLOBAL = {"model.embed_tokens.weight": "embedding", "model.norm.weight": "norm", "lm_head.weight": "head"}
OF_LAYER = {
    "input_layernorm.weight": "attention_norm",
    "post_attention_layernorm.weight": "inner_norm",
    "self_attn.q_norm.weight": "q_norm",
    "self_attn.k_norm.weight": "k_norm",
    **{
        f"{name}_proj.{kind}": what + end
        for name, what in (
            *((f"self_attn.{part}", part) for part in "qkvo"),
            *((f"mlp.{part}", part) for part in ("gate", "up", "down")),
        )
        for kind, end in (("weight", ""), ("bias", "_bias"))
    },
}
LEFT_OUT = "rotary_emb.inv_freq"  # old files have it; it is made of the configuration
HARMLESS = frozenset(
    {
        *("architectures", "torch_dtype", "dtype", "transformers_version", "use_cache", "_name_or_path", "model_type"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "attention_dropout", "pretraining_tp"),
        *(
            "attention_bias",
            "mlp_bias",
            "attn_implementation",
            "_attn_implementation",
            "is_llama_config",
            "max_window_layers",
        ),
        *("return_dict", "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "rope_interleaved"),
        *("transformers.js_config", "name_or_path", "torchscript", "unsloth_version", "unsloth_fixed"),
    }
)
"""Settings that change nothing here: whether there is a bias the weights tell, and training drops, not we."""
ROPE_KEYS = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
}


def read_hf_folder(path: Path) -> DecoderModel:
    """Read a folder, all but the numbers of its weights.

    Raises:
        UnsupportedModelError: It is none that our graph computes.
        LoadError: A file is missing, damaged or contradicts another.
    """
    config = read_hf_json(path / CONFIG)
    generation = read_hf_json(path / GENERATION, required=False)
    settings = _Settings(path / CONFIG, config)
    files = SafetensorsFiles(path, list_hf_weights(path))
    tied = settings.flag("tie_word_embeddings", default=settings.type in TIED)
    weights = _name_weights(path, files, tied=tied)
    shape = settings.read_shape(weights)
    check_weights(path, shape, weights)
    settings.refuse_others()
    counts = Counter[str]()
    for weight in weights.values():
        counts[weight.kind] += prod(weight.sizes)
    return DecoderModel(
        path=path,
        shape=shape,
        weights=weights,
        parameters=counts.total(),
        weight_format=counts.most_common(1)[0][0],
        vocabulary=read_hf_vocabulary(path, config, generation),
        sampling=read_hf_sampling(str(path / GENERATION), generation),
        embedding=read_hf_pooling(path),
    )


def _name_weights(path: Path, files: SafetensorsFiles, *, tied: bool) -> dict[str, Weight]:
    found = {}
    for name, tensor in files.tensors.items():
        weight = Weight(files, tensor)
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        if name in GLOBAL:
            found[GLOBAL[name]] = weight
        elif name.startswith("model.layers.") and layer.isdecimal() and rest in OF_LAYER:
            found[f"{int(layer)}.{OF_LAYER[rest]}"] = weight
        elif not name.endswith(LEFT_OUT):
            raise UnsupportedModelError(f"{path}: the backend 'onnx' has no use for the weight {name[:80]!r}")
    strange = next((weight for weight in found.values() if weight.kind not in KINDS), None)
    if strange is not None:
        raise UnsupportedModelError(
            f"{path}: weight {strange.name[:80]!r} is of {strange.kind!r}; supported are {', '.join(KINDS)}"
        )
    if tied:
        found.pop("head", None)
    elif "head" not in found:
        raise LoadError(f"{path}: tie_word_embeddings is false, but the weight 'lm_head.weight' is missing")
    return found


class _Settings:
    """The settings of one configuration; what has been read of it is remembered."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self._path = path
        self._config = config
        self._used = set(HARMLESS)
        self.type = str(config.get("model_type"))
        if self.type not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"{path}: architecture {self.type[:80]!r} is not supported by the backend 'onnx'; supported are"
                f" {', '.join(ARCHITECTURES)}"
            )

    def read_shape(self, weights: dict[str, Weight]) -> Shape:
        activation = self._get("hidden_act") or "silu"
        if activation not in ("silu", "swish"):
            raise self._error("hidden_act", f"is {activation!r}; supported is 'silu'", UnsupportedModelError)
        layers, width, heads = (
            self._size(name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        )
        head_width = self._size("head_dim", width // heads or None)
        context, window = self._size("max_position_embeddings"), self._read_window()
        return Shape(
            architecture=self.type,
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=self._size("num_key_value_heads", heads if self.type == "llama" else None),
            head_width=head_width,
            inner=self._size("intermediate_size"),
            vocabulary_size=self._size("vocab_size"),
            context_tokens=min(context, window or context),
            window=window,
            epsilon=self._number("rms_norm_eps", 1e-6),
            rotation=self._read_rotation(head_width),
            unrotated=self._read_unrotated(layers),
            biased=find_biased(weights),
            head_norms=self.type == "qwen3",
        )

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._get(name)
        if value is not None and not isinstance(value, bool):
            raise self._error(name, f"is {str(value)[:80]}; it must be true or false")
        return default if value is None else value

    def refuse_others(self) -> None:
        """Refuse what was not read, unless it says no."""
        for name, value in self._config.items():
            if name not in self._used and value not in (None, False, 0, 1, 1.0, "", [], {}):
                why = f"is {str(value)[:80]}, which the backend 'onnx' does not support and may change results"
                raise self._error(name, why, UnsupportedModelError)

    def _get(self, name: str) -> Any:
        self._used.add(name)
        return self._config.get(name)

    def _error(self, name: str, why: str, kind: type[LoadError] = LoadError) -> LoadError:
        return kind(f"{self._path}: setting {name!r} {why}")

    def _size(self, name: str, default: int | None = None) -> int:
        value = self._get(name)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self._error(name, f"is {str(value)[:80]}; it must be a whole number above 0")
        return value

    def _number(self, name: str, default: float, given: dict[str, Any] | None = None) -> float:
        value = (self._get(name) if given is None else given.get(name)) or default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:  # noqa: PLR2004 - fits
            raise self._error(name, f"is {str(value)[:80]}; it must be a number above 0")
        return float(value)

    def _read_window(self) -> int:
        """How far back a token sees; 0 for all the way. A sequence is no longer: then all that it sees is inside."""
        given, kinds = self._get("sliding_window"), self._get("layer_types")
        uses = self.flag("use_sliding_window", default=False)
        if self.type in WINDOWED:
            absent = "sliding_window" not in self._config
            window = WINDOWED[self.type] if absent else given
        else:
            window = given if uses or (kinds and "sliding_attention" in kinds) else None
        if window is None:
            return 0
        if type(window) is not int or window < 1:
            raise self._error("sliding_window", f"is {str(window)[:80]}; it must be a whole number above 0")
        return window

    def _read_unrotated(self, layers: int) -> frozenset[int]:
        given, every = self._get("no_rope_layers"), self._get("no_rope_layer_interval")
        if self.type != "smollm3":
            return frozenset()
        if given:
            if not isinstance(given, list) or len(given) != layers:
                raise self._error("no_rope_layers", f"is {str(given)[:80]}; it must be a list of {layers} numbers")
            return frozenset(layer for layer, rotates in enumerate(given) if not rotates)
        every = every or UNROTATED_EVERY
        return frozenset(layer for layer in range(layers) if (layer + 1) % every == 0)

    def _read_rotation(self, head_width: int) -> Rotation:
        given = self._get("rope_parameters") or self._get("rope_scaling") or {}
        self._get("rope_scaling")
        if not isinstance(given, dict):
            raise self._error("rope_scaling", f"is {str(given)[:80]}; it must be an object")
        theta = given.get("rope_theta") or self._number("rope_theta", THETA.get(self.type, 10000.0))
        self._get("rope_theta")
        kind = given.get("rope_type") or given.get("type") or "default"
        if kind not in ROPE_KEYS:
            why = f"{str(kind)[:80]!r} is not supported by the backend 'onnx'; supported are {', '.join(ROPE_KEYS)}"
            raise self._error("rope_type", why, UnsupportedModelError)
        others = given.keys() - ROPE_KEYS[kind] - {"rope_type", "type", "rope_theta"}
        if kind == "default":
            others -= {"factor", "original_max_position_embeddings"}  # which then are not read by anyone
        if left := sorted(name for name in others if given[name] not in (None, 1, 1.0)):
            raise self._error(
                left[0], f"is {str(given[left[0]])[:80]}, which may change results", UnsupportedModelError
            )
        base = self._number("rope_theta", 10000.0, {"rope_theta": theta})
        numbers = {name: self._number(name, 0.0, given) for name in ROPE_KEYS[kind]}
        if kind == "llama3":
            return Rotation(base=base, factors=llama3_factors(numbers, base=base, head_width=head_width))
        return Rotation(base=base, scale=numbers.get("factor", 1.0))
