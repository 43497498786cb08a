"""Lists that steps are done for, read as they are needed: of an input, a blob, a dataset, or what another step gave."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Protocol

from inferd.core.expressions import bytes_of, read_json, write_json
from inferd.errors import InvalidFieldError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.dataset import Dataset, Part
    from inferd.core.ids import Tenant
    from inferd.core.priority import Priority
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.pipelines.journal import Journal

WINDOW_BYTES, WINDOW_ITEMS = 1 << 20, 256  # that are read ahead


class Series(Protocol):
    """A list of JSON values.

    Attributes:
        count: How many there are.
    """

    count: int

    def size_of(self, index: int) -> int:
        """About how many bytes one has."""

    async def some(self, begin: int, end: int) -> list[str]:
        """Some of them, by their places."""


class Listed:
    """A list that is at hand."""

    def __init__(self, items: Sequence[str]) -> None:
        self._items = items
        self.count = len(items)

    def size_of(self, index: int) -> int:
        """As `Series.size_of`."""
        return len(self._items[index])

    async def some(self, begin: int, end: int) -> list[str]:
        """As `Series.some`."""
        return list(self._items[begin:end])


class Given:
    """What a step has given."""

    def __init__(self, journal: Journal, step: int) -> None:
        self._journal, self._step = journal, step
        self.count = journal.steps[step].items or 0

    def size_of(self, index: int) -> int:
        """As `Series.size_of`."""
        return self._journal.steps[self._step].sizes[index]

    async def some(self, begin: int, end: int) -> list[str]:
        """As `Series.some`."""
        return await self._journal.values(self._step, begin, end)


class Lines:
    """The lines of a blob. To be made by `read`."""

    def __init__(self, blobs: Blobs, tenant: str, digest: str, starts: array[int], *, json: bool) -> None:
        self._blobs, self._tenant, self._digest, self._starts, self._json = blobs, tenant, digest, starts, json
        self.count = len(starts) - 1

    @classmethod
    async def read(
        cls, blobs: Blobs, tenant: str, digest: str, most_items: int, most_bytes: int, *, json: bool
    ) -> Lines:
        """Find where its lines begin.

        Raises:
            InferdError: It is not there, or damaged.
            LimitExceededError: It has too many lines, or one that is too long.
        """
        starts, at = array("Q", [0]), 0
        async for piece in blobs.pieces(tenant, digest):
            found = -1
            while (found := piece.find(b"\n", found + 1)) >= 0:
                starts.append(at + found + 1)
            at += len(piece)
            check_count(len(starts) - 1, most_items, "input.blob")
        if starts[-1] != at:
            starts.append(at)
        for number, (begin, end) in enumerate(pairwise(starts), 1):
            if end - begin > most_bytes:
                raise LimitExceededError(
                    f"line {number} of the blob has {end - begin} bytes and pipelines.value_bytes is {most_bytes}",
                    metadata={"bound": "pipelines.value_bytes", "value": str(end - begin), "limit": str(most_bytes)},
                    field="blob",
                )
        return cls(blobs, tenant, digest, starts, json=json)

    def size_of(self, index: int) -> int:
        """As `Series.size_of`."""
        return self._starts[index + 1] - self._starts[index]

    async def some(self, begin: int, end: int) -> list[str]:
        """As `Series.some`.

        Raises:
            InvalidFieldError: A line is no UTF-8 or no JSON.
        """
        start, size = self._starts[begin], self._starts[end] - self._starts[begin]
        pieces = self._blobs.pieces(self._tenant, self._digest, start=start, size_bytes=size)
        data = b"".join([piece async for piece in pieces])
        return [
            self._line(data[self._starts[at] - start : self._starts[at + 1] - start], at + 1)
            for at in range(begin, end)
        ]

    def _line(self, line: bytes, number: int) -> str:
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InvalidFieldError(
                f"line {number} of the blob is no UTF-8: byte {error.start} is {line[error.start]:#x}", field="blob"
            ) from None
        if not self._json:
            return write_json(text)
        return write_json(read_json(text, f"line {number} of the blob"))


class RowsReader(Protocol):
    """Reads rows of datasets."""

    async def lines(self, tenant: Tenant, dataset: Dataset, part: Part, priority: Priority = ...) -> list[str]:
        """The rows of a part, a JSON object each."""


class Rows:
    """The rows of a dataset, of which one part is at hand. One writer: itself."""

    def __init__(  # noqa: PLR0917 - of one dataset
        self, reader: RowsReader, tenant: Tenant, priority: Priority, dataset: Dataset, parts: Sequence[Part], most: int
    ) -> None:
        self._reader, self._tenant, self._priority = reader, tenant, priority
        self._dataset, self._parts, self._most_bytes = dataset, [part for part in parts if part.rows], most
        self._starts = [0, *accumulate(part.rows for part in self._parts)]
        self._lock = asyncio.Lock()
        self._place, self._lines = -1, list[str]()
        self.count = self._starts[-1]

    def size_of(self, index: int) -> int:
        """As `Series.size_of`: what a row of its part has in the middle."""
        part = self._parts[bisect_right(self._starts, index) - 1]
        return part.size_bytes // part.rows + 1

    async def some(self, begin: int, end: int) -> list[str]:
        """As `Series.some`.

        Raises:
            InferdError: A part cannot be read.
            LimitExceededError: A row is too large.
        """
        found = list[str]()
        while begin < end:
            place = bisect_right(self._starts, begin) - 1
            lines, start = await self._read(place), self._starts[place]
            some = lines[begin - start : end - start]
            for at, line in enumerate(some, begin):
                check_size(bytes_of(line), self._most_bytes, f"row {at} of dataset {self._dataset.label}")
            found += some
            begin += len(some)
        return found

    async def _read(self, place: int) -> list[str]:
        async with self._lock:
            if place != self._place:
                self._lines = await self._reader.lines(self._tenant, self._dataset, self._parts[place], self._priority)
                self._place = place
            return self._lines


class Batched:
    """A list of lists of so many items of another one."""

    def __init__(self, series: Series, size: int, most_bytes: int) -> None:
        self._series, self._size, self._most_bytes = series, size, most_bytes
        self.count = -(-series.count // size)

    def size_of(self, index: int) -> int:
        """As `Series.size_of`."""
        begin = index * self._size
        return sum(self._series.size_of(at) for at in range(begin, min(begin + self._size, self._series.count)))

    async def some(self, begin: int, end: int) -> list[str]:
        """As `Series.some`.

        Raises:
            LimitExceededError: What is to be one is too large.
        """
        size, all_of = self._size, self._series.count
        for index in range(begin, end):
            check_size(self.size_of(index), self._most_bytes, f"batch {index}")
        items = await self._series.some(begin * size, min(end * size, all_of))
        made = [f"[{','.join(items[at : at + size])}]" for at in range(0, len(items), size)]
        for index, batch in enumerate(made, begin):  # sizes of rows are known for certain only now
            check_size(bytes_of(batch), self._most_bytes, f"batch {index}")
        return made


class Window:
    """Reads a list ahead of those that are done for its items. One writer: itself."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._lock = asyncio.Lock()
        self._begin, self._items = 0, list[str]()

    async def get(self, index: int) -> str:
        """One item. Raises as `Series.some`."""
        async with self._lock:
            if not self._begin <= index < self._begin + len(self._items):
                end, size = index + 1, self._series.size_of(index)
                while end < min(self._series.count, index + WINDOW_ITEMS) and size < WINDOW_BYTES:
                    size += self._series.size_of(end)
                    end += 1
                self._begin, self._items = index, await self._series.some(index, end)
            return self._items[index - self._begin]


def check_count(count: int, most: int, what: str) -> None:
    """Refuse a list that is too long.

    Raises:
        LimitExceededError: It is.
    """
    if count > most:
        raise LimitExceededError(
            f"{what} has {count} items or more, and pipelines.items is {most}; give fewer, or raise that setting of the"
            " kernel",
            metadata={"bound": "pipelines.items", "value": str(count), "limit": str(most)},
        )


def check_size(size: int, most: int, what: str) -> None:
    """Refuse a value that is too large.

    Raises:
        LimitExceededError: It is.
    """
    if size > most:
        raise LimitExceededError(
            f"{what} has {size} bytes and pipelines.value_bytes is {most}; have it done in smaller parts, as with map",
            metadata={"bound": "pipelines.value_bytes", "value": str(size), "limit": str(most)},
        )
