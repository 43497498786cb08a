"""Packed experts in a file that is mapped: the operating system pages them where memory is short."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from inferd.plugin import LoadError


class ExpertPages:
    """A file for packed experts, in the folder for temporary files: of a worker its scratch, which goes with it.

    Args:
        model: The model's file or folder, for messages.
        size_bytes: What the experts take. The disk has it from now on: what is written later finds its place.

    Attributes:
        path: Where the file is.
        descriptor: It, open.

    Raises:
        LoadError: The disk has not so much, or the file cannot be written.
    """

    def __init__(self, model: Path, size_bytes: int) -> None:
        folder = tempfile.gettempdir()
        self.path, self.descriptor = Path(folder), -1
        try:
            self.descriptor, name = tempfile.mkstemp(prefix="experts-", suffix=".packed", dir=folder)
            self.path = Path(name)
            os.posix_fallocate(self.descriptor, 0, size_bytes)
        except OSError as error:
            self.close()
            raise LoadError(
                f"{model}: setting 'expert_offload' is true, but the file of its experts, {size_bytes} bytes, cannot be"
                f" written to {folder}, where {_free_bytes(folder)} bytes are free: {error.strerror}: make room there,"
                " or leave the setting out"
            ) from None

    def close(self) -> None:
        """Remove the file. What is mapped of it stays until that is given back."""
        if self.descriptor < 0:
            return
        os.close(self.descriptor)
        self.descriptor = -1
        with suppress(FileNotFoundError):
            self.path.unlink()


def _free_bytes(folder: str) -> int:
    """What the disk of a folder has; 0 where that is not there."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return 0
