"""Batches that the native session refuses, and threads and memory that it gives back."""

import gc
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
from native_models import find_missing, load, part, write

from inferd.engine.token.sampler import Sampler
from inferd.plugin import TokenSession
from inferd.testing.batches import make_batch
from inferd_cpu.architecture import read_architecture
from inferd_weights.gguf import GgufFile

pytestmark = pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("qwen3", tmp_path_factory.mktemp("tiny") / "qwen3.gguf")


@pytest.fixture
def session(qwen: Path) -> Iterator[TokenSession]:
    session = load(qwen).session
    yield session
    session.close()


GOOD = make_batch([part(tiny.PROMPT[:20], [3, 4]), part([1], [5, 6], 16)])
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens": ({"token_ids": [], "positions": []}, "0 tokens; a step takes 1 to 512"),
    "id too large": ({"token_ids": [96] * 21}, "token id 96; it must be from 0 to 95"),
    "id below 0": ({"token_ids": [-1] * 21}, "token id -1; it must be"),
    "positions missing": ({"positions": [0]}, r"positions, starts and block_tables of shapes \(\(1,\), "),
    "positions not consecutive": ({"positions": [0] * 21}, "positions are not consecutive"),
    "length 0": ({"lengths": [20, 0]}, "length 0; it must be from 1 to 256"),
    "length past the context": ({"lengths": [20, 257]}, "length 257; it must be from 1 to 256"),
    "length too short": ({"lengths": [19, 17]}, "positions are not consecutive"),
    "starts falling": ({"starts": [0, 22, 21]}, r"starts \[0, 22, 21\]; they must rise from 0 to 21"),
    "table too narrow": ({"block_tables": [[3], [5]]}, "block tables of 1 blocks for sequences of 2"),
    "block missing": ({"block_tables": [[3, -1], [5, 6]]}, "block -1; it must be from 0 to 39"),
    "block outside": ({"block_tables": [[3, 40], [5, 6]]}, "block 40; it must be from 0 to 39"),
    "logit row outside": ({"logit_rows": [21]}, "logit row 21; it must be from 0 to 20"),
    "hidden row outside": ({"hidden_rows": [-1]}, "hidden row -1; it must be from 0 to 20"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_refuses_bad_batches(session: TokenSession, change: dict[str, Any], message: str) -> None:
    """A batch that breaks a promise is refused with the figure, and the session computes on as before."""
    before = np.array(session.step(GOOD).logits)
    bad = replace(GOOD, **{name: np.array(value, np.int32) for name, value in change.items()})
    with pytest.raises(ValueError, match=f"bad batch: .*{message}"):
        session.step(bad)
    assert np.array(session.step(GOOD).logits).tobytes() == before.tobytes()


def test_refuses_sampling_of_another_shape(session: TokenSession) -> None:
    """Sampling parameters for another number of rows are refused."""
    sampling = Sampler(rows=2, vocabulary_size=tiny.VOCABULARY_SIZE).for_device(np.zeros(2, np.int32))
    with pytest.raises(ValueError, match=r"temperatures of shape \(2,\) for 21 logit rows"):
        session.step(replace(GOOD, sampling=sampling))


def test_refuses_to_copy_outside_the_pool(session: TokenSession) -> None:
    """A pair outside the pool is refused before anything is copied."""
    with pytest.raises(ValueError, match="bad pair: block 40; it must be from 0 to 39"):
        session.copy_blocks([(0, 1), (0, 40)])


def test_steps_take_no_memory(session: TokenSession) -> None:
    """After the first steps neither the heap nor the resident memory grows, whatever others here take or give back."""
    batch = make_batch([part(tiny.PROMPT[:20], [3, 4]), part([1], [5, 6], 16)])

    def measure() -> int:
        before = read_resident_bytes()
        for _ in range(200):
            session.step(batch)
        return read_resident_bytes() - before

    for _ in range(50):
        session.step(batch)
    gc.collect()
    assert sorted(measure() for _ in range(5))[2] < 16 << 10


def test_close_ends_the_threads_and_gives_the_memory_back(qwen: Path) -> None:
    """A session has its threads while it is open; closing it again does nothing."""
    before = threads_now()  # threads of others may end meanwhile
    session = load(qwen, threads="4").session
    own = threads_now() - before
    assert len(own) == 3
    session.close()
    session.close()
    assert not threads_now() & own


def test_the_pool_gets_its_pages_before_steps_need_them(qwen: Path) -> None:
    """A large pool is resident soon after the load; closing gives it back, at any time."""
    room = {"kv_tokens": str(1 << 17), "kv_format": "f32"}
    pool_bytes = read_architecture(GgufFile(qwen).metadata).kv_token_bytes << 17
    assert pool_bytes > 64 << 20
    try:
        mmap.mmap(-1, mmap.PAGESIZE).madvise(23)  # MADV_POPULATE_WRITE
    except OSError:
        pytest.skip("this kernel does not populate memory when it is asked to: Linux does from 5.14 on")
    gc.collect()  # addresses that become free now are no news later
    before, threads = mappings_now(), threads_now()
    session = load(qwen, **room).session
    pool = find_new_mapping(before)
    assert pool[1] - pool[0] >= pool_bytes
    deadline = time.monotonic() + 60
    while count_resident_bytes(*pool) < pool_bytes and time.monotonic() < deadline:
        os.sched_yield()
    assert count_resident_bytes(*pool) >= pool_bytes
    session.close()
    assert count_resident_bytes(*pool) < pool_bytes // 2
    load(qwen, **room).session.close()
    while threads_now() - threads and time.monotonic() < deadline:
        os.sched_yield()
    assert not threads_now() - threads


@pytest.mark.model
def test_resident_memory_is_that_of_the_file(smollm2: Path) -> None:
    """A loaded model takes at most 1.15 times its file, beside the KV pool."""
    code = """
import gc, sys
from pathlib import Path
import numpy as np
from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
path = Path(sys.argv[1])
settings = read_settings(SPEC, {"compute": "native", "kv_format": "bf16", "kv_tokens": "304", "threads": "2"})
request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=4 << 30)
session = CpuBackend().load(request, lambda _: None).session
compute(session, Part(token_ids=list(range(304)), blocks=range(19), wanted=[303]))
gc.collect()
pool = 304 * 30 * 3 * 128 * 2 + (2 << 20)  # keys and values in bf16, up to the border of a large page
print((resident() - before - pool) / path.stat().st_size)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(smollm2)], check=True, capture_output=True, text=True, timeout=120
    )
    ratio = float(done.stdout)
    print(f"resident: {ratio:.3f} of the file")  # noqa: T201 - shown by pytest -rP
    assert ratio < 1.15


def read_resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def threads_now() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


def mappings_now() -> list[tuple[int, int]]:
    """First address and end of each mapping of this process, in order."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return [(int(first, 16), int(end, 16)) for first, _, end in (line.split(" ")[0].partition("-") for line in lines)]


def find_new_mapping(before: list[tuple[int, int]]) -> tuple[int, int]:
    """The largest piece of a mapping that was none before: the system joins new ones to their neighbours."""
    pieces = []
    for first, end in mappings_now():
        borders = [at for old in before if old[0] < end and old[1] > first for at in old]
        pieces += zip([first, *borders[1::2]], [*borders[::2], end], strict=True)
    return max(pieces, key=lambda piece: piece[1] - piece[0])


def count_resident_bytes(first: int, end: int) -> int:
    """Bytes of a range of addresses that have pages, see proc_pid_pagemap(5)."""
    size = os.sysconf("SC_PAGESIZE")
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(first // size * 8)
        entries = np.frombuffer(file.read((end - first) // size * 8), np.uint64)
    return int(np.count_nonzero(entries >> np.uint64(62))) * size  # in memory or swapped
