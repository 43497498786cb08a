"""`inferd.v1.DatasetService`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from inferd.errors import InvalidFieldError
from inferd.services.dataset_values import (
    check_name,
    read_columns,
    read_lineage,
    read_parts,
    write_dataset,
    write_parts,
)
from inferd.services.pages import page_of
from inferd.services.times import read_seconds
from inferd.services.uploads import CHUNK_BYTES, CHUNK_MARGIN_BYTES
from inferd_api.v1 import dataset_service_pb2 as ds

if TYPE_CHECKING:
    from inferd.runtime.front import datasets as front
    from inferd.services.calls import Call

MOST_KEY: Final = 1 << 32  # above all versions
MOST_RETENTION_S: Final = 1e9  # thirty years


class Datasets:
    """Translates; see the proto for what each call means."""

    def __init__(self, datasets: front.Datasets, *, message_limit_bytes: int) -> None:
        self._datasets = datasets
        self._most_bytes = min(CHUNK_BYTES, message_limit_bytes - CHUNK_MARGIN_BYTES)

    async def CreateDataset(self, request: ds.CreateDatasetRequest, call: Call) -> ds.CreateDatasetResponse:  # noqa: N802 - the wire's name
        """Begin a version, or go on with one."""
        retention_s = read_seconds(request.retention, "retention") if request.HasField("retention") else None
        if retention_s is not None and not 0 < retention_s <= MOST_RETENTION_S:
            raise InvalidFieldError(
                f"retention is {retention_s:g} s; it must be above 0 and at most {MOST_RETENTION_S:g} s",
                field="retention",
            )
        dataset = await self._datasets.create(
            call.caller,
            check_name(request.name),
            read_columns(request.columns),
            read_lineage(request.lineage),
            retention_s,
        )
        return ds.CreateDatasetResponse(dataset=write_dataset(dataset))

    async def AppendDataset(self, request: ds.AppendDatasetRequest, call: Call) -> ds.AppendDatasetResponse:  # noqa: N802 - the wire's name
        """Add parts."""
        parts = read_parts(request.parts)
        dataset = await self._datasets.append(
            call.caller, request.name, _numbered(request.version), request.first_part, parts
        )
        return ds.AppendDatasetResponse(dataset=write_dataset(dataset))

    async def FinishDataset(self, request: ds.FinishDatasetRequest, call: Call) -> ds.FinishDatasetResponse:  # noqa: N802 - the wire's name
        """It is whole."""
        dataset = await self._datasets.finish(call.caller, request.name, _numbered(request.version), request.parts)
        return ds.FinishDatasetResponse(dataset=write_dataset(dataset))

    async def GetDataset(self, request: ds.GetDatasetRequest, call: Call) -> ds.GetDatasetResponse:  # noqa: N802 - the wire's name
        """Read a version."""
        return ds.GetDatasetResponse(
            dataset=write_dataset(self._datasets.get(call.caller, request.name, request.version))
        )

    async def ListDatasets(self, request: ds.ListDatasetsRequest, call: Call) -> ds.ListDatasetsResponse:  # noqa: N802 - the wire's name
        """List datasets."""
        found = self._datasets.list(call.caller, request.name)
        keyed = [(f"{each.name} {MOST_KEY - each.version:010}", each) for each in found]
        page, token = page_of(sorted(keyed, key=lambda one: one[0]), request.page_size, request.page_token)
        return ds.ListDatasetsResponse(datasets=map(write_dataset, page), next_page_token=token)

    async def ListDatasetParts(self, request: ds.ListDatasetPartsRequest, call: Call) -> ds.ListDatasetPartsResponse:  # noqa: N802 - the wire's name
        """List the parts of a version."""
        parts = self._datasets.parts(call.caller, request.name, request.version)
        keyed = [(f"{place:010}", part) for place, part in enumerate(parts)]
        page, token = page_of(keyed, request.page_size, request.page_token)
        return ds.ListDatasetPartsResponse(parts=write_parts(page), next_page_token=token)

    async def ReadDataset(self, request: ds.ReadDatasetRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Give the bytes of a version."""
        count = request.parts if request.HasField("parts") else None
        async with (
            self._datasets.cut_short(),
            aclosing(
                self._datasets.read(call.caller, request.name, request.version, first=request.first_part, count=count)
            ) as pieces,
        ):
            async for version, part, piece in pieces:
                for at in range(0, len(piece), self._most_bytes):
                    chunk = piece[at : at + self._most_bytes]
                    await call.write(ds.ReadDatasetResponse(part=part, chunk=chunk, version=version))

    async def DeleteDataset(self, request: ds.DeleteDatasetRequest, call: Call) -> ds.DeleteDatasetResponse:  # noqa: N802 - the wire's name
        """Forget a version, or all of a name."""
        return ds.DeleteDatasetResponse(
            versions=await self._datasets.delete(call.caller, request.name, request.version)
        )


def _numbered(version: int) -> int:
    if not version:
        raise InvalidFieldError("version is 0; name the version that grows", field="version")
    return version
