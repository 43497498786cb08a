"""What belongs to a model, or to a folder that a setting names: its files, and where links in it may lead.

A model comes from strangers, and a link in it names any file of the host. So links lead within the model's own folder,
to the blobs of the same repository in the cache of Hugging Face, or to where the operator said so; else nothing is
loaded. This runs before the sandbox is entered, and looks at names and links alone; of an ONNX file also at where it
says that its data is, without reading what it is in.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from inferd.content import part_names
from inferd.plugin.recipe_file import MAX_BYTES, find_recipe
from inferd.sandbox.paths import libraries

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_FILES: Final = 100_000  # of a folder whose links are followed
_MOST_NAMES: Final = 10_000  # beside a file, and stated in it
_SCANNED_BYTES: Final = 2 << 30  # of an ONNX file; protobuf has no larger one
_LOCATION: Final = b"\x0a\x08location\x12"  # a StringStringEntryProto of onnx.proto: its key, and the tag of its value
_LONGEST: Final = 4096  # of a path

_DATA: Final = frozenset(
    (".bias", ".bin", ".data", ".npy", ".onnx_data", ".pb", ".raw", ".safetensors", ".weight", ".weights")
)
_WORDS: Final = frozenset((".csv", ".jinja", ".json", ".labels", ".model", ".names", ".tsv", ".txt"))
_EXPORTED: Final = re.compile(r"onnx__\w+")  # how torch names constants, each of which has a file
_KNOWN: Final = frozenset(
    (
        *("added_tokens.json", "chat_template.jinja", "config.json", "genai_config.json", "generation_config.json"),
        *("merges.txt", "preprocessor_config.json", "special_tokens_map.json", "tekken.json", "tokenizer.json"),
        *("tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt"),
    )
)


@dataclass(slots=True)
class Belongings:
    """What was found so far. One user.

    Attributes:
        roots: Folders to which links may lead, as `sources.roots` says.
        withheld: Files and folders to which none may, wherever they are: the kernel's own.
        paths: What is read, where it really is.
        refused: Links that lead elsewhere, and folders with what is withheld: why, and what to do.
    """

    roots: tuple[Path, ...] = ()
    withheld: tuple[Path, ...] = ()
    paths: dict[Path, None] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _libraries: tuple[Path, ...] | None = None

    def add(self, path: Path, *, alone: bool = False) -> None:
        """Take in a model, or what a setting names, by the path that whoever made the model has said.

        Args:
            path: Of a file or a folder.
            alone: Of a file, nothing beside it.
        """
        try:
            own = path.resolve(strict=True)
            named = path.parent.resolve() / path.name
        except (OSError, RuntimeError):
            self.paths[path] = None  # whoever opens it says why it cannot be
            return
        if own != named and _within(own, self.withheld) and not _within(named, self.withheld):
            self._refuse(path, own)
            return
        if kept := next((each for each in self.withheld if each.is_relative_to(own)), None):
            self.refused.append(
                f"{_shown(own)} has {_shown(kept)} in it, which the kernel has for itself, and a worker reads all of"
                " its model's folder. Give the model a folder of its own"
            )
            return
        self.paths[own] = None
        if own.is_dir():
            self._walk(own, _blobs(own))
            return
        blobs = _blobs(named)
        for name in () if alone else _beside(named):
            self._judge(named.parent / name, blobs, near=own.parent / name)

    def _walk(self, folder: Path, blobs: tuple[Path, ...]) -> None:
        seen, rest = 0, [folder]
        while rest:
            for parent, folders, files in os.walk(rest.pop()):
                for name in (*folders, *files):
                    path = Path(parent, name)
                    seen += 1
                    if path.is_symlink() and (found := self._judge(path, blobs)) is not None and found.is_dir():
                        rest.append(found)
                if seen > MOST_FILES:
                    return

    def _judge(self, path: Path, blobs: tuple[Path, ...], *, near: Path | None = None) -> Path | None:
        """Take in what a path really is, if it may; it, if it was not there before.

        `near` is what it is where neither the model beside which it is, nor it, is a link. Where it is one, it may
        lead to another file of numbers in that folder.
        """
        try:
            target = path.resolve(strict=True)
            mode = target.stat().st_mode
        except (OSError, RuntimeError):
            return None  # a link to nothing, or to what this process may not see
        if not (stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and near is None)) or target in self.paths:
            return None
        if near is None or not (target == near or (target.parent == near.parent and target.suffix in _DATA)):
            if _within(target, tuple(self.paths)):
                return None
            if not _within(target, (*blobs, *self.roots)) or self._withheld_of(target) is not None:
                if not _within(target, self._readable()):
                    self._refuse(path, target)
                return None
        self.paths[target] = None
        return target

    def _readable(self) -> tuple[Path, ...]:
        """What each worker reads in any case."""
        if self._libraries is None:
            self._libraries = tuple(each.resolve() for each in libraries())
        return self._libraries

    def _withheld_of(self, target: Path) -> Path | None:
        """What is the kernel's own of it, in it or around it; None where nothing is."""
        return next(
            (each for each in self.withheld if target.is_relative_to(each) or each.is_relative_to(target)), None
        )

    def _refuse(self, path: Path, target: Path) -> None:
        fix = "Put the file itself there, or add the folder that the link leads to to sources.roots of the kernel"
        if self._withheld_of(target) is not None:
            fix = (
                "What the kernel has for itself is never a model's: put a copy of the file there, if it is of the model"
            )
        self.refused.append(
            f"the link {_shown(path)} leads to {_shown(target)}, and that is none of the model's files, which are all"
            f" that a worker reads. {fix}"
        )


def _shown(path: Path) -> str:
    """For people, also where it is no UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _within(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(each) for each in folders)


def _blobs(path: Path) -> tuple[Path, ...]:
    """Where the files are of a snapshot in the cache of Hugging Face, `models--…/snapshots/REVISION/…`."""
    for each in path.parents:
        if each.name == "snapshots" and each.parent.name.startswith("models--"):
            blobs = each.with_name("blobs")
            return () if blobs.is_symlink() else (blobs,)
    return ()


def _beside(path: Path) -> Iterator[str]:
    """What may be of the same model as a file: its parts, its recipe, what these say, and what is named after it."""
    recipe = find_recipe(path)
    own = dict.fromkeys((*part_names(path.name), recipe.name))
    if path.suffix != ".gguf":
        stated = _stated(path) if path.suffix == ".onnx" else {}
        yield from stated
        said = _text(recipe)
        with suppress(OSError), os.scandir(path.parent) as entries:
            for _, entry in zip(range(_MOST_NAMES), entries, strict=False):
                if _is_named_after(entry.name, path) or entry.name in _KNOWN or _is_said(entry.name, said):
                    own[entry.name] = None
    yield from own


def _is_named_after(name: str, path: Path) -> bool:
    """`m.onnx.data`, `m.onnx_data`, `m_1.bin` or `m.txt` for `m.onnx`; neither `m.key` nor `merchants.txt`."""
    if name.startswith(f"{path.name}_data"):
        return True
    rest = name.removeprefix(path.stem)
    return rest != name and rest[:1] in tuple("._-") and Path(name).suffix in _DATA | _WORDS


def _is_said(name: str, text: bytes) -> bool:
    """Whether a recipe says a name, of a file with words."""
    return Path(name).suffix in _WORDS and not name.startswith(".") and os.fsencode(name) in text


def _text(recipe: Path) -> bytes:
    with suppress(OSError):
        if recipe.is_file():
            with recipe.open("rb") as file:
                return file.read(MAX_BYTES)
    return b""


def _stated(path: Path) -> dict[str, None]:
    """Where an ONNX file says that its data is: paths of files of data in its folder and below, none of them hidden."""
    found: dict[str, None] = {}
    with suppress(OSError, ValueError), path.open("rb") as file:
        size = min(os.fstat(file.fileno()).st_size, _SCANNED_BYTES)
        with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as data:
            at = data.find(_LOCATION)
            while at >= 0 and len(found) < _MOST_NAMES:
                at += len(_LOCATION)
                if name := _read_name(data, at):
                    found[name] = None
                at = data.find(_LOCATION, at)
    return {name: None for name in found if _is_data(PurePosixPath(name), path)}


def _read_name(data: mmap.mmap, at: int) -> str:
    """A text of protobuf, behind its length, which has one byte or two; "" for none."""
    head = data[at : at + 2]
    if len(head) < 2:  # noqa: PLR2004 - a length and a byte
        return ""
    size, start = (head[0], at + 1) if head[0] < 1 << 7 else (head[0] & 127 | head[1] << 7, at + 2)
    return data[start : start + size].decode(errors="ignore") if size < _LONGEST else ""


def _is_data(name: PurePosixPath, path: Path) -> bool:
    if name.is_absolute() or "\0" in str(name) or not name.name or any(part.startswith(".") for part in name.parts):
        return False
    return name.suffix in _DATA or bool(_EXPORTED.fullmatch(name.name)) or _is_named_after(name.name, path)
