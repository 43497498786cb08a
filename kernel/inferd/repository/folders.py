"""What is in the folder of a repository: models, each a folder, with numbered folders of their versions.

No link that leads out of the repository is followed, nothing but folders and regular files counts, and what is looked
at is bounded.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from inferd.errors import words_of
from inferd.model_names import APART, NAME_RULE, TAKEN, TAKEN_RULE, is_name
from inferd.repository.config_text import CONFIG_FILE

MOST_FILES = 10_000  # of a model, over all of its versions
MOST_DEPTH = 4  # of folders in the folder of a version
MOST_DIGITS = 18  # of the number of a version


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The folder of a model.

    Attributes:
        name: Of the model.
        path: Of the folder, without links.
        config: Of its configuration, without links; None where it has none.
        versions: The numbers of its versions, rising.
        state: Differs when one of its files has changed.
        why: Why no model can be made of it; "" where nothing stands against that.
    """

    name: str
    path: Path
    config: Path | None = None
    versions: tuple[int, ...] = ()
    state: str = ""
    why: str = ""


class _UnfitError(Exception):
    """A folder is not to be looked at any further; says why."""


def scan(root: Path, *, most: int) -> dict[str, Folder]:
    """The folders of a repository by name; hidden ones and files beside them are none.

    Args:
        root: Of the repository.
        most: Folders that are looked at; those beyond, in their order by name, are not.

    Raises:
        OSError: The repository cannot be listed.
    """
    whole = root.resolve(strict=True)
    with os.scandir(whole) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
    return {_shown(name): look(whole, name) for name in names[:most]}


def look(root: Path, name: str) -> Folder:
    """One folder of a repository, whose path has no links; it may not be there."""
    path = root / name
    found = _Found(root, path)
    try:
        found.read(name)
    except _UnfitError as error:
        return Folder(name=_shown(name), path=path, state=found.digest(), why=str(error))
    except (OSError, ValueError, RuntimeError) as error:
        return Folder(name=_shown(name), path=path, state=found.digest(), why=f"it cannot be read: {words_of(error)}")
    versions = tuple(sorted(found.versions))
    return Folder(name=name, path=found.path, config=found.config, versions=versions, state=found.digest())


@dataclass(slots=True)
class _Found:
    """What was found of a model so far."""

    root: Path
    path: Path
    config: Path | None = None
    versions: list[int] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def read(self, name: str) -> None:
        if _shown(name) != name or not is_name(name) or APART in name or "/" in name or name in TAKEN:
            raise _UnfitError(
                f"its name is none that a model may have: {NAME_RULE}, and here without ':' and '/', and {TAKEN_RULE}"
            )
        self.path = self._within(self.path)
        if not self.path.is_dir():
            raise _UnfitError("there is no such folder")
        with os.scandir(self.path) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        for entry in inside:
            if entry.name == CONFIG_FILE:
                self.config = self._within(Path(entry.path))
                self._note(entry.name, self.config.stat())
            elif is_version(entry.name) and self._within(Path(entry.path)).is_dir():
                self.versions.append(int(entry.name))
                self.facts.append(entry.name)
                self._walk(Path(entry.path), entry.name, MOST_DEPTH)

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.facts).encode("utf-8", "surrogateescape")).hexdigest()

    def _walk(self, folder: Path, shown: str, depth: int) -> None:
        if depth == 0:
            raise _UnfitError(f"{shown} is more than {MOST_DEPTH} folders deep")
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        for entry in inside:
            path = self._within(Path(entry.path))
            facts, named = path.stat(), f"{shown}/{_shown(entry.name)}"
            if stat.S_ISDIR(facts.st_mode):
                self._walk(path, named, depth - 1)
            else:
                self._note(named, facts)

    def _note(self, shown: str, facts: os.stat_result) -> None:
        if not stat.S_ISREG(facts.st_mode):
            raise _UnfitError(f"{shown} is no regular file")
        if len(self.facts) >= MOST_FILES:
            raise _UnfitError(f"it has more than {MOST_FILES} files")
        self.facts.append(f"{shown} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}")

    def _within(self, path: Path) -> Path:
        whole = path.resolve(strict=True)
        if not whole.is_relative_to(self.root):
            raise _UnfitError(
                f"{_shown(str(path.relative_to(self.root)))} is a link that leads out of the repository, and none is"
                " followed; copy what it leads to"
            )
        return whole


def is_version(name: str) -> bool:
    """Whether a folder is that of a version: a number from 1 on, without zeros before it."""
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) <= MOST_DIGITS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True  # why it cannot be looked at is told


def _shown(name: str) -> str:
    """A name as messages and logs can have it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
