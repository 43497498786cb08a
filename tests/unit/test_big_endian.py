"""GGUF files of the other byte order, as the public writer and the public converter make them."""

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models as tiny
from gguf.scripts.gguf_convert_endian import convert_byteorder

from inferd.plugin import LoadRequest, UnsupportedModelError
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.native import LIBRARY
from inferd_cpu.plugin import SPEC
from inferd_weights.byte_order import SWAPPED
from inferd_weights.gguf import GgufFile

COMPUTES = ["exact", *(["native"] if LIBRARY.exists() else [])]


def write_blocks(path: Path, kind: str, **options: Any) -> Path:
    """A file with one tensor of this format, of random bytes, and with values of several types."""
    number = gguf.GGMLQuantizationType[kind]
    elements, size = gguf.GGML_QUANT_SIZES[number]
    raw = np.random.default_rng(8).integers(0, 256, size=(4, 1024 // elements * size), dtype=np.uint8)
    writer = gguf.GGUFWriter(path, "llama", **options)
    writer.add_uint32("llama.block_count", 70000)
    writer.add_float64("llama.some", 0.1)
    writer.add_array("llama.several", [1, -2, 70000])
    writer.add_array("llama.words", ["one", "two"])
    writer.add_tensor("token_embd.weight", raw, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", sorted(SWAPPED))
def test_blocks_are_those_of_the_little_endian_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Of each format that the public converter takes, and all values."""
    little = GgufFile(write_blocks(tmp_path / "little.gguf", kind))
    write_blocks(tmp_path / "big.gguf", kind)
    monkeypatch.setattr("builtins.input", lambda _: "YES")
    reader = gguf.GGUFReader(tmp_path / "big.gguf", "r+")
    convert_byteorder(reader, Namespace(order="big", dry_run=False, verbose=False))
    reader.data.flush()
    big = GgufFile(tmp_path / "big.gguf")
    (tensor,), (same,) = little.tensors.values(), big.tensors.values()
    assert (tensor.shape, tensor.format, tensor.offset) == (same.shape, same.format, same.offset)
    np.testing.assert_array_equal(big.blocks(same), little.blocks(tensor))
    assert big.metadata.keys() == little.metadata.keys()
    assert big.metadata["llama.several"].content.tolist() == [1, -2, 70000]
    for key in ("llama.block_count", "llama.some", "llama.words"):
        assert big.metadata[key] == little.metadata[key]


@pytest.mark.parametrize("compute_by", COMPUTES)
def test_results_are_those_of_the_little_endian_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute_by: str
) -> None:
    """Every logit, to the bit."""
    monkeypatch.setattr(tiny, "WIDTH", 64)
    monkeypatch.setattr(tiny, "HIDDEN", 96)
    logits = []
    for order in (gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG):
        with monkeypatch.context() as patch:
            patch.setattr(tiny.gguf, "GGUFWriter", partial(gguf.GGUFWriter, endianess=order))
            path = tiny.write_model(tiny.MODELS["llama3"], tmp_path / f"{order.name}.gguf")
        settings = read_settings(SPEC, {"kv_tokens": "256", "compute": compute_by})
        request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=1 << 30)
        session = CpuBackend().load(request, lambda _: None).session
        logits.append(compute(session, Part(token_ids=tiny.PROMPT, blocks=range(4)))[0].tobytes())
        session.close()
    assert logits[0] == logits[1]


def test_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    """The tensor and its format are named, and what to do."""
    path = write_blocks(tmp_path / "big.gguf", "Q5_0", endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(UnsupportedModelError, match=r"big-endian, and tensor 'token_embd.weight' is Q5_0"):
        GgufFile(path)
