"""GGUF models in several files, and files of version 1."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models as tiny

from inferd.plugin import LoadError, LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC
from inferd_weights.gguf import GgufFile


def load(path: Path) -> TokenSession:
    settings = read_settings(SPEC, {"kv_tokens": "640", "compute": "exact"})
    request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    return CpuBackend().load(request, lambda _: None).session


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return tiny.write_model(tiny.MODELS["qwen3"], tmp_path / "whole.gguf")


def split(whole: Path, *, count: int = 3, numbers: Mapping[int, int] | None = None, twice: bool = False) -> Path:
    """The tensors of a file dealt out to `count` files; the first one."""
    reader = gguf.GGUFReader(whole)
    for part in range(count):
        writer = gguf.GGUFWriter(whole.with_name(f"m-{part + 1:05}-of-{count:05}.gguf"), "qwen3")
        for field in reader.fields.values() if part == 0 else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                kind, *items = field.types
                writer.add_key_value(field.name, field.contents(), kind, sub_type=items[-1] if items else None)
        writer.add_uint16("split.no", (numbers or {}).get(part, part))
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for index, tensor in enumerate(reader.tensors):
            if index % count == part or (twice and index == 0):
                writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return whole.with_name(f"m-00001-of-{count:05}.gguf")


def test_a_model_in_parts_is_the_same_model(whole: Path) -> None:
    """The first part finds the others; the logits are those of the one file."""
    expected, found = (
        compute(load(path), Part(token_ids=tiny.PROMPT, blocks=range(4)))[0] for path in (whole, split(whole))
    )
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("changes", "removed", "message"),
    [
        ({}, "m-00003-of-00003.gguf", "m-00003-of-00003.gguf: part 3 of 3 of the model is missing"),
        ({}, "m-00001-of-00003.gguf", "m-00001-of-00003.gguf: cannot be read"),
        ({"numbers": {1: 2}}, "", "'split.no' says that the file is not part 2 of 3"),
        ({"numbers": {0: 1}}, "", "is part 2 of a model in 3 files; give the first of them"),
        ({"twice": True}, "", "is in another part of the model, too"),
    ],
)
def test_parts_that_do_not_fit(whole: Path, changes: dict[str, Any], removed: str, message: str) -> None:
    """A part that is missing, in the wrong place or given instead of the first one is refused by its name."""
    first = split(whole, **changes)
    if removed:
        first.with_name(removed).unlink()
    with pytest.raises(LoadError, match=message):
        GgufFile(first)


def test_another_part_than_the_first_is_refused(whole: Path) -> None:
    """With what to give instead."""
    first = split(whole)
    with pytest.raises(LoadError, match="is part 2 of a model in 3 files; give the first of them, whose name must end"):
        GgufFile(first.with_name("m-00002-of-00003.gguf"))


def test_version_1_has_short_lengths(tmp_path: Path) -> None:
    """Counts, lengths and dimensions have four bytes; a file that ends early is refused as ever."""

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value)) + value.encode()

    pairs = text("a.name") + struct.pack("<I", 8) + text("x") + text("a.ids") + struct.pack("<IIIii", 9, 5, 2, 7, -7)
    words = text("a.words") + struct.pack("<III", 9, 8, 2) + text("one") + text("")
    tensor = text("t") + struct.pack("<IIIIQ", 2, 4, 2, 0, 0)
    head = b"GGUF" + struct.pack("<III", 1, 1, 3) + pairs + words + tensor
    content = head + bytes(-len(head) % 32) + np.arange(8, dtype="<f4").tobytes()
    path = tmp_path / "old.gguf"
    path.write_bytes(content)
    file = GgufFile(path)
    assert (file.metadata.text("a.name"), file.metadata.integers("a.ids")) == ("x", [7, -7])
    assert file.metadata.texts("a.words") == ["one", ""]
    assert file.tensors["t"].shape == (2, 4)
    assert file.blocks(file.tensors["t"]).view("<f4").reshape(-1).tolist() == list(range(8))
    path.write_bytes(content[:-1])
    with pytest.raises(LoadError, match="cut short"):
        GgufFile(path)
