"""What a worker loads to help with a training that another one leads, and what it then does."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferd.core.training import ORDER_SETTING, read_order
from inferd.core.vigil import Doing
from inferd.engine.cause import placed_line
from inferd.engine.function.call import CallResult
from inferd.engine.token.output import Ended
from inferd.engine.training.drives import Drives
from inferd.errors import BackendFailedError, InferdError, WorkerDiedError, is_failure, words_of
from inferd.plugin import LoadError, ModelDescription
from inferd.plugin.checks import import_loader
from inferd.plugin.ranks import RankLostError
from inferd.plugin.training import TrainError, TrainRequest
from inferd.training_errors import TrainingFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.resources import MemoryNeed
    from inferd.core.training import Order
    from inferd.core.vigil import Pulse
    from inferd.engine.activity import Activity
    from inferd.engine.training.drives import Drive
    from inferd.plugin import LoadRequest
    from inferd.plugin.backend import ReportProgress
    from inferd.plugin.training import TrainFollower

METHODS: Final = ("measure_training", "follow")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFollower:
    """What is loaded of a training that another worker leads.

    Attributes:
        session: What computes; named as that of every model.
        description: What it is.
    """

    session: TrainFollower
    description: ModelDescription


class FollowerLoader:
    """Loads followers: in the place of a plugin's backend, and calls the one that the order names."""

    def __init__(self) -> None:
        self._backend: Any = None

    def prepare(self, request: LoadRequest) -> None:
        """Import the backend that trains, while the worker may.

        Raises:
            LoadError: There is no order, or the backend has no followers.
        """
        self._of(_order(request))

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """What it takes at most.

        Raises:
            LoadError: The recipe or the model does not permit it.
        """
        order = _order(request)
        try:
            need: MemoryNeed = self._of(order).measure_training(_request(request, order))
        except TrainError as error:
            raise LoadError(str(error)) from error
        return need

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedFollower:
        """What waits to be led.

        Raises:
            LoadError: As `measure`.
        """
        order = _order(request)
        with suppress(OSError):
            os.nice(order.nice)  # threads that are made from here on have it, too
        try:
            session = self._of(order).follow(_request(request, order), progress)
        except TrainError as error:
            raise LoadError(str(error)) from error
        progress(1.0)
        method = order.recipe.method.name.lower()
        described = ModelDescription(
            architecture=f"part of a training ({method}) by {order.loader}",
            parameters=0,
            weight_format="",
            compute_format=order.recipe.precision,
        )
        return LoadedFollower(session=session, description=described)

    def _of(self, order: Order) -> Any:
        if self._backend is None:
            made: Any = import_loader(order.loader)()
            if lacking := [name for name in METHODS if not callable(getattr(made, name, None))]:
                raise LoadError(f"{order.loader} says that it trains together, and lacks {' and '.join(lacking)}")
            self._backend = made
        return self._backend


def _order(request: LoadRequest) -> Order:
    try:
        return read_order(str(request.settings[ORDER_SETTING]).encode())
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"setting {ORDER_SETTING!r} is no order of a training: {words_of(error)}") from error


def _request(request: LoadRequest, order: Order) -> TrainRequest:
    return TrainRequest(
        path=request.path,
        rows=Path(os.devnull),
        held=None,
        recipe=order.recipe,
        device=request.device,
        capacity_bytes=request.capacity_bytes,
        cores=order.cores or request.cores,
    )


class FollowerLoop(Drives):
    """Follows the one that leads, for as long as that lasts. It keeps nothing, so that it ends at once.

    `run` belongs to the thread that loaded it.

    Args:
        loaded: What follows.
        deliver: Called with what is told of it. May block.
        activity: Told what is being done.
    """

    def __init__(
        self, loaded: LoadedFollower, deliver: Callable[[CallResult], None], *, activity: Activity | None = None
    ) -> None:
        super().__init__(deliver, activity=activity)
        self._loaded = loaded

    def cancel(self, handle: int, *, again: bool = False) -> None:
        """Follow no more: one that waits for others cannot be told so, and its process ends."""
        super().cancel(handle, again=again)
        self._leave()

    def stop(self) -> None:
        """Let `run` return; where it is under way its process ends."""
        super().stop()
        self._leave()

    def run(self) -> None:
        """Follow until `stop`; sleeps while there is nothing to do."""
        while (drive := self._next()) is not None:
            self._activity.begin(Doing.TEND)
            began, error = self._now(), self._follow(drive)
            self._end()
            self._deliver(CallResult(ended=[Ended(handle=drive.handle, error=error)], seconds=self._now() - began))

    def pulse(self) -> Pulse:
        """What it is doing."""
        return self._activity.pulse(0)

    def _leave(self) -> None:
        if self._under_way is not None and not self._wanted:
            os._exit(0)  # the others see their connections end

    def _follow(self, drive: Drive) -> InferdError | None:
        try:
            self._loaded.session.follow(drive.rank, drive.ranks, drive.meeting, drive.join_s)
        except RankLostError as lost:
            cause = words_of(lost)
            return WorkerDiedError(f"one of {drive.ranks} workers is lost: {cause}", metadata={"cause": cause})
        except TrainError as wrong:
            cause = words_of(wrong)
            return TrainingFailedError(f"rank {drive.rank} of {drive.ranks}: {cause}", metadata={"cause": cause})
        except BaseException as defect:
            if not is_failure(defect):
                raise
            _log.exception("rank %d of %d failed", drive.rank, drive.ranks)
            cause = placed_line(defect, self._loaded.session)
            message = f"the backend raised in rank {drive.rank} of {drive.ranks}: {cause}"
            return BackendFailedError(message, metadata={"cause": cause})
        return None
