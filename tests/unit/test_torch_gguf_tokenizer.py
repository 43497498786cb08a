"""Tokens of trainings of GGUF files."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from network_to_gguf import write_network

from inferd_torch.gguf import read_gguf
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
