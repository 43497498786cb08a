"""Files that loads give in place of those of a repository: in folders of the kernel's own, one for each load."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import deque
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from inferd.errors import InvalidFieldError, ModelLoadError, words_of
from inferd.model_names import APART, is_name
from inferd.repository.folders import MOST_DEPTH, Folder, look

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "file:"
KEPT: Final = 2  # of the loads of a model that came to serve: the last, and the one before, which may serve again


class OverrideFiles:
    """Writes them, and removes those that no version of a model can be of any more. One writer: the loop.

    Args:
        folder: Where they are; nothing else is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._kept: dict[str, deque[Path]] = {}

    def clear(self) -> None:
        """Remove what a kernel before this one has left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def write(self, name: str, files: Mapping[str, bytes]) -> Folder:
        """The folder of a model that has these files and no others.

        Args:
            name: Of the model.
            files: By their paths in its folder.

        Raises:
            InvalidFieldError: A path leads out of the folder, or is none.
            ModelLoadError: They cannot be written.
        """
        if not is_name(name) or "/" in name or APART in name:
            raise InvalidFieldError(
                f"invalid model name '{name[:128]}', model name must not contain path traversal characters",
                field="model_name",
            )
        parts = {path: _parts(path) for path in files}
        root = self.folder / uuid4().hex
        try:
            folder = await asyncio.to_thread(self._write, root, name, {parts[path]: files[path] for path in files})
        except OSError as error:
            shutil.rmtree(root, ignore_errors=True)
            raise ModelLoadError(f"its files cannot be written: {words_of(error)}") from None
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
        return folder

    def keep(self, name: str, folder: Folder) -> None:
        """A model is of this folder from now on; nothing where that is none that was written here."""
        if folder.path.is_relative_to(self.folder):
            self._kept.setdefault(name, deque()).append(folder.path.parent)

    async def settle(self, name: str, folder: Folder) -> None:
        """A load has ended: what it has written goes unless it is kept, and so do files of loads long before it."""
        kept, root = self._kept.get(name, deque()), folder.path.parent
        gone = [kept.popleft() for _ in range(len(kept) - KEPT)]
        if root.is_relative_to(self.folder) and root != self.folder and root not in kept:
            gone.append(root)
        for each in gone:
            await asyncio.to_thread(shutil.rmtree, each, ignore_errors=True)

    async def drop(self, name: str) -> None:
        """Remove the files of a model that is served no more."""
        for root in self._kept.pop(name, ()):
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)

    def _write(self, root: Path, name: str, files: Mapping[tuple[str, ...], bytes]) -> Folder:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = self.folder.resolve()
        (self.folder / root.name / name).mkdir(mode=0o700, parents=True)
        for parts, data in files.items():
            path = Path(self.folder / root.name / name, *parts)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(opened, "wb") as file:
                file.write(data)
        return look(self.folder / root.name, name)


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path within the folder of a model."""
    parts = PurePosixPath(path).parts
    wrong = not parts or path.startswith("/") or ".." in parts or "\0" in path or len(parts) > MOST_DEPTH
    if wrong or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts):  # noqa: PLR2004 - of a file
        raise InvalidFieldError(
            f"Invalid file parameter '{PREFIX}{path[:200]}' must stay within model directory; it must be like"
            f" {PREFIX}1/model.onnx",
            field="parameters",
        )
    return parts
