"""From a request to what it needs, and on to a loaded model: what takes memory comes last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from inferd.plugin import LoadedModel, LoadRequest, MemoryNeed, ModelDescription, ReportProgress, TokenLimits
from inferd_torch import devices, network
from inferd_torch.artifact import Artifact
from inferd_torch.attention import AttendRows
from inferd_torch.capacity import CUDA, PROCESSOR, Sizes, check_need, derive_limits, derive_need
from inferd_torch.folder import read_folder
from inferd_torch.gguf import read_gguf, refuse_unread
from inferd_torch.pool import LayerShape
from inferd_torch.pulse import Pulse
from inferd_torch.session import TorchSession
from inferd_torch.survey import Survey, survey


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A model that is sound as far as it has been read, and what its session is to be.

    Attributes:
        artifact: What is loaded.
        config: As transformers reads it.
        device: Where to.
        dtype: Of weights, keys and values.
        shapes: Of keys and values, by layer.
        limits: Of the session.
        need: What it takes.
    """

    artifact: Artifact
    config: Any
    device: torch.device
    dtype: torch.dtype
    shapes: list[LayerShape]
    limits: TokenLimits
    need: MemoryNeed


def examine(request: LoadRequest) -> Examined:
    """Read all of a model but its weights.

    Raises:
        LoadError: The model is not sound, is none that paged attention can serve, or a setting contradicts it.
    """
    device = torch.device("cpu" if request.device == devices.CPU else request.device)
    if request.path.is_dir():
        artifact = read_folder(request.path)
    else:
        artifact = read_gguf(request.path, str(request.settings["pre_tokenizer"] or ""))
    config = network.read_config(artifact)
    if artifact.metadata:
        refuse_unread(artifact, config.get_text_config(decoder=True))
    dtype = network.choose_dtype(config, str(request.settings["dtype"]), device)
    skeleton = network.make_skeleton(artifact, config)
    weights_bytes = sum(weight.numel() for weight in skeleton.parameters()) * dtype.itemsize
    found = survey(artifact, config, skeleton)
    sizes = _measure(found, dtype, weights_bytes=weights_bytes, context_tokens=network.read_context(artifact, config))
    room = CUDA if device.type == "cuda" else PROCESSOR
    limits = derive_limits(request.path, request.settings, sizes, room=room, capacity_bytes=request.capacity_bytes)
    return Examined(
        artifact=artifact,
        config=config,
        device=device,
        dtype=dtype,
        shapes=found.shapes,
        limits=limits,
        need=derive_need(sizes, limits, room=room),
    )


def _measure(found: Survey, dtype: torch.dtype, *, weights_bytes: int, context_tokens: int) -> Sizes:
    layers_bytes = [shape.numbers * dtype.itemsize for shape in found.shapes]
    return Sizes(
        context_tokens=context_tokens,
        weights_bytes=weights_bytes,
        kv_token_bytes=sum(layers_bytes),
        layer_token_bytes=max(layers_bytes),
        number_bytes=dtype.itemsize,
        vocabulary_size=found.vocabulary_size,
        width=found.embedding_size,
    )


def load(model: Examined, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
    """Load a model that was examined.

    Raises:
        LoadError: A weight is missing or has a wrong shape, or there is less memory than it takes.
    """
    progress(0.0)
    check_need(request.path, model.need, model.limits, capacity_bytes=request.capacity_bytes)
    with Pulse(progress, _meter(model.device), expected_bytes=model.need.weights_bytes):
        session = _make_session(model, graphs=bool(request.settings["cuda_graphs"]))
    progress(1.0)
    description = ModelDescription(
        architecture=model.config.model_type,
        parameters=model.artifact.parameters,
        weight_format=model.artifact.weight_format,
        compute_format=str(model.dtype).removeprefix("torch.").upper(),
    )
    artifact = model.artifact
    return LoadedModel(
        session=session,
        vocabulary=artifact.vocabulary,
        description=description,
        sampling=artifact.sampling,
        embedding=artifact.embedding,
    )


def _make_session(model: Examined, *, graphs: bool) -> TorchSession:
    device = model.device
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)  # for Triton, which launches on the current device of its thread
    return TorchSession(
        network.load_network(model.artifact, model.config, device=device, dtype=model.dtype),
        shapes=model.shapes,
        limits=model.limits,
        device=device,
        dtype=model.dtype,
        attend_rows=_paged_decode(device) if cuda else None,
        graphs=cuda and graphs,
    )


def _paged_decode(device: torch.device) -> AttendRows:
    from inferd_torch.paged_decode import PagedDecode  # noqa: PLC0415 - Triton comes with CUDA builds only

    return PagedDecode(torch.cuda.get_device_properties(device).multi_processor_count)


def _meter(device: torch.device) -> Callable[[], int]:
    """What reads how much memory this process has taken on a device, in bytes."""
    if device.type == "cuda":
        return lambda: torch.cuda.memory_allocated(device)
    process = psutil.Process()
    return lambda: int(process.memory_info().rss)
