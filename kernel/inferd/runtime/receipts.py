"""What a task has cost, told with its end."""

from inferd.core.model import ModelSpec
from inferd.core.task import Task
from inferd.core.task_events import Receipt


def write_receipt(
    task: Task, spec: ModelSpec, *, first_output_at: float | None, memory_bytes: int, now: float
) -> Receipt:
    """The receipt of a task that ends `now`, or has ended.

    Args:
        task: The task.
        spec: Its model.
        first_output_at: When its first token was told; None for never.
        memory_bytes: Resident memory of the worker that ran it.
        now: On the kernel's clock.
    """
    end = task.finished if task.finished is not None else now
    dispatched = task.started if task.started is not None else end
    return Receipt(
        queue_s=dispatched - task.created,
        first_token_s=None if first_output_at is None else first_output_at - task.created,
        run_s=end - dispatched,
        backend=spec.backend if task.attempt else "",
        device=task.device_id or "",
        worker_memory_bytes=memory_bytes,
    )
