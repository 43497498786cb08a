"""`inferd store check`, `compact`, `export` and `migrate`."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferd.cli.amounts import counted
from inferd.cli.output import CommandError
from inferd.cli.settings import read_settings
from inferd.runtime.kept_records import END, UNREADABLE
from inferd.runtime.past import check_events
from inferd.store.opening import MEMORY, open_store
from inferd.store.store import DamagedError, Kind, MissingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd.store.store import Record, Store, Write
    from inferd.store.where import Where

COUNTED = (Kind.TASK, Kind.PROGRESS, Kind.MODEL, Kind.LEASE)  # the others are the kernel's own numbers
NO_PROGRESS = "where it stands is not kept, or damaged"


def place_of(file: Path | None, url: str | None) -> Where:
    """The store that is meant, by default that of the configuration.

    Raises:
        CommandError: There is none, or two are named.
    """
    if file is not None and url is not None:
        raise CommandError("--file and --url name two stores; leave one out", reason="USAGE")
    place = read_settings().store_place
    if file is not None:
        url = f"sqlite:{file}"
    if url is not None:
        place = place.model_copy(update={"url": url})
    if place.url == MEMORY:
        raise CommandError(
            "the configuration has no store: store.url is memory:; name --file or --url", reason="NO_STORE"
        )
    return place


@contextmanager
def opened(
    file: Path | None, url: str | None, *, migrates: bool = False, reads: bool = False, salvages: bool = False
) -> Iterator[Store]:
    """The store; a damaged one is refused unless it is to be salvaged, and an old one unless it is to be migrated.

    One that is only read may be a copy, or on a disk that takes nothing: its files stay as they are.

    Raises:
        CommandError: There is none.
        StoreUnavailableError: A kernel has it, or it cannot be read.
    """
    with logging_aside():
        try:
            store = open_store(
                place_of(file, url), makes=False, mends=False, migrates=migrates, reads=reads, salvages=salvages
            )
        except MissingError as error:
            raise CommandError(error.message, reason="NO_STORE") from None
        with closing(store):
            yield store


@contextmanager
def logging_aside() -> Iterator[None]:
    """What a store logs is no output of the command."""
    before = structlog.get_config()["logger_factory"]
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(logger_factory=before)


def check(output: Output, file: Path | None, url: str | None) -> None:
    """Tell what is damaged.

    Raises:
        CommandError: Something is.
    """
    with opened(file, url, reads=True) as store:
        wrong = store.check() or _incomplete(store)
        if wrong:
            raise CommandError("\n  ".join([f"the store {store.name} is damaged:", *wrong]), reason="STORE_DAMAGED")
        counts = {kind.value: sum(1 for _ in store.records(kind)) for kind in COUNTED}
        size_bytes = store.size_bytes()
    if output.json:
        output.document({"path": store.name, "ok": True, "damaged": [], "size_bytes": size_bytes, "records": counts})
        return
    output.text(
        f"{store.name}: {size_bytes} bytes, {counted(counts['task'], 'task')} and"
        f" {counted(counts['model'], 'model')}, nothing is damaged"
    )


def compact(output: Output, file: Path | None, url: str | None) -> None:
    """Give back the room of what was dropped."""
    with opened(file, url) as store:
        before_bytes = store.size_bytes()
        store.compact()
        after_bytes = store.size_bytes()
    if output.json:
        output.document({"path": store.name, "before_bytes": before_bytes, "after_bytes": after_bytes})
        return
    output.text(f"{store.name}: {before_bytes} bytes before, {after_bytes} after")


def _incomplete(store: Store) -> list[str]:
    """The tasks of which a part is missing, in a store whose values are whole."""
    standing = {(record.tenant, record.key): record.value for record in store.records(Kind.PROGRESS)}
    wrong = []
    for tenant, key in [(record.tenant, record.key) for record in store.records(Kind.TASK)]:
        progress = standing.get((tenant, key))
        missing = NO_PROGRESS if progress is None else _missing(store, tenant, key, progress)
        if missing is not None:
            wrong.append(f"task {key} of {tenant!r}: {missing}")
    return wrong


def _missing(store: Store, tenant: str, key: str, progress: bytes) -> str | None:
    try:
        return check_events(store, tenant, key, progress)
    except UNREADABLE as error:
        return f"its events cannot be read: {error}"


def export(output: Output, file: Path | None, url: str | None) -> None:
    """Write all that is kept as lines of JSON; of what is damaged, that it is and why."""

    def damaged(kind: Kind, tenant: str, key: str, error: Exception) -> None:
        output.line({"kind": "damaged", "of": kind.value, "tenant": tenant, "key": key, "why": str(error)})

    with opened(file, url, salvages=True) as store:
        for kind in (Kind.MODEL, Kind.LEASE):
            for record in store.records(kind, partial(damaged, kind)):
                try:
                    output.line({"kind": kind.value, **json.loads(record.value)})
                except (ValueError, TypeError) as error:
                    damaged(kind, record.tenant, record.key, error)
        standing = store.records(Kind.PROGRESS, partial(damaged, Kind.PROGRESS))
        progress = {(record.tenant, record.key): record.value for record in standing}
        for task in store.records(Kind.TASK, partial(damaged, Kind.TASK)):
            try:
                output.line(_task(store, task, progress.get((task.tenant, task.key))))
            except (DamagedError, ValueError, TypeError) as error:
                damaged(Kind.TASK, task.tenant, task.key, error)


def migrate(output: Output, file: Path | None, url: str | None, to: str | None) -> None:
    """Bring the schema up to that of this version, or copy all that is kept to another store, which has nothing.

    Raises:
        CommandError: The other store has something, or is this one.
        DamagedError: Some of it is damaged: nothing was copied.
    """
    with opened(file, url, migrates=True) as store:
        told = {"path": store.name, "schema_before": store.opened_schema, "schema": store.schema}
        if to is not None:
            if place_of(None, to).url == place_of(file, url).url:
                raise CommandError(f"--to names the store itself, {store.name}; name another one", reason="USAGE")
            told |= _copy(store, place_of(None, to))
    if output.json:
        output.document(told)
    elif to is not None:
        output.text(
            f"{told['path']}: {told['copied']} records and pieces copied to {told['to']}; start with that store.url"
        )
    elif told["schema_before"] == told["schema"]:
        output.text(f"{told['path']}: it has schema {told['schema']}, as this version; there is nothing to do")
    else:
        output.text(f"{told['path']}: schema {told['schema_before']} became {told['schema']}")


def _copy(store: Store, place: Where) -> dict[str, object]:
    """What was copied, in one write: all of it or nothing."""
    with closing(open_store(place, mends=False)) as other:
        if next(other.kept(), None) is not None:
            raise CommandError(
                f"the store {other.name} has something already; name one that is new", reason="STORE_NOT_EMPTY"
            )
        copied = 0
        if other.keys is not None and store.keys is not None:
            other.keys.adopt(store.keys)  # by which the blobs are sealed that it names

        def every() -> Iterator[Write]:
            nonlocal copied
            for write in store.kept():
                copied += 1
                yield write

        other.write(every())
        return {"to": other.name, "copied": copied}


def _task(store: Store, task: Record, progress: bytes | None) -> dict[str, object]:
    if progress is None:
        raise ValueError(NO_PROGRESS)
    head, _, work = task.value.partition(END)
    events = [event for piece in store.pieces(task.tenant, Kind.TASK, task.key) for event in json.loads(piece)]
    spec, standing = json.loads(head), json.loads(progress)
    return {"kind": "task", **spec, "work": b64encode(work).decode(), "progress": standing, "events": events}
