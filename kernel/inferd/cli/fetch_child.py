"""The process that fetches a model for a kernel: an order on stdin, how far it is on stdout, line by line.

It ends with the kernel, which kills it when nobody waits any more. What came stays in its part files, to be gone on
with; what is whole and is what was wanted is moved into the library of fetched models, named by its digest.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferd.cli.download import Meter, Part, check_sha256, open_part, part_path
from inferd.cli.guarded import guarded
from inferd.cli.items import items_of
from inferd.cli.output import CommandError
from inferd.cli.pull import Order, add, describe
from inferd.cli.source import FileSource, parse
from inferd.runtime.library import Library
from inferd.source_settings import Sources

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_ORDER = 1 << 20
STEP_S = 0.2  # between two lines
PR_SET_PDEATHSIG = 1


class Progress:
    """Tells how far all files together are, and ends what becomes too large.

    Args:
        most_bytes: Of all files.
        tell: Is told.
    """

    def __init__(self, most_bytes: int, tell: Callable[..., None]) -> None:
        self._most_bytes = most_bytes
        self._tell = tell
        self._done: dict[str, int] = {}
        self._total: dict[str, int | None] = {}
        self._now = (0, 0)

    def expect(self, names: list[str]) -> None:
        """These files are to come."""
        self._total = {**dict.fromkeys(names), **self._total}

    def meter(self, name: str) -> Meter:
        """Is told of one file."""

        def note(done_bytes: int, total_bytes: int | None) -> None:
            self._done[name], self._total[name] = done_bytes, total_bytes
            done = sum(self._done.values())
            known = max(done, sum(each or 0 for each in self._total.values()))
            if known > self._most_bytes:
                raise CommandError(
                    f"the model has {known} bytes, or more, and sources.most_bytes is {self._most_bytes}",
                    reason="LIMIT_EXCEEDED",
                    metadata={"bound": "sources.most_bytes", "value": str(known), "limit": str(self._most_bytes)},
                )
            self._now = (done, known if None not in self._total.values() else 0)

        return note

    def run(self) -> None:
        """Tell what has changed again and again, also what came last before a silence; in a thread of its own."""
        told = None
        while True:
            time.sleep(STEP_S)
            if self._now != told:
                told = self._now
                self._tell(done=told[0], total=told[1])


def fetch(order: dict[str, Any], tell: Callable[..., None]) -> dict[str, Any]:
    """Fetch a model into the library of fetched ones; what is told of it.

    Raises:
        CommandError: It cannot be.
        OSError: The disk refused.
    """
    settings, folder = Sources.model_validate(order["settings"]), Path(order["folder"])
    source = parse(order["source"], hub=(settings.hub_url, order["token"]))
    if isinstance(source, FileSource):
        raise CommandError(f"{order['source']} is a file", reason="SOURCE_INVALID")
    parts_folder = folder / "parts"
    wanted = Order(name="", origin=order["source"], source=source, sha256=order["sha256"])
    progress = Progress(settings.most_bytes, tell)
    threading.Thread(target=progress.run, daemon=True).start()
    with ExitStack() as held:
        network = guarded(settings)
        items = held.enter_context(
            items_of(source, parts_folder, progress.meter, sha256=wanted.sha256, network=network)
        )
        progress.expect([item.path for item in items])
        parts: dict[str, Part] = {}
        for item in items:
            parts[item.path] = held.enter_context(open_part(part_path(parts_folder, item.origin)))
            item.bring(parts[item.path], progress.meter(item.path))
        found = describe(wanted, parts)
        if len(parts) > 1:
            check_sha256(found.sha256, wanted.sha256)
        found = found.named(f"sha256:{found.sha256}")
        library = Library(folder)
        add(library, parts_folder, found, wanted, parts)
        return {"path": str(library.path(found)), "sha256": found.sha256, "size_bytes": found.size_bytes}


def main() -> None:
    """Do what the order on stdin says."""
    _end_with_parent()
    order = json.loads(sys.stdin.buffer.read(MOST_ORDER))

    telling = threading.Lock()

    def tell(**said: Any) -> None:
        with telling:
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()

    try:
        tell(found=fetch(order, tell))
    except CommandError as error:
        tell(error={"reason": error.reason, "message": error.message, "metadata": error.metadata})
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        message = f"{error.strerror or error}: {error.filename or order['folder']}"
        tell(error={"reason": "DISK_FULL" if full else "DOWNLOAD_FAILED", "message": message, "metadata": {}})


def _end_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1 or os.getppid() != int(sys.argv[1]):
        sys.exit(1)  # the kernel is gone already


if __name__ == "__main__":
    main()
