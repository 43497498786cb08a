"""Where workers may write: a folder for each, which goes with it."""

import logging
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from inferd.removing import remove_tree

VARIABLE: Final = "TMPDIR"
"""By which a worker is told where its own is."""

_ENDING: Final = ".scratch"
_log = logging.getLogger(__name__)


def make_scratch(parent: Path) -> Path:
    """A new folder, of this process alone.

    Raises:
        OSError: It cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", suffix=_ENDING, dir=parent))


def remove_scratch(folder: Path) -> threading.Thread:
    """Have it gone, with what is in it; links are not followed.

    Nobody waits for the thread that does it: a worker may leave very many files. What stays, the next kernel sweeps.
    """
    thread = threading.Thread(target=_remove, args=(folder,), name="scratch", daemon=True)
    thread.start()
    return thread


def sweep_scratch(parent: Path) -> None:
    """Remove what kernels left that died."""
    with suppress(OSError):
        for folder in parent.glob(f"[0-9]*-*{_ENDING}"):
            pid = folder.name.partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                remove_scratch(folder)


def _remove(folder: Path) -> None:
    try:
        left = remove_tree(folder)
    except Exception:  # noqa: BLE001 - a worker's remains end no kernel, whatever they are
        _log.exception("the scratch of a worker stays: %s", folder)
        return
    if left:
        _log.warning("the scratch of a worker stays: %s: %s", folder, left)
