"""pip as the resolver of wheels: the user's indexes, proxies, certificates and credentials are used."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from inferd.cli.output import CommandError

PIP_TIMEOUT_S = 300.0
NO_EXTRAS = ("--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--quiet")
SETTING = re.compile(r"(?P<section>[^.]*)\.(?P<name>[^=]+)='(?P<value>.*)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What pip chose: `url` may be https, http or file, as the user's indexes are; `sha256` may be ""."""

    url: str
    sha256: str


def resolve(requirement: str) -> Found:
    """Ask pip which wheel meets `requirement`, without downloading it where the index or its server permits.

    Raises:
        CommandError: pip found none; the message is pip's.
    """
    # `fast-deps` reads the wheel's metadata by ranges, where the index does not serve it apart from the wheel
    asked = ("--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--report", "-", *NO_EXTRAS, requirement)
    (found,) = json.loads(_pip("install", *asked))["install"]
    info = found["download_info"]
    return Found(url=info["url"], sha256=info.get("archive_info", {}).get("hashes", {}).get("sha256", ""))


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
