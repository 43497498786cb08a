"""What a model takes: from its file and its settings, before it is loaded."""

from dataclasses import dataclass

from inferd.plugin import LoadError, LoadRequest, MemoryNeed
from inferd_onnx.devices import CPU
from inferd_onnx.model_file import ModelFile

NODE_BYTES = 16 << 10  # of a graph, in the runtime's own structures: measured, with a margin
DEFAULT_WORKSPACE_BYTES = 64 << 20
WORKSPACE_SHARE = 4  # of the weights: while they are packed for products, the largest one is there twice


@dataclass(frozen=True, slots=True)
class Libraries:
    """What the libraries take when they are loaded and used: measured, with a margin."""

    processor_bytes: int = 64 << 20
    cuda_bytes: int = 768 << 20


LIBRARIES = Libraries()


def derive_workspace(file: ModelFile, request: LoadRequest) -> int:
    """Bytes for what is computed, as set or by default."""
    wanted = request.settings["workspace_mib"]
    if wanted is not None:
        return int(wanted) << 20
    return max(DEFAULT_WORKSPACE_BYTES, file.weights_bytes // WORKSPACE_SHARE)


def derive_need(file: ModelFile, request: LoadRequest) -> MemoryNeed:
    """What a session takes."""
    library_bytes = LIBRARIES.processor_bytes if request.device == CPU else LIBRARIES.cuda_bytes
    return MemoryNeed(
        weights_bytes=file.weights_bytes,
        workspace_bytes=library_bytes + file.nodes * NODE_BYTES + derive_workspace(file, request),
    )


def check_need(file: ModelFile, need: MemoryNeed, *, capacity_bytes: int) -> None:
    """Check that a session fits, before memory is taken.

    Raises:
        LoadError: It does not.
    """
    if need.total_bytes > capacity_bytes:
        raise LoadError(
            f"{file.path}: needs {need.total_bytes} bytes of memory (weights {need.weights_bytes}, workspace"
            f" {need.workspace_bytes}), but {capacity_bytes} may be given: lower the setting 'workspace_mib', or give"
            " more"
        )
