"""Where workers may write: a folder for each, which goes with it."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

VARIABLE: Final = "TMPDIR"
"""By which a worker is told where its own is."""

_ENDING: Final = ".scratch"


def make_scratch(parent: Path) -> Path:
    """A new folder, of this process alone.

    Raises:
        OSError: It cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", suffix=_ENDING, dir=parent))


def remove_scratch(folder: Path) -> None:
    """Have it gone, with what is in it; links are not followed."""
    shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(parent: Path) -> None:
    """Remove what kernels left that died."""
    with suppress(OSError):
        for folder in parent.glob(f"[0-9]*-*{_ENDING}"):
            pid = folder.name.partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                remove_scratch(folder)
