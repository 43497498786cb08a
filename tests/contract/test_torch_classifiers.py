"""Classifiers that the backend `torch` trains pass the suite of models of tensors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_rows import TOPICS, ask, make_rows, write_rows

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

from tiny_encoders import write_encoder

from inferd.plugin import ElementType, LoadRequest, Tensor
from inferd.plugin.backend import read_settings
from inferd.testing.tensor_contract import Inputs, TensorContract
from inferd_torch.backend import TorchBackend
from inferd_torch.classifying import networks
from inferd_torch.plugin import SPEC


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return TorchBackend()


class TestClassifier(TensorContract):
    """One of a small BERT, of which several requests are computed as one."""

    test_what_is_no_model_is_a_load_error = None  # what is no folder goes the way of test_torch.py

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        folder = tmp_path_factory.mktemp("classifier")
        (folder / "base").mkdir()
        base = write_encoder(folder / "base", [word for topic in TOPICS.values() for word in topic])
        asked = ask(write_rows(folder / "rows.jsonl", make_rows(30)), path=base, most_tokens=16)
        training: Any = TorchBackend().train(replace(asked, capacity_bytes=4 << 30, cores=1), lambda _: None)
        for _ in range(training.steps):
            training.step()
        (folder / "model").mkdir()
        training.export(folder / "model")
        return LoadRequest(
            path=folder / "model", device="cpu:0", settings=read_settings(SPEC, {}), capacity_bytes=1 << 30
        )

    @pytest.fixture(scope="class")
    @classmethod
    def inputs(cls) -> list[Inputs]:
        """Texts of several lengths, of which the first has no word that the model knows."""
        return [{"text": _strings(text)} for text in ("?", "a gull over the salt tide", "clay root stone")]

    tolerance = 1e-5  # texts are filled up beside longer ones


def _strings(text: str) -> Tensor:
    array = np.array([text], object)
    array.setflags(write=False)
    return Tensor(element_type=ElementType.STRING, shape=(1,), array=array)


def test_its_memory_is_that_of_its_weights_and_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it needs is told before it is loaded, and grows with the texts that are computed together, never more."""
    (tmp_path / "base").mkdir()
    base = write_encoder(tmp_path / "base", ["a", "b"])
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 4
    asked = ask(write_rows(tmp_path / "rows.jsonl", rows), path=base, most_tokens=32)
    training: Any = TorchBackend().train(replace(asked, capacity_bytes=4 << 30, cores=1), lambda _: None)
    (tmp_path / "model").mkdir()
    training.export(tmp_path / "model")

    def measured(**settings: str) -> Any:
        request = LoadRequest(
            path=tmp_path / "model", device="cpu:0", settings=read_settings(SPEC, settings), capacity_bytes=1 << 30
        )
        return TorchBackend().measure(request)

    one, many = measured(max_batch="1"), measured()
    stored = (tmp_path / "model/model.safetensors").stat().st_size
    assert one.weights_bytes == many.weights_bytes
    assert 0.8 * stored < one.weights_bytes <= stored  # the file has a header, too
    assert one.workspace_bytes < many.workspace_bytes
    given = {"settings": read_settings(SPEC, {"max_batch": "1"}), "device": "cpu:0", "capacity_bytes": 1 << 30}
    loaded: Any = TorchBackend().load(LoadRequest(path=tmp_path / "model", **given), lambda _: None)
    score, tokens = networks.score, list[int]()
    monkeypatch.setattr(
        networks, "score", lambda whole, texts, on: tokens.append(sum(map(len, texts))) or score(whole, texts, on)
    )
    texts = np.array(["a b " * 40] * 64, object)
    texts.setflags(write=False)
    made = loaded.session.predict(
        {"text": Tensor(element_type=ElementType.STRING, shape=(64,), array=texts)}, ["scores"]
    )
    assert made["scores"].shape == (64, 2)
    assert max(tokens) <= 32
