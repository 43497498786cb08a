"""The digest of what a model's files hold: of one file its SHA-256, of several that of sha256sum's lines of them."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

V = TypeVar("V")
PIN = "_digest"  # ends the name of a setting that says what the file has to hold that another setting names
PREFIX = "sha256:"
DIGEST_FORM = re.compile(r"sha256:[0-9a-f]{64}")
CHUNK_BYTES = 1 << 20
MOST_FILES = 10_000
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
MAX_PARTS = 1 << 12


def part_names(name: str) -> tuple[str, ...]:
    """The names of all files of a model of which `name` is one part, `NAME-00001-of-00003.gguf`; else `name` alone."""
    found = PART.fullmatch(name)
    if found is None or not 1 <= int(found["number"]) <= int(found["count"]) <= MAX_PARTS:
        return (name,)
    ending = name[-len(".gguf") :]
    return tuple(
        f"{found['stem']}-{number:05}-of-{found['count']}{ending}" for number in range(1, int(found["count"]) + 1)
    )


def all_files(path: Path) -> list[Path]:
    """Those of a folder and of the folders in it, or a file and the other parts of its model; sorted.

    Raises:
        OSError: There is nothing there, or there are too many.
    """
    if not path.is_dir():
        return sorted({path, *(part for part in map(path.with_name, part_names(path.name)) if part.is_file())})
    found = sorted(each for each in path.rglob("*") if each.is_file())
    if len(found) > MOST_FILES:
        raise OSError(f"{path} has {len(found)} files; at most {MOST_FILES} are one model")
    return found


def links_of(path: Path) -> dict[str, str]:
    """What a file or a folder really is, and what the links in the folder lead to, by their paths.

    Raises:
        OSError: It cannot be looked at, or there are too many.
    """
    found = {str(path): str(path.resolve())}
    for number, each in enumerate(sorted(path.rglob("*")) if path.is_dir() else []):
        if number >= MOST_FILES:
            raise OSError(f"{path} has more than {MOST_FILES} files")
        if each.is_symlink():
            found[str(each)] = str(each.resolve())
    return found


def content_digest(path: Path, tell: Callable[[float], None] = lambda _: None) -> str:
    """The digest of a model: "sha256:" and 64 hexadecimal digits. Reads all of its files.

    Args:
        path: Of its file, or of its folder.
        tell: Is told how much has been read, from 0 to 1, after each MiB; what it raises ends this.

    Raises:
        OSError: A file cannot be read, or is none.
    """
    files = all_files(path)
    total = sum(each.stat().st_size for each in files)
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        tell(min(1.0, done / max(1, total)))

    found = {each.relative_to(path.parent).as_posix(): _sha256_of(each, advance) for each in files}
    single = len(found) == 1 and not path.is_dir()
    return PREFIX + (next(iter(found.values())) if single else joint(found))


def split_pins(values: Mapping[str, V]) -> tuple[dict[str, V], dict[str, V]]:
    """The settings of a backend, and of those that name files what these have to hold, by the settings' names."""
    pins = {name: values[name + PIN] for name in values if name + PIN in values}
    return {name: value for name, value in values.items() if name not in {each + PIN for each in pins}}, pins


def joint(files: Mapping[str, str]) -> str:
    """The SHA-256 of several files by theirs: that of the lines that `sha256sum` writes of them, in their order."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _sha256_of(path: Path, advance: Callable[[int], None]) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no regular file")
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
            advance(len(chunk))
    return found.hexdigest()
