"""A function called for each value of a column: batches of ordinary tasks, so many at once, and a new dataset."""

from __future__ import annotations

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal

from inferd_api.v1.dataset_pb2 import DatasetLineage
from inferd_client.data.arrow import library, made, read
from inferd_client.data.exporting import written
from inferd_client.data.schemas import Given
from inferd_client.data.tables import Writer, named, patiently, source_of
from inferd_client.errors import FunctionFailedError, InvalidFieldError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from typing import TypeAlias

    from inferd_api.v1.dataset_pb2 import Dataset
    from inferd_api.v1.function_pb2 import Function
    from inferd_client import Client
    from inferd_client.data.tables import Progress

    Rows: TypeAlias = Sequence[tuple[int, Any]]
    """Values of a column, each with its place in the dataset; none of them null."""

BATCH_BYTES: Final = 256 << 10  # of values of one task, as JSON: a fourth of what a call is given at most
BATCH_ROWS: Final = 1000
CHUNK_ROWS: Final = 64  # of what a call gives that are held as values of Python: numbers take a fifth as an array
OF_A_ROW: Final = (FunctionFailedError, InvalidFieldError, LimitExceededError)
"""What may be the fault of one row of a batch."""
OF_CALLS: Final = frozenset(
    ("functions.timeout_s", "functions.memory_bytes", "functions.piece_bytes", "functions.output_bytes")
) | {"limits.prompt_bytes"}
"""Bounds that fewer rows may not hit."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """What became of a map.

    Attributes:
        dataset: The new one.
        failed: How many rows have null, as the function failed for them; those of this run.
        first_error: Of the first of them; "" for none.
    """

    dataset: Dataset
    failed: int
    first_error: str


def map_column(
    client: Client,
    name: str,
    function: str,
    *,
    column: str,
    into: str,
    result: str = "",
    parameter: str = "",
    given: Mapping[str, Any] | None = None,
    function_version: int = 0,
    in_flight: int = 4,
    skip_failed: bool = False,
    priority: Literal["low", "normal", "high"] = "low",
    retention_s: float | None = None,
    progress: Progress | None = None,
) -> Mapped:
    """Make a dataset of another one with what a function gives for each value of a column, in a column of its own.

    Each part of the new dataset is that of the same rows of the source, and is kept when it is done. What was
    interrupted, by the end of the client or of the kernel, goes on behind the last part when the same is asked again. A
    batch is a task that calls the function for some hundred kilobytes of rows; at most `in_flight` run at once, and no
    more is held than these and two parts. The function is not called for null, which stays null.

    Args:
        client: Of the kernel.
        name: Of the source, with a version or without.
        function: Its name.
        column: Whose values it is called for.
        into: The name of the new dataset.
        result: The column of what it gives; that of the source is replaced. Default: the name of the function.
        parameter: By which it is given the value. Default: its only required one, else `text`.
        given: Other parameters.
        function_version: Default: the highest.
        in_flight: Most tasks at once.
        skip_failed: Rows for which the function fails become null and are counted; else the first one ends the map.
        priority: Of the tasks.
        retention_s: As `add`.
        progress: As `add`.

    Raises:
        InferdError: There is no such dataset or function, the function fails, or the dataset cannot be kept.
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: There is no such column.
    """
    library()
    base, version = named(name)
    source = client.get_dataset(base, version=version)
    if column not in [each.name for each in source.columns]:
        known = ", ".join(each.name for each in source.columns)
        raise ValueError(f"dataset {name!r} has no column {column!r}; there are {known}")
    work = _Work(
        client,
        client.get_function(function, version=function_version),
        column=column,
        parameter=parameter,
        given=given or {},
        skips=skip_failed,
        priority=priority,
    )
    (first,) = client.read_dataset(source.name, version=source.version, count=1)
    schema = _with(read(first).schema, result or function, work.given.type)
    lineage = DatasetLineage(
        operation="map",
        sources=[source_of(source)],
        function=work.function.name,
        function_version=work.function.version,
        parameters_json=work.told(result or function),
    )
    writer = Writer(client, into, schema, lineage, retention_s=retention_s, progress=progress)
    writer.place = writer.dataset.parts
    with ThreadPoolExecutor(max_workers=max(1, in_flight), thread_name_prefix="map") as pool:
        try:
            for table in _mapped(client, source, writer.place, work, pool, schema, result or function):
                writer.add([made(table)])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return Mapped(writer.finish(), work.failed, work.first_error)


def _mapped(  # noqa: PLR0917 - of one map
    client: Client, source: Dataset, first_part: int, work: _Work, pool: ThreadPoolExecutor, schema: Any, result: str
) -> Iterator[Any]:
    """The parts of the source from one on with the new column, in their order; the next one is begun meanwhile."""
    begun: deque[tuple[Any, int, list[tuple[Rows, Future[Any]]]]] = deque()
    parts = client.list_dataset_parts(source.name, version=source.version)
    at = sum(part.rows for part in islice(parts, first_part))
    read_parts = client.read_dataset(source.name, version=source.version, first_part=first_part)
    for part, said in zip(read_parts, parts, strict=True):
        table = read(part, said.rows)
        begun.append((table, at, [(rows, pool.submit(work.column, rows)) for rows in work.batches(table, at)]))
        at += table.num_rows
        if len(begun) > 1:
            yield _gathered(*begun.popleft(), schema, result)
    while begun:
        yield _gathered(*begun.popleft(), schema, result)


def _gathered(table: Any, at: int, calls: list[tuple[Rows, Future[Any]]], schema: Any, result: str) -> Any:
    """The table with what the calls gave; `at` is the place of its first row."""
    pa, field = library(), schema.field(result)
    found = [call.result() for _, call in calls]
    column = pa.chunked_array(found, field.type)
    if len(column) < table.num_rows:  # some are null
        places: list[int | None] = [None] * table.num_rows
        for number, (place, _) in enumerate(row for rows, _ in calls for row in rows):
            places[place - at] = number
        column = column.take(pa.array(places, pa.int64()))
    place = schema.get_field_index(result)
    replaces = table.schema.get_field_index(result) >= 0
    return table.set_column(place, field, column) if replaces else table.append_column(field, column)


def _with(schema: Any, name: str, kind: Any) -> Any:
    """A schema with a column of that name and type, in the place of the one that has the name."""
    field, place = library().field(name, kind), schema.get_field_index(name)
    plain = schema.remove_metadata()
    return plain.append(field) if place < 0 else plain.set(place, field)


class _Work:
    """Calls of a function for values of a column. Its calls are made on several threads."""

    def __init__(
        self,
        client: Client,
        function: Function,
        *,
        column: str,
        parameter: str,
        given: Mapping[str, Any],
        skips: bool,
        priority: Literal["low", "normal", "high"],
    ) -> None:
        self.function = function
        self.given = Given(function.output_schema, streams=function.streams)
        self.failed, self.first_error = 0, ""
        self._client, self._column, self._others = client, column, dict(given)
        self._parameter = parameter or _parameter(function)
        self._skips, self._priority = skips, priority
        self._lock = Lock()

    def told(self, result: str) -> str:
        """How it is done, for the lineage: whoever asks for the same goes on with it."""
        facts = {
            "column": self._column,
            "parameter": self._parameter,
            "result": result,
            "input": self._others,
            "skip_failed": self._skips,
        }
        return json.dumps(facts, ensure_ascii=False, sort_keys=True)

    def batches(self, table: Any, at: int) -> Iterator[Rows]:
        """The values of a part that are not null, as many together as one task is given; `at` is its first row."""
        rows: list[tuple[int, Any]] = []
        size = 0
        for place, value in enumerate(table.column(self._column).to_pylist(), start=at):
            if value is None:
                continue
            text = json.dumps(value, ensure_ascii=False, default=written)
            rows.append((place, value if isinstance(value, str) else json.loads(text)))
            size += len(text.encode())
            if size >= BATCH_BYTES or len(rows) >= BATCH_ROWS:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows

    def column(self, rows: Rows) -> Any:
        """What the function gives for each of them, as an array.

        Raises:
            InferdError: It fails for one, and that ends the map; its message says which row.
            ValueError: Something of it has no place in such a column.
        """
        pa = library()
        try:
            return pa.concat_arrays([pa.array([], self.given.type), *self._arrays(rows)])
        except pa.ArrowException as error:
            name = self.function.name
            raise ValueError(
                f"what {name!r} gave for rows from {rows[0][0]} on is no {self.given.type}: {error}"
            ) from None

    def _arrays(self, rows: Rows) -> list[Any]:
        """As `column`, in several."""
        try:
            return patiently(lambda: self._call(rows))
        except OF_A_ROW as error:
            if isinstance(error, LimitExceededError) and error.metadata.get("bound", "") not in OF_CALLS:
                raise
            if len(rows) > 1:
                half = len(rows) // 2
                return self._arrays(rows[:half]) + self._arrays(rows[half:])
            error.message = f"row {rows[0][0]}: {error.message}"
            error.args = (error.message,)
            if not self._skips:
                raise
            with self._lock:
                self.failed += 1
                self.first_error = self.first_error or error.message
            return [library().nulls(1, self.given.type)]

    def _call(self, rows: Rows) -> list[Any]:
        inputs = [{**self._others, self._parameter: value} for _, value in rows]
        gave = map(
            self.given.value,
            self._client.call_each(self.function.name, inputs, version=self.function.version, priority=self._priority),
        )
        pa, chunks = library(), []
        while some := list(islice(gave, CHUNK_ROWS)):
            chunks.append(pa.array(some, self.given.type))
        return chunks


def _parameter(function: Function) -> str:
    """The parameter that is given the values, where nobody says which.

    Raises:
        ValueError: That is not plain.
    """
    schema = json.loads(function.input_schema)
    required, known = schema.get("required", []), schema.get("properties", {})
    if len(required) == 1:
        return str(required[0])
    if "text" in known:
        return "text"
    raise ValueError(f"function {function.name!r} takes {', '.join(known)}; say with `parameter` which has the values")
