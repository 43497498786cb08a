"""The public interface for backend authors. See plugins/README.md for how to write a backend."""

from inferd.core.resources import MemoryNeed
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.plugin.backend import (
    Backend,
    BackendSpec,
    BackendUnavailable,
    DeviceInfo,
    LoadedModel,
    LoadError,
    LoadRequest,
    ModelDescription,
    Probe,
    ReportProgress,
    Setting,
    UnsupportedModelError,
)
from inferd.plugin.hookspecs import hookimpl, hookspec
from inferd.plugin.sampling import read_gguf_sampling, read_hf_sampling
from inferd.plugin.session import DeviceSampling, StepResult, TokenBatch, TokenLimits, TokenSession
from inferd.plugin.vocabulary import TokenKind, Vocabulary

__all__ = [
    "Backend",
    "BackendSpec",
    "BackendUnavailable",
    "DeviceInfo",
    "DeviceSampling",
    "LoadError",
    "LoadRequest",
    "LoadedModel",
    "MemoryNeed",
    "ModelDescription",
    "Probe",
    "ReportProgress",
    "SamplingDefaults",
    "Setting",
    "StepResult",
    "TokenBatch",
    "TokenKind",
    "TokenLimits",
    "TokenSession",
    "UnsupportedModelError",
    "Vocabulary",
    "hookimpl",
    "hookspec",
    "read_gguf_sampling",
    "read_hf_sampling",
]
