"""The backend's class: it probes the host and loads models.

Importing it loads no framework, so that probing does not take the seconds that torch needs.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from inferd.plugin import (
    LoadedModel,
    LoadedTensorModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    Probe,
    ReportProgress,
    TrainRequest,
    load_both,
    measure_both,
    naming,
    read_hf_type,
)
from inferd_torch.devices import check_device, find_devices
from inferd_torch.plugin import CLASSIFIER_MARK, SPEC, TENSOR_TYPES

if TYPE_CHECKING:
    from inferd.plugin.ranks import Seat
    from inferd_torch.loading import Examined
    from inferd_torch.training.following import TorchFollower
    from inferd_torch.training.loading import Plan
    from inferd_torch.training.session import TorchTrainSession


class TorchBackend:
    """Runs Hugging Face model folders and GGUF files through transformers."""

    def __init__(self) -> None:
        self._measured: tuple[LoadRequest, Examined] | None = None  # so that the load that follows need not read again
        self._planned: tuple[TrainRequest, Plan] | None = None  # as above

    def probe(self) -> Probe:
        """CUDA devices first, then the processor.

        Raises:
            ModuleNotFoundError: A framework is not installed.
        """
        return Probe(devices=find_devices())

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """Read all of a model but its weights, and send a token through its network without them.

        Raises:
            LoadError: The model is not sound, is none that paged attention can serve, or a setting contradicts it.
        """
        if _has_tensors(request):
            from inferd_torch import tensor_session  # noqa: PLC0415 - it imports torch

            check_device(request.device)
            return tensor_session.measure(request)
        if _has_labels(request):
            from inferd_torch.classifying import serving  # noqa: PLC0415 - it imports torch and transformers

            return serving.measure(request)
        return measure_both(request, SPEC, self._measure)

    def _measure(self, request: LoadRequest) -> MemoryNeed:
        """What one model that writes text takes."""
        model = _examine(request)
        self._measured = (request, model)
        return model.need

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
        """Check all that can be checked before memory is taken, then load.

        Raises:
            LoadError: As `measure`, or a weight is missing, or there is less memory than it takes.
        """
        if _has_tensors(request):
            from inferd_torch import tensor_session  # noqa: PLC0415 - it imports torch

            check_device(request.device)
            return tensor_session.load(request, progress)
        if _has_labels(request):
            from inferd_torch.classifying import serving  # noqa: PLC0415 - as above

            return serving.load(request, progress)
        return load_both(request, SPEC, self._measure, self._load, progress)

    def _load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel:
        """Load one model that writes text."""
        from inferd_torch.loading import load  # noqa: PLC0415 - it imports torch and transformers

        measured, self._measured = self._measured, None
        model = measured[1] if measured is not None and measured[0] == request else _examine(request)
        with naming(lambda: _name_architecture(request)):
            return load(model, request, progress)

    def measure_training(self, request: TrainRequest) -> MemoryNeed:
        """Send the largest part of a step through the network without numbers.

        Raises:
            TrainError: The recipe or the model does not permit it, or there is less memory than it takes.
        """
        from inferd_torch.training import loading  # noqa: PLC0415 - it imports torch and transformers

        plan = loading.examine(request)
        self._planned = (request, plan)
        return plan.need

    def train(self, request: TrainRequest, progress: ReportProgress) -> "TorchTrainSession":
        """Make a session that trains.

        Raises:
            TrainError: The recipe, the model or the rows do not permit it.
        """
        from inferd_torch.training import loading  # noqa: PLC0415 - as above

        planned, self._planned = self._planned, None
        plan = planned[1] if planned is not None and planned[0] == request else loading.examine(request)
        return loading.make(plan, progress)

    def follow(self, request: TrainRequest, progress: ReportProgress) -> "TorchFollower":
        """Make one of those that help with a training that another worker leads.

        Raises:
            TrainError: As `train`.
        """
        from inferd_torch.training import loading  # noqa: PLC0415 - as above

        planned, self._planned = self._planned, None
        plan = planned[1] if planned is not None and planned[0] == request else loading.examine(request)
        return loading.follow(plan, progress)

    def join(self, seat: "Seat") -> None:
        """Be one of the other ranks of a model that spans devices, see `inferd.plugin.ranks`."""
        from inferd_torch.spanning.member import serve  # noqa: PLC0415 - it imports torch and transformers

        serve(seat)


def _has_tensors(request: LoadRequest) -> bool:
    """Whether a folder is of a network from tensors to tensors."""
    return request.path.is_dir() and read_hf_type(request.path) in TENSOR_TYPES


def _has_labels(request: LoadRequest) -> bool:
    """Whether a folder is of a classifier of texts."""
    return (request.path / CLASSIFIER_MARK).is_file()


def _examine(request: LoadRequest) -> "Examined":
    check_device(request.device)
    if not request.path.is_dir() and find_spec("gguf") is None:
        raise LoadError(f"{request.path}: gguf, which reads GGUF files, is not installed: pip install 'inferd[torch]'")
    from inferd_torch.loading import examine  # noqa: PLC0415 - as above

    with naming(lambda: _name_architecture(request)):
        return examine(request)


def _name_architecture(request: LoadRequest) -> str:
    """What a file or folder says that it is; "" where that cannot be read."""
    if request.path.is_dir():
        return read_hf_type(request.path)
    from inferd_torch.gguf import name_architecture  # noqa: PLC0415 - it imports gguf

    return name_architecture(request.path)
