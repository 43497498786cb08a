"""How the folder is called in which an agent keeps a model: by what is in it, for the kernel and all agents alike."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def folder_of(files: Iterable[tuple[str, str]]) -> str:
    """The name of the folder of files, each with its name and its SHA-256 in hexadecimal."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()
