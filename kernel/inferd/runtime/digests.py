"""The digests of models' files, as far as they are known: read beside the loop, one model at a time, when asked for."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from inferd.content import content_digest
from inferd.errors import InferdError, words_of
from inferd.runtime.opened_files import nothing_to_open

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.ids import ModelName
    from inferd.core.model import ModelSpec
    from inferd.runtime.opened_files import Opening

MOST_KNOWN = 1000
MOST_ASKED = 16  # at once; for others it is asked again

Key = tuple[str, str]
"""A path, and what differs once the sizes, times or inodes of the files there have changed."""

log = structlog.get_logger()


class Digests:
    """What is known of the contents of models. One writer: the loop of the kernel; a thread of its own reads.

    Args:
        file: Where it is kept for the kernel after this one.
        tell: Called with the model of which something is known that was not.
        opening: Has the files of a model be there.
    """

    def __init__(self, file: Path, tell: Callable[[ModelName], None], opening: Opening = nothing_to_open) -> None:
        self._opening = opening
        self._file = file
        self._tell = tell
        self._known = _read(file)
        self._asked: dict[Key, float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digests")
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def known(self, spec: ModelSpec) -> str:
        """The digest of a model's files, "sha256:…"; "" while it is not known."""
        return self._known.get((spec.path, spec.file_version), "")

    def fraction(self, spec: ModelSpec) -> float:
        """How much of a model's files has been read for that, from 0 to 1."""
        key = (spec.path, spec.file_version)
        return 1.0 if key in self._known else self._asked.get(key, 0.0)

    def ask(self, spec: ModelSpec) -> None:
        """Have the digest of a model's files found out, if it is not known and not many are asked for already."""
        key = (spec.path, spec.file_version)
        if not spec.path or key in self._known or key in self._asked or len(self._asked) >= MOST_ASKED or self._closed:
            return
        self._asked[key] = 0.0
        task = asyncio.create_task(self._find(key, spec.name), name=f"digest of {spec.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find(self, key: Key, name: ModelName) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._opening(key[0]):
                found = await loop.run_in_executor(self._thread, content_digest, Path(key[0]), self._note(key))
            self._known[key] = found
        except (OSError, InferdError) as error:
            log.warning("the digest of a model cannot be found out", model=name, why=words_of(error))
            return
        finally:
            self._asked.pop(key, None)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        self._tell(name)
        await loop.run_in_executor(self._thread, _write, self._file, list(self._known.items()))

    def _note(self, key: Key) -> Callable[[float], None]:
        def note(fraction: float) -> None:
            if self._closed:
                raise OSError("the kernel ends")
            self._asked[key] = fraction

        return note

    async def close(self) -> None:
        """Leave what is being read."""
        self._closed = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown()


def _read(file: Path) -> OrderedDict[Key, str]:
    with suppress(OSError, ValueError, TypeError):
        return OrderedDict(
            ((str(path), str(version)), str(found)) for path, version, found in json.loads(file.read_text())
        )
    return OrderedDict()  # it is found out anew


def _write(file: Path, known: list[tuple[Key, str]]) -> None:
    fresh = file.with_name(f"{file.name}.new")
    with suppress(OSError):  # then it is found out anew
        fresh.write_text(json.dumps([[*key, found] for key, found in known]))
        fresh.replace(file)
