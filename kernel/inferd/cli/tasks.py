"""`inferd tasks`, `cancel` and `watch`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from inferd.cli.amounts import span
from inferd.cli.kernel import connected
from inferd.cli.plain import plain
from inferd.cli.transcript import Transcript
from inferd_api.v1.resources_pb2 import Task, TaskState

if TYPE_CHECKING:
    from inferd.cli.output import Output


def list_tasks(output: Output, address: str, tenant: str) -> None:
    """List the tenant's tasks, newest first."""
    with connected(address, tenant) as client:
        tasks = list(client.list_tasks())
    if output.json:
        output.document({"tasks": [plain(task) for task in tasks]})
        return
    rows = (
        (
            task.task_id,
            task.model,
            state(task),
            span(time.time() - task.create_time.ToMilliseconds() / 1000),
            str(task.finished.usage.output_tokens) if task.HasField("finished") else "",
            task.finished.error.message,
        )
        for task in tasks
    )
    output.table(("TASK", "MODEL", "STATE", "AGE", "TOKENS", "ERROR"), rows, empty="no tasks")


def cancel(output: Output, address: str, tenant: str, task_id: str) -> None:
    """End a task and tell where it stands."""
    with connected(address, tenant) as client:
        task = client.cancel_task(task_id)
    if output.json:
        output.document(plain(task))
    else:
        output.text(f"{task_id} is {state(task)}")


def watch(output: Output, address: str, tenant: str, task_id: str, *, after_sequence: int) -> None:
    """Show a task's output from its first event, or from behind `after_sequence`, to its end."""
    with connected(address, tenant) as client:
        transcript = Transcript(output, client.get_task(task_id).model)
        transcript.play(client.watch(task_id, after_sequence))
        transcript.close()


def state(task: Task) -> str:
    """The task's state as a word."""
    return TaskState.Name(task.state).removeprefix("TASK_STATE_").lower()
