"""The backend: what it offers, probing, loading, and what it does with files that are not sound."""

import gc
import subprocess
import sys
import weakref
from dataclasses import fields, replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_models as tiny

from inferd.plugin import Backend, LoadedModel, LoadError, LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd_cpu import weights
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC, inferd_backends
from inferd_cpu.session import CpuSession
from inferd_weights.gguf import GgufFile

GIB = 1 << 30


def load(
    path: Path, progress: list[float] | None = None, *, device: str = "cpu:0", capacity_bytes: int = GIB
) -> LoadedModel:
    request = LoadRequest(path=path, device=device, settings=read_settings(SPEC, {}), capacity_bytes=capacity_bytes)
    return CpuBackend().load(request, (progress if progress is not None else []).append)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write_model(tiny.MODELS["llama"], tmp_path / "llama.gguf")


def test_offers_one_inert_backend() -> None:
    """The plugin offers one backend for GGUF files, and importing it loads neither numpy nor the backend."""
    assert [spec.name for spec in inferd_backends()] == ["cpu"]
    assert (SPEC.formats, SPEC.loader) == (("gguf", "hf"), f"{CpuBackend.__module__}:CpuBackend")
    code = "import sys, inferd_cpu.plugin; print(*sorted({'numpy', 'inferd_cpu.backend'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


def test_probe() -> None:
    """The host has one device with memory and cores."""
    backend = CpuBackend()
    assert isinstance(backend, Backend)
    (device,) = backend.probe().devices
    assert device.device_id == "cpu:0"
    assert device.memory_bytes > 0
    assert device.cores > 0


def test_load(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load reports progress that rises from 0 to 1, and tells what was loaded."""
    monkeypatch.setattr(weights, "CHUNK_ELEMENTS", 256)
    progress: list[float] = []
    loaded = load(model, progress)
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert 50 < len(progress) <= 1 + weights.REPORTS
    description = loaded.description
    assert (description.architecture, description.weight_format) == ("llama", "F32")
    assert description.compute_format == "F32; not native: the width is 48, which is not a multiple of 32"
    assert description.parameters == sum(weight.size for weight in tiny.make_weights(tiny.MODELS["llama"]).values())
    assert isinstance(loaded.session, TokenSession)
    assert len(loaded.vocabulary.tokens) == loaded.session.limits.vocabulary_size == tiny.VOCABULARY_SIZE
    assert loaded.vocabulary.eos_ids == (tiny.VOCABULARY_SIZE - 1,)


def test_measures_what_load_takes(model: Path) -> None:
    """What is measured are the bytes of the arrays that the session then holds."""
    backend = CpuBackend()
    request = LoadRequest(path=model, device="cpu:0", settings=read_settings(SPEC, {}), capacity_bytes=GIB)
    need = backend.measure(request)
    session = backend.load(request, lambda _: None).session
    assert isinstance(session, CpuSession)
    assert sum(place.keys.nbytes + place.values.nbytes for place in session._places) == need.kv_bytes
    assert need.workspace_bytes == sum(getattr(session._workspace, f.name).nbytes for f in fields(session._workspace))
    assert session._weights.embedding.base.nbytes == need.weights_bytes


def test_reads_a_file_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load of what was measured goes on with what was read; of anything else, and of the same again, it reads."""
    read: list[Path] = []
    monkeypatch.setattr("inferd_cpu.source.GgufFile", lambda path: read.append(path) or GgufFile(path))
    backend = CpuBackend()
    request = LoadRequest(path=model, device="cpu:0", settings=read_settings(SPEC, {}), capacity_bytes=GIB)
    backend.measure(request)
    backend.load(request, lambda _: None)
    assert read == [model]
    backend.measure(request)
    smaller = backend.load(replace(request, settings=read_settings(SPEC, {"kv_tokens": "32"})), lambda _: None)
    assert smaller.session.limits.blocks == 2
    backend.load(request, lambda _: None)
    assert read == [model] * 4


def test_refuses_more_than_may_be_given(model: Path) -> None:
    """A model that needs more than may be given at all is measured, and refused before memory is taken."""
    request = LoadRequest(path=model, device="cpu:0", settings=read_settings(SPEC, {}), capacity_bytes=1000)
    assert CpuBackend().measure(request).total_bytes > 1000
    with pytest.raises(LoadError, match="but 1000 may be given: give more, or take a smaller model"):
        load(model, capacity_bytes=1000)


def test_close_gives_the_memory_back(model: Path) -> None:
    """After close nothing holds the weights, the KV pool or the mapped file any more."""
    session = load(model).session
    held = [
        weakref.ref(array) for array in (session._weights.embedding, session._places[0].keys, session._workspace.scores)
    ]  # type: ignore[attr-defined]
    session.close()
    gc.collect()
    assert [ref() for ref in held] == [None, None, None]
    assert str(model) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_refuses_another_device(model: Path) -> None:
    """A device that was not probed is refused."""
    with pytest.raises(LoadError, match="device 'cuda:0' is not known; this backend has 'cpu:0'"):
        load(model, device="cuda:0")


def change_number(path: Path, key: str, value: float) -> Path:
    """Overwrite a number in the metadata of a file."""
    reader = gguf.GGUFReader(path, "r+")
    field = reader.fields[key]
    field.parts[field.data[0]][0] = value
    reader.data.flush()
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", 4, r"tensor 'blk.3.attn_norm.weight' of shape \[48\] is missing"),
        ("llama.block_count", 2, "9 tensors, 'blk.2.attn_q.weight' among them, have no place in architecture 'llama'"),
        ("llama.embedding_length", 64, r"'token_embd.weight' has shape \[96, 48\]; the metadata says \[96, 64\]"),
        ("llama.attention.head_count", 1 << 20, r"'blk.0.attn_q.weight' has shape \[64, 48\]; .* \[16777216, 48\]"),
    ],
)
def test_refuses_metadata_that_contradict_the_tensors(model: Path, key: str, value: int, message: str) -> None:
    """Tensors that are missing, left over, or of another shape than the metadata says are refused by name."""
    with pytest.raises(LoadError, match=message):
        load(change_number(model, key, value))


def test_refuses_weights_that_are_not_finite(model: Path) -> None:
    """A weight that is not a finite number is refused with its tensor's name and place."""
    tensor = GgufFile(model).tensors["blk.1.ffn_down.weight"]
    with model.open("r+b") as file:
        file.seek(tensor.offset + 40)
        file.write(np.float32("inf").tobytes())
    with pytest.raises(
        LoadError, match=r"'blk\.1\.ffn_down\.weight' \(F32, at byte \d+\) has weights that are not finite"
    ):
        load(model)


def test_refuses_rotary_divisors_of_zero(tmp_path: Path) -> None:
    """A divisor of 0 for a rotary frequency is refused."""
    path = tiny.write_model(tiny.MODELS["llama3"], tmp_path / "llama3.gguf")
    with path.open("r+b") as file:
        file.seek(GgufFile(path).tensors["rope_freqs.weight"].offset)
        file.write(bytes(4))
    with pytest.raises(LoadError, match=r"'rope_freqs\.weight' has 0\.0; all must be above 0"):
        load(path)
