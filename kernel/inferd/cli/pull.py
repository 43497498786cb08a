"""`inferd pull`: from a source to the files of a model in the library, checked."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from inferd.cli.amounts import size
from inferd.cli.asking import how_to_ask
from inferd.cli.catalogue import CATALOGUE
from inferd.cli.download import Meter, Part, check_sha256, open_part, part_path
from inferd.cli.items import items_of
from inferd.cli.output import CommandError
from inferd.cli.soundness import check_beginning, check_whole
from inferd.cli.source import FileSource, Source, file_name, is_folder, parse
from inferd.cli.visible import visible_line
from inferd.content import joint, part_names
from inferd.errors import present
from inferd.model_names import NAME_RULE, TAKEN, TAKEN_RULE, is_name
from inferd.runtime.formats import model_name
from inferd.runtime.library import Library, Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inferd.cli.output import Output


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
            found = _fetch(output, library, data_dir / "downloads", order, progress)
        verb = "pulled"
    else:
        verb = "already there:"
    from inferd.cli.kernel import alias_owner  # noqa: PLC0415 - it takes gRPC, which most of `pull` does not need

    path, owner = library.path(found), alias_owner(found.name)
    if output.json:
        told = {"name": found.name, "path": str(path), "sha256": found.sha256, "size_bytes": str(found.size_bytes)}
        output.document({**told, "alias_of": owner} if owner else told)
        return
    ask = "" if owner else f"; ask it: {how_to_ask(found.name, path)}"
    output.text(f"{verb} {found.name} ({size(found.size_bytes)}, {path}){ask}")
    if owner:
        output.note(
            f"{found.name} is an alias of model {owner}, which answers to that name: take the alias away"
            f" (inferd models alias --rm {found.name}), or pull it by another one (--name)"
        )


def _order(text: str, name: str, sha256: str) -> Order:
    entry = CATALOGUE.get(text)
    origin = entry.source if entry else _first_part(text)
    source = parse(origin)
    if name and not is_name(name):
        raise CommandError(f"--name is {name[:140]!r}; it must be {NAME_RULE}", reason="USAGE")
    if name in TAKEN:
        raise CommandError(f"--name is {name!r}; it must be {TAKEN_RULE}", reason="USAGE")
    if isinstance(source, FileSource):
        path = source.path if source.path.is_dir() else source.path.with_name(part_names(source.path.name)[0])
        source, origin = FileSource(path=path), path.absolute().as_uri()
    return Order(
        name=name or (text if entry else model_name(file_name(source), folder=is_folder(source))),
        origin=origin,
        source=source,
        sha256=(sha256 or (entry.sha256 if entry else "")).lower(),
    )


def _first_part(text: str) -> str:
    """The source with the first part of a model in place of another one: whichever is named, all are fetched."""
    start = max(text.rfind("/"), text.rfind("#")) + 1
    return text[:start] + part_names(text[start:])[0]


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
        wanted = _digest_of(order.source)
    if found.source == order.origin and wanted in ("", found.sha256):
        return found
    raise CommandError(
        f"the name {order.name!r} belongs to a model from {found.source} with sha256 {found.sha256}; "
        f"choose another with --name, or remove {library.path(found).parent}",
        reason="MODEL_EXISTS",
    )


def _digest_of(source: FileSource) -> str:
    """What a manifest would have of it as it is now."""
    with items_of(source, source.path, lambda _: lambda *_: None) as items:
        found = {}
        for item in items:
            with present(item.file).open("rb") as stream:  # it is on this machine
                found[item.path] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _sha256(found)


def _sha256(files: Mapping[str, str]) -> str:
    """Of a file that is a model, or of several."""
    ((path, sha256), *others) = files.items()
    return joint(files) if others or "/" in path else sha256


def _fetch(output: Output, library: Library, folder: Path, order: Order, progress: Progress) -> Manifest:
    meter = partial(_meter, progress)
    with ExitStack() as held:
        items = held.enter_context(items_of(order.source, folder, meter, sha256=order.sha256))
        parts: dict[str, Part] = {}
        for item in items:  # all are held until the last is there, so that a repeated command goes on
            parts[item.path] = held.enter_context(open_part(part_path(folder, item.origin)))
            item.bring(parts[item.path], meter(item.path))
        manifest = describe(order, parts)
        if why := add(library, folder, manifest, order, parts):
            output.note(why)
        return manifest


def describe(order: Order, parts: Mapping[str, Part]) -> Manifest:
    """What a library has to know of what came."""
    files = {path: part.sha256 for path, part in parts.items()}
    first = next(iter(files))
    return Manifest(
        name=order.name,
        source=order.origin,
        file=first.partition("/")[0],
        sha256=_sha256(files),
        size_bytes=sum(part.size_bytes for part in parts.values()),
        files=files if len(files) > 1 or "/" in first else {},
    )


def add(library: Library, folder: Path, manifest: Manifest, order: Order, parts: Mapping[str, Part]) -> str:
    """Check the whole model and move it into the library, or remove it; returns as `check_whole`.

    Raises:
        CommandError: Its checksum is another, it is no model, or it is cut short.
    """
    whole = part_path(folder, order.origin).with_suffix(".whole")
    shutil.rmtree(whole, ignore_errors=True)
    try:
        for path, part in parts.items():
            part.finish(sha256=order.sha256 if not manifest.files else "")
            (whole / path).parent.mkdir(parents=True, exist_ok=True)
            part.path.replace(whole / path)
        if manifest.files and order.sha256:
            check_sha256(manifest.sha256, order.sha256)
        model = whole / manifest.file
        if model.is_file():
            with model.open("rb") as stream:
                check_beginning(stream.read(4), manifest.file, shown=order.origin)
        told = check_whole(model, manifest.file)
        library.add(manifest, whole if manifest.files else model)
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    return told


def _progress(output: Output) -> Progress:
    """Bars on stderr; nothing where that is no terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=output.console, disable=not output.console.is_terminal)


def _meter(progress: Progress, what: str) -> Meter:
    bar = progress.add_task(visible_line(what), total=None)
    return lambda done_bytes, total_bytes: progress.update(bar, completed=done_bytes, total=total_bytes)
