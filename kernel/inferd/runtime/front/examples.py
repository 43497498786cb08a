"""The examples that are nearest to what a model was given: in an index, or among the rows of a dataset."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from operator import mul
from typing import TYPE_CHECKING, Any, Final

from inferd.core.document_index import Query, SearchMode
from inferd.core.ids import ModelName
from inferd.core.task import EXPLANATION_LABEL
from inferd.core.task_events import Finished
from inferd.errors import InvalidFieldError, LimitExceededError, suggestion
from inferd.runtime.explanation_work import texts_of, whole_text
from inferd.runtime.front.explained import Cost, Example
from inferd.runtime.front.index_searching import search
from inferd.runtime.front.rescoring import TRIES, do_all
from inferd.runtime.front.room import patiently
from inferd.runtime.index_work import Asker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.task_events import TaskEvent
    from inferd.explanation_settings import Explanations
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.dataset_rows import DatasetRows
    from inferd.runtime.front.explained import Wanted, WantedExamples
    from inferd.runtime.front.index_tasks import IndexTasks
    from inferd.runtime.front.indexes import Indexes

TOLD_CHARACTERS: Final = 2000
METADATA_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Sources:
    """Where examples are: all indexes, rows of datasets, and what makes vectors."""

    indexes: Indexes
    rows: DatasetRows
    tasks: IndexTasks


@dataclass(slots=True, kw_only=True)
class Examples:
    """Finds the nearest examples of one explanation. One writer: itself.

    Attributes:
        driver: Of the kernel.
        sources: Where they are.
        limits: How far it may go.
        wanted: What is explained.
        source: Where to look.
        caller: For whom.
        cost: Of the vectors that were made so far.
    """

    driver: Driver
    sources: Sources
    limits: Explanations
    wanted: Wanted
    source: WantedExamples
    caller: Caller
    cost: Cost = field(default_factory=Cost)
    _rows: Sequence[tuple[str, str]] | None = None  # each text, and the rest of its row

    async def plan(self) -> Cost:
        """What it will cost; a search in an index costs one vector, which is not counted.

        Raises:
            InferdError: There is no such index, dataset, column or model, or there are too many rows.
        """
        if self.source.index:
            spec = self.sources.indexes.find(self.caller, self.source.index).index.spec
            if not spec.model:
                raise InvalidFieldError(
                    f"index {spec.name!r} has no embedding_model, so that nothing in it is near to anything; name"
                    " another index, or a dataset and a model",
                    field="spec.examples.index",
                )
            return Cost()
        self._rows = await self._read()
        gate = asyncio.Semaphore(self.limits.in_flight)

        async def count(text: str) -> int:
            async with gate:
                return await self._count(text)

        tokens = sum(await do_all([count(text) for text in (self._query, *(text for text, _ in self._rows))]))
        return Cost(sequences=1 + len(self._rows), tokens=tokens, computed_tokens=tokens)

    async def find(self) -> list[Example]:
        """The nearest ones, the nearest first. Called behind `plan`.

        Raises:
            InferdError: A task failed.
        """
        if self.source.index:
            return await self._search()
        rows = self._rows or ()
        gate = asyncio.Semaphore(self.limits.in_flight)

        async def vector(text: str) -> Sequence[float]:
            async with gate:
                return await self.sources.tasks.embed(self._asker, self.source.model, text, heard=self._hear)

        query, *vectors = await do_all([vector(text) for text in (self._query, *(text for text, _ in rows))])
        distances = await asyncio.to_thread(_distances, query, vectors)
        nearest = sorted(range(len(rows)), key=lambda number: (distances[number], number))[: self.source.count]
        return [
            Example(
                id=str(number),
                title="",
                text=rows[number][0][:TOLD_CHARACTERS],
                distance=distances[number],
                metadata=rows[number][1],
            )
            for number in nearest
        ]

    async def _search(self) -> list[Example]:
        query = Query(index=self.source.index, text=self._query, count=self.source.count, mode=SearchMode.VECTOR)
        found, _ = await search(self.sources.indexes, self.caller, query, self.wanted.priority)
        return [
            Example(
                id=each.document_id,
                title=each.title,
                text=each.text[:TOLD_CHARACTERS],
                distance=1.0 - each.score,
                metadata=each.metadata,
            )
            for each in found
        ]

    @property
    def _asker(self) -> Asker:
        return Asker(self.caller, self.source.dataset, self.wanted.priority, EXPLANATION_LABEL)

    @property
    def _query(self) -> str:
        """The last text of the input."""
        return texts_of(self.wanted.given)[-1].text

    async def _count(self, text: str) -> int:
        """Of how many tokens a vector is made."""
        model, given = ModelName(self.source.model), whole_text(text)
        answer = await patiently(
            lambda: self.driver.questions.query(model, given, tenant=self.caller.tenant), tries=TRIES
        )
        return len(answer.token_ids)

    def _hear(self, event: TaskEvent) -> None:
        if isinstance(event, Finished):
            self.cost += Cost.of(event)

    async def _read(self) -> list[tuple[str, str]]:
        """The texts of the dataset, and what else their rows say."""
        source, tenant, most = self.source, self.caller.tenant, self.limits.example_rows
        found: list[tuple[str, str]] = []
        left = self.limits.example_bytes
        with self.sources.rows.held(
            tenant, source.dataset, source.version, f"an explanation of {self.wanted.model}"
        ) as held:
            dataset = held.dataset
            _check_column(source.column, [each.name for each in dataset.columns], dataset.label)
            if dataset.rows > most:
                raise LimitExceededError(
                    f"dataset {dataset.label} has {dataset.rows} rows and explanations.example_rows is {most}: each of"
                    " them would get a vector; make an index of it, which keeps them (inferd index add NAME --dataset),"
                    " or take fewer by inferd data split",
                    metadata={"bound": "explanations.example_rows", "value": str(dataset.rows), "limit": str(most)},
                    field="spec.examples.dataset",
                )
            for part in held.parts:
                error = LimitExceededError(
                    f"the rows of dataset {dataset.label} have more bytes as JSON than explanations.example_bytes,"
                    f" which is {self.limits.example_bytes}; make an index of it",
                    metadata={"bound": "explanations.example_bytes", "limit": str(self.limits.example_bytes)},
                    field="spec.examples.dataset",
                )
                lines = await self.sources.rows.lines(
                    tenant, dataset, part, self.wanted.priority, left_bytes=left, error=error
                )
                left -= sum(map(len, lines))
                found += await asyncio.to_thread(_read_rows, lines, source.column, len(found), dataset.label)
        return found


def _check_column(column: str, known: Sequence[str], label: str) -> None:
    if column not in known:
        near = suggestion(column, list(known))
        hint = f"did you mean {near!r}?" if near else f"it has {', '.join(known[:20])}"
        raise InvalidFieldError(f"dataset {label} has no column {column[:80]!r}; {hint}", field="spec.examples.column")


def _distances(one: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
    """How far one vector is from each of the others; all have the length 1."""
    return [1.0 - sum(map(mul, one, other)) for other in others]


def _read_rows(lines: Sequence[str], column: str, first: int, label: str) -> list[tuple[str, str]]:
    """What some rows have, of which one is the `first` of all."""
    return [_read_row(line, column, number, label) for number, line in enumerate(lines, first)]


def _read_row(line: str, column: str, number: int, label: str) -> tuple[str, str]:
    row: dict[str, Any] = json.loads(line)
    text = row.pop(column, None)
    if not isinstance(text, str) or not text.strip():
        raise InvalidFieldError(
            f"row {number} of dataset {label} has no text in {column!r}; name a column of texts, or leave such"
            " rows out",
            field="spec.examples.column",
        )
    rest = json.dumps(row, ensure_ascii=False, separators=(",", ":")) if row else ""
    return text, rest if len(rest.encode()) <= METADATA_BYTES else ""
