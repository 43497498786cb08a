"""Datasets: named, versioned tables of Arrow's format. `Datasets` and `AsyncDatasets` differ in `await` only.

What is here is bytes and needs no library; `inferd_client.data` makes rows of it, and datasets of rows.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import cached_property
from typing import TYPE_CHECKING, Final

from inferd_api.v1.dataset_pb2 import DatasetVersion
from inferd_api.v1.dataset_service_pb2 import (
    AppendDatasetRequest,
    CreateDatasetRequest,
    DeleteDatasetRequest,
    FinishDatasetRequest,
    GetDatasetRequest,
    ListDatasetPartsRequest,
    ListDatasetsRequest,
    ReadDatasetRequest,
)
from inferd_api.v1.dataset_service_pb2_grpc import DatasetServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import span
from inferd_client.errors import InferdError
from inferd_client.options import strict
from inferd_client.patience import PAUSE_S, Patience

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from inferd_api.v1.dataset_pb2 import Dataset, DatasetColumn, DatasetLineage, DatasetPart
    from inferd_api.v1.dataset_service_pb2 import ReadDatasetResponse
    from inferd_api.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub


NUMBERED: Final = re.compile(r"(.+)@([1-9][0-9]{0,8})")


def named(name: str) -> tuple[str, int]:
    """The name and the version of "reviews@3"; version 0, the highest, of "reviews"."""
    found = NUMBERED.fullmatch(name)
    return (name, 0) if found is None else (found[1], int(found[2]))


def dataset_version(name: str) -> DatasetVersion:
    """The same for the wire."""
    base, version = named(name)
    return DatasetVersion(name=base, version=version)


class _Reading:
    """Whole parts, of the pieces of a stream that may break and go on."""

    def __init__(self, name: str, version: int, first_part: int, count: int | None) -> None:
        self._name, self._version = name, version
        self._next, self._left = first_part, count
        self._chunks: list[bytes] = []

    def request(self) -> ReadDatasetRequest:
        """What asks for the rest, from the part on that is not whole."""
        self._chunks.clear()
        return ReadDatasetRequest(name=self._name, version=self._version, first_part=self._next, parts=self._left)

    def take(self, response: ReadDatasetResponse) -> bytes | None:
        """The part that came before this one, where it is whole with that."""
        self._version = response.version  # of a newer one the rest is not read
        whole = self.end() if response.part != self._next else None
        self._chunks.append(response.chunk)
        return whole

    def end(self) -> bytes | None:
        """The last part; None where there was none."""
        if not self._chunks:
            return None
        whole = b"".join(self._chunks)
        self._chunks.clear()
        self._next += 1
        self._left = None if self._left is None else self._left - 1
        return whole


@strict
class Datasets(Connection):
    """The datasets of a synchronous client."""

    @cached_property
    def _datasets(self) -> DatasetServiceStub:
        return DatasetServiceStub(self._channel)

    def create_dataset(
        self, name: str, columns: Sequence[DatasetColumn], lineage: DatasetLineage, *, retention_s: float | None = None
    ) -> Dataset:
        """Begin a version, or go on with the one that grows and has the same lineage and columns.

        Args:
            name: Of the dataset.
            columns: Names and types.
            lineage: What it is made from, and how.
            retention_s: It is forgotten when it was not used for so long; default: of the kernel, mostly never.
        """
        request = CreateDatasetRequest(name=name, columns=columns, lineage=lineage, retention=span(retention_s))
        return self._call(self._datasets.CreateDataset, request).dataset

    def append_dataset(self, name: str, version: int, parts: Sequence[DatasetPart], *, first_part: int) -> Dataset:
        """Add parts, which are blobs, behind those that are there; the same ones again change nothing."""
        request = AppendDatasetRequest(name=name, version=version, parts=parts, first_part=first_part)
        return self._call(self._datasets.AppendDataset, request).dataset

    def finish_dataset(self, name: str, version: int, count: int) -> Dataset:
        """A version has all its parts, `count` of them; it, or the whole version that is the same."""
        request = FinishDatasetRequest(name=name, version=version, parts=count)
        return self._call(self._datasets.FinishDataset, request).dataset

    def get_dataset(self, name: str, *, version: int = 0) -> Dataset:
        """A version of a dataset; 0 is the highest that is whole. Raises DatasetNotFoundError."""
        return self._call(self._datasets.GetDataset, GetDatasetRequest(name=name, version=version)).dataset

    def list_datasets(self, *, name: str = "") -> Generator[Dataset]:
        """The tenant's datasets, or those of a name, by name, the highest version of each first."""
        for page in self._pages(self._datasets.ListDatasets, ListDatasetsRequest(name=name)):
            yield from page.datasets

    def list_dataset_parts(self, name: str, *, version: int = 0) -> Generator[DatasetPart]:
        """The parts of a version in their order."""
        for page in self._pages(self._datasets.ListDatasetParts, ListDatasetPartsRequest(name=name, version=version)):
            yield from page.parts

    def read_dataset(
        self, name: str, *, version: int = 0, first_part: int = 0, count: int | None = None
    ) -> Generator[bytes]:
        """The parts of a version from one on, each a whole stream of Arrow's IPC format; goes on when a call breaks.

        Args:
            name: Of the dataset.
            version: Its number; 0 for the highest that is whole.
            first_part: The place of the first one.
            count: How many; default: all that follow.
        """
        reading, patience = _Reading(name, version, first_part, count), Patience()
        while True:
            try:
                for response in self._stream(self._datasets.ReadDataset, reading.request()):
                    patience.heard()
                    if (part := reading.take(response)) is not None:
                        yield part
            except InferdError as error:
                patience.check(error)
                time.sleep(PAUSE_S)
            else:
                if (part := reading.end()) is not None:
                    yield part
                return

    def delete_dataset(self, name: str, *, version: int = 0) -> list[int]:
        """Forget a version; 0 for all of the name. The numbers of those that went."""
        request = DeleteDatasetRequest(name=name, version=version)
        return list(self._call(self._datasets.DeleteDataset, request).versions)


@strict
class AsyncDatasets(AsyncConnection):
    """The datasets of an asynchronous client; each method is as its namesake in `Datasets`."""

    @cached_property
    def _datasets(self) -> DatasetServiceAsyncStub:
        return DatasetServiceStub(self._channel)

    async def create_dataset(
        self, name: str, columns: Sequence[DatasetColumn], lineage: DatasetLineage, *, retention_s: float | None = None
    ) -> Dataset:
        """As `Datasets.create_dataset`."""
        request = CreateDatasetRequest(name=name, columns=columns, lineage=lineage, retention=span(retention_s))
        return (await self._call(self._datasets.CreateDataset, request)).dataset

    async def append_dataset(
        self, name: str, version: int, parts: Sequence[DatasetPart], *, first_part: int
    ) -> Dataset:
        """As `Datasets.append_dataset`."""
        request = AppendDatasetRequest(name=name, version=version, parts=parts, first_part=first_part)
        return (await self._call(self._datasets.AppendDataset, request)).dataset

    async def finish_dataset(self, name: str, version: int, count: int) -> Dataset:
        """As `Datasets.finish_dataset`."""
        request = FinishDatasetRequest(name=name, version=version, parts=count)
        return (await self._call(self._datasets.FinishDataset, request)).dataset

    async def get_dataset(self, name: str, *, version: int = 0) -> Dataset:
        """As `Datasets.get_dataset`."""
        return (await self._call(self._datasets.GetDataset, GetDatasetRequest(name=name, version=version))).dataset

    async def list_datasets(self, *, name: str = "") -> AsyncGenerator[Dataset]:
        """As `Datasets.list_datasets`."""
        async for page in self._pages(self._datasets.ListDatasets, ListDatasetsRequest(name=name)):
            for dataset in page.datasets:
                yield dataset

    async def list_dataset_parts(self, name: str, *, version: int = 0) -> AsyncGenerator[DatasetPart]:
        """As `Datasets.list_dataset_parts`."""
        request = ListDatasetPartsRequest(name=name, version=version)
        async for page in self._pages(self._datasets.ListDatasetParts, request):
            for part in page.parts:
                yield part

    async def read_dataset(
        self, name: str, *, version: int = 0, first_part: int = 0, count: int | None = None
    ) -> AsyncGenerator[bytes]:
        """As `Datasets.read_dataset`."""
        reading, patience = _Reading(name, version, first_part, count), Patience()
        while True:
            try:
                async for response in self._stream(self._datasets.ReadDataset, reading.request()):
                    patience.heard()
                    if (part := reading.take(response)) is not None:
                        yield part
            except InferdError as error:
                patience.check(error)
                await asyncio.sleep(PAUSE_S)
            else:
                if (part := reading.end()) is not None:
                    yield part
                return

    async def delete_dataset(self, name: str, *, version: int = 0) -> list[int]:
        """As `Datasets.delete_dataset`."""
        request = DeleteDatasetRequest(name=name, version=version)
        return list((await self._call(self._datasets.DeleteDataset, request)).versions)
