"""From a request to what it needs, and on to a loaded model: what takes memory comes last."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
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
from inferd_torch.capacity import (
    CUDA,
    PROCESSOR,
    Sizes,
    check_need,
    choose_step,
    count_recordings,
    derive_limits,
    derive_need,
    derive_workspace,
    times,
)
from inferd_torch.folder import read_folder
from inferd_torch.fused import fuse
from inferd_torch.packed.linear import PackedLinear, count_bytes
from inferd_torch.packed.rounded import CAPABILITY, MultiplyRounded, NarrowProduct, RoundedLinear
from inferd_torch.pool import LayerShape
from inferd_torch.pulse import Pulse
from inferd_torch.session import TorchSession
from inferd_torch.spanning.group import Group
from inferd_torch.spanning.parts import folder_parts
from inferd_torch.spanning.share import Share, check_share, divide
from inferd_torch.survey import survey
from inferd_torch.tally import count_step
from inferd_torch.vision.sight import Hearing, Sight, look
from inferd_torch.vision.tower import Tower
from inferd_torch.warming import warm

if TYPE_CHECKING:
    from inferd_torch.spanning.session import SpanningSession

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A model that is sound as far as it has been read, and what its session is to be.

    Attributes:
        artifact: What is loaded.
        config: As transformers reads it.
        device: Where to.
        dtype: Of weights, keys and values.
        shapes: Of keys and values, by layer.
        windows: The sliding window of each layer, or None.
        limits: Of the session.
        need: What it takes.
        fused: Take the small steps of its layers together, where it is known.
        sight: What it does with pictures or sounds, or why it takes none.
        share: What of it each of several ranks holds; None for one. All but `artifact` and `need` is that of a rank.
    """

    artifact: Artifact
    config: Any
    device: torch.device
    dtype: torch.dtype
    shapes: list[LayerShape]
    windows: Mapping[int, int | None]
    limits: TokenLimits
    need: MemoryNeed
    share: Share | None = None
    fused: bool = True
    sight: Sight | Hearing | str = ""


def examine(request: LoadRequest) -> Examined:
    """Read all of a model but its weights.

    Raises:
        LoadError: The model is not sound, is none that paged attention can serve, or a setting contradicts it.
    """
    device = torch.device("cpu" if request.device == devices.CPU else request.device)
    artifact, config = _read(request)
    artifact = _settle_weights(request, artifact)
    ranks = _count_ranks(request)
    dtype = network.choose_dtype(artifact, config, str(request.settings["dtype"]), device)
    skeleton, share = network.make_skeleton(artifact, config), None
    if ranks > 1 and (artifact.packing is not None or artifact.rounded):
        what = f"4 bits ({artifact.packing.method})" if artifact.packing else "8 bits (setting 'weights')"
        raise UnsupportedModelError(
            f"{request.path}: weights of {what} are not divided among {ranks} ranks: leave out 'devices' and 'ranks',"
            " or take plain weights"
        )
    if ranks > 1:
        share, whole = divide(artifact, config, ranks), skeleton
        config, skeleton = share.config, network.make_skeleton(artifact, share.config)
        check_share(artifact, share, whole, skeleton)
    sight = look(artifact, config, request.settings, ranks=ranks)
    together = request.ranks.count(request.device) or 1  # on one device
    weights_bytes = sum(weight.numel() for weight in skeleton.parameters()) * dtype.itemsize + count_bytes(skeleton)
    found = survey(artifact, config, skeleton)
    room = CUDA if device.type == "cuda" else PROCESSOR
    step_tokens, max_sequences = choose_step(request.settings, room)
    step_bytes = count_step(skeleton, tokens=step_tokens, rows=max_sequences)
    sizes = Sizes(
        context_tokens=network.read_context(artifact, config),
        weights_bytes=weights_bytes,
        kv_token_bytes=sum(shape.numbers for shape in found.shapes) * dtype.itemsize,
        layer_token_bytes=max(shape.numbers for shape in found.shapes) * dtype.itemsize,
        number_bytes=dtype.itemsize,
        vocabulary_size=found.vocabulary_size,
        width=found.embedding_size,
        heads=found.scored_heads,
        step_bytes=step_bytes and step_bytes * dtype.itemsize // skeleton.dtype.itemsize,
        seeing_bytes=0 if isinstance(sight, str) else sight.count_bytes(config, number_bytes=dtype.itemsize),
    )
    recordings = 0
    if device.type == "cuda" and request.settings["cuda_graphs"]:
        recordings = count_recordings(step_tokens=step_tokens, max_sequences=max_sequences)
    limits = derive_limits(
        request.path,
        request.settings,
        sizes,
        room=room,
        capacity_bytes=request.capacity_bytes // together,
        workspace_bytes=derive_workspace(
            sizes, room=room, step_tokens=step_tokens, max_sequences=max_sequences, recordings=recordings
        ),
    )
    if share is not None:
        limits = replace(limits, ahead=False)  # each step is told to the others when the one before is over
    if not isinstance(sight, str):
        limits = replace(limits, whole_pictures=sight.kind.whole)
    return Examined(
        artifact=artifact,
        config=config,
        device=device,
        dtype=dtype,
        shapes=found.shapes,
        windows=found.windows,
        limits=limits,
        need=times(derive_need(sizes, limits, room=room, recordings=recordings), together),
        share=share,
        fused=bool(request.settings["fused"]),
        sight=sight,
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
    return given


def _settle_weights(request: LoadRequest, artifact: Artifact) -> Artifact:
    """What is read of a folder, with its weights as the setting says.

    Raises:
        LoadError: The setting contradicts what is stored.
    """
    if request.settings["weights"] == "stored":
        return artifact
    stored = f"4 bits ({artifact.packing.method})" if artifact.packing is not None else "a GGUF file"
    if artifact.packing is not None or "gguf_file" in artifact.options:
        raise LoadError(
            f"{request.path}: setting 'weights' is {request.settings['weights']!r}, which rounds plain weights of"
            f" folders; these are of {stored}: leave it out"
        )
    return replace(artifact, rounded=True)


def _read(request: LoadRequest) -> tuple[Artifact, Any]:
    """What is on disk, and its configuration."""
    if request.path.is_dir():
        artifact = read_folder(request.path)
        return artifact, network.read_config(artifact)
    from inferd_torch.gguf import read_gguf, refuse_unread  # noqa: PLC0415 - it imports gguf, which folders do without

    artifact = read_gguf(request.path, str(request.settings["pre_tokenizer"] or ""))
    config = network.read_config(artifact)
    refuse_unread(artifact, config.get_text_config(decoder=True))
    return artifact, config


def load(model: Examined, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
    """Load a model that was examined.

    Raises:
        LoadError: A weight is missing or has a wrong shape, or there is less memory than it takes.
    """
    progress(0.0)
    check_need(request.path, model.need, model.limits, capacity_bytes=request.capacity_bytes)
    session: TorchSession | SpanningSession
    with (
        _telling_of_memory(model, request),
        Pulse(progress, meter(model.device), expected_bytes=model.need.weights_bytes),
    ):
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
        compute_format=str(model.dtype).removeprefix("torch.").upper()
        + (" with weights of fp8" if model.artifact.rounded else "")
        + (f" by {ranks} ranks" if ranks > 1 else ""),
    )
    artifact = model.artifact
    return LoadedModel(
        session=session,
        vocabulary=artifact.vocabulary,
        description=description,
        sampling=artifact.sampling,
        embedding=artifact.embedding,
        pictures=model.sight,
    )


@contextmanager
def _telling_of_memory(model: Examined, request: LoadRequest) -> Iterator[None]:
    """A device that has too little memory for what was counted is a LoadError that says how much that was."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise LoadError(
            f"{request.path}: the device gave too little of the {model.need.total_bytes} bytes that were counted"
            f" ({str(error).splitlines()[0]}): lower the setting 'kv_tokens' (now"
            f" {model.limits.blocks * model.limits.block_tokens}) or 'max_step_tokens' (now"
            f" {model.limits.max_step_tokens}), or unload what else has memory there"
        ) from error


def load_part(model: Examined, rank: int) -> Any:
    """The network of a rank, with its part of the weights.

    Raises:
        LoadError: A weight is missing or has a wrong shape.
    """
    if model.share is None:
        raise ValueError("the model is not divided among ranks")
    with _parts(model, model.share, rank) as parts:
        return network.load_network(model.artifact, model.config, device=model.device, dtype=model.dtype, weights=parts)


def _parts(model: Examined, share: Share, rank: int) -> AbstractContextManager[Mapping[str, Any]]:
    if model.artifact.path.is_dir():
        return folder_parts(model.artifact, share, rank)
    from inferd_torch.spanning.gguf_parts import gguf_parts  # noqa: PLC0415 - it imports gguf

    return gguf_parts(model.artifact, share, rank, network.make_skeleton(model.artifact, model.config))


def make_session(model: Examined, loaded: Any, group: Group | None = None, *, graphs: bool) -> TorchSession:
    """The session of a network that was loaded, or of the part that one of a `group` has."""
    device = model.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for Triton, which launches on the current device of its thread
        # A step that takes more than was asked for fails its tasks, instead of taking what others were promised.
        most = torch.cuda.memory_reserved(device) + model.need.total_bytes
        share = most / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)
    if group is not None and model.share is not None:
        group.join(loaded, model.share)
    return open_session(
        loaded,
        shapes=model.shapes,
        windows=model.windows,
        limits=model.limits,
        device=device,
        dtype=model.dtype,
        fused=model.fused,
        graphs=graphs,
        tower=_raise_tower(loaded, model.sight),
    )


def _raise_tower(net: Any, sight: Sight | Hearing | str) -> Tower | None:
    return None if isinstance(sight, str) else Tower(net, sight.kind, kept_tokens=sight.kept_tokens)


def open_session(
    net: Any,
    *,
    shapes: Sequence[LayerShape],
    windows: Mapping[int, int | None],
    limits: TokenLimits,
    device: torch.device,
    dtype: torch.dtype,
    fused: bool,
    graphs: bool,
    tower: Tower | None = None,
) -> TorchSession:
    """A session of a network whose weights are where they compute, warmed up: what it compiles is compiled.

    Args:
        net: The network of transformers.
        shapes: Of keys and values, by layer.
        windows: The sliding window of each layer, or None.
        limits: Of the session.
        device: Where it is.
        dtype: Of keys and values.
        fused: Take small steps together, where the network is known; on CUDA.
        graphs: Record decode steps; on CUDA.
        tower: What sees pictures.
    """
    make = partial(TorchSession, net, shapes=shapes, limits=limits, device=device, dtype=dtype, tower=tower)
    if device.type != "cuda":
        return make()
    # Triton comes with CUDA builds only.
    from inferd_torch.draw_kernels import draw  # noqa: PLC0415
    from inferd_torch.fused_kernels import TritonSteps  # noqa: PLC0415
    from inferd_torch.packed.kernels import TritonProduct  # noqa: PLC0415
    from inferd_torch.packed.rounded_kernels import WideProduct, round_rows  # noqa: PLC0415
    from inferd_torch.paged_decode import PagedDecode  # noqa: PLC0415
    from inferd_torch.paged_prefill import PagedPrefill  # noqa: PLC0415

    card, decoder = torch.cuda.get_device_properties(device), None
    narrow: MultiplyRounded = WideProduct(card.multi_processor_count)
    if card.major >= CAPABILITY:
        narrow = NarrowProduct(round_rows, narrow)
    for module in net.modules():
        if isinstance(module, PackedLinear):
            module.product = TritonProduct(card.multi_processor_count)
        elif isinstance(module, RoundedLinear):
            module.product = narrow
    if graphs and not network.is_recordable(net, dtype, (card.major, card.minor)):
        graphs = False
        _log.warning("decode steps are not recorded: products of experts in %s wait for this device", dtype)
    if fused and tower is None:  # what takes small steps together knows of no pictures
        free = torch.cuda.empty_cache
        decoder = fuse(net, windows=windows, context_tokens=limits.context_tokens, steps=TritonSteps, freed=free)
    attend = (PagedDecode(card.multi_processor_count), PagedPrefill(card.major))
    session = make(attend=attend, draw=draw, fused=decoder, graphs=graphs)
    warm(session)
    return session


def meter(device: torch.device) -> Callable[[], int]:
    """What reads how much memory this process has taken on a device, in bytes."""
    if device.type == "cuda":
        return lambda: torch.cuda.memory_allocated(device)
    process = psutil.Process()
    return lambda: int(process.memory_info().rss)
