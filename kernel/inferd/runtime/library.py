"""The library: models that were pulled, each a folder with its file, its files or its own folder, and a manifest.

    <data_dir>/models/<folder>/manifest.json
    <data_dir>/models/<folder>/<file>

The folder is the model's name with `/` written as `=`, `:` as `+` and `~` before a leading `.`: characters that names
cannot contain, so that a name never leaves the library. Written by `inferd pull`, read by the kernel at its start; both
may happen at once, because a file is complete before its name appears.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from inferd.errors import InvalidFieldError, words_of
from inferd.model_names import version_of

MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 20
NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
NAME_TO_FOLDER = str.maketrans("/:", "=+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A model in the library.

    Attributes:
        name: Name of the model.
        source: Where it was pulled from.
        file: Name of its file, of the first of them, or of its folder, beside the manifest.
        sha256: Of its file, in hexadecimal; of several, see `digest`.
        size_bytes: Of all its files.
        backend: Name of the backend that must load it; "" lets the kernel choose.
        settings: Settings of the backend, as text.
        files: Where it has several: the SHA-256 of each by its path beside the manifest.
    """

    name: str
    source: str
    file: str
    sha256: str
    size_bytes: int
    backend: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all its files, beside the manifest."""
        return tuple(self.files) or (self.file,)

    def named(self, name: str) -> "Manifest":
        """The same by another name."""
        return replace(self, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenManifest:
    """A folder of the library that cannot be used, and why, for people."""

    path: Path
    why: str


class Library:
    """The models under a data folder. Keeps no state: each call reads the disk."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "models"

    def manifests(self) -> tuple[Manifest, ...]:
        """The models that can be used, by name."""
        found = [entry for entry in self._entries() if isinstance(entry, Manifest)]
        return tuple(sorted(found, key=lambda manifest: manifest.name))

    def broken(self) -> tuple[BrokenManifest, ...]:
        """The folders that cannot be used, by path."""
        return tuple(entry for entry in self._entries() if isinstance(entry, BrokenManifest))

    def find(self, name: str) -> Manifest | None:
        """The model of this name; None when it is not here or its folder is broken.

        Raises:
            InvalidFieldError: The name is not one that a model can have.
        """
        if version_of(name) is not None:
            return None  # a version is a model of the kernel alone
        entry = self._read(self._folder(name) / MANIFEST)
        return entry if isinstance(entry, Manifest) else None

    def look(self, name: str) -> Manifest | BrokenManifest | None:
        """The model of this name, or why its folder cannot be used; None when there is none.

        Raises:
            InvalidFieldError: The name is not one that a model can have.
        """
        folder = self._folder(name)
        return self._read(folder / MANIFEST) if folder.is_dir() else None

    def changes(self) -> frozenset[tuple[str, int]]:
        """The folders, each with when a name in it last changed: equal as long as nothing was pulled or removed."""
        try:
            with os.scandir(self.root) as entries:
                return frozenset((entry.name, entry.stat().st_mtime_ns) for entry in entries)
        except FileNotFoundError:  # none yet, or gone while it was looked at: then the next look differs
            return frozenset()

    def path(self, manifest: Manifest) -> Path:
        """Absolute path of the model's file."""
        return (self._folder(manifest.name) / manifest.file).absolute()

    def add(self, manifest: Manifest, file: Path) -> Path:
        """Move `file`, which must be on the same file system, into the library; returns the model's new path.

        Of a model with several files `file` is a folder with all of them. What the model's folder held before under
        the same names is replaced. A crash on the way leaves a folder that is listed as broken,
        never a model with another's file.

        Raises:
            InvalidFieldError: The name is not one that a model can have.
            OSError: The disk refused.
        """
        folder = self._folder(manifest.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        target = folder / manifest.file
        for path in manifest.paths:
            _flush(file / path if manifest.files else file)
        if manifest.files:
            for entry in sorted(file.iterdir()):
                if (folder / entry.name).is_dir():
                    shutil.rmtree(folder / entry.name)
                entry.replace(folder / entry.name)
        else:
            file.replace(target)
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
        fresh = folder / f"{MANIFEST}.{os.getpid()}"
        fresh.write_text(text, encoding="utf-8")
        _flush(fresh)
        fresh.replace(folder / MANIFEST)
        _flush(folder)
        _flush(self.root)
        return target.absolute()

    def remove(self, name: str) -> int | None:
        """Take a model, usable or broken, out of the library; the bytes that its files had, None where it is not here.

        Of a folder that is a link only the link goes: what it leads to was not made here, and stays.

        Raises:
            InvalidFieldError: The name is not one that a model can have.
            OSError: The disk refused; `check_removable` says so before anything is gone.
        """
        if version_of(name) is not None:
            return None
        folder = self._folder(name)
        if folder.is_symlink():
            folder.unlink()
            return 0
        if not folder.is_dir():
            return None
        size_bytes = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
        (folder / MANIFEST).unlink(missing_ok=True)  # first: without it the folder is no model
        shutil.rmtree(folder)
        return size_bytes

    def check_removable(self, name: str) -> None:
        """See that all of a model could be removed.

        Raises:
            InvalidFieldError: The name is not one that a model can have.
            PermissionError: A folder of it may not be changed.
        """
        if version_of(name) is not None:
            return
        folder = self._folder(name)
        inside = [] if folder.is_symlink() else [Path(where) for where, _, _ in os.walk(folder)]
        for needed in [self.root, *inside] if folder.is_dir() else []:
            if not os.access(needed, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(needed))

    def _folder(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise InvalidFieldError(
                f"model name {name!r} is not 1 to 128 of letters, digits, `.`, `_`, `-`, `:` and `/`",
                field="model.name",
            )
        folder = name.translate(NAME_TO_FOLDER)
        return self.root / (f"~{folder}" if folder.startswith(".") else folder)

    def _entries(self) -> Iterator[Manifest | BrokenManifest]:
        folders = sorted(self.root.iterdir()) if self.root.is_dir() else []
        for folder in folders:
            if folder.is_dir():
                yield self._read(folder / MANIFEST)

    def _read(self, path: Path) -> Manifest | BrokenManifest:
        """The manifest at `path`, checked against its folder and its file."""
        try:
            with path.open("rb") as stream:
                manifest = _parse(stream.read(MANIFEST_BYTES + 1))
            folder, weights = self._folder(manifest.name), path.parent / manifest.file
            size_bytes = sum((path.parent / each).stat().st_size for each in manifest.paths)
        except FileNotFoundError as error:
            return BrokenManifest(path=path, why=f"{error.filename} is missing")
        except (OSError, ValueError, RecursionError, InvalidFieldError) as error:
            return BrokenManifest(path=path, why=words_of(error))
        if folder != path.parent:
            return BrokenManifest(path=path, why=f"its name {manifest.name!r} belongs into {folder}")
        if size_bytes != manifest.size_bytes:
            why = f"{weights} has {size_bytes} bytes; the manifest says {manifest.size_bytes}; pull the model again"
            return BrokenManifest(path=path, why=why)
        return manifest


def _parse(data: bytes) -> Manifest:
    """Read a manifest; unknown keys are left for newer versions.

    Raises:
        ValueError: It is no manifest; the message names the field.
    """
    if len(data) > MANIFEST_BYTES:
        raise ValueError(f"the manifest is larger than {MANIFEST_BYTES} bytes")
    document: Any = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError(f"the manifest is a {type(document).__name__}; it must be an object")  # noqa: TRY004 - the file is wrong, not a caller's type
    known = {f.name: document[f.name] for f in fields(Manifest) if f.name in document}
    for name, value in known.items():
        kind = {"size_bytes": int, "settings": dict, "files": dict}.get(name, str)
        if type(value) is not kind:
            raise ValueError(f"field {name!r} is {value!r}; it must be of type {kind.__name__}")
    missing = {"name", "source", "file", "sha256", "size_bytes"} - set(known)
    if missing:
        raise ValueError(f"the manifest lacks {', '.join(sorted(missing))}")
    manifest = Manifest(**known)
    if Path(manifest.file).name != manifest.file or manifest.file in {"", "..", MANIFEST}:
        raise ValueError(f"field 'file' is {manifest.file!r}; it must be the name of a file beside the manifest")
    texts = all(isinstance(text, str) for text in manifest.files.values())
    if not texts or not all(_lies_beside(path, manifest.file) for path in manifest.files):
        raise ValueError("field 'files' must name files beside the manifest, or in the model's folder, as text")
    if not all(isinstance(text, str) for text in manifest.settings.values()):
        raise ValueError(f"field 'settings' is {manifest.settings!r}; its values must be text")
    return manifest


def _lies_beside(path: str, file: str) -> bool:
    """Whether a path is a name beside the manifest, or leads into the model's folder."""
    first, *inner = path.split("/")
    return path != MANIFEST and not {first, *inner} & {"", ".", ".."} and (not inner or first == file)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
