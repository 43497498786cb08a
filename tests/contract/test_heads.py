"""Classifiers of the backend `heads`, of texts and of vectors, pass the suite of models of tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_rows import ask, make_rows, write_rows

from inferd.plugin import ElementType, LoadRequest, Tensor
from inferd.testing.tensor_contract import Inputs, TensorContract
from inferd_heads.backend import HeadsBackend
from inferd_heads.plugin import SPEC


@pytest.fixture(scope="module")
def backend() -> HeadsBackend:
    return HeadsBackend()


def export(folder: Path, rows: list[dict[str, Any]]) -> LoadRequest:
    """A classifier of some rows, as a kernel asks for it."""
    training = HeadsBackend().train(ask(write_rows(folder / "rows.jsonl", rows), epochs=2.0), lambda _: None)
    for _ in range(training.steps):
        training.step()
    (folder / "model").mkdir()
    training.export(folder / "model")
    training.close()
    settings = {setting.name: setting.default for setting in SPEC.settings}
    return LoadRequest(path=folder / "model", device="cpu:0", settings=settings, capacity_bytes=1 << 30)


class TestTexts(TensorContract):
    """One of texts, of which several requests are computed as one."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return export(tmp_path_factory.mktemp("texts"), make_rows(90))

    @pytest.fixture(scope="class")
    @classmethod
    def inputs(cls) -> list[Inputs]:
        """Texts of which the first has no word that the model knows."""
        texts = ("?", "a gull over the salt tide", "clay, root and stone")
        return [{"text": _strings(text)} for text in texts]

    tolerance = 0.0  # a row gives the same numbers whatever rows it is computed with


class TestVectors(TensorContract):
    """One of vectors."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        vectors = np.random.default_rng(1).normal(size=(60, 8)) + np.arange(60)[:, None] % 2
        rows = [{"text": each.tolist(), "label": number % 2} for number, each in enumerate(vectors)]
        return export(tmp_path_factory.mktemp("vectors"), rows)


def _strings(text: str) -> Tensor:
    array = np.array([text], object)
    array.setflags(write=False)
    return Tensor(element_type=ElementType.STRING, shape=(1,), array=array)
