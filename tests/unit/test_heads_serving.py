"""Classifiers as folders: what a kernel is told of one, what it gives, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_rows import ask, make_rows, write_rows

from inferd.plugin import ElementType, LoadError, LoadRequest, Tensor
from inferd.runtime.formats import folder_format
from inferd_heads.backend import HeadsBackend
from inferd_heads.model_folder import MARK, WEIGHTS
from inferd_heads.plugin import SPEC
from inferd_heads.tensor_files import TensorFile, write_tensors

BACKEND = HeadsBackend()
SETTINGS = {setting.name: setting.default for setting in SPEC.settings}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that reads eight words."""
    path = tmp_path_factory.mktemp("classifier")
    request = ask(write_rows(path / "rows.jsonl", make_rows(90)), epochs=3.0, most_tokens=8)
    training = BACKEND.train(request, lambda _: None)
    for _ in range(training.steps):
        training.step()
    (path / "model").mkdir()
    training.export(path / "model")
    training.close()
    return path / "model"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    made = tmp_path / "copy"
    made.mkdir()
    for name in (MARK, WEIGHTS):
        (made / name).write_bytes((folder / name).read_bytes())
    return made


def load(path: Path, **settings: Any) -> Any:
    request = LoadRequest(path=path, device="cpu:0", settings={**SETTINGS, **settings}, capacity_bytes=1 << 30)
    return BACKEND.load(request, lambda _: None)


def classify(session: Any, *texts: str) -> dict[str, Any]:
    array = np.array(texts, object)
    given = session.predict(
        {"text": Tensor(element_type=ElementType.STRING, shape=array.shape, array=array)}, ["scores", "cut"]
    )
    return {name: tensor.array for name, tensor in given.items()}


def test_a_classifier_tells_its_labels(folder: Path) -> None:
    """Its folder has a format of its own; its scores are probabilities, and its recipe tells the likeliest labels."""
    assert folder_format(folder) == "heads"
    model = load(folder, top=2)
    found = classify(model.session, "salt tide and gull", "a stone, a seed and a root")
    assert found["scores"].sum(1) == pytest.approx([1, 1])
    assert found["scores"].argmax(1).tolist() == [0, 2]
    labels, scores, cut = model.recipe.outputs
    assert (labels.labels, labels.top) == (("sea", "sky", "soil"), 2)
    assert (scores.takes, cut.takes) == ("scores", "cut")
    assert "sea, sky, soil" in model.session.signature.outputs[0].description
    assert model.description.parameters == model.session._model.weights.size + 3


def test_other_folders_keep_their_format(tmp_path: Path) -> None:
    """A folder of Hugging Face, or of ONNX, is none of ours."""
    for mark, kind in (("config.json", "hf"), ("model.onnx", "onnx")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / mark).touch()
        assert folder_format(tmp_path / kind) == kind


def test_words_that_are_not_read_are_told_or_refused(folder: Path) -> None:
    """A text with more words than the model reads is cut, and how many words is told; or it is refused with both."""
    long = "tide wave salt gull fish boat anchor harbour worm worm"
    found = classify(load(folder).session, long, "worm")
    assert found["cut"].tolist() == [2, 0]
    only = classify(load(folder).session, long.removesuffix(" worm worm"))
    assert found["scores"][0].tolist() == only["scores"][0].tolist()
    with pytest.raises(ValueError, match="text 2 has 10 words; the model reads 8"):
        classify(load(folder, longer="refuse").session, "worm", long)
    with pytest.raises(ValueError, match="text 1 has 300002 characters in 1 words; at most 262144 are read"):
        classify(load(folder).session, "x" * 300_000)


DAMAGES: list[tuple[dict[str, Any], str]] = [
    ({"format": "other"}, "is of format 'other', version 1; this backend reads 'inferd-heads', version 1"),
    ({"version": 2}, "version 2; this backend reads 'inferd-heads', version 1"),
    ({"labels": "sea"}, "'labels' must be a list of texts"),
    ({"labels": ["sea"]}, "has 1 labels; 2 to 1000 are taken"),
    ({"labels": ["a", "b"]}, "'bias' has shape [3]; it must be [2]"),
    ({"most_words": "8"}, "'most_words' is '8'"),
    ({"hash_bits": 20}, "'hash_bits' is 20; this backend hashes to 22"),
]


@pytest.mark.parametrize(("change", "why"), DAMAGES)
def test_what_a_folder_says_is_checked(copy: Path, change: dict[str, Any], why: str) -> None:
    """A heads.json that says something else is refused by what it says, and so is one that is no JSON."""
    document = json.loads((copy / MARK).read_text())
    (copy / MARK).write_text(json.dumps(document | change))
    with pytest.raises(LoadError) as told:
        load(copy)
    assert why in str(told.value)
    (copy / MARK).write_text(json.dumps(document)[:-1])
    with pytest.raises(LoadError, match="is not JSON"):
        load(copy)


def test_weights_are_checked(copy: Path) -> None:
    """Numbers that are none, columns that do not rise, another shape and a file that is cut short are refused."""
    kinds = {"weights": ("<f4", 2), "bias": ("<f4", 1), "columns": ("<i4", 1), "rarity": ("<f4", 1)}
    good = {name: TensorFile(copy / WEIGHTS).read(name, *kind) for name, kind in kinds.items()}
    for name, wrong, why in (
        ("weights", np.full_like(good["weights"], np.nan), "weights that are no finite numbers"),
        ("columns", good["columns"][::-1], "'columns' must rise"),
        ("columns", good["columns"][1:], "'columns' has shape"),
        ("columns", good["columns"].astype(np.int64), "'columns' is I64 of shape"),
        ("rarity", np.full_like(good["rarity"], np.inf), "'rarity' be finite"),
    ):
        write_tensors(copy / WEIGHTS, good | {name: wrong})
        with pytest.raises(LoadError, match=why):
            load(copy)
    write_tensors(copy / WEIGHTS, {"weights": good["weights"]})
    with pytest.raises(LoadError, match="has no tensor 'bias'"):
        load(copy)
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-4])
    with pytest.raises(LoadError, match="cut short or damaged"):
        load(copy)
    (copy / WEIGHTS).unlink()
    with pytest.raises(LoadError, match="cannot be read"):
        load(copy)
