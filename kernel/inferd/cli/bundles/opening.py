"""Where bundles are read and written: files, standard input and output."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from inferd.cli.bundles.sealing import MAGIC, SealedReader, SealedWriter
from inferd.cli.named import no_file
from inferd.cli.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from inferd.cli.bundles.sealing import Opener, Sealer
    from inferd.cli.bundles.streams import Source, Target

STANDARD: Final = "-"


class Begun:
    """Something whose first bytes were looked at."""

    def __init__(self, first: bytes, rest: Source) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int) -> bytes:
        """At most so many of the next bytes; b"" at the end."""
        if not self._first:
            return self._rest.read(size)
        data, self._first = self._first[:size], self._first[size:]
        return data


@contextmanager
def opened(path: Path, opener: Opener) -> Iterator[Source]:
    """A bundle that is read, standard input for "-"; opened where it is sealed.

    Raises:
        CommandError: There is no regular file, or it opens with nothing that was given.
    """
    with _opened(path) as file:
        first = file.read(len(MAGIC))
        yield SealedReader(file, opener) if first == MAGIC else Begun(first, file)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if str(path) == STANDARD:
        yield sys.stdin.buffer
        return
    if not path.is_file():
        raise CommandError(no_file(path), reason="USAGE")
    with path.open("rb") as file:
        yield file


@contextmanager
def written(path: Path, sealer: Sealer | None, *, replace: bool) -> Iterator[Target]:
    """A bundle that has its name when the block has ended well, or standard output for "-"; sealed where it is to be.

    Raises:
        CommandError: There is one of this name, and it is not to be replaced.
    """
    with _written(path, replace=replace) as file:
        if sealer is None:
            yield file
            return
        writer = SealedWriter(file, sealer)
        yield writer
        writer.end()


@contextmanager
def _written(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
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
