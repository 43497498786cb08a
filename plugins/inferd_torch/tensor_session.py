"""Networks from tensors to tensors: those that are known here by the type that a folder says; only weights are read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from inferd.plugin import (
    LoadedTensorModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    ModelDescription,
    ReportProgress,
    Signature,
    Tensor,
    list_hf_weights,
    read_hf_type,
)
from inferd_torch import devices
from inferd_torch.capacity import CUDA, PROCESSOR
from inferd_torch.plugin import SPEC
from inferd_torch.voice_activity import SIGNATURE, VoiceActivity

WORKSPACE_BYTES = 64 << 20  # of what is computed: the largest batch of the networks below takes a tenth of it
OF_TOKENS = (
    "context_tokens",
    "kv_tokens",
    "max_sequences",
    "max_step_tokens",
    "block_tokens",
    "pre_tokenizer",
    "draft",
)
"""Settings that are about texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network that is known here.

    Attributes:
        make: Makes it, without its weights where torch is told so.
        signature: What it takes and gives.
    """

    make: Callable[[], nn.Module]
    signature: Signature


NETWORKS: Mapping[str, Network] = {"silero_vad": Network(make=VoiceActivity, signature=SIGNATURE)}
"""By the `model_type` of their config.json; the names are those of `plugin.TENSOR_TYPES`."""


class TorchTensorSession:
    """One loaded network.

    Args:
        network: It, with its weights on a device.
        signature: What it takes and gives.
        device: Where it computes.
    """

    def __init__(self, network: nn.Module, signature: Signature, device: torch.device) -> None:
        self.signature = signature
        self._network = network
        self._device = device

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Mapping[str, Tensor]:
        """Compute outputs.

        Raises:
            ValueError: An input is missing, or of another shape than the signature says.
        """
        given = [self._read(info.name, inputs) for info in self.signature.inputs]
        with torch.inference_mode():
            found = self._network(*given)
        names = [info.name for info in self.signature.outputs]
        types = {info.name: info.element_type for info in self.signature.outputs}
        arrays = {name: each.cpu().numpy() for name, each in zip(names, found, strict=True) if name in outputs}
        return {
            name: Tensor(element_type=types[name], shape=array.shape, array=array) for name, array in arrays.items()
        }

    def _read(self, name: str, inputs: Mapping[str, Tensor]) -> torch.Tensor:
        if name not in inputs:
            raise ValueError(f"input {name!r} is missing")
        return torch.tensor(inputs[name].array, device=self._device)  # a copy: nobody writes to what was given

    def close(self) -> None:
        """Give the memory back."""
        del self._network
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def measure(request: LoadRequest) -> MemoryNeed:
    """What a network of a known type takes.

    Raises:
        LoadError: A setting is about texts, or asks for other numbers than the network has.
    """
    _refuse_settings(request)
    with torch.device("meta"):
        network = _network_of(request.path).make()
    weights_bytes = sum(weight.numel() * weight.itemsize for weight in network.parameters())
    room = PROCESSOR if request.device == devices.CPU else CUDA
    return MemoryNeed(weights_bytes=weights_bytes, workspace_bytes=room.library_bytes + WORKSPACE_BYTES)


def load(request: LoadRequest, progress: ReportProgress) -> LoadedTensorModel:
    """Load it.

    Raises:
        LoadError: As `measure`; a weight is missing, of another shape, or not of this network, or there is no room.
    """
    need = measure(request)
    if need.total_bytes > request.capacity_bytes:
        raise LoadError(
            f"{request.path}: needs {need.total_bytes} bytes of memory, but {request.capacity_bytes} may be given"
        )
    progress(0.0)
    known, device = _network_of(request.path), torch.device("cpu" if request.device == devices.CPU else request.device)
    with torch.device("meta"):
        network = known.make()
    weights: dict[str, torch.Tensor] = {}
    for file in list_hf_weights(request.path):
        weights |= _read_file(file, device)
    try:
        network.load_state_dict({name: each.float() for name, each in weights.items()}, assign=True)
    except RuntimeError as error:
        raise LoadError(f"{request.path}: {' '.join(str(error).split())[:500]}") from None
    session = TorchTensorSession(network.eval(), known.signature, device)
    progress(1.0)
    description = ModelDescription(
        architecture=read_hf_type(request.path),
        parameters=sum(weight.numel() for weight in network.parameters()),
        weight_format=str(next(iter(weights.values())).dtype).removeprefix("torch.").upper(),
        compute_format="FLOAT32",
    )
    return LoadedTensorModel(session=session, description=description)


def _network_of(path: Path) -> Network:
    return NETWORKS[read_hf_type(path)]


def _read_file(file: Path, device: torch.device) -> dict[str, torch.Tensor]:
    try:
        return load_file(file, device=str(device))
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{file}: {error}: the file is damaged or missing; fetch it again") from error


def _refuse_settings(request: LoadRequest) -> None:
    defaults = {setting.name: setting.default for setting in SPEC.settings}
    kind = read_hf_type(request.path)
    for name in OF_TOKENS:
        if request.settings[name] != defaults[name]:
            raise LoadError(f"setting {name!r} is about texts, and a {kind} takes none; leave it out")
    if (dtype := request.settings["dtype"]) not in ("auto", "float32"):
        raise LoadError(f"setting 'dtype' is {dtype!r}, and a {kind} computes with float32 alone; leave it out")
