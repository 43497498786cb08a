"""The end of a task whose deadline has passed, and what it waited for."""

from inferd.core.task import Outcome, Task, TaskState
from inferd.errors import InferdError, TaskExpiredError


def expired(task: Task, error: InferdError | None) -> Outcome:
    """The outcome of a task whose deadline has passed.

    Args:
        task: It.
        error: For which its model could not be loaded last, if it could not.
    """
    message, facts = f"the deadline passed while the task was {task.state.name}", dict[str, str]()
    if error is not None and task.state is TaskState.QUEUED:
        message, facts = f"{message}: its model could not be loaded, {error.reason}", {"cause": error.reason}
    return Outcome(state=TaskState.EXPIRED, error=TaskExpiredError(message, metadata=facts))
