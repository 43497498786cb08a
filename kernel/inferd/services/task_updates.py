"""What `RunTasks` tells of tasks, in messages that are no larger than they may be."""

from collections.abc import Iterator

from inferd.errors import InferdError
from inferd.runtime.front.open_tasks import Told
from inferd.services.status import status_of
from inferd.services.task_values import write_event
from inferd.services.tensor_parts import is_large, write_parts
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.task_pb2 import TaskEvent


def _make(tag: int) -> tuple[ts.RunTasksResponse, TaskEvent]:
    response = ts.RunTasksResponse()
    update = response.updates.add(tag=tag)
    return response, update.event


def write_responses(
    told: list[Told], refused: list[tuple[int, InferdError]], most_bytes: int
) -> Iterator[ts.RunTasksResponse]:
    """One message for all of it; sets of tensors that are too large for that have messages of their own, in order."""
    response = ts.RunTasksResponse()
    add = response.updates.add
    for tag, task_id, events in told:
        name = task_id or ""
        for numbered in events:
            if is_large(numbered.event, most_bytes):
                if response.updates:
                    yield response
                yield from write_parts(name, numbered, most_bytes, lambda tag=tag: _make(tag))  # type: ignore[misc]
                response = ts.RunTasksResponse()
                add = response.updates.add
            else:
                update = add()
                update.tag = tag
                write_event(name, numbered, update.event)
            name = ""  # the first event of a tag says whose they are
    for tag, error in refused:
        response.updates.add(tag=tag, error=status_of(error))
    if response.updates:
        yield response
