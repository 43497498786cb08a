"""The public interface for backend authors. See plugins/README.md for how to write a backend."""

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
)
from inferd.plugin.batch_settings import BATCH_SETTINGS, read_batching
from inferd.plugin.batching import Batching, Cut, Fill, Padding
from inferd.plugin.gguf import (
    GGUF_BOS_RULES,
    read_gguf_embedding,
    read_gguf_endings,
    read_gguf_splitting,
    refuse_ignored,
)
from inferd.plugin.hf import list_hf_weights, read_hf_json, read_hf_pooling, read_hf_separator, read_hf_vocabulary
from inferd.plugin.hookspecs import hookimpl, hookspec
from inferd.plugin.sampling import read_gguf_sampling, read_hf_sampling
from inferd.plugin.session import (
    DeviceSampling,
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

__all__ = [
    "BATCH_SETTINGS",
    "GGUF_BOS_RULES",
    "Backend",
    "BackendSpec",
    "BackendUnavailable",
    "Batching",
    "Cut",
    "DeviceInfo",
    "DeviceSampling",
    "ElementType",
    "EmbeddingDefaults",
    "Fill",
    "LoadError",
    "LoadRequest",
    "LoadedModel",
    "LoadedTensorModel",
    "MemoryNeed",
    "ModelDescription",
    "Padding",
    "Pooling",
    "Probe",
    "RankHead",
    "ReportProgress",
    "SamplingDefaults",
    "Setting",
    "Signature",
    "StepResult",
    "StoppableSession",
    "Tensor",
    "TensorInfo",
    "TensorSession",
    "TensorState",
    "TokenBatch",
    "TokenKind",
    "TokenLimits",
    "TokenSession",
    "UnsupportedModelError",
    "Vocabulary",
    "hookimpl",
    "hookspec",
    "least_window_blocks",
    "list_hf_weights",
    "read_batching",
    "read_gguf_embedding",
    "read_gguf_endings",
    "read_gguf_sampling",
    "read_gguf_splitting",
    "read_hf_json",
    "read_hf_pooling",
    "read_hf_sampling",
    "read_hf_separator",
    "read_hf_vocabulary",
    "refuse_ignored",
]
