"""Models that are made of blobs: what files they have, and a folder in which a worker finds these by their names.

A model of blobs has a list of its files, a blob itself, whose digest so says what all of them are. Names are labels: of
a narrow form that no path has. The folder is the kernel's own, and its files are hard links to those of the blobs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from inferd.errors import InferdError, InvalidFieldError
from inferd.runtime.formats import FOLDER_MARKS, INNER_MARKS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inferd.core.model import Model
    from inferd.runtime.blobs import Blobs

SOURCE = "blob:sha256:"
KIND = "inferd model"  # marks the list
NAME_FORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}")
BESIDE = (".toml", ".txt", ".json", ".md")  # endings of files that lie beside a model's
MOST_FILES = 1000
LIST_BYTES = 1 << 20  # of the list, of which each file takes less than a thousandth

Origin = tuple[str, str]
"""Whose blobs a model is of, and its source: others' blobs of the same bytes are other files."""


class ModelFile(NamedTuple):
    """A file of a model: its name in there, and which blob it is."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A model of blobs, which are held.

    Attributes:
        path: Of its file, or of its folder.
        tenant: Whose blobs.
        name: Of the model.
        digests: Of its list, and of its files.
    """

    path: Path
    tenant: str
    name: str
    digests: tuple[str, ...]

    @property
    def origin(self) -> Origin:
        """Of which blobs it is."""
        return self.tenant, SOURCE + self.digests[0]


def write_list(files: Sequence[ModelFile]) -> bytes:
    """The list of a model's files: the same for the same files, in whatever order.

    Raises:
        InvalidFieldError: As `check_names`.
    """
    check_names([each.name for each in files])
    written = [{"name": name, "digest": digest, "size": size} for name, digest, size in sorted(files)]
    return json.dumps({"kind": KIND, "files": written}, separators=(",", ":")).encode()


def check_names(files: Sequence[str]) -> None:
    """Refuse names of files that no model can have.

    Raises:
        InvalidFieldError: There are none or too many, or a name is none, or is there twice.
    """
    if not 1 <= len(files) <= MOST_FILES:
        raise InvalidFieldError(f"files has {len(files)} entries; a model has 1 to {MOST_FILES}", field="start.files")
    for number, name in enumerate(files):
        if not NAME_FORM.fullmatch(name):
            raise InvalidFieldError(
                f"start.files[{number}].name is {name[:80]!r}; it is a label and no path: 1 to 128 of letters,"
                " digits and . _ + = @ -, the first a letter, a digit or _",
                field=f"start.files[{number}].name",
            )
    if len(names := {name.lower() for name in files}) < len(files):
        raise InvalidFieldError(
            f"of {len(files)} names of start.files {len(names)} differ; give each one of its own, but for case too",
            field="start.files",
        )


def read_list(data: bytes) -> list[ModelFile]:
    """The files of a list.

    Raises:
        InvalidFieldError: It is none.
    """
    try:
        written = json.loads(data)
        files = [ModelFile(str(each["name"]), str(each["digest"]), int(each["size"])) for each in written["files"]]
        if write_list(files) == data:
            return files
        error: Exception = ValueError("it is not written so")
    except (ValueError, KeyError, TypeError, InvalidFieldError) as wrong:
        error = wrong
    raise InvalidFieldError(
        f"the blob of model.source is no list of a model's files ({error}); upload the model, which makes one",
        field="model.source",
    )


class ModelFiles:
    """The folders of models of blobs. One writer: the loop.

    Args:
        blobs: Where their bytes are.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._placed: dict[str, dict[Origin, Placed]] = {}  # by model: each version may have its own

    async def place(self, tenant: str, source: str, name: str, *, checks: bool) -> Placed:
        """Make the folder of a model, whose blobs are held until `settle`; `checks` is whether each byte is read.

        Raises:
            InvalidFieldError: The source names no model.
            InferdError: A blob is not there, or is damaged.
        """
        digest = source.removeprefix(SOURCE)
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise InvalidFieldError(
                f"model.source is {source[:90]!r}; it must be {SOURCE} and 64 hexadecimal digits in lower case",
                field="model.source",
            )
        if (size := self._blobs.get(tenant, digest).size_bytes) > LIST_BYTES:
            raise InvalidFieldError(
                f"the blob of model.source has {size} bytes, and a list of a model's files at most {LIST_BYTES}; upload"
                " the model, which makes one",
                field="model.source",
            )
        files = read_list(b"".join([piece async for piece in self._blobs.pieces(tenant, digest)]))
        digests = (digest, *(file.digest for file in files))
        placed = Placed(self._blobs.opened.folder(tenant, digest), tenant, name, ())
        try:
            for each in digests:
                self._blobs.hold(tenant, each, _holder(name))
                placed = Placed(placed.path, tenant, name, (*placed.digests, each))
            if checks:
                for each in digests[1:]:
                    async for _ in self._blobs.pieces(tenant, each):
                        pass
            await self._blobs.opened.link(tenant, digest, {file.name: file.digest for file in files})
        except BaseException:
            self._let_go(placed)
            raise
        return Placed(placed.path / _entrance(files), tenant, name, placed.digests)

    def settle(self, placed: Placed, model: Model | None) -> None:
        """Keep what was placed if a version of the model is of it; else let go of it, and of nothing else."""
        if model is not None and placed.origin in _origins(model):
            self.keep(placed)
        else:
            self._let_go(placed)

    def keep(self, placed: Placed) -> None:
        """The model, or a version of it, is known now."""
        mine = self._placed.setdefault(placed.name, {})
        before, mine[placed.origin] = mine.get(placed.origin), placed
        if before is not None:
            self._let_go(before)

    def keep_listed(self, model: Model) -> None:
        """No versions of a model are kept but those that it lists."""
        mine, listed = self._placed.get(model.spec.name, {}), _origins(model)
        for origin in [origin for origin in mine if origin not in listed]:
            self._let_go(mine.pop(origin))

    def forget(self, name: str) -> None:
        """A model is known no longer; nothing where it was none of blobs."""
        for placed in self._placed.pop(name, {}).values():
            self._let_go(placed)

    def _let_go(self, placed: Placed) -> None:
        for digest in placed.digests:
            self._blobs.let_go(placed.tenant, digest, _holder(placed.name))
        if placed.digests and not self._is_placed(placed):
            self._blobs.opened.unlink(placed.tenant, placed.digests[0])

    def _is_placed(self, placed: Placed) -> bool:
        """Whether a model still has this folder."""
        try:
            return any(each.startswith("model ") for each in self._blobs.get(placed.tenant, placed.digests[0]).holders)
        except InferdError:
            return False


def _origins(model: Model) -> set[Origin]:
    return {(version.spec.tenant, version.spec.source) for version in model.versions.values()}


def _holder(name: str) -> str:
    return f"model {name}"


def _entrance(files: Sequence[ModelFile]) -> str:
    """What of its folder is the model: "" for the folder, where a file in it says that it is one; else a file."""
    names = [file.name for file in files]
    if any(mark in names for mark in (*FOLDER_MARKS, *INNER_MARKS)):
        return ""
    return min(names, key=lambda name: (name.endswith(BESIDE), name))
