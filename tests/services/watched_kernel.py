"""A kernel in a process of its own that writes down what its event loop's thread does that may wait for a disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferd.testing.kernel import KernelProcess, kernel_process

EVENTS = (
    *("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.truncate"),
    *("socket.getaddrinfo", "socket.gethostbyname", "time.sleep", "glob.glob", "shutil.rmtree"),
)
"""What may wait for a disk or a network; see docs.python.org/3/library/audit_events.html."""

HOOK = f"""
import os, sys, threading

if "serve" in sys.orig_argv:
    seen = os.open(os.environ["OPENED_BY_KERNEL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    loop, events = threading.get_ident(), frozenset({EVENTS!r})

    def note(event, given):
        if event not in events or threading.get_ident() != loop or given and isinstance(given[0], int):
            return  # a number is a file that is open already
        if event == "open" and given[0] == os.devnull:
            return  # of no disk
        frame, places = sys._getframe(1), []
        while frame is not None and len(places) < 12:
            places.append(f"{{os.path.basename(frame.f_code.co_filename)}}:{{frame.f_lineno}}")
            frame = frame.f_back
        os.write(seen, (" ".join([event, repr(given)[:200], "at", *places]) + chr(10)).encode())

    sys.addaudithook(note)
"""


@dataclass
class WatchedKernel:
    """A kernel, and what its loop's thread has done since the last look that may block it."""

    process: KernelProcess
    site: Path
    seen: Path
    _told: int = 0

    def install_something(self) -> None:
        """Install a package that has nothing to do with the kernel; it looks for plugins anew when it is next asked."""
        metadata = self.site / "other-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")

    def look(self) -> list[str]:
        """That, a line for each."""
        lines = self.seen.read_text().splitlines()
        told, self._told = self._told, len(lines)
        return lines[told:]


@contextmanager
def watched_kernel(folder: Path, **environment: Any) -> Iterator[WatchedKernel]:
    """Python reads `sitecustomize` before anything else; workers have it, too, and it does nothing there."""
    site, seen = folder / "site", folder / "seen"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOOK)
    chosen = {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OPENED_BY_KERNEL": str(seen)}
    with kernel_process(folder, environment={**chosen, "INFERD_BACKENDS": "[]", **environment}) as process:
        yield WatchedKernel(process, site, seen)
