"""The public interface for backend authors. See plugins/README.md for how to write a backend.

A name is imported when it is first asked for: processes that need few of them start sooner, such as cells.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from inferd.core.resources import MemoryNeed
    from inferd.core.sampling_defaults import SamplingDefaults
    from inferd.plugin.backend import (
        Backend,
        BackendSpec,
        BackendUnavailable,
        DeviceInfo,
        EmbeddingDefaults,
        LoadedModel,
        LoadedTensorModel,
        LoadError,
        LoadRequest,
        ModelDescription,
        Pooling,
        Probe,
        RankHead,
        ReportProgress,
        Setting,
        UnsupportedModelError,
        naming,
    )
    from inferd.plugin.batch_settings import BATCH_SETTINGS, read_batching
    from inferd.plugin.batching import Batching, Cut, Fill, Padding
    from inferd.plugin.functions import function, function_file
    from inferd.plugin.gguf import (
        GGUF_BOS_RULES,
        read_gguf_embedding,
        read_gguf_endings,
        read_gguf_splitting,
        read_gguf_strips,
        refuse_ignored,
        refuse_no_model,
    )
    from inferd.plugin.hf import (
        list_hf_weights,
        read_hf_json,
        read_hf_pooling,
        read_hf_separator,
        read_hf_type,
        read_hf_vocabulary,
    )
    from inferd.plugin.hookspecs import hookimpl, hookspec
    from inferd.plugin.pictures import Outline, Picture, PictureReader, PlacedPicture
    from inferd.plugin.recipe import (
        AudioInput,
        BytesInput,
        ImageInput,
        LabelOutput,
        PlainOutput,
        Recipe,
        SpelledOutput,
        TextInput,
        TimeTokens,
        VectorOutput,
        WrittenOutput,
    )
    from inferd.plugin.recipe_file import read_recipe
    from inferd.plugin.sampling import read_gguf_sampling, read_hf_sampling
    from inferd.plugin.session import (
        AdaptingSession,
        DeviceSampling,
        KeepingSession,
        KvLayout,
        ReadAdapter,
        SourcedSession,
        StepResult,
        TokenBatch,
        TokenLimits,
        TokenSession,
        least_window_blocks,
    )
    from inferd.plugin.tensor import (
        ElementType,
        Signature,
        StoppableSession,
        Tensor,
        TensorInfo,
        TensorSession,
        TensorState,
    )
    from inferd.plugin.vocabulary import TokenKind, Vocabulary
    from inferd.sandbox.state import NVIDIA, Access

__all__ = [
    "BATCH_SETTINGS",
    "GGUF_BOS_RULES",
    "NVIDIA",
    "Access",
    "AdaptingSession",
    "AudioInput",
    "Backend",
    "BackendSpec",
    "BackendUnavailable",
    "Batching",
    "BytesInput",
    "Cut",
    "DeviceInfo",
    "DeviceSampling",
    "ElementType",
    "EmbeddingDefaults",
    "Fill",
    "ImageInput",
    "KeepingSession",
    "KvLayout",
    "LabelOutput",
    "LoadError",
    "LoadRequest",
    "LoadedModel",
    "LoadedTensorModel",
    "MemoryNeed",
    "ModelDescription",
    "Outline",
    "Padding",
    "Picture",
    "PictureReader",
    "PlacedPicture",
    "PlainOutput",
    "Pooling",
    "Probe",
    "RankHead",
    "ReadAdapter",
    "Recipe",
    "ReportProgress",
    "SamplingDefaults",
    "Setting",
    "Signature",
    "SourcedSession",
    "SpelledOutput",
    "StepResult",
    "StoppableSession",
    "Tensor",
    "TensorInfo",
    "TensorSession",
    "TensorState",
    "TextInput",
    "TimeTokens",
    "TokenBatch",
    "TokenKind",
    "TokenLimits",
    "TokenSession",
    "UnsupportedModelError",
    "VectorOutput",
    "Vocabulary",
    "WrittenOutput",
    "function",
    "function_file",
    "hookimpl",
    "hookspec",
    "least_window_blocks",
    "list_hf_weights",
    "naming",
    "read_batching",
    "read_gguf_embedding",
    "read_gguf_endings",
    "read_gguf_sampling",
    "read_gguf_splitting",
    "read_gguf_strips",
    "read_hf_json",
    "read_hf_pooling",
    "read_hf_sampling",
    "read_hf_separator",
    "read_hf_type",
    "read_hf_vocabulary",
    "read_recipe",
    "refuse_ignored",
    "refuse_no_model",
]

_PLACES: Final = {
    "inferd.core.resources": ("MemoryNeed",),
    "inferd.core.sampling_defaults": ("SamplingDefaults",),
    "inferd.plugin.backend": (
        "Backend",
        "BackendSpec",
        "BackendUnavailable",
        "DeviceInfo",
        "EmbeddingDefaults",
        "LoadError",
        "LoadRequest",
        "LoadedModel",
        "LoadedTensorModel",
        "ModelDescription",
        "Pooling",
        "Probe",
        "RankHead",
        "ReportProgress",
        "Setting",
        "UnsupportedModelError",
        "naming",
    ),
    "inferd.plugin.batch_settings": ("BATCH_SETTINGS", "read_batching"),
    "inferd.plugin.batching": ("Batching", "Cut", "Fill", "Padding"),
    "inferd.plugin.functions": ("function", "function_file"),
    "inferd.plugin.gguf": (
        "GGUF_BOS_RULES",
        "read_gguf_embedding",
        "read_gguf_endings",
        "read_gguf_splitting",
        "read_gguf_strips",
        "refuse_ignored",
        "refuse_no_model",
    ),
    "inferd.plugin.hf": (
        "list_hf_weights",
        "read_hf_json",
        "read_hf_pooling",
        "read_hf_separator",
        "read_hf_type",
        "read_hf_vocabulary",
    ),
    "inferd.plugin.hookspecs": ("hookimpl", "hookspec"),
    "inferd.plugin.pictures": ("Outline", "Picture", "PictureReader", "PlacedPicture"),
    "inferd.plugin.recipe": (
        "AudioInput",
        "BytesInput",
        "ImageInput",
        "LabelOutput",
        "PlainOutput",
        "Recipe",
        "SpelledOutput",
        "TextInput",
        "TimeTokens",
        "VectorOutput",
        "WrittenOutput",
    ),
    "inferd.plugin.recipe_file": ("read_recipe",),
    "inferd.plugin.sampling": ("read_gguf_sampling", "read_hf_sampling"),
    "inferd.plugin.session": (
        "AdaptingSession",
        "DeviceSampling",
        "KeepingSession",
        "KvLayout",
        "ReadAdapter",
        "SourcedSession",
        "StepResult",
        "TokenBatch",
        "TokenLimits",
        "TokenSession",
        "least_window_blocks",
    ),
    "inferd.plugin.tensor": (
        "ElementType",
        "Signature",
        "StoppableSession",
        "Tensor",
        "TensorInfo",
        "TensorSession",
        "TensorState",
    ),
    "inferd.plugin.vocabulary": ("TokenKind", "Vocabulary"),
    "inferd.sandbox.state": ("NVIDIA", "Access"),
}
"""Where the names are, as above: the module of each is imported with the first of them."""


def __getattr__(name: str) -> Any:
    """Import a name of the interface."""
    for module, names in _PLACES.items():
        if name in names:
            found = import_module(module)
            globals().update({each: getattr(found, each) for each in names})
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
