"""Tokens of trainings of GGUF files."""

from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import gguf
import numpy as np
from gguf import GGUFReader
from network_to_gguf import write_network

from inferd_torch.gguf import Reader, read_gguf
from inferd_torch.network import read_config
from inferd_torch.training import texts


def test_the_folder_of_a_file_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox opens the file alone, so its tokenizer is read by way of a folder that holds nothing else."""
    path = tmp_path / "tiny.gguf"
    write_network("llama", path)
    (tmp_path / "other").write_text("of somebody else")
    seen: list[list[str]] = []

    class Reader:
        @staticmethod
        def from_pretrained(folder: str, **told: object) -> None:
            seen.append([each.name for each in Path(folder).iterdir()])
            assert (Path(folder) / str(told["gguf_file"])).read_bytes() == path.read_bytes()
            raise ValueError("far enough")

    monkeypatch.setattr(texts, "AutoTokenizer", Reader)
    artifact = read_gguf(path)
    if artifact.vocabulary.algorithm == "json":
        pytest.skip("this file defines its tokenizer as a folder does")
    with pytest.raises(texts.TrainError, match="far enough"):
        texts.read_tokenizer(artifact)
    assert seen == [["tiny.gguf"]]


def test_a_file_is_read_quickly_and_as_gguf_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are cut from a plain array, with the same contents; transformers reads so what trainings begin with."""
    path = tmp_path / "tiny.gguf"
    write_network("llama", path)
    plain, quick = GGUFReader(path), Reader(path)
    assert type(quick.data) is np.ndarray
    for name, field in plain.fields.items():
        assert [part.tobytes() for part in quick.fields[name].parts] == [part.tobytes() for part in field.parts]
    for one, other in zip(plain.tensors, quick.tensors, strict=True):
        assert (one.name, one.data.tobytes()) == (other.name, other.data.tobytes())
    used: list[object] = []
    monkeypatch.setattr(Reader, "__init__", lambda self, path: (used.append(path), GGUFReader.__init__(self, path))[1])
    artifact = read_gguf(path)
    read_config(artifact)
    with suppress(texts.TrainError):  # its few tokens are no whole vocabulary
        texts.read_tokenizer(artifact)
    assert len(used) == 3
    assert gguf.GGUFReader is GGUFReader
