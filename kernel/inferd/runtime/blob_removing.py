"""Files of blobs are removed by the kernel that leads alone, also where it was stopped while it did."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from inferd.runtime.blob_sealing import folders_of
from inferd.store.blob_asides import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from inferd.runtime.blob_entry import Rows
    from inferd.runtime.blob_sealing import Do
    from inferd.runtime.whole import Whole
    from inferd.store.blob_files import BlobFiles

LOOK = 1000  # files that are looked at in one go

log = structlog.get_logger()


class Removing:
    """Removes files that other kernels may have, too; see `inferd.store.blob_asides`. One writer: the loop.

    Args:
        files: Where they are.
        do: Does something with them.
        rows: By which it is asked whether this kernel leads.
        whole: Does what is not left half done.
    """

    def __init__(self, files: BlobFiles, do: Do, rows: Rows, whole: Whole) -> None:
        self._files = files
        self._do = do
        self._rows = rows
        self._whole = whole

    async def check(self) -> None:
        """See that this kernel leads.

        Raises:
            StoreUnavailableError: It does not, or cannot know.
        """
        await self._rows(lambda store: store.grip())

    async def remove(self, paths: Callable[[], Iterable[Path]]) -> None:
        """Remove files, those that there are.

        Args:
            paths: Which: asked once it is known that this kernel leads, so that none is of a blob begun by then.

        Raises:
            StoreUnavailableError: This kernel leads no more, or cannot know: they are there as before.
        """
        await self._whole.do(self._remove(paths))  # though its call ends

    async def _remove(self, paths: Callable[[], Iterable[Path]]) -> None:
        await self.check()
        aside = await self._do(self._files.set_aside, paths())  # the loop does nothing else between both
        try:
            await self.check()
        except BaseException:
            await self._do(self._files.put_back, aside)
            raise
        await self._do(self._files.remove, aside)

    async def sweep(self, known: AbstractSet[str], *, folder: str = "*") -> None:
        """Remove the files whose names are not known: what was left by a kernel that was killed.

        Args:
            known: Names, see `BlobFiles.name_of`.
            folder: The name of the one that is looked into, of a tenant; all of them unless it is said.

        Raises:
            StoreUnavailableError: As `remove`.
        """
        found, removed = self._files.found(LOOK, folder), 0
        while (some := await self._do(next, found, None)) is not None:
            left: list[Path] = []

            def unknown(some: Sequence[Path] = some, left: list[Path] = left) -> Iterable[Path]:
                left[:] = (path for path in some if self._files.name_of(path) not in known)
                return left

            if unknown():
                await self.remove(unknown)
            removed += len(left)
            await self._do(
                self._files.put_back, [path for path in some if path.name.endswith(GONE) and path not in left]
            )
        if removed:
            log.info("files that belonged to no blob were removed", files=removed)

    async def remove_tenant(self, tenant: str, known: AbstractSet[str]) -> None:
        """Have all files of a tenant gone but those that are known, as they were given anew.

        Raises:
            StoreUnavailableError: As `remove`.
        """
        folder, models = folders_of(self._files, tenant)
        await self.sweep(known, folder=folder.name)
        await self._do(_remove_empty, folder)
        await self._do(self._files.models.unlink, models.name)


def _remove_empty(folder: Path) -> None:
    for each in (*folder.glob("*"), folder):
        with suppress(OSError):  # something is in it again
            each.rmdir()
