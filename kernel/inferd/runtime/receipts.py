"""What a task has cost, told with its end."""

from inferd.core.changes import TaskEnd
from inferd.core.task_events import NOTHING_ASKED, Asked, Receipt


def write_receipt(
    end: TaskEnd,
    *,
    backend: str,
    first_output_at: float | None,
    memory_bytes: int,
    asked: Asked = NOTHING_ASKED,
) -> Receipt:
    """The receipt of a task.

    Args:
        end: How it ended.
        backend: Of its model.
        first_output_at: When its first token was told; None for never.
        memory_bytes: Resident memory of the worker that ran it.
        asked: What it has asked of models, where it is a call of a function.
    """
    dispatched = end.started if end.started is not None else end.finished
    return Receipt(
        queue_s=dispatched - end.created,
        first_token_s=None if first_output_at is None else first_output_at - end.created,
        run_s=end.finished - dispatched,
        backend=backend if end.started is not None else "",
        device=end.device_id or "",
        worker_memory_bytes=memory_bytes,
        version=end.version,
        device_s=None if end.started is None else end.device_s,
        quotas=end.quotas,
        asked=asked,
    )
