"""From a request to a session of a language model: what takes memory comes last."""

from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from inferd.plugin import LoadedModel, LoadError, LoadRequest, MemoryNeed, ModelDescription, ReportProgress, TokenLimits
from inferd_onnx.decoder.capacity import check_need, derive_limits, derive_need, measure_weights
from inferd_onnx.decoder.copies import copies_numbers
from inferd_onnx.decoder.counts import takes_counts
from inferd_onnx.decoder.gguf_model import read_gguf_model
from inferd_onnx.decoder.graph import Builder
from inferd_onnx.decoder.hf_folder import read_hf_folder
from inferd_onnx.decoder.model import DecoderModel
from inferd_onnx.decoder.session import DecoderSession
from inferd_onnx.decoder.unread import OF_GRAPHS_HERE, refuse_unread
from inferd_onnx.devices import CPU
from inferd_onnx.loading import make_options
from inferd_onnx.session import tell

PACKING = 0.8  # part of a load in which weights are packed; then the runtime makes its copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A model that is sound as far as it has been read, and what its session is to be.

    Attributes:
        model: What is loaded.
        limits: Of the session.
        need: What it takes.
    """

    model: DecoderModel
    limits: TokenLimits
    need: MemoryNeed


def examine(request: LoadRequest) -> Examined:
    """Read all of a model but its weights.

    Raises:
        LoadError: It is not sound, is none that our graph computes, or a setting contradicts it.
    """
    if request.device != CPU:
        raise LoadError(
            f"{request.path}: device {request.device!r}: language models are computed by the backend 'onnx' on {CPU}"
            " only: name that device, or take the backend 'torch'"
        )
    refuse_unread(request, (*OF_GRAPHS_HERE, "pre_tokenizer") if request.path.is_dir() else OF_GRAPHS_HERE)
    model = read_model(request.path, str(request.settings["pre_tokenizer"] or ""))
    sizes = measure_weights(model, request.settings)
    limits = derive_limits(request.path, request.settings, model.shape, sizes, request.capacity_bytes)
    return Examined(model=model, limits=limits, need=derive_need(model.shape, sizes, limits))


def read_model(path: Path, pre_tokenizer: str) -> DecoderModel:
    """A model's file or folder.

    Raises:
        LoadError: As `examine`.
    """
    if path.is_dir():
        return read_hf_folder(path)
    return read_gguf_model(path, pre_tokenizer)


def load(found: Examined, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
    """Load a model that was examined.

    Raises:
        LoadError: There is less memory than it takes, or the runtime refuses the graph.
    """
    progress(0.0)
    check_need(request.path, found.need, found.limits, capacity_bytes=request.capacity_bytes)
    model, settings = found.model, request.settings
    session = _make_session(found, request, progress)
    progress(1.0)
    return LoadedModel(
        session=session,
        vocabulary=model.vocabulary,
        description=ModelDescription(
            architecture=model.shape.architecture,
            parameters=model.parameters,
            weight_format=model.weight_format,
            compute_format=f"ONNX Runtime {ort.__version__}, {'I8' if settings['compute'] == 'auto' else 'F32'}",
        ),
        sampling=model.sampling,
        embedding=model.embedding,
    )


def _make_session(found: Examined, request: LoadRequest, progress: ReportProgress) -> DecoderSession:
    model, limits, settings = found.model, found.limits, request.settings
    done = 0

    def count(numbers: int) -> None:
        nonlocal done
        done += numbers
        progress(min(done / max(model.parameters, 1), 1.0) * PACKING)

    builder = Builder(
        model,
        context_tokens=limits.context_tokens,
        quantization=str(settings["quantization"]),
        exact=settings["compute"] == "exact",
        counts=takes_counts(),
        done=count,
    )
    graph = builder.build()
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in builder.weights.items()}
    options = make_options({**settings, "threads": 1}, "cpu", cores=request.cores)
    options.add_external_initializers(list(values), list(values.values()))
    try:
        runtime = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises, it is about the graph
        raise LoadError(f"{model.path}: {tell(error)}") from None
    copied = {bits for bits in set(builder.packed.values()) if copies_numbers(bits)}
    for name, bits in builder.packed.items():
        if bits in copied:
            del values[name]
    return DecoderSession(
        runtime,
        held=list(values.values()),
        table=model.weights["embedding"],
        shape=model.shape,
        limits=limits,
        area_tokens=limits.blocks * limits.block_tokens,
    )
