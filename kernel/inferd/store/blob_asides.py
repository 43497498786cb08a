"""Files of blobs that are to be removed: each has another name before, and can have its own again.

The folder of blobs may be one that kernels on several hosts have in common, and a kernel may be stopped at any place.
What it removes when it wakes up, and another one leads, may be there anew: given to that one, and acknowledged. So it
gives a file a name first that nobody else uses, then asks the store whether it still leads, and removes it only then:
it was what this kernel may remove, as nobody else led when it had that name. Else it gives the name back; and whoever
leads does that for one that cannot.
"""

import glob
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from inferd.store.blob_parts import parts_of

GONE = ".gone"  # ends the name of a file that is to be removed, behind that of who does
LONGEST_MARK = 64


def set_aside(paths: Iterable[Path], mark: str) -> list[Path]:
    """Give files, those that there are, names that only who has this mark gives; those."""
    aside = []
    for path in paths:
        with suppress(FileNotFoundError):
            aside.append(path.rename(path.with_name(f"{path.name}.{mark}{GONE}")))
    return aside


def name_before(path: Path) -> str:
    """How a file was called before it was set aside; its name where it was not."""
    return path.name.removesuffix(GONE).rpartition(".")[0] if path.name.endswith(GONE) else path.name


def put_back(aside: Iterable[Path]) -> None:
    """Give files the names that they had; one that somebody has meanwhile is another file's, which stays."""
    for path in aside:
        own = path.with_name(name_before(path))
        with suppress(FileNotFoundError):  # somebody else was first
            with suppress(FileExistsError):
                own.hardlink_to(path)
            path.unlink()


def find_again(path: Path) -> bool:
    """Give a whole blob's file its name that a kernel has set aside, or taken for one that grows; whether it is there.

    Only one that leads no more does so to a blob that is whole, and it cannot always put that back.
    """
    if path.exists():
        return True
    put_back(path.parent.glob(f"{glob.escape(path.name)}.*{GONE}"))
    for part in () if path.exists() else parts_of(path)[:1]:
        with suppress(FileExistsError, FileNotFoundError):  # somebody else was first
            path.hardlink_to(part)
            part.unlink()
    return path.exists()
