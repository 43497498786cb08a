"""From a folder with an encoder and a decoder to its session."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from inferd.plugin import LoadedModel, LoadError, LoadRequest, MemoryNeed, ModelDescription, ReportProgress, TokenLimits
from inferd_onnx.capacity import NODE_BYTES
from inferd_onnx.decoder.capacity import LIBRARY_BYTES, POOL_BYTES
from inferd_onnx.decoder.unread import OF_FOLDERS, refuse_unread
from inferd_onnx.devices import CPU
from inferd_onnx.loading import make_options
from inferd_onnx.model_file import ModelFile
from inferd_onnx.pulse import Pulse
from inferd_onnx.session import tell
from inferd_onnx.speech.folder import FEATURES, SpeechFolder, read_speech_folder
from inferd_onnx.speech.session import SpeechSession

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
LOGITS = "logits"
UNREAD = (*OF_FOLDERS, "kv_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedSpeech:
    """A folder that is sound as far as it has been read.

    Attributes:
        folder: What is in it.
        limits: Of the session.
        need: What it takes.
    """

    folder: SpeechFolder
    limits: TokenLimits
    need: MemoryNeed


def examine_speech(request: LoadRequest, graphs: Path) -> ExaminedSpeech:
    """Read all of a folder but its weights.

    Raises:
        LoadError: It is not sound, or a setting contradicts it.
    """
    if request.device != CPU:
        raise LoadError(
            f"{request.path}: device {request.device!r}: speech is computed by the backend 'onnx' on {CPU} only: name"
            " that device"
        )
    refuse_unread(request, UNREAD)
    folder = read_speech_folder(request.path, graphs)
    limits = _derive_limits(folder, request)
    return ExaminedSpeech(folder=folder, limits=limits, need=_derive_need(folder, limits, request))


def load_speech(found: ExaminedSpeech, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
    """Load a folder that was examined.

    Raises:
        LoadError: There is less memory than it takes, or the runtime refuses a graph.
    """
    progress(0.0)
    folder, need = found.folder, found.need
    if need.total_bytes > request.capacity_bytes:
        raise LoadError(
            f"{request.path}: needs {need.total_bytes} bytes of memory (weights {need.weights_bytes}, keys and values"
            f" {need.kv_bytes}, workspace {need.workspace_bytes}), but {request.capacity_bytes} may be given: lower the"
            f" setting 'max_sequences' (now {found.limits.max_sequences}), or give more"
        )
    options = make_options({**request.settings, "threads": 1}, "cpu", cores=request.cores)
    with Pulse(progress, expected_bytes=need.weights_bytes):
        graphs = [_open(file, options) for file in folder.files]
    encoder, first, following = (*graphs, graphs[1]) if folder.merged else graphs
    _check_graphs(folder, encoder, first, following)
    limits = found.limits
    session = SpeechSession(
        encoder,
        first,
        following,
        folder=folder,
        shape=folder.shape,
        limits=limits,
        area_tokens=limits.blocks * limits.block_tokens,
        dtype=_past_type(folder, following),
    )
    progress(1.0)
    return LoadedModel(
        session=session,
        vocabulary=folder.vocabulary,
        description=ModelDescription(
            architecture=folder.shape.architecture,
            parameters=sum(file.parameters for file in folder.files[:2]),
            weight_format=folder.first.weight_format,
            compute_format=f"ONNX Runtime {ort.__version__}",
        ),
        recipe=folder.recipe,
    )


def _source_bytes(folder: SpeechFolder) -> int:
    """What is kept of one that is written of: the encoder's states, and the decoder's keys and values of them."""
    shape = folder.shape
    return folder.states * (shape.width * 4 + shape.kv_token_bytes)


def _derive_limits(folder: SpeechFolder, request: LoadRequest) -> TokenLimits:
    """Sizes by the settings; of sequences no more than half of `POOL_BYTES` has room for what they are written of."""
    shape, settings = folder.shape, request.settings
    wanted: int | None = settings["context_tokens"]  # type: ignore[assignment]
    if wanted is not None and wanted > shape.context_tokens:
        raise LoadError(
            f"{request.path}: setting 'context_tokens' is {wanted}, but the model serves {shape.context_tokens}: lower"
            " the setting"
        )
    context, block_tokens = wanted or shape.context_tokens, int(settings["block_tokens"] or 1)
    fitting = POOL_BYTES // (2 * _source_bytes(folder))  # they are there twice while several are written together
    most = min(int(settings["max_sequences"] or 1), max(1, fitting))
    return TokenLimits(
        vocabulary_size=shape.vocabulary_size,
        context_tokens=context,
        block_tokens=block_tokens,
        blocks=most * -(-context // block_tokens),
        max_sequences=most,
        max_step_tokens=int(settings["max_step_tokens"] or 1),
    )


def _derive_need(folder: SpeechFolder, limits: TokenLimits, request: LoadRequest) -> MemoryNeed:
    shape, most = folder.shape, limits.max_sequences
    tokens = limits.blocks * limits.block_tokens
    weights = sum(file.weights_bytes for file in folder.files)
    hidden = folder.frames * 4 * (8 * shape.width + 2 * shape.inner) + shape.heads * folder.states**2 * 4 * 2
    logits = 3 * 4 * min(limits.max_step_tokens, 8 * most) * shape.vocabulary_size
    nodes = sum(file.nodes for file in folder.files) * NODE_BYTES
    wanted = request.settings["workspace_mib"]
    computed = hidden + logits if wanted is None else int(wanted) << 20
    return MemoryNeed(
        weights_bytes=weights,
        kv_bytes=2 * tokens * shape.kv_token_bytes + 2 * most * _source_bytes(folder),
        workspace_bytes=LIBRARY_BYTES + nodes + computed + weights // 2,
    )


def _open(file: ModelFile, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises, the file is why
        raise LoadError(f"{file.path}: {tell(error)}") from None


def _check_graphs(folder: SpeechFolder, encoder: Any, first: Any, following: Any) -> None:
    """Whether the graphs give what is taken of them, of the sizes that the configuration says."""
    _check_sizes(folder.encoder, encoder.get_inputs(), FEATURES, {1: folder.mels, 2: folder.frames}, "feature_size")
    own, read = folder.layers("present", "decoder"), folder.layers("present", "encoder")
    for file, graph, names in ((folder.first, first, [*own, *read]), (folder.next, following, own)):
        known = {node.name for node in graph.get_outputs()}
        for name in (LOGITS, *names):
            if name not in known:
                raise LoadError(f"{file.path}: the output {name!r} is missing")
        _check_sizes(file, graph.get_outputs(), LOGITS, {2: folder.shape.vocabulary_size}, "vocab_size")


def _check_sizes(file: ModelFile, nodes: Any, name: str, wanted: dict[int, int], said: str) -> None:
    """Whether an input or output has the sizes that a configuration says, as far as its graph tells them."""
    sizes = next(node.shape for node in nodes if node.name == name)
    if len(sizes) != 3 or any(isinstance(sizes[n], int) and sizes[n] != size for n, size in wanted.items()):  # noqa: PLR2004 - rows, and two of what is in one
        must = ", ".join(str(wanted.get(n, "any")) for n in range(3))
        raise LoadError(f"{file.path}: {name!r} is of shape {sizes}; by the configuration ({said}) it must be [{must}]")


def _past_type(folder: SpeechFolder, following: Any) -> Any:
    """The type of keys and values, and whether they are as the configuration says."""
    shape, name = folder.shape, folder.layers("past_key_values", "decoder")[0]
    node = next(node for node in following.get_inputs() if node.name == name)
    if node.type not in TYPES:
        raise LoadError(f"{folder.next.path}: input {name!r} is {node.type}; it must be {' or '.join(TYPES)}")
    sizes, wanted = node.shape, {1: shape.kv_heads, 3: shape.head_width}
    if len(sizes) != 4 or any(isinstance(sizes[n], int) and sizes[n] != size for n, size in wanted.items()):  # noqa: PLR2004 - batch, heads, tokens, width
        raise LoadError(
            f"{folder.next.path}: input {name!r} is of shape {sizes}; it must be [b, {shape.kv_heads}, n,"
            f" {shape.head_width}]"
        )
    return TYPES[node.type]
