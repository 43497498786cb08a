"""From a folder with a decoder's graph to its session."""

from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort

from inferd.plugin import LoadedModel, LoadError, LoadRequest, MemoryNeed, ModelDescription, ReportProgress, TokenLimits
from inferd_onnx.capacity import derive_need as derive_graph_need
from inferd_onnx.decoder.capacity import Sizes, check_need, derive_limits, derive_need
from inferd_onnx.decoder.folder_session import FolderSession
from inferd_onnx.decoder.genai import DecoderFolder, read_folder
from inferd_onnx.decoder.unread import OF_FOLDERS, refuse_unread
from inferd_onnx.devices import CPU
from inferd_onnx.loading import make_options, tell_mixing
from inferd_onnx.model_file import ModelFile
from inferd_onnx.pulse import Pulse
from inferd_onnx.session import tell

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedFolder:
    """A folder that is sound as far as it has been read.

    Attributes:
        file: Its graph.
        folder: What is beside it.
        limits: Of the session.
        need: What it takes.
    """

    file: ModelFile
    folder: DecoderFolder
    limits: TokenLimits
    need: MemoryNeed


def examine_folder(request: LoadRequest, file: ModelFile) -> ExaminedFolder:
    """Read all of a folder but its weights.

    Raises:
        LoadError: It is not sound, or a setting contradicts it.
    """
    if request.device != CPU:
        raise LoadError(
            f"{request.path}: device {request.device!r}: language models are computed by the backend 'onnx' on {CPU}"
            " only: name that device"
        )
    refuse_unread(request, OF_FOLDERS)
    folder = read_folder(request.path, file)
    graph = derive_graph_need(file, request)
    sizes = Sizes(file.weights_bytes, file.weights_bytes)
    limits = derive_limits(request.path, request.settings, folder.shape, sizes, request.capacity_bytes)
    limits = replace(limits, embedding_size=0)
    need = derive_need(folder.shape, sizes, limits)
    rows_bytes = 4 * limits.max_step_tokens * limits.vocabulary_size  # of logits: the graph gives those of all rows
    workspace = need.workspace_bytes + graph.workspace_bytes + 2 * rows_bytes
    need = MemoryNeed(weights_bytes=need.weights_bytes, kv_bytes=need.kv_bytes, workspace_bytes=workspace)
    return ExaminedFolder(file=file, folder=folder, limits=limits, need=need)


def load_folder(found: ExaminedFolder, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
    """Load a folder that was examined.

    Raises:
        LoadError: There is less memory than it takes, or the runtime refuses the graph.
    """
    progress(0.0)
    check_need(request.path, found.need, found.limits, capacity_bytes=request.capacity_bytes)
    file, folder = found.file, found.folder
    options = make_options({**request.settings, "threads": 1}, "cpu", cores=request.cores)
    with Pulse(progress, expected_bytes=found.need.weights_bytes):
        try:
            runtime = ort.InferenceSession(
                str(file.path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises, the file is why
            raise LoadError(f"{file.path}: {tell(error)}") from None
        session = _make_session(found, runtime)
    progress(1.0)
    return LoadedModel(
        session=session,
        vocabulary=folder.vocabulary,
        description=ModelDescription(
            architecture=folder.shape.architecture,
            parameters=file.parameters,
            weight_format=file.weight_format,
            compute_format=f"ONNX Runtime {ort.__version__}{tell_mixing(file)}",
        ),
        sampling=folder.sampling,
    )


def _make_session(found: ExaminedFolder, runtime: ort.InferenceSession) -> FolderSession:
    file, folder, shape = found.file, found.folder, found.folder.shape
    past, present = folder.layers("past"), folder.layers("present")
    outputs = {node.name for node in runtime.get_outputs()}
    for name in (folder.names["logits"], *present):
        if name not in outputs:
            raise LoadError(f"{file.path}: the output {name!r} is missing")
    nodes = {node.name: node for node in runtime.get_inputs()}
    node = nodes[past[0]]
    if node.type not in TYPES:
        raise LoadError(f"{file.path}: input {node.name!r} is {node.type}; it must be {' or '.join(TYPES)}")
    wanted = {1: shape.kv_heads, 3: shape.head_width}
    sizes = node.shape
    if len(sizes) != 4 or any(isinstance(sizes[n], int) and sizes[n] != size for n, size in wanted.items()):  # noqa: PLR2004 - batch, heads, tokens, width
        heads, width = wanted.values()
        raise LoadError(f"{file.path}: input {node.name!r} is of shape {sizes}; it must be [b, {heads}, n, {width}]")
    return FolderSession(
        runtime,
        names=dict(folder.names),
        in_place=file.grouped,
        alone=bool(file.mixing),
        shape=shape,
        limits=found.limits,
        area_tokens=found.limits.blocks * found.limits.block_tokens,
        past=past,
        present=present,
        dtype=TYPES[node.type],
    )
