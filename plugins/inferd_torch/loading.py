"""From a request to what it needs, and on to a loaded model: what takes memory comes last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch

from inferd.plugin import (
    LoadedModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    ModelDescription,
    ReportProgress,
    TokenLimits,
    UnsupportedModelError,
)
from inferd_torch import devices, network
from inferd_torch.artifact import Artifact
from inferd_torch.attention import AttendRows
from inferd_torch.capacity import CUDA, PROCESSOR, Sizes, check_need, derive_limits, derive_need, times
from inferd_torch.folder import read_folder
from inferd_torch.gguf import read_gguf, refuse_unread
from inferd_torch.pool import LayerShape
from inferd_torch.pulse import Pulse
from inferd_torch.session import TorchSession
from inferd_torch.spanning.group import Group
from inferd_torch.spanning.parts import folder_parts
from inferd_torch.spanning.share import Share, check_share, divide
from inferd_torch.survey import Survey, survey

if TYPE_CHECKING:
    from inferd_torch.spanning.session import SpanningSession


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
        share: What of it each of several ranks holds; None for one. All but `artifact` and `need` is that of a rank.
    """

    artifact: Artifact
    config: Any
    device: torch.device
    dtype: torch.dtype
    shapes: list[LayerShape]
    limits: TokenLimits
    need: MemoryNeed
    share: Share | None = None


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
    skeleton, share = network.make_skeleton(artifact, config), None
    if (ranks := _count_ranks(request)) > 1:
        share, whole = divide(artifact, config, ranks), skeleton
        config, skeleton = share.config, network.make_skeleton(artifact, share.config)
        check_share(artifact, share, whole, skeleton)
    together = request.ranks.count(request.device) or 1  # on one device
    weights_bytes = sum(weight.numel() for weight in skeleton.parameters()) * dtype.itemsize
    found = survey(artifact, config, skeleton)
    sizes = _measure(found, dtype, weights_bytes=weights_bytes, context_tokens=network.read_context(artifact, config))
    room = CUDA if device.type == "cuda" else PROCESSOR
    limits = derive_limits(
        request.path, request.settings, sizes, room=room, capacity_bytes=request.capacity_bytes // together
    )
    return Examined(
        artifact=artifact,
        config=config,
        device=device,
        dtype=dtype,
        shapes=found.shapes,
        limits=limits,
        need=times(derive_need(sizes, limits, room=room), together),
        share=share,
    )


def _count_ranks(request: LoadRequest) -> int:
    """How many processes compute a model.

    Raises:
        LoadError: The setting says something else than the devices that it was given.
    """
    given, asked = len(request.ranks) or 1, request.settings["ranks"]
    if asked not in (None, given):
        raise LoadError(
            f"{request.path}: setting 'ranks' is {asked}, but the model is given {given} devices"
            f" ({', '.join(request.ranks) or request.device}): leave it out, or set 'devices' to {asked}"
        )
    if (twice := request.ranks.count(request.device)) > 1 and request.device != devices.CPU:
        raise LoadError(
            f"{request.path}: setting 'ranks' is {asked}, with {twice} ranks on {request.device}: there may be one on"
            f" each device; set 'devices' to {given} instead"
        )
    if given > 1 and not request.path.is_dir():
        raise UnsupportedModelError(
            f"{request.path}: a GGUF file is not divided among {given} ranks: take the model's folder of safetensors"
        )
    return given


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
    session: TorchSession | SpanningSession
    with Pulse(progress, _meter(model.device), expected_bytes=model.need.weights_bytes):
        if model.share is None:
            whole = network.load_network(model.artifact, model.config, device=model.device, dtype=model.dtype)
            session = make_session(model, whole, graphs=bool(request.settings["cuda_graphs"]))
        else:
            from inferd_torch.spanning.gathering import load_spanning  # noqa: PLC0415 - it imports this module

            session = load_spanning(model, request)
    progress(1.0)
    ranks = 1 if model.share is None else model.share.ranks
    description = ModelDescription(
        architecture=model.config.model_type,
        parameters=model.artifact.parameters,
        weight_format=model.artifact.weight_format,
        compute_format=str(model.dtype).removeprefix("torch.").upper() + (f" by {ranks} ranks" if ranks > 1 else ""),
    )
    artifact = model.artifact
    return LoadedModel(
        session=session,
        vocabulary=artifact.vocabulary,
        description=description,
        sampling=artifact.sampling,
        embedding=artifact.embedding,
    )


def load_part(model: Examined, rank: int) -> Any:
    """The network of a rank, with its part of the weights.

    Raises:
        LoadError: A weight is missing or has a wrong shape.
    """
    if model.share is None:
        raise ValueError("the model is not divided among ranks")
    with folder_parts(model.artifact, model.share, rank) as parts:
        return network.load_network(model.artifact, model.config, device=model.device, dtype=model.dtype, weights=parts)


def make_session(model: Examined, loaded: Any, group: Group | None = None, *, graphs: bool) -> TorchSession:
    """The session of a network that was loaded, or of the part that one of a `group` has."""
    device = model.device
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)  # for Triton, which launches on the current device of its thread
    if group is not None and model.share is not None:
        group.join(loaded, model.share)
    return TorchSession(
        loaded,
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
