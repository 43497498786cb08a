"""Tables of which a step takes a few rows: they stay in the file, in its own format."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from inferd_cpu.finder import Source
from inferd_cpu.stored_rows import StoredRows
from inferd_weights.gguf import GgufFile

TOKENS = 8_000
TABLE = "per_layer_token_embd.weight"


def write_table(path: Path, form: str, numbers: np.ndarray) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    kind = gguf.GGMLQuantizationType[form]
    writer.add_tensor(TABLE, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("form", ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_1"])
def test_rows_are_those_of_the_whole_table(tmp_path: Path, form: str) -> None:
    """Rows that are taken have the bits that unpacking the table gives, of each format, also of a part of its rows."""
    path = tmp_path / "table.gguf"
    write_table(path, form, np.random.default_rng(3).normal(size=(50, 96)).astype(np.float32))
    file = GgufFile(path)
    tensor = file.tensors[TABLE]
    whole = tensor.format.decode(file.blocks(tensor)).reshape(tensor.shape)
    wanted = np.array([0, 49, 7, 7, 31])
    table = StoredRows(file, Source(tensor))
    assert len(table) == 50
    assert table.take(wanted).tobytes() == whole[wanted].astype(np.float32).tobytes()
    some = StoredRows(file, Source(tensor, first=10, rows=20))
    assert len(some) == 20
    assert some.take(np.array([19, 0])).tobytes() == whole[[29, 10]].astype(np.float32).tobytes()


LOAD = """
import gc, sys
from pathlib import Path
from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC
def resident(name):
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == name)
path = Path(sys.argv[1])
settings = read_settings(SPEC, {"kv_tokens": "64", "max_step_tokens": "16", "max_sequences": "1"})
request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=4 << 30)
before, backend = resident("VmRSS:"), CpuBackend()
need = backend.measure(request)
session = backend.load(request, lambda _: None).session
compute(session, Part(token_ids=[5, 6, 7_000], blocks=range(1), wanted=[2]))
gc.collect()
print(need.weights_bytes, resident("VmRSS:") - before, resident("VmHWM:") - before)
"""


def write_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny Gemma 4 with numbers of each token for each layer that are most of its file, in eight bits."""
    import network_to_gguf  # noqa: PLC0415 - it imports torch
    import tiny_family  # noqa: PLC0415 - as above

    monkeypatch.setitem(tiny_family.BASE, "vocab_size", TOKENS)
    monkeypatch.setattr(network_to_gguf, "VOCABULARY", TOKENS)
    family = network_to_gguf.FAMILIES["gemma4"]
    sizes = {"vocab_size_per_layer_input": TOKENS, "hidden_size_per_layer_input": 128}
    for key, size in sizes.items():
        monkeypatch.setitem(family.config, key, size)
    monkeypatch.setitem(family.metadata, "embedding_length_per_layer_input", 128)
    whole = path.with_suffix(".whole")
    network_to_gguf.write_network("gemma4", whole)
    reader, form = gguf.GGUFReader(whole), gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(path, "gemma4")
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(
                name, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        if tensor.name == TABLE:
            writer.add_tensor(TABLE, gguf.quants.quantize(np.array(tensor.data), form), raw_dtype=form)
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole.unlink()


def test_memory_is_near_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of all tokens for all layers takes what its file has, in what is told beforehand and in what is so."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    path = tmp_path / "large.gguf"
    write_large(path, monkeypatch)
    size = path.stat().st_size
    table = GgufFile(path).tensors[TABLE]
    assert table.elements * 4 > 2 * size  # in fp32
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)], check=True, capture_output=True, text=True, timeout=120
    )
    need, resident, peak = (int(number) for number in done.stdout.split())
    print(f"of the file: {need / size:.2f} told, {resident / size:.2f} resident, {peak / size:.2f} at most")  # noqa: T201
    assert need < 1.05 * size
    assert resident < 1.3 * size
    assert peak < 1.8 * size
