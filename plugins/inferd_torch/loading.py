"""From a request to a loaded model, in the order that takes memory last."""

from collections.abc import Callable
from typing import Any

import psutil
import torch

from inferd.plugin import LoadedModel, LoadRequest, ModelDescription, ReportProgress
from inferd_torch import devices, network
from inferd_torch.artifact import Artifact
from inferd_torch.attention import AttendRows
from inferd_torch.capacity import check_weights, derive_limits
from inferd_torch.folder import read_folder
from inferd_torch.gguf import read_gguf
from inferd_torch.pulse import Pulse
from inferd_torch.session import TorchSession
from inferd_torch.survey import survey


def load(request: LoadRequest, progress: ReportProgress, *, free_bytes: int) -> LoadedModel:
    """Load a model onto a device that has `free_bytes` free.

    Raises:
        LoadError: The model is not sound, is none that paged attention can serve, or does not fit into memory.
    """
    device = torch.device("cpu" if request.device == devices.CPU else request.device)
    progress(0.0)
    artifact = (read_folder if request.path.is_dir() else read_gguf)(request.path)
    config = network.read_config(artifact)
    dtype = network.choose_dtype(config, str(request.settings["dtype"]), device)
    weights_bytes = artifact.parameters * dtype.itemsize
    check_weights(request.path, weights_bytes=weights_bytes, free_bytes=free_bytes)
    with Pulse(progress, _meter(device), expected_bytes=weights_bytes):
        session = _make_session(request, artifact, config, device=device, dtype=dtype)
    progress(1.0)
    description = ModelDescription(
        architecture=config.model_type,
        parameters=artifact.parameters,
        weight_format=artifact.weight_format,
        compute_format=str(dtype).removeprefix("torch.").upper(),
    )
    return LoadedModel(session=session, vocabulary=artifact.vocabulary, description=description)


def _make_session(
    request: LoadRequest, artifact: Artifact, config: Any, *, device: torch.device, dtype: torch.dtype
) -> TorchSession:
    model = network.load_network(artifact, config, device=device, dtype=dtype)
    found = survey(artifact, config, model, device)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)  # for Triton, which launches on the current device of its thread
    limits = derive_limits(
        request.path,
        request.settings,
        model_tokens=network.read_context(artifact, config),
        kv_token_bytes=sum(shape.numbers for shape in found.shapes) * dtype.itemsize,
        vocabulary_size=found.vocabulary_size,
        embedding_size=found.embedding_size,
        free_bytes=devices.free_bytes(request.device),
        cuda=cuda,
    )
    return TorchSession(
        model,
        shapes=found.shapes,
        limits=limits,
        device=device,
        dtype=dtype,
        attend_rows=_paged_decode(device) if cuda else None,
        graphs=cuda and bool(request.settings["cuda_graphs"]),
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
