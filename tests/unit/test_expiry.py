"""What is told of a task whose deadline has passed."""

from unittest.mock import Mock

from inferd.core.expiry import expired
from inferd.core.task import TaskState
from inferd.errors import NoMemoryError


def test_a_task_that_waited_for_a_load_says_why_that_failed() -> None:
    """As where another model is pinned and nothing gives way; one that ran, or whose model loads, has no cause."""
    waited, ran = Mock(state=TaskState.QUEUED), Mock(state=TaskState.RUNNING)
    error = expired(waited, NoMemoryError("no room")).error
    assert error is not None
    assert (error.reason, error.metadata["cause"]) == ("TASK_EXPIRED", "NO_MEMORY")
    for task, why in ((ran, NoMemoryError("no room")), (waited, None)):
        told = expired(task, why).error
        assert told is not None
        assert not told.metadata
