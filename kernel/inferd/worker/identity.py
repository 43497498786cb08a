"""What a model is made of, as far as the bytes of its KV blocks depend on it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.plugin import KvLayout, LoadRequest, TokenLimits

SHARD: Final = re.compile(r"(.+-)\d{5}(-of-\d{5}\.[a-z]+)")
MOST_FILES: Final = 10_000  # of a folder


class Identity:
    """The files and the settings of a model, as they were when this was made: before anything of them is read.

    A file that changes has another inode, size or time, whoever gives it which name: a digest of its content would have
    all of it read. Where it changes while it is read, what is kept of it is not found again.

    Args:
        request: What is loaded.
        loader: Of the backend.

    Raises:
        OSError: A file cannot be seen, or there are too many.
    """

    def __init__(self, request: LoadRequest, loader: str) -> None:
        self._loader = loader
        self._files = [_look(path) for path in _files_of(request.path)]
        self._settings = {
            name: f"{value!r} {_look_behind(value) if isinstance(value, str) else ''}"
            for name, value in request.settings.items()
        }

    def key(self, layout: KvLayout, limits: TokenLimits) -> bytes:
        """What the KV blocks of a session are of, in 32 bytes: equal keys, equal blocks for equal tokens."""
        settings = sorted((name, text) for name, text in self._settings.items() if name not in layout.sizes)
        sizes = (layout.block_bytes, layout.window_block_bytes, limits.block_tokens, limits.vocabulary_size)
        windows = (limits.window_tokens, bool(limits.window_blocks), limits.border_tokens, limits.forward_only)
        told = (__version__, self._loader, self._files, settings, layout.form, sizes, windows)
        return hashlib.blake2b(repr(told).encode(), digest_size=32).digest()


def _files_of(path: Path) -> Iterator[Path]:
    """A file with the other parts of its model, or all of a folder."""
    if path.is_dir():
        for count, each in enumerate(sorted(path.rglob("*"))):
            if count >= MOST_FILES:
                raise OSError(f"{path} has more than {MOST_FILES} files")
            if each.is_file():
                yield each
        return
    if (shard := SHARD.fullmatch(path.name)) is None:
        yield path
        return
    beside = (each for each in path.parent.iterdir() if each.is_file())
    yield from sorted(
        each for each in beside if (part := SHARD.fullmatch(each.name)) and part.groups() == shard.groups()
    )


def _look(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _look_behind(value: str) -> str:
    """What is seen of the files that a setting may name."""
    path = Path(value)
    if not path.is_absolute():
        return ""
    try:
        return repr([_look(each) for each in _files_of(path)])
    except OSError:
        return ""
