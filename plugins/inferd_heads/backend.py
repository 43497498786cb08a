"""The backend's class: it loads classifiers, and trains them."""

from collections.abc import Callable

import numpy as np

from inferd.plugin import (
    LoadedTensorModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    ModelDescription,
    Probe,
    ReportProgress,
    TrainError,
    TrainRequest,
    TrainSession,
    read_batching,
)
from inferd_heads.model_folder import MARK, measure_model, read_model
from inferd_heads.probing import CPU, probe
from inferd_heads.serving import ClassifierSession, make_recipe
from inferd_heads.training import ClassifierTraining, measure

WORKSPACE_BYTES = 48 << 20
"""Numpy, the code, and what a batch of texts takes: measured, with a margin."""


class HeadsBackend:
    """Classifiers on the processor."""

    def probe(self) -> Probe:
        """The processor: it is always there."""
        return probe()

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """The numbers of a folder, and what texts take.

        Raises:
            LoadError: It is no sound classifier.
        """
        _check(request)
        _, size_bytes = measure_model(request.path)
        return MemoryNeed(weights_bytes=size_bytes, workspace_bytes=WORKSPACE_BYTES)

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedTensorModel:
        """Read a folder.

        Raises:
            LoadError: As `measure`, or a setting contradicts it.
        """
        _check(request)
        progress(0.0)
        model = read_model(request.path)
        settings = request.settings
        most, top = settings["max_batch"], settings["top"]
        session = ClassifierSession(model, most_batch=int(most or 1), refuse=settings["longer"] == "refuse")
        session.signature = read_batching(session.signature, settings)
        progress(1.0)
        description = ModelDescription(
            architecture="logistic",
            parameters=int(np.size(model.weights) + np.size(model.bias)),
            weight_format="F32",
            compute_format="F32",
        )
        return LoadedTensorModel(
            session=session, description=description, recipe=make_recipe(model, None if top is None else int(top))
        )

    def measure_training(self, request: TrainRequest) -> MemoryNeed:
        """What a training takes at most; its rows are looked through.

        Raises:
            TrainError: The recipe or a row is wrong.
        """
        _check_device(request.device, TrainError)
        return measure(request)

    def train(self, request: TrainRequest, progress: Callable[[float], None]) -> TrainSession:
        """Begin a training.

        Raises:
            TrainError: As `measure_training`.
        """
        _check_device(request.device, TrainError)
        return ClassifierTraining(request, progress)


def _check(request: LoadRequest) -> None:
    _check_device(request.device, LoadError)
    if not request.path.is_dir():
        raise LoadError(f"{request.path} is no folder with a {MARK}")


def _check_device(device: str, error: type[LoadError] | type[TrainError]) -> None:
    if device != CPU:
        raise error(f"the backend heads has {CPU}, not {device!r}")
