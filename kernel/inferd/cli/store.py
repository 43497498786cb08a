"""`inferd store check`, `compact` and `export`."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from inferd.cli.output import CommandError
from inferd.cli.settings import read_settings
from inferd.runtime.kept_records import END
from inferd.store.sqlite import SqliteStore
from inferd.store.store import DamagedError, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd.store.store import Record, Store

NO_PROGRESS = "where it stands is not kept, or damaged"


@contextmanager
def _opened(file: Path | None) -> Iterator[tuple[Path, Store]]:
    """The store in a file, by default that of the configuration; a damaged one is refused.

    Raises:
        CommandError: There is none.
        StoreUnavailableError: A kernel has it, or it cannot be read.
    """
    path = file or read_settings().store_path
    if path is None:
        raise CommandError("the configuration has no store: store.url is memory:; name --file", reason="NO_STORE")
    if not path.is_file():
        raise CommandError(f"there is no store {path}; `inferd serve` makes it", reason="NO_STORE")
    with closing(SqliteStore(path, mends=False)) as store:
        yield path, store


def check(output: Output, file: Path | None) -> None:
    """Tell what is damaged.

    Raises:
        CommandError: Something is.
    """
    with _opened(file) as (path, store):
        wrong = store.check() or _incomplete(store)
        if wrong:
            raise CommandError("\n  ".join([f"the store {path} is damaged:", *wrong]), reason="STORE_DAMAGED")
        counts = {kind.value: sum(1 for _ in store.records(kind)) for kind in Kind}
        size_bytes = store.size_bytes()
    if output.json:
        output.document({"path": str(path), "size_bytes": size_bytes, "records": counts})
        return
    output.text(f"{path}: {size_bytes} bytes, {counts['task']} tasks and {counts['model']} models, nothing is damaged")


def compact(output: Output, file: Path | None) -> None:
    """Give back the room of what was dropped."""
    with _opened(file) as (path, store):
        before_bytes = store.size_bytes()
        store.compact()
        after_bytes = store.size_bytes()
    if output.json:
        output.document({"path": str(path), "before_bytes": before_bytes, "after_bytes": after_bytes})
        return
    output.text(f"{path}: {before_bytes} bytes before, {after_bytes} after")


def _incomplete(store: Store) -> list[str]:
    """The tasks of which a part is missing, in a store whose values are whole."""
    standing = {(record.tenant, record.key) for record in store.records(Kind.PROGRESS)}
    tasks = ((record.tenant, record.key) for record in store.records(Kind.TASK))
    return [f"task {key} of {tenant!r}: {NO_PROGRESS}" for tenant, key in tasks if (tenant, key) not in standing]


def export(output: Output, file: Path | None) -> None:
    """Write all that is kept as lines of JSON; of what is damaged, that it is and why."""

    def damaged(kind: Kind, tenant: str, key: str, error: Exception) -> None:
        output.line({"kind": "damaged", "of": kind.value, "tenant": tenant, "key": key, "why": str(error)})

    with _opened(file) as (_, store):
        for model in store.records(Kind.MODEL, partial(damaged, Kind.MODEL)):
            try:
                output.line({"kind": "model", **json.loads(model.value)})
            except (ValueError, TypeError) as error:
                damaged(Kind.MODEL, model.tenant, model.key, error)
        standing = store.records(Kind.PROGRESS, partial(damaged, Kind.PROGRESS))
        progress = {(record.tenant, record.key): record.value for record in standing}
        for task in store.records(Kind.TASK, partial(damaged, Kind.TASK)):
            try:
                output.line(_task(store, task, progress.get((task.tenant, task.key))))
            except (DamagedError, ValueError, TypeError) as error:
                damaged(Kind.TASK, task.tenant, task.key, error)


def _task(store: Store, task: Record, progress: bytes | None) -> dict[str, object]:
    if progress is None:
        raise ValueError(NO_PROGRESS)
    head, _, work = task.value.partition(END)
    events = [event for piece in store.pieces(task.tenant, Kind.TASK, task.key) for event in json.loads(piece)]
    spec, standing = json.loads(head), json.loads(progress)
    return {"kind": "task", **spec, "work": b64encode(work).decode(), "progress": standing, "events": events}
