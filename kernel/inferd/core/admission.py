"""Whether a task is accepted. Each refusal is one typed error, raised before anything changes."""

from collections.abc import Mapping

from inferd.core.ids import ModelName
from inferd.core.model import Model
from inferd.errors import InferdError, ModelNotFoundError, QueueFullError, suggestion

RETRY_WHEN_FULL_S = 1.0


def find_model(models: Mapping[ModelName, Model], name: ModelName) -> Model:
    """The model of this name.

    Raises:
        ModelNotFoundError: There is none; the nearest known name is suggested.
    """
    model = models.get(name)
    if model is not None:
        return model
    near = suggestion(name, list(models))
    hint = f"did you mean {near!r}?" if near else "`inferd models` lists the known ones"
    raise ModelNotFoundError(f"no model {name!r}; {hint}", metadata={"suggestion": near} if near else {}, field="model")


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
