"""The backend's class: it probes the host and loads models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferd.plugin import DeviceInfo, LoadedModel, LoadError, LoadRequest, ModelDescription, Probe, TokenSession
from inferd.plugin.backend import ReportProgress
from inferd_cpu.architecture import Architecture, read_architecture
from inferd_cpu.capacity import derive_limits
from inferd_cpu.gguf import GgufFile
from inferd_cpu.host import count_cores, read_memory, read_processor
from inferd_cpu.inventory import Inventory
from inferd_cpu.native import Native, NativeMissing, read_lacking
from inferd_cpu.native_session import NativeSession, make_shape, measure_token, measure_workspace
from inferd_cpu.native_weights import NativeWeights, find_obstacle
from inferd_cpu.session import CpuSession
from inferd_cpu.vocabulary import read_vocabulary
from inferd_cpu.weights import load_weights

DEVICE = "cpu:0"


class CpuBackend:
    """Runs GGUF models on the processor. It works on every host."""

    def probe(self) -> Probe:
        """One device: all cores and memory that this process may use; and what the native library lacks."""
        try:
            engine = Native().description
            why, fix = read_lacking() or ("", "")
        except NativeMissing as missing:
            engine = "F32 with numpy"
            why, fix = f"{missing}: models run with numpy, several times slower", missing.fix
        device = DeviceInfo(
            device_id=DEVICE,
            description=f"{read_processor()}, {engine}",
            memory_bytes=read_memory().total_bytes,
            cores=count_cores(),
        )
        return Probe(devices=(device,), why=why, fix=fix)

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
        """Check all of the file, then take memory and decode the weights.

        Raises:
            LoadError: The file is not a sound GGUF model of a known architecture, or does not fit into memory.
        """
        if request.device != DEVICE:
            raise LoadError(f"{request.path}: device {request.device!r} is not known; this backend has {DEVICE!r}")
        progress(0.0)
        file = GgufFile(request.path)
        architecture = read_architecture(file.metadata)
        vocabulary = read_vocabulary(file.metadata)
        inventory = Inventory(file, architecture, vocabulary_size=len(vocabulary.tokens))
        source = _Source(request, file, architecture, inventory, len(vocabulary.tokens))
        native, why_not = _choose_native(source)
        if native is None:
            session, compute_format = _load_exact(source, progress), f"F32; {why_not}" if why_not else "F32"
        else:
            session, compute_format = _load_native(source, native, progress)
        description = ModelDescription(
            architecture=architecture.name,
            parameters=inventory.parameters,
            weight_format=inventory.weight_format,
            compute_format=compute_format,
        )
        return LoadedModel(session=session, vocabulary=vocabulary, description=description)


@dataclass(frozen=True, slots=True)
class _Source:
    """What is loaded, and how it was asked for."""

    request: LoadRequest
    file: GgufFile
    architecture: Architecture
    inventory: Inventory
    vocabulary_size: int

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.request.settings


def _choose_native(source: _Source) -> tuple[Native | None, str]:
    """The library, or None and why it is not used although it might be.

    Raises:
        LoadError: The settings demand it, and it cannot be used.
    """
    compute, isa = source.settings["compute"], source.settings["isa"]
    if compute == "exact":
        return None, ""
    try:
        native = Native(isa)
        why_not = find_obstacle(source.architecture, source.inventory, native)
        fix = "leave the setting out"
    except NativeMissing as missing:
        native, why_not, fix = None, str(missing), missing.fix or "leave the setting out"
    if why_not and (compute == "native" or isa != "auto"):
        named = f"'compute' is {compute!r}" if compute == "native" else f"'isa' is {isa!r}"
        raise LoadError(f"{source.request.path}: setting {named}, but {why_not}: {fix}")
    return (None, f"not native: {why_not}") if why_not else (native, "")


def _load_exact(source: _Source, progress: ReportProgress) -> TokenSession:
    """A session in fp32 with numpy."""
    limits = derive_limits(
        source.request.path,
        source.architecture,
        source.settings,
        vocabulary_size=source.vocabulary_size,
        weights_bytes=source.inventory.size_bytes,
        free_bytes=read_memory().free_bytes,
    )
    weights = load_weights(source.file, source.architecture, source.inventory, progress)
    return CpuSession(architecture=source.architecture, weights=weights, limits=limits)


def _load_native(source: _Source, native: Native, progress: ReportProgress) -> tuple[TokenSession, str]:
    """A session of the library, and how it computes."""
    a, settings = source.architecture, source.settings
    weights = NativeWeights(source.file, a, source.inventory, native, quantization=settings["quantization"])
    threads = settings["threads"] or count_cores()
    limits = derive_limits(
        source.request.path,
        a,
        settings,
        vocabulary_size=source.vocabulary_size,
        weights_bytes=weights.size_bytes,
        free_bytes=read_memory().free_bytes,
        kv_token_bytes=measure_token(native, a, settings),
        measure_workspace=lambda limits: measure_workspace(native, make_shape(a, limits, settings, threads=threads)),
        samples=True,
    )
    shape = make_shape(a, limits, settings, threads=threads)
    session = NativeSession(native, shape, limits, formats=weights.formats(), vector_floats=weights.vector_floats)
    try:
        weights.pack(session.model, progress)
    except BaseException:
        session.close()
        raise
    return session, f"{native.description}, {weights.describe()} weights"
