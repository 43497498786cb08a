"""The backend's class: it probes the host and loads models."""

from dataclasses import dataclass

from inferd.plugin import (
    DeviceInfo,
    LoadedModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    ModelDescription,
    Probe,
    ReportProgress,
    TokenLimits,
    Vocabulary,
)
from inferd_cpu.architecture import Architecture, read_architecture
from inferd_cpu.capacity import check_need, derive_limits, derive_need
from inferd_cpu.gguf import GgufFile
from inferd_cpu.host import count_cores, read_memory, read_processor
from inferd_cpu.inventory import Inventory
from inferd_cpu.session import CpuSession
from inferd_cpu.vocabulary import read_vocabulary
from inferd_cpu.weights import load_weights

DEVICE = "cpu:0"


class CpuBackend:
    """Runs GGUF models on the processor. It works on every host."""

    def __init__(self) -> None:
        self._measured: tuple[LoadRequest, _Model] | None = None  # so that the load that follows need not read again

    def probe(self) -> Probe:
        """One device: all cores and memory that this process may use."""
        device = DeviceInfo(
            device_id=DEVICE,
            description=read_processor(),
            memory_bytes=read_memory().total_bytes,
            cores=count_cores(),
        )
        return Probe(devices=(device,))

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """Read all of the file but the weights.

        Raises:
            LoadError: The file is not a sound GGUF model of a known architecture, or a setting contradicts it.
        """
        model = _examine(request)
        self._measured = (request, model)
        return model.need

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
        """Check all of the file, then take memory and decode the weights.

        Raises:
            LoadError: As `measure`, or a weight is damaged, or there is less memory than it takes.
        """
        progress(0.0)
        measured, self._measured = self._measured, None
        found = measured[1] if measured is not None and measured[0] == request else _examine(request)
        check_need(request.path, found.need, found.limits, capacity_bytes=request.capacity_bytes)
        weights = load_weights(found.file, found.architecture, found.inventory, progress)
        description = ModelDescription(
            architecture=found.architecture.name,
            parameters=found.inventory.parameters,
            weight_format=found.inventory.weight_format,
            compute_format="F32",
        )
        session = CpuSession(architecture=found.architecture, weights=weights, limits=found.limits)
        return LoadedModel(session=session, vocabulary=found.vocabulary, description=description)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A file that is sound as far as it has been read, and what its session is to be."""

    file: GgufFile
    architecture: Architecture
    vocabulary: Vocabulary
    inventory: Inventory
    limits: TokenLimits
    need: MemoryNeed


def _examine(request: LoadRequest) -> _Model:
    if request.device != DEVICE:
        raise LoadError(f"{request.path}: device {request.device!r} is not known; this backend has {DEVICE!r}")
    file = GgufFile(request.path)
    architecture = read_architecture(file.metadata)
    vocabulary = read_vocabulary(file.metadata)
    inventory = Inventory(file, architecture, vocabulary_size=len(vocabulary.tokens))
    limits = derive_limits(
        request.path,
        architecture,
        request.settings,
        vocabulary_size=len(vocabulary.tokens),
        weights_bytes=inventory.size_bytes,
        capacity_bytes=request.capacity_bytes,
    )
    return _Model(
        file=file,
        architecture=architecture,
        vocabulary=vocabulary,
        inventory=inventory,
        limits=limits,
        need=derive_need(architecture, limits, weights_bytes=inventory.size_bytes),
    )
