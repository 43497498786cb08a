"""Where bundles are read and written: files, standard input and output."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from inferd.cli.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

STANDARD: Final = "-"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file that is read, or standard input for "-".

    Raises:
        CommandError: There is none.
    """
    if str(path) == STANDARD:
        yield sys.stdin.buffer
        return
    if not path.is_file():
        raise CommandError(f"there is no file {path}", reason="USAGE")
    with path.open("rb") as file:
        yield file


@contextmanager
def written(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A file that has its name when the block has ended well, or standard output for "-".

    Raises:
        CommandError: There is one of this name, and it is not to be replaced.
    """
    if str(path) == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not replace:
        raise CommandError(f"{path} is there already; name another file, or add --replace", reason="FILE_EXISTS")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
