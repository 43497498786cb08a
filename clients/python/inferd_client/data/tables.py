"""Datasets as tables and as rows, a part at a time."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from inferd_api.v1.dataset_pb2 import DatasetPart, DatasetSource
from inferd_client.data.arrow import columns_of, library, read
from inferd_client.datasets import named as named  # noqa: PLC0414 - one of this module, too
from inferd_client.errors import InferdError
from inferd_client.patience import PAUSE_S, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import TypeAlias

    from inferd_api.v1.dataset_pb2 import Dataset, DatasetLineage
    from inferd_client import Client
    from inferd_client.data.arrow import Made

    Progress: TypeAlias = Callable[[Dataset], None]
    """Is told how a dataset that is made stands, with each of its parts."""

T = TypeVar("T")


def tables(client: Client, name: str, *, first_part: int = 0, count: int | None = None) -> Generator[Any]:
    """The parts of a dataset as tables of pyarrow, one after the other; no more than one is held.

    Args:
        client: Of the kernel.
        name: Of the dataset, with a version or without, as "reviews@3".
        first_part: The place of the first one.
        count: How many; default: all that follow.

    Raises:
        InferdError: There is none, or it cannot be read.
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: A part is no table, or not the one that the dataset tells of.
    """
    base, version = named(name)
    version = version or client.get_dataset(base).version
    said = islice(client.list_dataset_parts(base, version=version), first_part, None)
    for part in client.read_dataset(base, version=version, first_part=first_part, count=count):
        known = next(said, None)  # one that grows may have more by now
        yield read(part, None if known is None else known.rows)


def rows(client: Client, name: str, *, most: int | None = None) -> Generator[dict[str, Any]]:
    """The rows of a dataset as dictionaries, at most so many; as `tables`."""
    left = most
    for table in tables(client, name):
        for batch in table.to_batches(max_chunksize=1000):
            wanted = batch if left is None else batch.slice(0, left)
            left = None if left is None else left - wanted.num_rows
            yield from wanted.to_pylist()
            if left == 0:
                return


def source_of(dataset: Dataset) -> DatasetSource:
    """A dataset as one that another is made from."""
    return DatasetSource(name=dataset.name, version=dataset.version, digest=dataset.digest)


class Writer:
    """Makes a version of a dataset, part by part, or goes on with one that grows.

    A kernel that is started again meanwhile is waited for.

    Args:
        client: Of the kernel.
        name: Of the dataset.
        schema: Of its rows.
        lineage: What it is made from, and how.
        retention_s: As `Datasets.create_dataset`.
        progress: Told of each part.

    Attributes:
        dataset: How it stands.
        place: Of the next part.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        schema: Any,
        lineage: DatasetLineage,
        *,
        retention_s: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._client, self._progress = client, progress
        self.dataset = patiently(
            lambda: client.create_dataset(name, columns_of(schema), lineage, retention_s=retention_s)
        )
        self.place = 0

    def add(self, parts: Iterable[Made]) -> None:
        """More parts; those that it has already are passed over.

        Raises:
            InferdError: One cannot be kept, or it has another one in that place.
        """
        for part in parts:
            blob = self._client.put_blob(part.data)
            told = DatasetPart(digest=blob.digest, rows=part.rows, statistics=part.statistics)
            name, version, place = self.dataset.name, self.dataset.version, self.place
            self.dataset = patiently(
                lambda: self._client.append_dataset(name, version, [told], first_part=place)  # noqa: B023 - called at once
            )
            self.place += 1
            library().default_memory_pool().release_unused()  # what parts before it took is the system's again
            if self._progress is not None:
                self._progress(self.dataset)

    def finish(self) -> Dataset:
        """It has all its parts.

        Raises:
            InferdError: It has others besides, or cannot be kept.
        """
        name, version, count = self.dataset.name, self.dataset.version, self.place
        return patiently(lambda: self._client.finish_dataset(name, version, count))


def patiently(do: Callable[[], T]) -> T:
    """Do something that may be done again, while no kernel is there for a while.

    Raises:
        InferdError: It fails, or none was there for long.
    """
    patience = Patience()
    while True:
        try:
            return do()
        except InferdError as error:
            patience.check(error)
            time.sleep(PAUSE_S)
