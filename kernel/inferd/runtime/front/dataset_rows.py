"""Rows of datasets as lines of JSON, for what of the kernel reads these: a function opens each part, in a worker."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.core.priority import Priority
from inferd.core.task import DATASET_LABEL
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.runtime.blob_memories import BlobPart
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.front.caller import Caller
from inferd.runtime.index_work import Asker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.core.dataset import Dataset, Part
    from inferd.core.ids import Tenant
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.datasets import Datasets
    from inferd.runtime.front.index_tasks import IndexTasks
    from inferd.runtime.kept_datasets import Held

FUNCTION: Final = "dataset_lines"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a dataset has, as JSON Lines, and which it is."""

    dataset: Dataset
    data: bytes


class DatasetRows:
    """Has rows of datasets read.

    Args:
        driver: Of the kernel.
        datasets: All of them.
        tasks: By which parts are opened.
    """

    def __init__(self, driver: Driver, datasets: Datasets, tasks: IndexTasks) -> None:
        self._driver, self._datasets, self._tasks = driver, datasets, tasks

    def hold(self, tenant: Tenant, name: str, version: int, holder: str) -> Held:
        """A whole version, of 0 the highest, which stays until `let_go`; raises as `Datasets.hold`."""
        return self._datasets.hold(tenant, name, version, holder)

    def let_go(self, tenant: Tenant, name: str, version: int, holder: str) -> None:
        """As `Datasets.let_go`."""
        self._datasets.let_go(tenant, name, version, holder)

    @contextmanager
    def held(self, tenant: Tenant, name: str, version: int, holder: str) -> Iterator[Held]:
        """As `hold`, as long as the block."""
        held = self.hold(tenant, name, version, holder)
        try:
            yield held
        finally:
            self.let_go(tenant, name, held.dataset.version, holder)

    async def lines(
        self,
        tenant: Tenant,
        dataset: Dataset,
        part: Part,
        priority: Priority = Priority.LOW,
        *,
        left_bytes: int | None = None,
        error: LimitExceededError | None = None,
    ) -> list[str]:
        """The rows of a part, a JSON object each; the call that opens it is a task of the tenant.

        A part may be packed, and its rows much larger: the call ends when they are more than may be.

        Raises:
            LimitExceededError: They have more bytes than `datasets.lines_bytes`; or `error`, more than `left_bytes`.
            InvalidFieldError: It is no table, or has another number of rows than its maker has said.
            InferdError: It is not there or damaged, or the function cannot be called.
        """
        blobs = blobs_of(self._driver.keeper)
        if blobs is None:  # what was held before cannot be without them
            return []
        memory = await blobs.memories.read(tenant, BlobPart(part.digest, 0, part.size_bytes))
        asker = Asker(Caller(tenant=tenant), dataset.label, priority, DATASET_LABEL)
        most = self._datasets.lines_bytes
        refusal = _too_large(f"of a part of dataset {dataset.label}", "datasets.lines_bytes", most)
        if left_bytes is not None and error is not None and left_bytes < most:
            most, refusal = left_bytes, error
        size = 0

        def takes(piece: str) -> None:
            nonlocal size
            size += len(piece.encode())
            if size > most:
                raise refusal

        found = "".join(await self._tasks.call(asker, FUNCTION, [memory], takes=takes)).split("\n")[:-1]
        if len(found) != part.rows:
            raise InvalidFieldError(
                f"a part of dataset {dataset.label} has {len(found)} rows, and its maker said {part.rows}; begin anew",
                field="dataset",
            )
        return found

    async def all(self, tenant: Tenant, name: str, version: int, *, holder: str, most_bytes: int, bound: str) -> Read:
        """All rows of a version, of 0 the highest that is whole, which is held while they are read.

        Raises:
            DatasetNotFoundError: There is none that is whole.
            LimitExceededError: They are more than `most_bytes`, which is what `bound` names.
            InferdError: They cannot be read.
        """
        data = bytearray()
        with self.held(tenant, name, version, holder) as held:
            for part in held.parts:
                error, left = _too_large(f"of dataset {held.dataset.label}", bound, most_bytes), most_bytes - len(data)
                lines = await self.lines(tenant, held.dataset, part, left_bytes=left, error=error)
                data += b"".join(line.encode() + b"\n" for line in lines)
            return Read(dataset=held.dataset, data=bytes(data))


def _too_large(rows: str, bound: str, most_bytes: int) -> LimitExceededError:
    return LimitExceededError(
        f"the rows {rows} have more than {most_bytes} bytes as JSON, which is {bound}; take fewer, as by inferd data"
        " split, or raise that",
        metadata={"bound": bound, "value": f"more than {most_bytes}", "limit": str(most_bytes)},
        field="dataset",
    )
