"""Names of files that a file says: held against what a folder can have before any system call sees them."""

import os
from pathlib import Path
from typing import Any, Final

MOST_BYTES: Final = 255  # of a name, on all file systems that models are on (NAME_MAX)


def is_file_name(name: Any) -> bool:
    """Whether this can be the name of something in a folder: one part of a path, and none that leads elsewhere."""
    if not isinstance(name, str) or name in ("", ".", "..") or "\0" in name or Path(name).name != name:
        return False
    try:
        return len(os.fsencode(name)) <= MOST_BYTES
    except UnicodeEncodeError:  # half a character
        return False
