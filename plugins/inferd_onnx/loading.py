"""From a checked file to a session: options, the provider, the load itself."""

import logging
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from inferd.plugin import (
    LoadedModel,
    LoadedTensorModel,
    LoadError,
    LoadRequest,
    ModelDescription,
    ReportProgress,
    UnsupportedModelError,
    read_batching,
)
from inferd.plugin.host import count_cores
from inferd_onnx.capacity import check_need, derive_need, derive_workspace
from inferd_onnx.devices import CPU
from inferd_onnx.encoder import load_encoder, may_encode
from inferd_onnx.model_file import ModelFile
from inferd_onnx.providers import NAMES, check_providers, choose_provider, overheard, provider_list
from inferd_onnx.pulse import Pulse
from inferd_onnx.session import OnnxSession, tell
from inferd_onnx.signature import Bound, describe, names_batch
from inferd_onnx.trial import try_paddings, try_rows

_log = logging.getLogger(__name__)
ERROR, FATAL = 3, 4  # severities of the runtime's log, which goes to standard error: these and worse
LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
NAME_CHARACTERS = 100
ALONE = Bound(max_batch=1, states="", optional_inputs=False, threads=1)


def load(file: ModelFile, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
    """Load a model whose file is checked: an encoder of texts, or whatever else it is as tensors.

    Raises:
        LoadError: The runtime refuses it, a setting contradicts it, or it needs more memory than may be given.
    """
    progress(0.0)
    settings = request.settings
    need = derive_need(file, request)
    check_need(file, need, capacity_bytes=request.capacity_bytes)
    available = ort.get_available_providers()
    provider = choose_provider(request.device, str(settings["provider"]), available)
    limit_bytes = file.weights_bytes + derive_workspace(file, request)
    providers = provider_list(provider, request.device, limit_bytes=limit_bytes, available=available)
    with Pulse(progress, expected_bytes=need.weights_bytes):
        loaded = _open(file, make_options(settings, provider, cores=request.cores), providers, provider)
        description = ModelDescription(
            architecture=(file.name or file.path.stem)[:NAME_CHARACTERS],
            parameters=file.parameters,
            weight_format=file.weight_format,
            compute_format=f"ONNX Runtime {ort.__version__}, {_count_nodes(loaded)}{tell_mixing(file)}",
        )
        tries = provider != "tensorrt"  # which builds engines for each shape
        model = _find_encoder(file, loaded, request, description) or LoadedTensorModel(
            session=_describe(file, loaded, request, tries=tries), description=description
        )
    progress(1.0)
    return model


def _find_encoder(
    file: ModelFile, loaded: ort.InferenceSession, request: LoadRequest, description: ModelDescription
) -> LoadedModel | None:
    """The encoder of texts that a model is; None for others."""
    if not may_encode(request) and request.settings["serves"] != "embeddings":
        return None
    settings = request.settings
    try:
        signature = describe(loaded, unranked=None if is_ort(file.path) else file.unranked, bound=ALONE)
    except (UnsupportedModelError, UnicodeDecodeError):  # told of it as a model of tensors
        return None
    graph = OnnxSession(loaded, signature, binds=request.device != CPU, profiles=bool(settings["profile"]))
    return load_encoder(graph, request, description, alone=bool(file.mixing))


def _describe(file: ModelFile, loaded: ort.InferenceSession, request: LoadRequest, *, tries: bool) -> OnnxSession:
    """The session of a graph; whether it batches is tried, where no setting says it.

    Raises:
        LoadError: As `describe`.
    """
    settings, wanted = request.settings, request.settings["max_batch"]
    bound = Bound(
        max_batch=None if wanted is None else int(wanted),
        states=str(settings["states"]),
        optional_inputs=bool(settings["optional_inputs"]),
        threads=int(settings["threads"] or 1),
    )
    unranked = None if is_ort(file.path) else file.unranked

    def make(bound: Bound) -> OnnxSession:
        signature = describe(loaded, unranked=unranked, bound=bound)
        return OnnxSession(loaded, signature, binds=request.device != CPU, profiles=bool(settings["profile"]))

    try:
        session = make(bound)
        if wanted is None and session.signature.most_batch > 1:
            alike = False if file.mixing else _try_rows(session, file.path) if tries else None
            if alike is False or (alike is None and not names_batch(session.signature)):
                session = make(bound._replace(max_batch=1))
        session = session.with_signature(read_batching(session.signature, settings))
        if tries:
            _check_paddings(session, str(settings["padding"]))
    except LoadError as error:
        raise type(error)(f"{file.path}: {error}") from None
    except UnicodeDecodeError as error:
        raise LoadError(
            f"{file.path}: a name of an input, an output or a size is not Unicode: {error.reason}"
        ) from None
    return session


def _try_rows(session: OnnxSession, path: Path) -> bool | None:
    """As `try_rows`; a trial that fails stops no load: then requests are computed one at a time."""
    try:
        return try_rows(session, session.signature)
    except Exception as error:  # noqa: BLE001 - whatever it is, the model computes without being batched
        _log.warning("%s: requests are not batched, as trying it failed: %s: %s", path, type(error).__name__, error)
        return False


def _check_paddings(session: OnnxSession, text: str) -> None:
    """Refuse rules by which requests that are filled up would be told something else.

    Raises:
        LoadError: They would.
    """
    if session.signature.batching.paddings and (changed := try_paddings(session, session.signature)):
        raise LoadError(
            f"setting 'padding' is {text!r}, but output {changed!r} of a request that is filled up is not what the"
            " request gives alone: fill up with a value that changes nothing, cut back every output that has the size,"
            " or leave the setting out"
        )


def tell_mixing(file: ModelFile) -> str:
    """Why requests are computed one at a time, behind what else is told of a model; "" where they need not be."""
    return f", one request at a time ({file.mixing} takes a scale over all rows)" if file.mixing else ""


def is_ort(path: Path) -> bool:
    """Whether a file is of the runtime's own format."""
    return path.suffix == ".ort"


def make_options(settings: Mapping[str, Any], provider: str, *, cores: int = 0) -> ort.SessionOptions:
    """The runtime's options for a model's settings, and the cores that it was given; 0 for those of this process.

    On the processor the runtime's log is silent: all that it would tell is in the exception. Elsewhere it alone tells
    why a provider cannot be used.

    Raises:
        LoadError: The folder for profiles is none.
    """
    options = ort.SessionOptions()
    options.log_severity_level = FATAL if provider == "cpu" else ERROR
    options.graph_optimization_level = LEVELS[settings["optimization"]]
    options.enable_cpu_mem_arena = settings["arena"]
    options.enable_mem_pattern = settings["memory_pattern"]
    own = min(cores or count_cores(), count_cores())
    options.intra_op_num_threads = settings["intra_threads"] or max(1, ceil(own / settings["threads"]))
    options.inter_op_num_threads = settings["inter_threads"]
    if settings["inter_threads"] > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    spinning = "1" if settings["spinning"] else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if settings["profile"]:
        folder = Path(settings["profile"])
        if not folder.is_absolute() or not folder.is_dir():
            why = "there is no such folder; make it" if folder.is_absolute() else "it must be the absolute path of one"
            raise LoadError(f"setting 'profile', a folder, is {str(folder)!r}: {why}")
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "inferd-onnx")
    return options


def _open(
    file: ModelFile, options: ort.SessionOptions, providers: list[tuple[str, dict[str, Any]]], provider: str
) -> ort.InferenceSession:
    """Load, and check that nothing else computes than what was asked for.

    Raises:
        LoadError: As `load`.
    """
    said: list[str] = []
    try:
        if provider == "cpu":
            session = _make(file, options, providers)
        else:
            with overheard(said):
                session = _make(file, options, providers)
    except state.NotImplemented as error:
        raise UnsupportedModelError(f"{file.path}: {tell(error)}") from None
    except state.EPFail as error:
        raise LoadError(f"provider {provider!r} cannot be used here: {tell(error)}") from None
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises, the file is why: it was told nothing else
        raise LoadError(f"{file.path}: {tell(error)}") from None
    check_providers(provider, session.get_providers(), said[0] if said else "")
    return session


def _make(
    file: ModelFile, options: ort.SessionOptions, providers: list[tuple[str, dict[str, Any]]]
) -> ort.InferenceSession:
    """From its path, so that external data is looked for beside it and weights are not held twice."""
    return ort.InferenceSession(str(file.path), options, providers=providers, enable_fallback=0)


def _count_nodes(session: ort.InferenceSession) -> str:
    """Which provider computes how many operators: "cuda 212, cpu 7"."""
    counts = dict.fromkeys(session.get_providers(), 0)
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    names = {long: short for short, long in NAMES.items()}
    told = any(counts.values())  # of .ort files the runtime does not say it
    return ", ".join(names.get(name, name) + (f" {count} operators" if told else "") for name, count in counts.items())
