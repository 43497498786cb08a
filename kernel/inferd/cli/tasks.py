"""`inferd tasks`, `cancel`, `suspend`, `resume` and `watch`."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, closing
from itertools import islice
from typing import TYPE_CHECKING

from inferd.cli.amounts import span
from inferd.cli.kernel import connected
from inferd.cli.plain import plain
from inferd.cli.prefix import by_prefix
from inferd.cli.transcript import Transcript
from inferd_api.v1.priority_pb2 import Priority
from inferd_api.v1.task_pb2 import Task, TaskState
from inferd_client import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from inferd.cli.output import Output
    from inferd_client import Client


def list_tasks(
    output: Output, address: str, tenant: str, states: Iterable[str] = (), *, limit: int = 0, trials: bool = False
) -> None:
    """List the tenant's tasks, of these states or all, newest first, `limit` at most; 0 for all."""
    with connected(address, tenant) as client:
        found = client.list_tasks(states=numbers(states), trials_too=trials)
        tasks = list(islice(found, limit or None))
        more = bool(limit) and next(found, None) is not None
    if output.json:
        output.document({"tasks": [plain(task) for task in tasks]})
        return
    rows = (
        (
            task.task_id,
            task.model,
            state(task),
            class_name(task.priority),
            span(time.time() - task.create_time.ToMilliseconds() / 1000),
            str(task.finished.usage.output_tokens) if task.HasField("finished") else "",
            task.finished.error.message,
        )
        for task in tasks
    )
    output.table(
        ("TASK", "MODEL", "STATE", "CLASS", "AGE", "TOKENS", "ERROR"),
        rows,
        empty="no tasks",
        gives_way="ERROR",
        goes=("TOKENS", "CLASS", "AGE", "ERROR"),
    )
    if more:
        output.note(f"there are more than these {limit}; --limit 0 tells all, --state those of a state")


def numbers(states: Iterable[str]) -> list[TaskState.ValueType]:
    """States by their words."""
    return [TaskState.Value(f"TASK_STATE_{each.upper()}") for each in states]


def watch_list(output: Output, address: str, tenant: str, states: Iterable[str] = (), *, trials: bool = False) -> None:
    """Show the tenant's tasks as they stand, newest first, and each change of one; until Ctrl-C."""
    wanted = numbers(states)
    with connected(address, tenant) as client, closing(client.watch_tasks(states=wanted, trials_too=trials)) as parts:
        for part in parts:
            if output.json:
                output.line(plain(part))
                continue
            for task in part.tasks:
                told = (time.strftime("%H:%M:%S"), task.task_id, task.model, state(task), task.finished.error.message)
                output.text(" · ".join(each for each in told if each))


def cancel(output: Output, address: str, tenant: str, task_id: str) -> None:
    """End a task and tell where it stands."""
    with connected(address, tenant) as client:
        _tell(output, by_prefix(client.cancel_task, task_id, _ids(client)))


def suspend(output: Output, address: str, tenant: str, task_id: str) -> None:
    """Stop a task and tell where it stands."""
    with connected(address, tenant) as client:
        _tell(output, by_prefix(client.suspend_task, task_id, _ids(client)))


def resume(output: Output, address: str, tenant: str, task_id: str) -> None:
    """Let a task go on and tell where it stands."""
    with connected(address, tenant) as client:
        _tell(output, by_prefix(client.resume_task, task_id, _ids(client)))


def _ids(client: Client) -> Iterator[str]:
    return (task.task_id for task in client.list_tasks(trials_too=True))


def _tell(output: Output, task: Task) -> None:
    if output.json:
        output.document(plain(task))
    else:
        output.text(f"{task.task_id} is {state(task)}")


def watch(output: Output, address: str, tenant: str, task_id: str, *, after_sequence: int) -> None:
    """Show a task's output from its first event, or from behind `after_sequence`, to its end."""
    with connected(address, tenant) as client:
        task = by_prefix(client.get_task, task_id, _ids(client))
        transcript = Transcript(output, task.model)
        asyncio.run(_follow(transcript, client.address, tenant, task.task_id, after_sequence))
        transcript.close()


async def _follow(transcript: Transcript, address: str, tenant: str, task_id: str, after_sequence: int) -> None:
    client = AsyncClient(address, tenant=tenant)
    async with client, aclosing(client.watch(task_id, after_sequence)) as events:
        await transcript.play(events)


def class_name(priority: Priority.ValueType) -> str:
    """A class as a word."""
    return Priority.Name(priority or Priority.PRIORITY_NORMAL).removeprefix("PRIORITY_").lower()


def state(task: Task) -> str:
    """The task's state as a word."""
    return TaskState.Name(task.state).removeprefix("TASK_STATE_").lower()
