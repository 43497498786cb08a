"""A line of the log for each task that ends, with what it cost; of what it said and was asked nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.core.changes import TaskChanged
    from inferd.core.task_events import Finished
    from inferd.core.views import Views

BURST_S = 2.0  # of what each second has

log = structlog.get_logger("inferd.tasks")


class TaskLines:
    """Tells of tasks that end, so many each second; of the others how many there were. One writer: the driver.

    Args:
        views: Of the core.
        per_s: Lines each second; twice as many at once.
        now: Seconds that never fall.
    """

    def __init__(self, views: Views, per_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._views = views
        self._per_s = per_s
        self._now = now
        self._most = max(1.0, per_s * BURST_S)
        self._left, self._seen = self._most, now()
        self._untold = 0

    def ended(self, change: TaskChanged, finished: Finished) -> None:
        """A task has ended."""
        now = self._now()
        self._left = min(self._most, self._left + (now - self._seen) * self._per_s)
        self._seen = now
        if self._left < 1:
            self._untold += 1
            return
        self._left -= 1
        if self._untold:
            log.info("tasks ended that have no line of their own (logs.tasks_per_s)", tasks=self._untold)
            self._untold = 0
        log.info("a task ended", **self._facts(change, finished))

    def _facts(self, change: TaskChanged, finished: Finished) -> Mapping[str, object]:
        outcome, receipt = finished.outcome, finished.receipt
        usage, task = outcome.usage, self._views.find_task(change.task_id)
        facts: dict[str, object] = {
            "task_id": change.task_id,
            "tenant": change.tenant,
            "model": change.model,
            "version": receipt.version,
            "state": outcome.state.name.lower(),
            "finish_reason": outcome.reason.name.lower(),
            "attempts": change.attempt,
            "queue_s": round(receipt.queue_s, 4),
            "run_s": round(receipt.run_s, 4),
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
        }
        if task is not None:
            facts |= {"operation": task.spec.operation, "priority": task.spec.priority.name.lower()}
            if task.spec.lease_id:
                facts["lease_id"] = task.spec.lease_id
        if outcome.error is not None:  # its words may be those of a task
            facts["error"] = outcome.error.reason
        if receipt.first_token_s is not None:
            facts["first_token_s"] = round(receipt.first_token_s, 4)
        if receipt.device_s is not None:
            facts |= {"device_s": round(receipt.device_s, 4), "device": receipt.device, "backend": receipt.backend}
        return facts
