"""The backend's class: it probes the host and loads models.

Importing it loads no framework, so that probing costs nothing.
"""

from inferd.plugin import LoadedModel, LoadedTensorModel, LoadRequest, MemoryNeed, Probe, ReportProgress
from inferd_onnx.capacity import derive_need
from inferd_onnx.devices import check_device, find_devices, read_clash
from inferd_onnx.model_file import read_model_file


class OnnxBackend:
    """Runs ONNX models through ONNX Runtime."""

    def probe(self) -> Probe:
        """CUDA devices first, then the processor; and whether two builds of the runtime are installed over each other.

        Raises:
            ModuleNotFoundError: The runtime is not installed.
        """
        devices = find_devices()
        why, fix = read_clash()
        return Probe(devices=devices, why=why, fix=fix)

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """Read all of a model's file but its weights.

        Raises:
            LoadError: It is not sound, or names data outside its folder.
        """
        check_device(request.device)
        return derive_need(read_model_file(request.path), request)

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
        """Check all that can be checked before memory is taken, then load.

        Raises:
            LoadError: As `measure`, or the runtime refuses it, or a setting contradicts it.
        """
        from inferd_onnx.loading import load  # noqa: PLC0415 - it imports the runtime

        check_device(request.device)
        return load(read_model_file(request.path), request, progress)
