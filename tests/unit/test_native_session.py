"""The native session, on tiny models whose widths it can run, against the fp32 session."""

import gc
import mmap
import os
import re
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

from inferd.core.task import Sampling
from inferd.engine.sampler import Sampler
from inferd.plugin import LoadedModel, LoadError, LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute, make_batch
from inferd_cpu import backend as backend_module
from inferd_cpu import loads as loads_module
from inferd_cpu.architecture import read_architecture
from inferd_cpu.backend import CpuBackend
from inferd_cpu.gguf import GgufFile
from inferd_cpu.inventory import Inventory
from inferd_cpu.native import PARTS, W4, W4M, W8, Native, NativeMissing
from inferd_cpu.native_session import NativeSession
from inferd_cpu.native_weights import NativeWeights
from inferd_cpu.plugin import SPEC
from inferd_cpu.quants import FORMATS
from inferd_cpu.source import read_source

BLOCKS = list(range(39, -1, -1))  # in no natural order
QUANTISATION = 0.06  # of the spread of logits: what 8-bit weights and activations of tiny models may change


def is_usable(isa: str) -> bool:
    try:
        Native(isa)
    except NativeMissing:
        return False
    return True


pytestmark = pytest.mark.skipif(not is_usable("auto"), reason="the native library is not built")


def write(name: str, path: Path, *, head_width: int = tiny.HEAD_WIDTH) -> Path:
    """A tiny model of widths that are multiples of 32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "WIDTH", 64)
        patch.setattr(tiny, "HIDDEN", 96)
        patch.setattr(tiny, "HEAD_WIDTH", head_width)
        return tiny.write_model(tiny.MODELS[name], path)


def load(path: Path, **settings: str) -> LoadedModel:
    given = {"kv_tokens": "640", "compute": "native", **settings}
    chosen = read_settings(SPEC, given)
    request = LoadRequest(path=path, device="cpu:0", settings=chosen, capacity_bytes=4 << 30)
    return CpuBackend().load(request, lambda _: None)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("qwen3", tmp_path_factory.mktemp("tiny") / "qwen3.gguf")


@pytest.fixture
def session(qwen: Path) -> Iterator[TokenSession]:
    session = load(qwen).session
    yield session
    session.close()


def part(ids: list[int], blocks: list[int], begin: int = 0) -> Part:
    return Part(token_ids=ids, blocks=blocks, begin=begin)


def run_alone(session: TokenSession, ids: list[int]) -> np.ndarray[Any, Any]:
    """Logits of every row of one sequence that is computed in one step."""
    (logits,) = compute(session, part(ids, BLOCKS[-8:]))
    return logits


@pytest.mark.parametrize("name", tiny.MODELS)
def test_logits_are_those_of_fp32_but_for_quantisation(tmp_path: Path, name: str) -> None:
    """Each architecture and each kind of rotary scaling gives the fp32 logits, to a few hundredths of their spread."""
    path = write(name, tmp_path / "tiny.gguf")
    exact, native = (load(path, compute=compute).session for compute in ("exact", "native"))
    assert isinstance(native, NativeSession)
    expected = run_alone(exact, tiny.PROMPT)
    off = run_alone(native, tiny.PROMPT) - expected
    assert np.sqrt(np.mean(off**2)) < QUANTISATION * expected.std()
    native.close()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("F16", {"qkv": W4M, "mix": W8, "gate_up": W4M, "down": W8, "head": W8, "embedding": W8}),
        ("Q4_0", {"qkv": W4, "mix": W4, "gate_up": W4, "down": W4, "head": W8, "embedding": W8}),
        ("Q4_1", {"qkv": W4M, "mix": W4M, "gate_up": W4M, "down": W4M, "head": W8, "embedding": W8}),
    ],
)
def test_four_bits_are_for_what_bears_them(qwen: Path, stored: str, expected: dict[str, int]) -> None:
    """Of weights with more bits the sensitive matrices get 8; those that have 4 bits in the file keep them."""
    source = read_source(LoadRequest(path=qwen, device="cpu:0", settings={}, capacity_bytes=4 << 30))
    found = choose_formats(source.inventory, source.file, source.architecture, stored=stored)
    assert found == {field: {form} for field, form in expected.items()}


def choose_formats(inventory: Inventory, file: GgufFile, architecture: Any, *, stored: str) -> dict[str, set[int]]:
    """The packed formats of each kind of matrix with 4bit, as if the file held all tensors in another format."""
    form = next(form for form in FORMATS.values() if form.name == stored)
    inventory.parts = tuple(
        replace(part, sources=tuple(replace(one, tensor=replace(one.tensor, format=form)) for one in part.sources))
        for part in inventory.parts
    )
    formats = NativeWeights(file, architecture, inventory, Native(), quantization="4bit").formats()
    layers = architecture.layers
    ends = [*(layers * (i + 1) for i in range(4)), 4 * layers + 1, 4 * layers + 2]
    begins = [0, *ends[:-1]]
    return {part: set(formats[a:b].tolist()) for part, a, b in zip(PARTS, begins, ends, strict=True)}


@pytest.mark.parametrize("name", tiny.MODELS)
def test_four_bits_are_near_eight(tmp_path: Path, name: str) -> None:
    """Logits with 4 bits are near those with 8, and the same with any number of threads."""
    path = write(name, tmp_path / "tiny.gguf")
    found = []
    for quantization, threads in (("8bit", "1"), ("4bit", "1"), ("4bit", "3")):
        loaded = load(path, quantization=quantization, threads=threads)
        found.append(run_alone(loaded.session, tiny.PROMPT))
        loaded.session.close()
    assert ", 4-bit and 8-bit weights, KV " in loaded.description.compute_format
    assert 0 < np.sqrt(np.mean((found[1] - found[0]) ** 2)) < 0.5 * found[0].std()
    assert found[1].tobytes() == found[2].tobytes()


def test_inputs_with_small_weights_count_more(session: TokenSession) -> None:
    """An input counts by how much smaller its squared weights are than the average, cubed: from 1 to 512."""
    assert isinstance(session, NativeSession)
    weights = np.ones((70, 96), np.float32)
    weights[:, 1], weights[:, 40], weights[:, 95] = 0.5, 0, 2
    counts = np.empty(96, np.float32)
    weigh = Native().library.inferd_weigh_inputs
    assert weigh(session.model, 0, weights.ctypes.data, 70, 96, counts.ctypes.data) == 0
    squares = np.mean(weights**2, axis=0)
    with np.errstate(divide="ignore"):
        expected = np.clip(squares.mean() / squares, 1, 8) ** 3
    np.testing.assert_allclose(counts, expected, rtol=1e-5)
    weights[:] = 0
    assert weigh(session.model, 0, weights.ctypes.data, 70, 96, counts.ctypes.data) == 0
    assert counts.tolist() == [1] * 96
    assert weigh(session.model, 0, weights.ctypes.data, 70, 33, counts.ctypes.data) == 1
    assert weigh(session.model, 9, weights.ctypes.data, 70, 96, counts.ctypes.data) == 2


@pytest.mark.parametrize("threads", ["1", "5"])
def test_bits_do_not_depend_on_threads(qwen: Path, session: TokenSession, threads: str) -> None:
    """Any number of threads gives the same bits."""
    changed = load(qwen, threads=threads).session
    assert run_alone(changed, tiny.PROMPT).tobytes() == run_alone(session, tiny.PROMPT).tobytes()
    changed.close()


@pytest.mark.parametrize("kv_format", ["i8", "bf16", "f32"])
def test_keys_and_values_may_be_rounded(qwen: Path, kv_format: str) -> None:
    """Each format of the KV pool gives nearly the logits of fp32 keys and values, and is named."""
    models = [load(qwen, kv_format=name) for name in ("f32", kv_format)]
    assert models[1].description.compute_format.endswith(f", KV {kv_format}")
    fine, rounded = (model.session for model in models)
    expected = run_alone(fine, tiny.PROMPT)
    off = run_alone(rounded, tiny.PROMPT) - expected
    assert np.sqrt(np.mean(off**2)) < 0.02 * expected.std()
    assert (kv_format == "f32") == (not off.any())
    fine.close()
    rounded.close()


@pytest.mark.parametrize("kv_format", ["i8", "bf16", "f32"])
@pytest.mark.skipif(not is_usable("avx512"), reason="the processor has no AVX-512")
def test_instruction_sets_with_the_same_arithmetic_give_the_same_bits(qwen: Path, kv_format: str) -> None:
    """AVX2 and AVX-512, both int8 with fused multiplication, give the same bits."""
    wide, narrow = (load(qwen, isa=isa, kv_format=kv_format).session for isa in ("avx512", "avx2"))
    assert run_alone(wide, tiny.PROMPT).tobytes() == run_alone(narrow, tiny.PROMPT).tobytes()
    wide.close()
    narrow.close()


def test_the_portable_path_gives_nearly_the_same(qwen: Path, session: TokenSession) -> None:
    """Without fused multiplication the logits differ by no more than quantisation changes."""
    plain, expected = load(qwen, isa="plain").session, run_alone(session, tiny.PROMPT)
    off = run_alone(plain, tiny.PROMPT) - expected
    assert np.sqrt(np.mean(off**2)) < QUANTISATION * expected.std()
    plain.close()


@pytest.mark.parametrize("chunks", [[1] * 40, [16, 24], [17, 1, 22], [2, 37, 1]], ids=str)
def test_chunks_give_the_bits_of_one_step(session: TokenSession, chunks: list[int]) -> None:
    """A prompt computed in pieces, of any size, gives the bits of one step."""
    expected = run_alone(session, tiny.PROMPT)
    past = 0
    for count in chunks:
        (logits,) = compute(session, part(tiny.PROMPT[past : past + count], BLOCKS, past))
        assert logits.tobytes() == expected[past : past + count].tobytes()
        past += count


@pytest.mark.parametrize("head_width", [16, 32, 48, 96, 128])
@pytest.mark.parametrize(("kv_format", "block_tokens"), [("i8", "16"), ("i8", "20"), ("i8", "48"), ("bf16", "20")])
def test_a_long_sequence_beside_others_has_the_bits_of_one_alone(
    tmp_path: Path, head_width: int, kv_format: str, block_tokens: str
) -> None:
    """Over several segments of keys: alone, in pieces, in a small step and in a large one, tokens get the same bits.

    In the first step each of two threads has so many rows that it keeps them for itself, with AMX.
    """
    path = write("qwen3", tmp_path / "wide.gguf", head_width=head_width)
    given = {"kv_format": kv_format, "block_tokens": block_tokens, "threads": "2"}
    session = load(path, kv_tokens="16384", max_step_tokens="640", **given).session
    ids = np.random.default_rng(5).integers(tiny.VOCABULARY_SIZE, size=250).tolist()
    own, spare = list(range(100, 116)), list(range(200, 256))
    whole = compute(session, part(ids[:37], spare), part(ids, own), part(ids[::-1], list(range(50, 66))))[1]
    past = 0
    for count in (1, 2, 3, 37, 128, 79):
        (pieces,) = compute(session, part(ids[past : past + count], own, past))
        assert pieces.tobytes() == whole[past : past + count].tobytes()
        past += count
    expected = compute(session, part(ids, own))[0][-1]
    for others in (0, 2, 30):
        beside = [part([n % tiny.VOCABULARY_SIZE], [spare[n]]) for n in range(others)]
        logits = compute(session, *beside, part(ids[-1:], own, len(ids) - 1))[-1]
        assert logits[0].tobytes() == expected.tobytes()
    session.close()


def test_hundreds_of_sequences_have_the_bits_of_each_alone(qwen: Path) -> None:
    """So many that each of two threads keeps its own rows, with AMX."""
    given = {"kv_tokens": "4800", "max_step_tokens": "300", "max_sequences": "300", "threads": "2"}
    session = load(qwen, **given).session
    ids = np.random.default_rng(6).integers(tiny.VOCABULARY_SIZE, size=(299, 2)).tolist()
    for begin in range(2):
        logits = compute(session, *(part([pair[begin]], [block], begin) for block, pair in enumerate(ids)))
    for block, pair in enumerate(ids):
        (alone,) = compute(session, part(pair, [block]))
        assert alone[1].tobytes() == logits[block][0].tobytes()
    session.close()


def test_hidden_states_are_those_of_fp32_but_for_quantisation(qwen: Path, session: TokenSession) -> None:
    """Hidden states of any rows, in small steps and large ones."""
    exact = load(qwen, compute="exact").session
    for count in (1, 3, 30):
        rows = np.array([0, count - 1], np.int32)
        batch = replace(make_batch([part(tiny.PROMPT[:count], BLOCKS)]), hidden_rows=rows)
        expected, hidden = exact.step(batch).hidden, session.step(batch).hidden
        assert expected is not None
        assert hidden is not None
        assert np.sqrt(np.mean((hidden - expected) ** 2)) < QUANTISATION * expected.std()


@pytest.mark.parametrize("count", [1, 4, 40])
def test_the_best_token_is_found_without_logits(session: TokenSession, count: int) -> None:
    """Greedy rows get the token of their largest logit; rows that are drawn beside them change nothing in it."""
    batch = make_batch([part(tiny.PROMPT[:count], BLOCKS)])
    logits = np.array(session.step(batch).logits)
    sampler = Sampler(rows=64, vocabulary_size=tiny.VOCABULARY_SIZE)
    for drawn in (False, True):
        for row in range(count):
            sampler.assign(row, Sampling(temperature=0.8 if drawn and row % 2 else 0.0, seed=row))
        sampling = sampler.for_device(batch.positions)
        ids = session.step(replace(batch, sampling=sampling)).token_ids
        assert ids is not None
        assert ids.tolist() == sampler.choose(logits, batch.positions).tolist()


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


def test_a_thousand_steps_take_no_memory(session: TokenSession) -> None:
    """After the first steps neither the heap nor the resident memory grows."""
    batch = make_batch([part(tiny.PROMPT[:20], [3, 4]), part([1], [5, 6], 16)])
    for _ in range(50):
        session.step(batch)
    gc.collect()
    before = read_resident_bytes()
    for _ in range(1000):
        session.step(batch)
    assert read_resident_bytes() - before < 64 << 10


def test_close_ends_the_threads_and_gives_the_memory_back(qwen: Path) -> None:
    """A session has its threads while it is open; closing it again does nothing."""
    before = count_threads()
    session = load(qwen, threads="4").session
    assert count_threads() == before + 3
    session.close()
    session.close()
    assert count_threads() == before


def test_the_pool_gets_its_pages_before_steps_need_them(qwen: Path) -> None:
    """A large pool is resident soon after the load; closing gives it back, at any time."""
    room = {"kv_tokens": str(1 << 17), "kv_format": "f32"}
    pool_bytes = read_architecture(GgufFile(qwen).metadata).kv_token_bytes << 17
    assert pool_bytes > 64 << 20
    try:
        mmap.mmap(-1, mmap.PAGESIZE).madvise(23)  # MADV_POPULATE_WRITE
    except OSError:
        pytest.skip("this kernel does not populate memory when it is asked to: Linux does from 5.14 on")
    before, threads = read_resident_bytes(), count_threads()
    session = load(qwen, **room).session
    deadline = time.monotonic() + 60
    while read_resident_bytes() - before < pool_bytes and time.monotonic() < deadline:
        os.sched_yield()
    assert read_resident_bytes() - before >= pool_bytes
    session.close()
    assert read_resident_bytes() - before < pool_bytes // 2
    load(qwen, **room).session.close()
    while count_threads() > threads and time.monotonic() < deadline:
        os.sched_yield()
    assert count_threads() <= threads


def test_what_cannot_run_natively_runs_in_fp32_and_says_why(tmp_path: Path) -> None:
    """Widths that do not suit the library: numpy by default, with the reason; an error where native is demanded."""
    path = tiny.write_model(tiny.MODELS["llama"], tmp_path / "tiny.gguf")
    model = load(path, compute="auto")
    why = "the width is 48, which is not a multiple of 32"
    assert model.description.compute_format == f"F32; not native: {why}"
    with pytest.raises(LoadError, match=f"'compute' is 'native', but {why}: leave the setting out"):
        load(path)


def test_an_instruction_set_of_another_processor_is_refused(qwen: Path) -> None:
    """An instruction set that is asked for and cannot be used is an error, never another one."""
    (foreign,) = {"neon", "avx2"} - {isa for isa in ("neon", "avx2") if is_usable(isa)} or {""}
    if not foreign:
        pytest.skip("this processor has them all")
    with pytest.raises(LoadError, match=f"instruction set '{foreign}' cannot be used"):
        load(qwen, compute="auto", isa=foreign)


def test_without_the_library_models_run_in_fp32(qwen: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No library: the probe says what is missing and its fix, and models run with numpy."""
    for module in (backend_module, loads_module):
        monkeypatch.setattr(module, "Native", lambda isa="auto": Native(isa, path=tmp_path / "none.so"))
    found = CpuBackend().probe()
    assert found.why
    assert found.fix
    assert "F32; not native" in load(qwen, compute="auto").description.compute_format
    with pytest.raises(LoadError, match="'compute' is 'native'"):
        load(qwen)


@pytest.mark.parametrize("name", ["blk.1.ffn_down.weight", "blk.0.attn_norm.weight"])
def test_refuses_weights_that_are_not_finite(tmp_path: Path, name: str) -> None:
    """A weight that is not a finite number is refused with its tensor's name and place."""
    path = write("llama", tmp_path / "tiny.gguf")
    with path.open("r+b") as file:
        file.seek(GgufFile(path).tensors[name].offset + 40)
        file.write(np.float32("inf").tobytes())
    with pytest.raises(LoadError, match=rf"'{re.escape(name)}' \(F32, at byte \d+\) has weights that are not finite"):
        load(path)


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
settings = read_settings(SPEC, {"compute": "native", "kv_format": "bf16", "kv_tokens": "304"})
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


def count_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
