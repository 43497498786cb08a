"""A slice of `make fuzz`: damaged GGUF files and Hugging Face folders through the reader, the packer and a step."""

import json
from pathlib import Path

import pytest
from amounts import examples
from folder_seeds import write_folder
from gguf_child import find_sets, load
from gguf_fuzz import fuzz
from gguf_seeds import read_sound, write_seeds
from other_seeds import Others

from inferd.plugin import LoadError, list_hf_weights
from inferd_weights.gguf import GgufFile

CASES = examples(400)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # weights of random bits overflow
def test_sound_files(tmp_path: Path) -> None:
    """Undamaged, each file of the fuzzer loads and computes on every path that runs here."""
    for path in write_seeds(tmp_path):
        for isa in find_sets():
            assert load(path, isa=isa), (path.name, isa)
        assert read_sound(path).end <= min(tensor.offset for tensor in GgufFile(path).tensors.values())


def test_a_sound_folder(tmp_path: Path) -> None:
    """Undamaged, the folder of the fuzzer loads and computes on every path that runs here."""
    folder = write_folder(tmp_path / "folder")
    for isa in find_sets():
        assert load(folder, isa=isa), isa


@pytest.mark.timeout(300)
def test_damaged_files() -> None:
    """Of many damaged files, each loads or is refused with a LoadError, in time and little memory."""
    tally = fuzz(seed=1, cases=CASES)
    assert not tally.findings, "\n".join(tally.findings)
    assert tally.cases == CASES
    assert 0 < tally.loaded < tally.cases


@pytest.mark.parametrize("name", ["adapter", "peft", "sharded folder", "shards"])
def test_sound_models_of_several_files(tmp_path: Path, name: str) -> None:
    """Undamaged, the fuzzer's shards and adapters load and compute on every path that runs here."""
    others = Others(tmp_path)
    assert name in others.sound
    for isa in find_sets():
        assert load(*others.sound[name], isa=isa), isa


@pytest.mark.parametrize("named", [[], {}, ["x"], None, 1, "", "../x.safetensors", "x.safetensors\0"], ids=repr)
def test_an_index_that_names_no_files(tmp_path: Path, named: object) -> None:
    """Whatever an index of weights names instead of a file of the folder is refused, also what is no text."""
    index = {"weight_map": {"model.norm.weight": "model.safetensors", "lm_head.weight": named}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r"is no safetensors file of the folder"):
        list_hf_weights(tmp_path)
