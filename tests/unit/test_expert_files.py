"""GGUF files of before experts of a layer were one tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from inferd.plugin import LoadError
from inferd_cpu.expert_files import stack_experts
from inferd_cpu.native import LIBRARY
from inferd_weights.gguf import GgufFile

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from network_to_gguf import write_network  # noqa: E402 - what is imported here needs both
from tiny_folders import read_logits  # noqa: E402

torch.set_num_threads(1)
Floats = np.ndarray[Any, Any]
Write = Callable[[str, Floats], None]


def write(path: Path, change: Callable[[Write, str, Floats], None], patch: pytest.MonkeyPatch) -> Path:
    """A mixture of experts, of which `change` writes each tensor."""
    add = gguf.GGUFWriter.add_tensor

    def add_changed(writer: gguf.GGUFWriter, name: str, numbers: Floats) -> None:
        change(lambda name, numbers: add(writer, name, np.ascontiguousarray(numbers)), name, numbers)

    with patch.context() as scope:
        scope.setattr(gguf.GGUFWriter, "add_tensor", add_changed)
        write_network("mixtral", path, spread=0.1)
    return path


def part(write: Write, name: str, numbers: Floats) -> None:
    """As llama.cpp's first converters did: each expert by itself."""
    if "_exps" not in name:
        write(name, numbers)
        return
    for expert, each in enumerate(numbers):
        write(name.replace("_exps", f".{expert}"), each)


@pytest.mark.parametrize("compute", ["exact", *(["native"] if LIBRARY.exists() else [])])
def test_experts_in_tensors_of_their_own_are_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: str
) -> None:
    """The logits have the same bits, in fp32 and compiled."""
    write_network("mixtral", tmp_path / "new.gguf", spread=0.1)
    older = write(tmp_path / "old.gguf", part, monkeypatch)
    assert np.array_equal(read_logits(older, compute=compute), read_logits(tmp_path / "new.gguf", compute=compute))


def test_what_is_no_expert_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors beside the experts are those of the file, in its memory."""
    file = GgufFile(write(tmp_path / "old.gguf", part, monkeypatch))
    stacked, name = stack_experts(file), "token_embd.weight"
    assert stacked is not file
    assert np.shares_memory(stacked.blocks(stacked.tensors[name]), file.blocks(file.tensors[name]))


def leave_out(write: Write, name: str, numbers: Floats) -> None:
    part(lambda some, each: None if ".ffn_up.1." in some else write(some, each), name, numbers)


def narrow(write: Write, name: str, numbers: Floats) -> None:
    part(lambda some, each: write(some, each[:-1] if ".ffn_up.1." in some else each), name, numbers)


def write_twice(write: Write, name: str, numbers: Floats) -> None:
    part(write, name, numbers)
    if "ffn_up_exps" in name:
        write(name, numbers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (leave_out, r"of 'blk.0.ffn_up_exps.weight' there are experts \[0, 2, 3, 4, 5\]; none may be missing"),
        (narrow, "'blk.0.ffn_up.1.weight' is F32 of shape .*experts of a layer must be alike"),
        (write_twice, "there is 'blk.0.ffn_up_exps.weight' and 'blk.0.ffn_up.0.weight', which is a part of it"),
    ],
)
def test_experts_that_do_not_fit_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Write, str, Floats], None], words: str
) -> None:
    """One that is missing, that differs, or that is there twice is an error in words."""
    with pytest.raises(LoadError, match=words):
        read_logits(write(tmp_path / "old.gguf", change, monkeypatch))
