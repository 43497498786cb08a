"""How models are loaded natively: the formats of their weights, and what is refused."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
from native_models import find_missing, load, write
from native_products import FP4

from inferd.plugin import LoadError, LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd_cpu import loads as loads_module
from inferd_cpu import probing
from inferd_cpu.backend import CpuBackend
from inferd_cpu.inventory import Inventory
from inferd_cpu.native import LAYER_PARTS, PARTS, W4, W4M, W8, Native, describe
from inferd_cpu.native_session import NativeSession
from inferd_cpu.native_weights import NativeWeights
from inferd_cpu.plugin import SPEC
from inferd_cpu.source import read_source
from inferd_weights.gguf import GgufFile
from inferd_weights.quants import FORMATS

pytestmark = pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("qwen3", tmp_path_factory.mktemp("tiny") / "qwen3.gguf")


@pytest.fixture
def session(qwen: Path) -> Iterator[TokenSession]:
    session = load(qwen).session
    yield session
    session.close()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("F16", {"qkv": W4M, "mix": W8, "gate_up": W4M, "down": W8, "head": W8, "embedding": W8}),
        ("Q4_0", {"qkv": W4, "mix": W4, "gate_up": W4, "down": W4, "head": W8, "embedding": W8}),
        ("MXFP4", {"qkv": FP4, "mix": FP4, "gate_up": FP4, "down": FP4, "head": W8, "embedding": W8}),
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
    layers = len(architecture.layers)
    ends = [*(layers * (i + 1) for i in range(len(LAYER_PARTS)))]
    ends += [ends[-1] + 1, ends[-1] + 2]
    begins = [0, *ends[:-1]]
    found = {part: set(formats[a:b].tolist()) for part, a, b in zip(PARTS, begins, ends, strict=True)}
    return {part: forms for part, forms in found.items() if forms != {-1} or part in PARTS[:4]}


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
    (foreign,) = {"neon", "avx2"} - {isa for isa in ("neon", "avx2") if not find_missing(isa)} or {""}
    if not foreign:
        pytest.skip("this processor has them all")
    with pytest.raises(LoadError, match=f"instruction set '{foreign}' cannot be used"):
        load(qwen, compute="auto", isa=foreign)


def test_without_the_library_models_run_in_fp32(qwen: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No library: the probe says what is missing and its fix, and models run with numpy."""
    monkeypatch.setattr(loads_module, "Native", lambda isa="auto": Native(isa, path=tmp_path / "none.so"))
    monkeypatch.setattr(probing, "describe", lambda: describe(path=tmp_path / "none.so"))
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


def test_a_bad_weight_is_found_by_any_of_many_threads(tmp_path: Path) -> None:
    """With more threads than there are errors to keep: what one finds is not lost among those that find nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LAYERS", 1)
        patch.setattr(tiny, "WIDTH", 64)
        patch.setattr(tiny, "HIDDEN", 65 * 32 * 4)
        path = tiny.write_model(tiny.MODELS["llama"], tmp_path / "tiny.gguf")
    gate = GgufFile(path).tensors["blk.0.ffn_gate.weight"]
    for thread in (64, 0, 32):
        row = 32 * 4 * thread + 77
        with path.open("r+b") as file:
            file.seek(gate.offset + 4 * 64 * row)
            before = file.read(4)
            file.seek(-4, os.SEEK_CUR)
            file.write(np.float32("nan").tobytes())
        with pytest.raises(LoadError, match=r"'blk\.0\.ffn_gate\.weight' .* has weights that are not finite"):
            load(path, threads="65", quantization="4bit")
        with path.open("r+b") as file:
            file.seek(gate.offset + 4 * 64 * row)
            file.write(before)
    load(path, threads="65", quantization="4bit").session.close()


def test_threads_are_the_cores_that_no_lease_holds(qwen: Path) -> None:
    """Where no setting says how many: what a model takes besides its weights follows from them."""

    def workspace(cores: int, **settings: str) -> int:
        chosen = read_settings(SPEC, settings)
        request = LoadRequest(path=qwen, device="cpu:0", settings=chosen, capacity_bytes=4 << 30, cores=cores)
        return CpuBackend().measure(request).workspace_bytes

    assert workspace(1) == workspace(9, threads="1") < workspace(9) == workspace(1, threads="9")


def test_layers_that_are_named_stay_as_wide_as_they_are(qwen: Path) -> None:
    """Matrices of a wide layer get 8 bits though all others get 4, and the weights take as many more bytes."""
    source = read_source(LoadRequest(path=qwen, device="cpu:0", settings={}, capacity_bytes=4 << 30))
    form = next(form for form in FORMATS.values() if form.name == "F16")
    source.inventory.parts = tuple(
        replace(part, sources=tuple(replace(one, tensor=replace(one.tensor, format=form)) for one in part.sources))
        for part in source.inventory.parts
    )
    made = [
        NativeWeights(
            source.file, source.architecture, source.inventory, Native(), quantization="4bit", wide=frozenset(wide)
        )
        for wide in ((), (0,))
    ]
    layers = len(source.architecture.layers)
    assert layers > 1
    narrow, mixed = (each.formats()[: len(LAYER_PARTS) * layers].reshape(-1, layers) for each in made)
    assert W8 not in narrow[0]
    assert set(mixed[:, 0].tolist()) <= {W8, -1}
    assert (mixed[:, 1:] == narrow[:, 1:]).all()
    assert made[1].size_bytes > made[0].size_bytes
