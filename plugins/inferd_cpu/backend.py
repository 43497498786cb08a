"""The backend's class: it probes the host and loads models."""

from inferd.plugin import DeviceInfo, LoadedModel, LoadError, LoadRequest, ModelDescription, Probe
from inferd.plugin.backend import ReportProgress
from inferd_cpu.architecture import read_architecture
from inferd_cpu.capacity import derive_limits
from inferd_cpu.gguf import GgufFile
from inferd_cpu.host import count_cores, read_memory, read_processor
from inferd_cpu.inventory import Inventory
from inferd_cpu.session import CpuSession
from inferd_cpu.vocabulary import read_vocabulary
from inferd_cpu.weights import load_weights

DEVICE = "cpu:0"


class CpuBackend:
    """Runs GGUF models on the processor. It works on every host."""

    def probe(self) -> Probe:
        """One device: all cores and memory that this process may use."""
        device = DeviceInfo(
            device_id=DEVICE,
            description=read_processor(),
            memory_bytes=read_memory().total_bytes,
            cores=count_cores(),
        )
        return Probe(devices=(device,))

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
        limits = derive_limits(
            request.path,
            architecture,
            request.settings,
            vocabulary_size=len(vocabulary.tokens),
            weights_bytes=inventory.size_bytes,
            free_bytes=read_memory().free_bytes,
        )
        weights = load_weights(file, architecture, inventory, progress)
        description = ModelDescription(
            architecture=architecture.name,
            parameters=inventory.parameters,
            weight_format=inventory.weight_format,
            compute_format="F32",
        )
        session = CpuSession(architecture=architecture, weights=weights, limits=limits)
        return LoadedModel(session=session, vocabulary=vocabulary, description=description)
