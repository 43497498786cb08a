"""What is said of files of blobs that are not what was written, and what their names tell."""

from pathlib import Path
from typing import Final

from inferd.errors import BlobDamagedError

PARTIAL: Final = ".part"  # ends the name of a file that grows
SEALED: Final = "-s"  # that of one that is sealed
SEALING: Final = ".sealing"  # and then that of one that is being made of one that is not


def damaged(digest: str, why: str) -> BlobDamagedError:
    """A blob that cannot be read."""
    return BlobDamagedError(
        f"blob sha256:{digest} is damaged: {why}; delete it, and give it again",
        metadata={"digest": f"sha256:{digest}", "cause": why},
    )


def is_sealed(path: Path) -> bool:
    """Whether a file of a blob is sealed, as its name says."""
    return path.name.partition(".")[0].endswith(SEALED)
