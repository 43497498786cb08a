"""The network of an artifact, as transformers builds it, with our attention in it."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
from transformers.utils import logging

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_torch.artifact import Artifact
from inferd_torch.attention import NAME, register
from inferd_torch.gguf import names_made_once

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


def read_config(artifact: Artifact) -> Any:
    """The configuration that transformers reads.

    Raises:
        LoadError: It is damaged, its architecture is unknown, or it is no decoder that paged attention can serve.
    """
    config = _guard(
        artifact, lambda: AutoConfig.from_pretrained(artifact.folder, **_options(artifact)), kind=UnsupportedModelError
    )
    text = config.get_text_config(decoder=True)
    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)  # noqa: SLF001 - it has no public name
    if config.is_encoder_decoder or kind is None:
        raise UnsupportedModelError(f"{artifact.path}: architecture {config.model_type!r} is no decoder of text")
    if not getattr(kind, "_supports_attention_backend", False):
        raise UnsupportedModelError(f"{artifact.path}: {kind.__name__} does not let its attention be replaced by ours")
    if getattr(text, "is_causal", True) is False or getattr(text, "use_bidirectional_attention", None):
        raise UnsupportedModelError(
            f"{artifact.path}: is_causal is false, or use_bidirectional_attention is set: attention to later tokens is"
            " not supported"
        )
    others = sorted(set(getattr(text, "layer_types", None) or ()) - LAYER_TYPES)
    if others:
        raise UnsupportedModelError(f"{artifact.path}: layer_types has {others}; supported are {sorted(LAYER_TYPES)}")
    if getattr(text, "num_kv_shared_layers", 0):
        raise UnsupportedModelError(
            f"{artifact.path}: num_kv_shared_layers is {text.num_kv_shared_layers}; only 0 is supported"
        )
    return config


def choose_dtype(config: Any, setting: str, device: torch.device) -> torch.dtype:
    """The numbers to compute with; "auto" is the model's own on CUDA, float32 on the processor."""
    if setting != "auto":
        return DTYPES[setting]
    own = config.get_text_config(decoder=True).dtype
    return own if device.type == "cuda" and own in DTYPES.values() else torch.float32


def make_skeleton(artifact: Artifact, config: Any) -> Any:
    """The network without its weights, on the device "meta".

    Raises:
        LoadError: transformers cannot build it.
    """
    register()

    def build() -> Any:
        with torch.device("meta"):  # the experts of some architectures compute in bfloat16 only, where they are on it
            return AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=NAME, dtype=torch.bfloat16)

    return _guard(artifact, build, kind=UnsupportedModelError).eval()


def load_network(
    artifact: Artifact,
    config: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    weights: Mapping[str, Any] | None = None,
) -> Any:
    """Load the weights onto a device: those of the artifact, or what is given instead, by name.

    Raises:
        LoadError: A weight is missing, or has another shape than the configuration says.
    """
    register()
    logging.disable_progress_bar()
    options = _options(artifact) | ({} if weights is None else {"state_dict": weights})
    kind: Any = AutoModelForCausalLM
    folder: Any = artifact.folder
    if "gguf_file" in options:
        options["quantization_config"] = GgufConfig(dequantize=True)
    else:
        options["config"] = config
    if weights is not None:
        kind, folder = AutoModelForCausalLM._model_mapping[type(config)], None  # noqa: SLF001 - it has no public name
    with names_made_once():
        network, found = _guard(
            artifact,
            lambda: kind.from_pretrained(
                folder,
                **options,
                dtype=dtype,
                attn_implementation=NAME,
                device_map={"": device},
                output_loading_info=True,
            ),
        )
    for what in ("missing_keys", "mismatched_keys"):
        if found.get(what):
            name = min(map(str, found[what]))
            raise LoadError(f"{artifact.path}: {len(found[what])} {what.replace('_', ' ')}, for example {name}")
    return network.eval()


def read_context(artifact: Artifact, config: Any) -> int:
    """Most tokens of a sequence that the model was made for.

    YaRN stretches an original context by its factor, whatever is said of positions. Where the rotation of a position
    depends on the longest sequence of a step, only so many that it does not.

    Raises:
        LoadError: The configuration does not say it.
    """
    text = config.get_text_config(decoder=True)
    context = getattr(text, "max_position_embeddings", None)
    if not isinstance(context, int) or context < 1:
        raise LoadError(f"{artifact.path}: max_position_embeddings is {context}; it must be a whole number above 0")
    rope = getattr(text, "rope_parameters", None) or {}
    for scaling in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if scaling.get("rope_type") == "yarn":
            context = max(
                context, int((scaling.get("original_max_position_embeddings") or 0) * (scaling.get("factor") or 1))
            )
        if scaling.get("rope_type") in LENGTH_DEPENDENT_ROPE:
            context = min(context, scaling.get("original_max_position_embeddings") or context)
    return context


def expected_window(config: Any, layer: int) -> int | None:
    """The sliding window of a layer by the configuration, or None."""
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None)
    if kinds and kinds[layer] != "sliding_attention":
        return None
    window: int | None = getattr(text, "sliding_window", None)
    return window


def _options(artifact: Artifact) -> dict[str, Any]:
    return {**artifact.options, "local_files_only": True, "trust_remote_code": False}


def _guard(artifact: Artifact, load: Callable[[], Any], *, kind: type[LoadError] = LoadError) -> Any:
    try:
        return load()
    except LoadError:
        raise
    except Exception as error:  # the edge to a library that raises what it likes
        lines = str(error).strip().splitlines() or [""]
        raise kind(f"{artifact.path}: transformers: {type(error).__name__}: {lines[0]}") from error
