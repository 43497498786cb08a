"""What a start reads of the tasks that were kept."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stores import opened_store

from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.task import Outcome, Task, TaskSpec, TaskState
from inferd.core.task_events import Finished, Receipt
from inferd.runtime.clock import Clock
from inferd.runtime.continuation import Continuation
from inferd.runtime.ended import read_ended, read_tasks
from inferd.runtime.event_log import Numbered
from inferd.runtime.kept_records import with_bytes, write_past, write_progress, write_task
from inferd.store.store import Kind, Put, Record
from inferd_api.worker.v1 import task_pb2

TENANT = Tenant("a")
RECEIPT = Receipt(queue_s=1.0, first_token_s=None, run_s=1.0, backend="", device="", worker_memory_bytes=0)
END = Numbered(3, Finished(Outcome(state=TaskState.SUCCEEDED), RECEIPT))


def puts(name: str, clock: Clock, *, ended: bool, line: bytes | None = None) -> list[Put]:
    """A task as it is kept; `line` is what is known of an ended one, None for what has to be, b"" for none."""
    spec = TaskSpec(task_id=TaskId(name), tenant=TENANT, model=ModelName("m"), work=task_pb2.Work(), request_id=name)
    state = TaskState.SUCCEEDED if ended else TaskState.QUEUED
    finished = clock.now() if ended else None
    task = Task(spec=spec, number=ord(name), state=state, created=clock.now(), finished=finished, retained=finished)
    progress = write_progress(task, Continuation(), clock, last=3, end=END if ended else None)
    written = [
        Put(TENANT, Kind.TASK, name, write_task(task, clock)),
        Put(TENANT, Kind.PROGRESS, name, with_bytes(progress, 5, 6)),
    ]
    past = with_bytes(write_past(task, clock), 5, 6) if line is None else line
    return [*written, Put(TENANT, Kind.PAST, name, past)] if ended and past else written


@pytest.mark.parametrize("line", [b"", b"{}"], ids=["of an older kernel", "damaged"])
def test_of_ended_tasks_a_start_reads_a_line_each(tmp_path: Path, line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their records are not read; one without its line is, once, and comes to the same line as the others."""
    clock = Clock()
    with closing(opened_store(tmp_path / "store")) as store:
        made = puts("p", clock, ended=True), puts("q", clock, ended=False), puts("r", clock, ended=True, line=line)
        store.write([put for each in made for put in each])
        asked: list[str] = []

        def noted(way: Callable[..., Iterator[Record]]) -> Callable[..., Iterator[Record]]:
            def read(kind: Kind, *rest: Any, **more: Any) -> Iterator[Record]:
                for record in way(kind, *rest, **more):
                    asked.extend([record.key] if kind is Kind.TASK else [])
                    yield record

            return read

        for way in ("some", "records"):
            monkeypatch.setattr(store, way, noted(getattr(store, way)))
        tasks, ended, anew = read_tasks(store, clock)
        assert (sorted(asked), [each.task.spec.task_id for each in tasks]) == (["q", "r"], ["q"])
        store.write(anew)
        asked.clear()
        for found in (ended, read_tasks(store, clock)[1]):
            told = [(each.entry.task_id, each.entry.number, each.entry.request_id, each.size_bytes) for each in found]
            assert sorted(told) == [("p", ord("p"), "p", 11), ("r", ord("r"), "r", 11)]
        assert asked == ["q"]
        found_again, lost = read_ended(store, [(TENANT, "p"), (TENANT, "gone")], clock)
        assert ([each.told.end for each in found_again], lost) == ([END], ["gone"])
