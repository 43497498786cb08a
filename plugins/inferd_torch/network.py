"""The network of an artifact, as transformers builds it, with our attention in it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GgufConfig,
    modeling_utils,
)
from transformers.utils import logging

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_torch.artifact import Artifact
from inferd_torch.attention import NAME, register
from inferd_torch.packed.weights import packed_weights, replace_modules
from inferd_torch.plugin import HEARING_TYPES, SEEING_TYPES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # by the names of safetensors
QUANTISED = ("scale", "zero")  # in the names of what belongs to weights of few bits
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
GROUPED_CAPABILITIES = (9, 10)
OFFSET_POSITIONS = "create_position_ids_from_input_ids"  # what modules have that make positions of their own


def read_config(artifact: Artifact) -> Any:
    """The configuration that transformers reads.

    Raises:
        LoadError: It is damaged, its architecture is unknown, or it is no decoder that paged attention can serve.
    """
    with reading(artifact):
        config = _guard(
            artifact,
            lambda: AutoConfig.from_pretrained(artifact.folder, **_options(artifact)),
            kind=UnsupportedModelError,
        )
    text = config.get_text_config(decoder=True)
    kind = _find_class(config)
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
    if artifact.packing is not None and hasattr(config, "quantization_config"):
        del config.quantization_config  # ours to read: transformers would ask others for it
    return config


def _find_class(config: Any) -> Any:
    """The class of a network that writes text; None where there is none."""
    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)  # noqa: SLF001 - it has no public name
    if kind is None and config.model_type in SEEING_TYPES:
        kind = AutoModelForImageTextToText._model_mapping.get(type(config), None)  # noqa: SLF001 - as above
    if kind is None and config.model_type in HEARING_TYPES:
        from inferd_torch.vision.hearing import NETWORKS  # noqa: PLC0415 - it imports what prepares sounds

        kind = NETWORKS.get(config.model_type)
    return kind


def _attention(config: Any) -> str | dict[str, str]:
    """What computes attention: ours for text; what sees pictures keeps no keys and has that of torch."""
    if config.model_type in HEARING_TYPES:
        return {"text_config": NAME, "audio_config": "sdpa"}
    return {"text_config": NAME, "vision_config": "sdpa"} if config.model_type in SEEING_TYPES else NAME


def choose_dtype(artifact: Artifact, config: Any, setting: str, device: torch.device) -> torch.dtype:
    """The numbers to compute with; "auto" is the model's own on CUDA, float32 on the processor.

    Where a configuration does not say it, those are the numbers that most weights are stored as, and bfloat16 where
    they are decoded, as those of a GGUF file are.
    """
    if setting != "auto":
        return DTYPES[setting]
    if device.type != "cuda":
        return torch.float32
    own = config.get_text_config(decoder=True).dtype
    if "gguf_file" in artifact.options or own not in DTYPES.values():
        own = torch.bfloat16 if "gguf_file" in artifact.options else STORED.get(artifact.weight_format)
    return own or torch.bfloat16


def make_skeleton(artifact: Artifact, config: Any) -> Any:
    """The network without its weights, on the device "meta".

    Raises:
        LoadError: transformers cannot build it.
    """
    register()

    def build() -> Any:
        with torch.device("meta"):  # the experts of some architectures compute in bfloat16 only, where they are on it
            return _find_class(config)._from_config(  # noqa: SLF001 - the public ones choose a class again
                deepcopy(config), attn_implementation=_attention(config), dtype=torch.bfloat16
            )

    skeleton = _guard(artifact, build, kind=UnsupportedModelError).eval()
    replace_modules(skeleton, artifact)
    offset = [name for name, module in skeleton.named_modules() if hasattr(module, OFFSET_POSITIONS)]
    if offset:
        raise UnsupportedModelError(
            f"{artifact.path}: positions of {config.model_type} begin behind the number of its padding token"
            f" ({offset[0]}), which is not supported"
        )
    _refuse_scales(artifact, {name for name, _ in skeleton.named_parameters()})
    settle_rotation(skeleton)
    return skeleton


def make_plain(artifact: Artifact, config: Any, *, attention: str, dtype: torch.dtype) -> Any:
    """The network with attention of transformers' own, its weights as they are where nothing was read.

    Raises:
        LoadError: transformers cannot build it.
    """

    def build() -> Any:
        return _find_class(config)._from_config(  # noqa: SLF001 - as above
            deepcopy(config), attn_implementation=attention, dtype=dtype
        )

    return _guard(artifact, build, kind=UnsupportedModelError)


def settle_rotation(network: Any) -> None:
    """Leave rotations as they are up to the original context, which `read_context` ends at.

    Else each step compares its longest position with that context: on CUDA it waits for the device to do so, and cannot
    be recorded.
    """
    for module in network.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str):
            module.rope_type = _settled(kinds)
        elif isinstance(kinds, dict):
            module.rope_type = {name: _settled(kind) for name, kind in kinds.items()}


def is_recordable(network: Any, dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Whether a decode step never waits for its device, so that it can be recorded.

    Products of experts wait where torch has no kernel for them that finds the rows of each on the device: it has one
    for bfloat16, on devices of the capabilities 9 and 10 (`_grouped_mm` in ATen/native/cuda/GroupedBlas.cpp).
    """
    if dtype == torch.bfloat16 and capability[0] in GROUPED_CAPABILITIES:
        return True
    return not any(type(module).__name__.endswith("Experts") for module in network.modules())


def _settled(kind: str) -> str:
    """`dynamic_rope_update` of transformers looks for these words."""
    return "default" if "dynamic" in kind or kind in LENGTH_DEPENDENT_ROPE else kind


def _refuse_scales(artifact: Artifact, known: Iterable[str]) -> None:
    """Refuse a folder of weights of few bits whose configuration does not say so: it would be read without its scales.

    Raises:
        UnsupportedModelError: It has weights for scales or zero points that the network has not.
    """
    own = {name.rpartition(".")[2] for name in known}
    found = sorted(
        name
        for name in artifact.names - (artifact.packing.names if artifact.packing else frozenset())
        if any(word in name.rpartition(".")[2] for word in QUANTISED) and name.rpartition(".")[2] not in own
    )
    if found:
        raise UnsupportedModelError(
            f"{artifact.path}: {len(found)} weights are scales or zero points that the network does not have, for"
            f" example {found[0]}: its weights are quantised, though config.json has no quantization_config; take plain"
            " safetensors"
        )


def load_network(
    artifact: Artifact,
    config: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    weights: Mapping[str, Any] | None = None,
    attention: str | None = None,
) -> Any:
    """Load the weights onto a device: those of the artifact, or what is given instead, by name.

    Args:
        artifact: What is loaded.
        config: Of it.
        device: Where to.
        dtype: Of the weights.
        weights: Instead of the artifact's.
        attention: One of transformers' own, instead of ours.

    Raises:
        LoadError: A weight is missing, or has another shape than the configuration says.
    """
    register()
    if (artifact.packing is not None or artifact.rounded) and weights is None:
        with packed_weights(artifact, make_skeleton(artifact, config)) as packed:
            return load_network(artifact, config, device=device, dtype=dtype, weights=packed, attention=attention)
    logging.disable_progress_bar()
    options = _options(artifact)
    kind = _find_class(config)
    folder: Any = artifact.folder
    if weights is not None:
        options.pop("gguf_file", None)
        options["state_dict"] = weights
        folder = None
    if "gguf_file" in options:
        options["quantization_config"] = GgufConfig(dequantize=True)
    else:
        options["config"] = config
    with reading(artifact), tensor_by_tensor():
        network, found = _guard(
            artifact,
            lambda: _with_packed(kind, artifact).from_pretrained(
                folder,
                **options,
                dtype=dtype,
                attn_implementation=attention or _attention(config),
                device_map={"": device},
                output_loading_info=True,
            ),
        )
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found.get(what):
            name = min(map(str, found[what]))
            raise LoadError(
                f"{artifact.path}: {len(found[what])} {what.replace('_', ' ')}, for example {name}: its weights and its"
                " configuration are of different networks; fetch both again, or take another model"
            )
    network.__class__ = kind
    settle_rotation(network)
    return network.eval()


def _with_packed(kind: Any, artifact: Artifact) -> Any:
    """The class of a network that is made with modules for packed or rounded weights, where there are to be any."""
    if artifact.packing is None and not artifact.rounded:
        return kind

    class WithPacked(kind):  # type: ignore[misc] # what it is is found at run time
        """As transformers makes it, but for these modules."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            replace_modules(self, artifact)

    return WithPacked


@contextmanager
def tensor_by_tensor() -> Iterator[None]:
    """In this, each weight takes memory of its own: transformers takes that of all at once, of which no part goes back.

    Weights that are merged (`fused.py`) would leave holes in it, as large together as what is made of them.
    """
    taken = modeling_utils.caching_allocator_warmup
    modeling_utils.caching_allocator_warmup = lambda *_, **__: None
    try:
        yield
    finally:
        modeling_utils.caching_allocator_warmup = taken


def reading(artifact: Artifact) -> AbstractContextManager[None]:
    """In this transformers reads a file quickly, where the model is one."""
    if "gguf_file" not in artifact.options:
        return nullcontext()
    from inferd_torch.gguf import quick_reading  # noqa: PLC0415 - it imports gguf, which folders do without

    return quick_reading()


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
