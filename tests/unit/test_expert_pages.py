"""Experts in a file that the operating system pages: the same answers, less memory, and a file that goes."""

import mmap
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from native_models import find_missing
from stored_models import Sizes, write_stored

from inferd.core.ids import DeviceId
from inferd.core.plan import LoadPlan
from inferd.core.resources import MemoryNeed
from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.sandbox.walls import bound_memory
from inferd.testing.batches import Part, compute
from inferd.worker.process import resident_bytes
from inferd_cpu.backend import CpuBackend
from inferd_cpu.expert_pages import ExpertPages
from inferd_cpu.plugin import SPEC

native = pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native")
EXPERTS = Sizes(experts=8)
IDS = list(range(3, 40))
MIB = 1 << 20
OF_A_SESSION = 16 * MIB  # beside its need: what reading takes for a moment


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, as a worker has one."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def request(path: Path, *, capacity_bytes: int = 1 << 30, **settings: str) -> LoadRequest:
    sizes = {"kv_tokens": "128", "context_tokens": "128", "max_step_tokens": "64", "max_sequences": "2", "threads": "2"}
    given = read_settings(SPEC, {**sizes, **settings})
    return LoadRequest(path=path, device="cpu:0", settings=given, capacity_bytes=capacity_bytes)


def generate(path: Path, scratch: Path, **settings: str) -> tuple[list[int], list[int]]:
    """Greedy ids, and the sizes of the files that there were meanwhile."""
    session = CpuBackend().load(request(path, **settings), lambda _: None).session
    try:
        ids, part = [], Part(token_ids=IDS, blocks=range(8), wanted=[len(IDS) - 1])
        for past in range(len(IDS), len(IDS) + 16):
            (logits,) = compute(session, part)
            ids.append(int(logits[-1].argmax()))
            part = Part(token_ids=ids[-1:], blocks=range(8), begin=past)
        return ids, [file.stat().st_size for file in scratch.iterdir()]
    finally:
        session.close()


def generate_bounded(path: Path, scratch: Path, most_bytes: int, **settings: str) -> tuple[list[int], list[int]]:
    """As `generate`, in a process that from now on takes so much memory of its own at most."""
    tempfile.tempdir = str(scratch)
    bound_memory(most_bytes)
    return generate(path, scratch, **settings)


@native
def test_paged_experts_answer_the_same(tmp_path: Path, scratch: Path) -> None:
    """Greedy ids are those of experts in memory; their file has what the need says, and goes with the session."""
    path = write_stored(tmp_path / "m.gguf", "Q4_0", EXPERTS)
    held, no_files = generate(path, scratch)
    paged, files = generate(path, scratch, expert_offload="true")
    assert paged == held
    assert len(set(held)) > 1
    assert no_files == []
    assert files == [CpuBackend().measure(request(path, expert_offload="true")).paged_bytes]
    assert list(scratch.iterdir()) == []


@native
def test_the_need_is_without_experts(tmp_path: Path) -> None:
    """The weights that are needed are those beside the experts, and of these the part that a token uses."""
    path = write_stored(tmp_path / "m.gguf", "Q4_0", EXPERTS)
    held = CpuBackend().measure(request(path))
    paged = CpuBackend().measure(request(path, expert_offload="true"))
    assert paged.paged_bytes > held.weights_bytes // 2
    assert (
        held.weights_bytes - paged.weights_bytes
        == paged.paged_bytes - paged.paged_bytes * EXPERTS.used // EXPERTS.experts
    )
    assert (held.kv_bytes, held.workspace_bytes) == (paged.kv_bytes, paged.workspace_bytes)
    assert (held.paged_bytes, held.offloaded_bytes) == (0, paged.total_bytes)
    assert paged.offloaded_bytes == 0


@native
def test_what_does_not_fit_names_the_setting(tmp_path: Path, scratch: Path) -> None:
    """A load that has too little memory says what it needs with the setting, and with it has enough."""
    path = write_stored(tmp_path / "m.gguf", "Q4_0", EXPERTS)
    need = CpuBackend().measure(request(path))
    few = need.offloaded_bytes
    with pytest.raises(LoadError, match=f"needs {need.total_bytes} .* with expert_offload=true it needs {few}"):
        CpuBackend().load(request(path, capacity_bytes=few), lambda _: None)
    CpuBackend().load(request(path, capacity_bytes=few, expert_offload="true"), lambda _: None).session.close()
    assert list(scratch.iterdir()) == []


@native
def test_experts_larger_than_memory(tmp_path: Path, scratch: Path) -> None:
    """A process that may have less memory of its own than experts take runs them with the setting, not without."""
    path = write_stored(tmp_path / "m.gguf", "Q4_0", Sizes(width=1024, experts=32))
    need = CpuBackend().measure(request(path, expert_offload="true"))
    most = need.total_bytes + OF_A_SESSION
    assert 2 * most < need.paged_bytes

    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as processes:
        scratched = processes.submit(generate_bounded, path, scratch, most, expert_offload="true").result()
        with pytest.raises(LoadError, match="the operating system gives no memory for weights"):
            processes.submit(generate_bounded, path, scratch, most).result()
    assert scratched == (generate(path, scratch)[0], [need.paged_bytes])


@native
@pytest.mark.parametrize(
    ("sizes", "settings", "why"),
    [
        (Sizes(), {}, "the model has no experts"),
        (EXPERTS, {"compute": "exact"}, "'compute' is 'exact', and only the compiled library pages experts"),
    ],
)
def test_what_cannot_be_paged_is_refused(tmp_path: Path, sizes: Sizes, settings: dict[str, str], why: str) -> None:
    """A model without experts, and one in fp32, are told why the setting must go."""
    path = write_stored(tmp_path / "m.gguf", "Q4_0", sizes)
    with pytest.raises(LoadError, match=f"'expert_offload' is true, but {why}: leave the setting out"):
        CpuBackend().measure(request(path, expert_offload="true", **settings))


@native
def test_a_load_that_fails_leaves_no_file(tmp_path: Path, scratch: Path) -> None:
    """Experts that are written when a load is given up are gone with it."""
    path = write_stored(tmp_path / "m.gguf", "Q4_0", EXPERTS)

    def stop(done: float) -> None:
        if done >= 0.5:
            assert len(list(scratch.iterdir())) == 1
            raise InterruptedError

    with pytest.raises(InterruptedError):
        CpuBackend().load(request(path, expert_offload="true"), stop)
    assert list(scratch.iterdir()) == []


def test_a_full_disk_is_told(scratch: Path) -> None:
    """More than any disk has gives an error with both numbers and the fix, and no file."""
    with pytest.raises(
        LoadError, match=rf"m: .* {1 << 60} bytes, cannot be written to .* bytes are free: .* make room"
    ):
        ExpertPages(Path("m"), 1 << 60)
    assert list(scratch.iterdir()) == []


def test_a_file_that_cannot_be_made_is_told(scratch: Path) -> None:
    """A folder that is not there, too."""
    scratch.rmdir()
    with pytest.raises(LoadError, match=r"cannot be written to .*: No such file or directory"):
        ExpertPages(Path("m"), MIB)


def test_plans_speak_of_experts() -> None:
    """A plan says what is paged; one that does not fit says what would be needed with the setting."""
    need = MemoryNeed(weights_bytes=9 * 10**9, offloaded_bytes=10**9)
    plan = LoadPlan(
        fits=False, device_id=DeviceId("cpu:0"), need=need, free_bytes=4, capacity_bytes=10**10, figures="it is"
    )
    assert plan.reason.endswith("; with expert_offload=true it needs 1.0 GB")
    assert replace(plan, capacity_bytes=4).reason.endswith("; with expert_offload=true it needs 1.0 GB")
    paged = replace(plan, fits=True, need=MemoryNeed(weights_bytes=10**9, paged_bytes=8 * 10**9))
    assert paged.reason == "fits cpu:0: it is; 8.0 GB of experts are paged from a file"


def test_paged_memory_is_no_growth(scratch: Path) -> None:
    """Resident pages of a file do not count where experts are paged, and count elsewhere; no more than are told."""
    size_bytes = 64 * MIB
    pages = ExpertPages(Path("m"), size_bytes)
    try:
        with mmap.mmap(pages.descriptor, size_bytes) as mapped:
            for begin in range(0, size_bytes, os.sysconf("SC_PAGE_SIZE")):
                mapped[begin] = 1
            assert resident_bytes() - resident_bytes(size_bytes) > size_bytes - 8 * MIB
            assert abs(resident_bytes() - resident_bytes(MIB) - MIB) < MIB // 2
    finally:
        pages.close()
    assert not pages.path.exists()
    assert list(scratch.iterdir()) == []
