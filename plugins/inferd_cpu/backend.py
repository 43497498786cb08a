"""The backend's class: it probes the host and loads models."""

from inferd.plugin import (
    LoadedModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    ModelDescription,
    Probe,
    ReportProgress,
    load_both,
    measure_both,
)
from inferd_cpu.capacity import check_need
from inferd_cpu.loads import Load, choose_load
from inferd_cpu.plugin import SPEC
from inferd_cpu.probing import DEVICE, probe
from inferd_cpu.source import Source, read_source


class CpuBackend:
    """Runs GGUF models on the processor. It works on every host."""

    def __init__(self) -> None:
        self._examined: tuple[Source, Load] | None = None  # the load that follows need not read again

    def probe(self) -> Probe:
        """One device: all cores and memory that this process may use; and what the native library lacks."""
        return probe()

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """Read all of the file but the weights.

        Raises:
            LoadError: The file is not a sound GGUF model of a known architecture, or a setting contradicts it.
        """
        return measure_both(request, SPEC, self._measure)

    def _measure(self, request: LoadRequest) -> MemoryNeed:
        """What one model takes."""
        self._examined = _examine(request)
        return self._examined[1].need

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
        """Check all of the file, then take memory and read the weights.

        Raises:
            LoadError: As `measure`, or a weight is damaged, or there is less memory than it takes.
        """
        return load_both(request, SPEC, self._measure, self._load, progress)

    def _load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
        """Load one model."""
        progress(0.0)
        examined, self._examined = self._examined, None
        if examined is None or examined[0].request != request:
            examined = _examine(request)
        source, load = examined
        check_need(request.path, load.need, load.limits, capacity_bytes=request.capacity_bytes)
        session = load.run(progress)
        description = ModelDescription(
            architecture=source.architecture.name,
            parameters=source.inventory.parameters,
            weight_format=source.inventory.weight_format,
            compute_format=load.compute_format,
        )
        return LoadedModel(
            session=session,
            vocabulary=source.vocabulary,
            description=description,
            sampling=source.sampling,
            embedding=source.embedding,
            pictures=source.sight if isinstance(source.sight, str) else source.sight.reader,
        )


def _examine(request: LoadRequest) -> tuple[Source, Load]:
    if request.device != DEVICE:
        raise LoadError(f"{request.path}: device {request.device!r} is not known; this backend has {DEVICE!r}")
    source = read_source(request)
    return source, choose_load(source)
