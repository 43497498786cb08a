"""What a worker loads for a training: the session of a backend that trains, from the newest checkpoint on."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferd.core.training import HELD, ORDER, ROWS, read_order
from inferd.engine.training.checkpoints import SESSION, Checkpoints, Progress, read_progress
from inferd.errors import words_of
from inferd.plugin import LoadError, ModelDescription
from inferd.plugin.checks import import_loader
from inferd.plugin.training import TrainError, TrainRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.resources import MemoryNeed
    from inferd.core.training import Order
    from inferd.plugin import LoadRequest
    from inferd.plugin.backend import ReportProgress
    from inferd.plugin.training import TrainingBackend, TrainSession

METHODS: Final = ("measure_training", "train")
SESSION_METHODS: Final = ("step", "evaluate", "save", "restore", "export", "close")
LEADING_METHODS: Final = ("listen", "gather")

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class LoadedTraining:
    """What is loaded of a training. One writer: the thread of its steps.

    Attributes:
        session: What trains.
        make: Makes a session anew, for the same request.
        order: What is trained.
        folder: Of the training.
        checkpoints: Of it.
        progress: How far the session is.
        description: What it is.
    """

    session: TrainSession
    make: Callable[[], TrainSession]
    order: Order
    folder: Path
    checkpoints: Checkpoints
    progress: Progress
    description: ModelDescription


class TrainingLoader:
    """Loads trainings: in the place of a plugin's backend, and calls the one that the order names."""

    def __init__(self) -> None:
        self._backend: TrainingBackend | None = None

    def prepare(self, request: LoadRequest) -> None:
        """Import the backend that trains, while the worker may: before its sandbox is sealed.

        Raises:
            LoadError: There is no order, or the backend does not train.
        """
        self._of(_read(request.path))

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """What the training takes at most.

        Raises:
            LoadError: The recipe, the model or the rows do not permit it.
        """
        order = _read(request.path)
        try:
            return self._of(order).measure_training(_request(request, order))
        except TrainError as error:
            raise LoadError(str(error)) from error

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedTraining:
        """A session that stands where its newest whole checkpoint does.

        Raises:
            LoadError: As `measure`, or what was made is no session.
        """
        order = _read(request.path)
        with suppress(OSError):
            os.nice(order.nice)  # threads that are made from here on have it, too
        backend, wanted = self._of(order), _request(request, order)

        def make() -> TrainSession:
            return _checked(backend.train(wanted, progress), order)

        try:
            checkpoints = Checkpoints(request.path / "checkpoints")
            session, reached = _restored(make, checkpoints)
        except TrainError as error:
            raise LoadError(str(error)) from error
        except OSError as error:
            raise LoadError(f"the checkpoints of the training cannot be read: {words_of(error)}") from error
        progress(1.0)
        method = order.recipe.method.name.lower()
        return LoadedTraining(
            session=session,
            make=make,
            order=order,
            folder=request.path,
            checkpoints=checkpoints,
            progress=reached,
            description=ModelDescription(
                architecture=f"training ({method}) by {order.loader}",
                parameters=0,
                weight_format="",
                compute_format=order.recipe.precision,
            ),
        )

    def _of(self, order: Order) -> TrainingBackend:
        if self._backend is None:
            made: Any = import_loader(order.loader)()
            if lacking := [name for name in METHODS if not callable(getattr(made, name, None))]:
                raise LoadError(f"{order.loader} says that it trains, and lacks {' and '.join(lacking)}")
            self._backend = made
        return self._backend


def _read(folder: Path) -> Order:
    try:
        return read_order((folder / ORDER).read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{folder / ORDER} is no order of a training: {words_of(error)}") from error


def _request(request: LoadRequest, order: Order) -> TrainRequest:
    return TrainRequest(
        path=Path(order.base) if order.base else None,
        rows=request.path / ROWS,
        held=request.path / HELD if order.is_held else None,
        recipe=order.recipe,
        device=request.device,
        capacity_bytes=request.capacity_bytes,
        cores=order.cores or request.cores,
    )


def _checked(session: Any, order: Order) -> TrainSession:
    """A session, held against the interface.

    Raises:
        LoadError: It lacks something, or has no steps.
    """
    wanted = (*SESSION_METHODS, *(LEADING_METHODS if order.recipe.ranks > 1 else ()))
    lacking = [name for name in wanted if not callable(getattr(session, name, None))]
    steps = getattr(session, "steps", None)
    if lacking or not isinstance(steps, int) or steps < 1:
        raise LoadError(
            f"{order.loader}.train gave a {type(session).__name__} with steps={steps!r} and without"
            f" {', '.join(lacking) or 'nothing'}; it must have steps of at least 1, and {', '.join(wanted)}"
        )
    made: TrainSession = session
    return made


def _restored(make: Callable[[], TrainSession], checkpoints: Checkpoints) -> tuple[TrainSession, Progress]:
    """A session from the newest checkpoint that can be gone on from, else from the beginning."""
    for each in checkpoints.all():
        session = make()
        try:
            reached = read_progress(each)
            session.restore(each / SESSION)
        except (TrainError, OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("checkpoint %s cannot be gone on from: %s", each.name, words_of(error))
            session.close()
        else:
            return session, replace(reached)
    return make(), Progress()
