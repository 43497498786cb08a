"""Wheels of `pypi:` sources, and the files in them."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from inferd.cli.download import AccessDeniedError, Meter, download, open_part, part_path
from inferd.cli.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd.cli.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel on this machine: `path` is where it lies now, `name` what it is called."""

    path: Path
    name: str


@contextmanager
def fetched(requirement: str, folder: Path, meter: Callable[[str], Meter], network: Network) -> Iterator[Wheel]:
    """The wheel that the network finds: the user's own where it lies, or one downloaded into `folder`.

    What was downloaded goes when the block ends; if by an error, it stays for the next try.

    Raises:
        CommandError: There is none, or it cannot be had.
    """
    found = network.resolve(requirement)
    parts = urlsplit(found.url)
    name = unquote(parts.path).rpartition("/")[2]
    if parts.scheme == "file":
        yield Wheel(path=Path(unquote(parts.path)), name=name)
        return
    with open_part(part_path(folder, found.url)) as part, tempfile.TemporaryDirectory(dir=folder) as into:
        try:
            with network.index_client() as client:
                download(client, found.url, part, sha256=found.sha256, meter=meter(name))
            part.finish(sha256=found.sha256)
        except AccessDeniedError:
            if network.instead is None:
                raise
            yield Wheel(path=network.instead(requirement, Path(into)), name=name)
        else:
            yield Wheel(path=part.path, name=name)
        part.remove()


def list_members(wheel: Wheel) -> list[str]:
    """The paths of its files.

    Raises:
        CommandError: It is damaged.
    """
    with _opened(wheel) as archive:
        return sorted(info.filename for info in archive.infolist() if not info.is_dir())


@contextmanager
def open_member(wheel: Wheel, member: str) -> Iterator[tuple[IO[bytes], int]]:
    """The file in a wheel whose path is, or else ends with `member`, and its size in bytes.

    Raises:
        CommandError: The wheel is damaged, or does not have exactly one such file.
    """
    with _opened(wheel) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        found = [info for info in files if info.filename == member]
        found = found or [info for info in files if f"/{info.filename}".endswith(f"/{member}")]
        if len(found) != 1:
            names = ", ".join(info.filename for info in sorted(files, key=lambda info: -info.file_size)[:5])
            raise CommandError(
                f"{wheel.name} has {len(found)} files {member!r}, not one; its largest are {names}",
                reason="SOURCE_INVALID",
            )
        with archive.open(found[0]) as stream:
            yield stream, found[0].file_size


@contextmanager
def _opened(wheel: Wheel) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel.path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise CommandError(f"{wheel.name} is not a wheel: {error}", reason="DOWNLOAD_FAILED") from None
