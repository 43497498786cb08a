"""The backend's class: it probes the host and loads models.

Importing it loads no framework, so that probing does not take the seconds that torch needs.
"""

from inferd.plugin import LoadedModel, LoadRequest, Probe, ReportProgress
from inferd_torch.devices import find_devices, free_bytes


class TorchBackend:
    """Runs Hugging Face model folders and GGUF files through transformers."""

    def probe(self) -> Probe:
        """CUDA devices first, then the processor.

        Raises:
            ModuleNotFoundError: A framework is not installed.
        """
        return Probe(devices=find_devices())

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
        """Check all that can be checked before memory is taken, then load.

        Raises:
            LoadError: The model is not sound, is none that paged attention can serve, or does not fit into memory.
        """
        free = free_bytes(request.device)
        from inferd_torch.loading import load  # noqa: PLC0415 - it imports torch and transformers

        return load(request, progress, free_bytes=free)
