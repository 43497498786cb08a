"""The backend's class: it probes the host and loads models.

Importing it loads no framework, so that probing costs nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from inferd.plugin import (
    LoadedModel,
    LoadedTensorModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    Probe,
    ReportProgress,
    naming,
    read_hf_type,
)
from inferd_onnx.capacity import derive_need
from inferd_onnx.devices import check_device, find_devices, read_clash
from inferd_onnx.misplaced import refuse_misplaced
from inferd_onnx.model_file import ENCODER_FILE, INNER, OWN_FILE, ModelFile, read_model_file

if TYPE_CHECKING:
    from inferd_onnx.decoder.loading import Examined

GGUF = b"GGUF"


class OnnxBackend:
    """Runs ONNX models, and language models of the Llama family, through ONNX Runtime."""

    def __init__(self) -> None:
        self._measured: tuple[LoadRequest, Examined] | None = None  # so that the load that follows need not read again

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
        with naming(lambda: name_architecture(request.path)):
            return self._measure(request)

    def _measure(self, request: LoadRequest) -> MemoryNeed:
        check_device(request.device)
        if (graphs := find_speech(request.path)) is not None:
            from inferd_onnx.speech.loading import examine_speech  # noqa: PLC0415 - it imports the runtime

            return examine_speech(request, graphs).need
        if is_language_model(request.path):
            found = _examine(request)
            self._measured = (request, found)
            return found.need
        file = read_model_file(request.path)
        if _is_decoder_folder(request, file):
            from inferd_onnx.decoder.folder_loading import examine_folder  # noqa: PLC0415 - it imports the runtime

            return examine_folder(request, file).need
        refuse_misplaced(request)
        return derive_need(file, request)

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
        """Check all that can be checked before memory is taken, then load.

        Raises:
            LoadError: As `measure`, or the runtime refuses it, or a setting contradicts it.
        """
        with naming(lambda: name_architecture(request.path)):
            return self._load(request, progress)

    def _load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
        check_device(request.device)
        if (graphs := find_speech(request.path)) is not None:
            from inferd_onnx.speech.loading import examine_speech, load_speech  # noqa: PLC0415 - as above

            return load_speech(examine_speech(request, graphs), request, progress)
        if is_language_model(request.path):
            from inferd_onnx.decoder.loading import load as load_decoder  # noqa: PLC0415 - it imports the runtime

            measured, self._measured = self._measured, None
            found = measured[1] if measured is not None and measured[0] == request else _examine(request)
            return load_decoder(found, request, progress)
        file = read_model_file(request.path)
        if _is_decoder_folder(request, file):
            from inferd_onnx.decoder.folder_loading import examine_folder, load_folder  # noqa: PLC0415 - as above

            return load_folder(examine_folder(request, file), request, progress)
        refuse_misplaced(request)
        from inferd_onnx.loading import load  # noqa: PLC0415 - it imports the runtime

        return load(file, request, progress)


def is_language_model(path: Path) -> bool:
    """Whether a file or folder is of those whose graph we make; what cannot be read is none."""
    if path.is_dir():
        graphs = (path / OWN_FILE, path / INNER / OWN_FILE)
        return (path / "config.json").is_file() and not any(graph.is_file() for graph in graphs)
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF)) == GGUF or path.suffix == ".gguf"
    except OSError:
        return path.suffix == ".gguf"


def name_architecture(path: Path) -> str:
    """What a file or folder says that it is; "" where it says nothing that can be read, as graphs do."""
    if path.is_dir():
        return read_hf_type(path)
    if not is_language_model(path):
        return ""
    from inferd_weights.gguf import GgufFile  # noqa: PLC0415 - it imports numpy

    try:
        return GgufFile(path).metadata.text("general.architecture")
    except LoadError:
        return ""


def find_speech(path: Path) -> Path | None:
    """Where a folder has the graphs of an encoder and a decoder; None for other models."""
    folders = (path, path / INNER) if path.is_dir() else ()
    return next((each for each in folders if (each / ENCODER_FILE).is_file()), None)


def _is_decoder_folder(request: LoadRequest, file: ModelFile) -> bool:
    if not request.path.is_dir():
        return False
    from inferd_onnx.decoder.genai import is_decoder_folder  # noqa: PLC0415 - it imports numpy

    return is_decoder_folder(request, file)


def _examine(request: LoadRequest) -> "Examined":
    from inferd_onnx.decoder.loading import examine  # noqa: PLC0415 - it imports the runtime

    return examine(request)
