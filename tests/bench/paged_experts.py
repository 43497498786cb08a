"""Decoding by a mixture that has less memory than its experts take (`expert_offload`), beside it with all in memory.

Where this process is in a memory cgroup that is smaller than what it takes, that makes the memory short:

    systemd-run --scope -p MemoryMax=700M make bench ONLY=experts.paged.

Nothing here makes cgroups. Where none is short, a thread has the operating system put pages of the experts' file out
(MADV_PAGEOUT) whenever more of them are there than may be, a half or a quarter, one part of the file after the other;
what is used then is read from the disk again. `….read` tells how much that was: 0 would mean that nothing was paged.
"""

import ctypes
import mmap
import os
import statistics
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import engine
import experts
from limits import Figure

SHARES = {"half": 0.5, "quarter": 0.25}  # of the experts that may be in memory
PARTS = 32  # of the file, which are put out in turn
PAIRS = 3
EVERY_S = 0.005  # between two looks at how many pages are there
PAGEOUT = 21  # of madvise
CASE = replace(experts.B1, prompt_tokens=16, output_tokens=48)
LIMITS = ("/sys/fs/cgroup/memory{}/memory.limit_in_bytes", "/sys/fs/cgroup{}/memory.max")


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """Tokens a second with paged experts, the ratio to those with all in memory, and what a token reads of the disk."""
    names = [f"experts.paged.{name}" for name in SHARES]
    wanted = [name for name in names if any(f"{name}{end}".startswith(only) for end in ("", ".ratio", ".read"))]
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experts.gguf"
        experts.write(weights, path)
        plain, paged = engine.Runner(path), engine.Runner(path, expert_offload="true")
        pages = Pages()
        for runner in (plain, paged):
            runner.run(CASE)  # warm
        for name in wanted:
            yield from measure(name, SHARES[name.rpartition(".")[2]], pages, plain, paged)
        plain.close()
        paged.close()


def measure(name: str, share: float, pages: "Pages", plain: engine.Runner, paged: engine.Runner) -> Iterator[Figure]:
    """The figures of this share of the experts."""
    limit = find_limit()
    short = limit is not None and limit < resident_bytes() + pages.size_bytes // 2
    said = f"by a memory cgroup of {limit} bytes" if short else f"{share:.0%} of them there by MADV_PAGEOUT"
    rates: list[tuple[float, float]] = []
    read = 0
    for _ in range(PAIRS):
        whole = CASE.output_tokens / plain.run(CASE)
        before = bytes_read()
        with Squeeze(pages, share, off=short):
            part = CASE.output_tokens / paged.run(CASE)
        read += bytes_read() - before
        rates.append((part, whole))
    part, whole = (statistics.median(column) for column in zip(*rates, strict=True))
    megabytes = pages.size_bytes / 1e6
    detail = (
        f"{megabytes:.0f} MB of packed experts, {said}; {experts.USED} of {experts.EXPERTS} for a token; {paged.detail}"
    )
    yield Figure(name=name, value=round(part, 2), unit="output tok/s", detail=detail)
    detail = f"over {whole:.1f} output tok/s with all in memory, median of {PAIRS} pairs in turn"
    yield Figure(name=f"{name}.ratio", value=round(part / whole, 4), unit="x", detail=detail)
    a_token = read / PAIRS / (CASE.prompt_tokens + CASE.output_tokens) / 1e6
    used = megabytes * experts.USED / experts.EXPERTS
    detail = f"read from the disk, of {used:.0f} MB of experts that a token uses; 0 where nothing was paged"
    yield Figure(name=f"{name}.read", value=round(a_token, 2), unit="MB/token", detail=detail)


class Pages:
    """The file of packed experts, as this process has it mapped; what was packed is on the disk from now on.

    Attributes:
        size_bytes: Of it.
    """

    def __init__(self) -> None:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        fields = next(line.split() for line in lines if "/experts-" in line and ".packed" in line)
        first, end = (int(number, 16) for number in fields[0].split("-"))
        self._first, self.size_bytes = first, end - first
        self._system = ctypes.CDLL(None, use_errno=True)
        self._there = (ctypes.c_ubyte * (self.size_bytes // mmap.PAGESIZE))()
        os.sync()

    def share(self) -> float:
        """How much of it is in memory."""
        given = self._system.mincore(ctypes.c_void_p(self._first), ctypes.c_size_t(self.size_bytes), self._there)
        if given:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(bytes(self._there).translate(_LOWEST)) / len(self._there)

    def put_out(self, part: int) -> None:
        """Have one of `PARTS` put out."""
        size = self.size_bytes // PARTS // mmap.PAGESIZE * mmap.PAGESIZE
        at = ctypes.c_void_p(self._first + part * size)
        if self._system.madvise(at, ctypes.c_size_t(size), PAGEOUT):
            raise OSError(ctypes.get_errno(), "madvise")


_LOWEST = bytes(number & 1 for number in range(256))


class Squeeze:
    """Keeps no more than a share of the pages in memory, on a thread, until it is left.

    Args:
        pages: Them.
        share: Of them.
        off: Memory is short by itself.
    """

    def __init__(self, pages: Pages, share: float, *, off: bool) -> None:
        self._pages = pages
        self._share = share
        self._off = off
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if not self._off:
            for part in range(PARTS):
                self._pages.put_out(part)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if not self._off:
            self._thread.join()

    def _run(self) -> None:
        part = 0
        while not self._ended.wait(EVERY_S):
            if self._pages.share() > self._share:
                self._pages.put_out(part % PARTS)
                part += 1


def find_limit() -> int | None:
    """The bytes of the memory cgroup that this process is in, by either version; None where there is none."""
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        file = Path(LIMITS[number == "0"].format(path.rstrip("/")))
        text = file.read_text(encoding="utf-8").strip() if file.is_file() else "max"
        if text.isdigit():
            found.append(int(text))
    return min(found, default=None)


def resident_bytes() -> int:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * mmap.PAGESIZE


def bytes_read() -> int:
    """What this process has had read from disks."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes:")))
