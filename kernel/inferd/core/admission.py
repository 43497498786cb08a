"""Whether a task is accepted. Each refusal is one typed error, raised before anything changes."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from inferd.core.lease import ModelClaim
from inferd.core.nowhere import why_nowhere
from inferd.errors import (
    InferdError,
    InvalidFieldError,
    ModelBusyError,
    ModelLoadError,
    ModelNotFoundError,
    QueueFullError,
    suggestion,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.atlas import Atlas
    from inferd.core.ids import ModelName
    from inferd.core.lease import Lease
    from inferd.core.leases import Leases
    from inferd.core.model import Model, ModelSpec
    from inferd.core.siting import Siting
    from inferd.core.task import TaskSpec
    from inferd.core.traits import Aliases

NO_HOST = "no host that is known has "
"""So begins what a model lacks that only waits for a host."""
RETRY_WHEN_FULL_S = 1.0


def find_model(models: Mapping[ModelName, Model], name: ModelName, aliases: Aliases = MappingProxyType({})) -> Model:
    """The model of this name; an alias is none, and only told of.

    Raises:
        ModelNotFoundError: There is none; the nearest known name is suggested.
    """
    model = models.get(name)
    if model is not None:
        return model
    unnamed = f"no model {name!r}; `inferd models` lists the known ones"
    if (real := aliases.get(name)) is not None:
        raise ModelNotFoundError(
            f"no model {name!r}, which is an alias of model {real!r}; this needs the model's own name",
            metadata={"suggestion": real},
            field="model",
        ).naming(real, unnamed=unnamed)
    if near := suggestion(name, [*models, *aliases]):
        raise ModelNotFoundError(
            f"no model {name!r}; did you mean {near!r}?",
            metadata={"suggestion": near},
            field="model",
        ).naming(aliases.get(near, near), unnamed=unnamed)
    raise ModelNotFoundError(unnamed, field="model")


def places_of(spec: ModelSpec) -> str:
    """Where a model may be loaded, in words."""
    names = " or ".join(spec.devices)
    return f"{names} with {spec.placement.words}" if spec.placement.selector else names


def stranded(model: Model, atlas: Atlas) -> ModelLoadError | None:
    """Why a model can be loaded nowhere: no host that is known has what it needs, or it lacks something; else None."""
    if model.lacks and not model.shared:  # else its host has kept it
        return ModelLoadError(
            f"model {model.spec.name!r} cannot be loaded now: {model.lacks}", metadata={"cause": model.lacks}
        )
    if atlas.may(model.spec):
        return None
    why = why_nowhere(model.spec, atlas)
    return ModelLoadError(
        f"model {model.spec.name!r} can be loaded nowhere: {why}; have such a host join, or give the model another"
        " device or selector (`inferd models set`)",
        metadata={"cause": why},
    )


def check_staying(model: Model) -> None:
    """Refuse what comes to a model that is being deleted.

    Raises:
        ModelBusyError: It is.
    """
    if model.going:
        raise ModelBusyError(f"model {model.spec.name!r} is being deleted and takes nothing new")


def is_awaited(model: Model, atlas: Atlas) -> bool:
    """Whether a model was known before this kernel and only lacks a host, which may join at any moment, or just has."""
    return model.lacks.startswith(NO_HOST) and bool(atlas.awaits or atlas.may(model.spec))


def check_stranded(model: Model, atlas: Atlas) -> None:
    """Refuse what would wait for a model for ever.

    Raises:
        ModelLoadError: No host that is known has a device that it may use, or it lacks something.
    """
    if (error := stranded(model, atlas)) is not None and not is_awaited(model, atlas):
        raise error


def check_queue(queued: int, limit: int) -> None:
    """Refuse when `limit` tasks wait: `limits.queued_tasks`, for class HIGH with `limits.queued_high`.

    Raises:
        QueueFullError: They do.
    """
    if queued >= limit:
        raise QueueFullError(
            f"{queued} tasks wait already and the queue has room for {limit} (limits.queued_tasks, for class HIGH with "
            "limits.queued_high); try again later",
            metadata={"queued": str(queued), "limit": str(limit)},
            retry_after_s=RETRY_WHEN_FULL_S,
        )


def check_backoff(model: Model, now: float) -> None:
    """Refuse at once while a model that could not be loaded waits for its next try.

    Raises:
        InferdError: Why it could not be loaded, with the time until the next try.
    """
    if model.error is not None and now < model.retry_at:
        error: InferdError = model.error
        wait_s = model.retry_at - now
        raise type(error)(error.message, metadata=error.metadata, retry_after_s=wait_s)


def check_bound(name: str, value: int, limit: int, what: str) -> None:
    """Refuse when a tenant or a model has as many waiting tasks as it may.

    Raises:
        QueueFullError: It has.
    """
    if value >= limit:
        raise QueueFullError(
            f"{what} has {value} waiting tasks and {name} is {limit}; try again later",
            metadata={"bound": name, "queued": str(value), "limit": str(limit)},
            retry_after_s=RETRY_WHEN_FULL_S,
        )


def is_loaded_under(lease: Lease, model: Model) -> bool:
    """Whether a lease has an instance of a model, or will have that of before once its host is back."""
    own = (i for i in model.instances.values() if i.lease_id == lease.spec.lease_id)
    return model.spec.name in lease.models or any(i.living for i in own)


def check_room(lease: Lease, model: Model, siting: Siting) -> None:
    """Refuse to load a model under a lease that holds no memory where it may be.

    Raises:
        InvalidFieldError: That is so.
    """
    lease_id, name = lease.spec.lease_id, model.spec.name
    if name not in lease.models and not siting.devices_under(model, lease_id):
        where = places_of(model.spec)
        raise InvalidFieldError(f"lease {lease_id} holds no memory of {where} for {name!r}", field="inferd-lease")


def check_covered(spec: TaskSpec, model: Model, leases: Leases) -> None:
    """Refuse a task under a lease that holds nothing of its model.

    Raises:
        LeaseNotFoundError, LeaseEndedError: The lease does not hold.
        InvalidFieldError: It holds neither a part of the model nor an instance of it.
    """
    lease = leases.active(spec.lease_id, spec.tenant)
    claimed = any(isinstance(c, ModelClaim) and c.model == spec.model for c in lease.spec.claims)
    if not claimed and not is_loaded_under(lease, model):
        raise InvalidFieldError(
            f"lease {spec.lease_id} holds nothing of model {spec.model!r}: claim a part of it, or load it under the"
            " lease first",
            field="inferd-lease",
        )
