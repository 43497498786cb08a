"""Which backend trains, and on which devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.errors import BackendNotFoundError, BackendUnavailableError, InvalidFieldError, suggestion
from inferd.plugin.registry import BackendState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.model import ModelSpec
    from inferd.core.training import TrainingSpec
    from inferd.plugin.registry import BackendReport


def choose_backend(reports: Sequence[BackendReport], spec: TrainingSpec, base: ModelSpec | None) -> BackendReport:
    """The backend that trains it: the one that was asked for, or that of its model, or the first that can.

    Raises:
        BackendNotFoundError, BackendUnavailableError: There is none.
        InvalidFieldError: It has not the device, or none trains so by several workers.
    """
    method = spec.recipe.method.name.lower()
    if spec.backend and spec.backend not in {each.name for each in reports}:
        near = suggestion(spec.backend, [each.name for each in reports])
        raise BackendNotFoundError(
            f"no backend {spec.backend!r} is installed" + (f"; did you mean {near!r}?" if near else ""),
            metadata={"suggestion": near} if near else {},
            field="spec.backend",
        )
    able = [each for each in reports if each.spec is not None and method in each.spec.trains]
    if spec.recipe.ranks > 1:
        able = _together(able, spec, base)
    ready = [each for each in able if each.state is BackendState.READY and spec.backend in ("", each.name)]
    if not ready:
        causes = [
            f"{each.name} is {each.state.name}: {each.why}" for each in able if each.state is not BackendState.READY
        ]
        trains = {each.name: ", ".join(each.spec.trains) for each in reports if each.spec and each.spec.trains}
        others = "; ".join(f"{name} trains {methods}" for name, methods in trains.items()) or "no backend trains"
        who = f"backend {spec.backend!r} does not train" if spec.backend else "no READY backend trains"
        cause = "; ".join([*causes, others])
        raise BackendUnavailableError(f"{who} {method!r}: {cause}", metadata={"cause": cause}, field="spec.backend")

    def rank(report: BackendReport) -> tuple[bool, bool, int, str]:
        known = report.spec
        formats, number = ((), 0) if known is None else (known.formats, known.rank)
        own = base is not None and base.backend == report.name
        return (not own, base is not None and base.format not in formats, number, report.name)

    chosen = min(ready, key=rank)
    known = [each.device_id for each in chosen.devices]
    if spec.device and spec.device not in known:
        raise InvalidFieldError(
            f"spec.device is {spec.device!r}, and backend {chosen.name!r} has {', '.join(known) or 'none'}",
            field="spec.device",
        )
    return chosen


def devices_of(report: BackendReport, spec: TrainingSpec) -> tuple[str, ...]:
    """The device that was asked for, or the backend's first and those that are alike."""
    if spec.device:
        return (spec.device,)
    kind = report.devices[0].device_id.rpartition(":")[0]
    return tuple(each.device_id for each in report.devices if each.device_id.rpartition(":")[0] == kind)


def _together(able: list[BackendReport], spec: TrainingSpec, base: ModelSpec | None) -> list[BackendReport]:
    """Those of some backends that train so by several workers: all with files of the model that they begin with."""
    method = spec.recipe.method.name.lower()
    found = [each for each in able if each.spec is not None and method in each.spec.trains_together]
    if found and base is not None:
        return found
    known = {each.name: ", ".join(each.spec.trains_together) for each in able if each.spec is not None}
    others = "; ".join(f"{name} trains {methods} so" for name, methods in known.items() if methods)
    why = "a training of several begins with a model: name it" if found else f"no backend trains {method!r} by several"
    raise InvalidFieldError(
        f"spec.recipe.ranks is {spec.recipe.ranks}, and {why}{f' ({others})' if others and not found else ''}; or leave"
        " ranks out",
        field="spec.recipe.ranks",
    )
