"""Classifiers of texts that torch trains: the same after a kill, judged as scikit-learn would, and served."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_rows import TOPICS, ask, make_rows, write_rows
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from inferd.plugin import ElementType, ExportKind, LoadError, LoadRequest, Tensor, TrainError
from inferd.plugin.backend import read_settings
from inferd.runtime.formats import folder_format
from inferd_heads.backend import HeadsBackend

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from tiny_encoders import write_encoder  # noqa: E402 - it needs both
from tiny_networks import write_network  # noqa: E402 - as above

from inferd_torch.backend import TorchBackend  # noqa: E402
from inferd_torch.plugin import SPEC  # noqa: E402
from inferd_torch.training.labels import read_labelled  # noqa: E402

torch.set_num_threads(1)
WORDS = [word for topic in TOPICS.values() for word in topic]
RECIPE: dict[str, Any] = {"epochs": 3.0, "batch": 8, "learning_rate": 4e-3, "most_tokens": 16, "held": 0.2, "seed": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with random weights."""
    return write_encoder(tmp_path_factory.mktemp("encoder"), WORDS)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty texts of three topics."""
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", make_rows(60))


def begin(model: Path, rows: Path, **recipe: Any) -> Any:
    asked = ask(rows, path=model, **{**RECIPE, **recipe})
    return TorchBackend().train(replace(asked, capacity_bytes=4 << 30, cores=1), lambda _: None)


def finish(session: Any) -> list[float]:
    return [session.step().loss for _ in range(session.steps)]


def export(session: Any, folder: Path) -> Path:
    folder.mkdir()
    assert session.export(folder) is ExportKind.MODEL
    return folder


def load(folder: Path, **settings: str) -> Any:
    request = LoadRequest(path=folder, device="cpu:0", settings=read_settings(SPEC, settings), capacity_bytes=2 << 30)
    return TorchBackend().load(request, lambda _: None)


def scores_of(loaded: Any, texts: list[str]) -> Any:
    given = Tensor(element_type=ElementType.STRING, shape=(len(texts),), array=np.array(texts, object))
    return loaded.session.predict({"text": given}, ["scores", "cut"])


@pytest.mark.parametrize("tune", ["full", "lora", "head"])
def test_a_session_made_anew_goes_on_bit_for_bit(model: Path, rows: Path, tmp_path: Path, tune: str) -> None:
    """Steps, figures and the exported weights of one that was saved and made anew are those of the undisturbed."""
    whole = begin(model, rows, tune=tune, accumulate=2)
    told = [whole.step() for _ in range(whole.steps)]
    first = begin(model, rows, tune=tune, accumulate=2)
    again = [first.step() for _ in range(7)]
    (tmp_path / "kept").mkdir()
    first.save(tmp_path / "kept")
    second = begin(model, rows, tune=tune, accumulate=2)
    second.restore(tmp_path / "kept")
    again += [second.step() for _ in range(second.steps - 7)]
    assert again == told
    assert second.evaluate() == whole.evaluate()
    one, other = export(whole, tmp_path / "one"), export(second, tmp_path / "other")
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("kind", "tune"), [("bert", "full"), ("bert", "lora"), ("roberta", "full"), ("llama", "full")])
def test_what_is_served_is_what_was_judged(tmp_path: Path, kind: str, tune: str) -> None:
    """Held texts get, served one by one or together, the labels by which the judgement told its figures."""
    base = tmp_path / "base"
    base.mkdir()
    if kind == "llama":
        write_network("llama", base)
    else:
        write_encoder(base, WORDS, kind=kind)
    held = make_rows(30, seed=2)
    path = write_rows(tmp_path / "rows.jsonl", make_rows(90))
    asked = ask(path, path=base, apart=write_rows(tmp_path / "held.jsonl", held), **RECIPE | {"tune": tune})
    session: Any = TorchBackend().train(replace(asked, capacity_bytes=4 << 30, cores=1), lambda _: None)
    before = session.evaluate()
    finish(session)
    told = session.evaluate()
    assert told.loss < before.loss
    folder = export(session, tmp_path / "made")
    assert session.evaluate() == told  # what is exported leaves it as it was
    assert folder_format(folder) == "classifier"
    names = [each.label for each in told.labels]
    loaded = load(folder)
    texts, labels = [row["text"] for row in held], [names.index(row["label"]) for row in held]
    together = scores_of(loaded, texts)["scores"].array
    alone = np.concatenate([scores_of(loaded, [text])["scores"].array for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    assert -np.log(together[range(30), labels]).mean() == pytest.approx(told.loss, rel=1e-3)
    found = together.argmax(1)
    expected = precision_recall_fscore_support(labels, found, labels=range(3), zero_division=0)
    for figure, mine in zip(expected, ("precision", "recall", "f1", "support"), strict=True):
        assert [getattr(each, mine) for each in told.labels] == pytest.approx(figure.tolist(), abs=1e-12)
    assert np.array_equal(told.confusion, confusion_matrix(labels, found, labels=range(3)))
    assert told.figures["accuracy"] == pytest.approx(np.mean(found == np.array(labels)), abs=1e-12)


def test_a_bert_learns_topics_and_transformers_reads_what_it_became(model: Path, tmp_path: Path) -> None:
    """Topics are found far better than by the commonest label, and transformers gives the folder's scores."""
    session = begin(
        model, write_rows(tmp_path / "rows.jsonl", make_rows(300)), epochs=8.0, batch=16, learning_rate=8e-3
    )
    finish(session)
    told = session.evaluate()
    assert told.figures["macro_f1"] > 0.8 > 2 * told.figures["majority_accuracy"]
    folder = export(session, tmp_path / "made")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert theirs.config.id2label == {0: "sea", 1: "sky", 2: "soil"}
    ids = torch.tensor([[2, *[4 + WORDS.index(word) for word in ("salt", "tide")], 3]])
    expected = torch.softmax(theirs(ids).logits, -1).detach().numpy()
    np.testing.assert_allclose(scores_of(load(folder), ["salt tide"])["scores"].array, expected, atol=1e-5)


def test_long_texts_are_cut_and_counted_or_refused(model: Path, rows: Path, tmp_path: Path) -> None:
    """A text with more tokens than were trained with keeps its first ones and its end token, or is refused."""
    folder = export(begin(model, rows, most_tokens=6), tmp_path / "made")
    short, long = "salt tide moon star", "salt tide moon star clay clay clay"
    told = scores_of(load(folder), [short, long])
    assert told["cut"].array.tolist() == [0, 3]
    np.testing.assert_allclose(told["scores"].array[0], told["scores"].array[1], atol=1e-6)
    with pytest.raises(ValueError, match="text 2 has 9 tokens; the model reads 6"):
        scores_of(load(folder, longer="refuse"), [short, long])
    with pytest.raises(ValueError, match="text 1 has 262145 characters; at most 262144 are read"):
        scores_of(load(folder), ["a" * ((1 << 18) + 1)])


def test_the_same_rows_are_held_back_as_by_heads(rows: Path) -> None:
    """With one seed both backends that train classifiers judge by the same rows, a share of each label's."""
    mine = read_labelled(ask(rows, held=0.25, seed=9))
    theirs: Any = HeadsBackend().train(ask(rows, held=0.25, seed=9), lambda _: None)
    try:
        assert mine.held[1] == theirs._parts.judged.tolist()
        assert mine.learnt == theirs._parts.trained.tolist()
        assert mine.names == theirs._parts.rows.names
    finally:
        theirs.close()


def test_one_that_goes_on_with_the_same_labels_keeps_its_last_layer(model: Path, rows: Path, tmp_path: Path) -> None:
    """One that begins with a classifier of the same labels judges as that did; of other labels it begins anew."""
    first = begin(model, rows)
    finish(first)
    folder = export(first, tmp_path / "made")
    assert begin(folder, rows).evaluate().loss == pytest.approx(first.evaluate().loss, rel=1e-4)
    fewer = [row for row in make_rows(60) if row["label"] != "sea"]
    other = begin(folder, write_rows(tmp_path / "fewer.jsonl", fewer))
    assert other.evaluate().loss == pytest.approx(np.log(2), rel=0.2)


def test_what_it_takes_is_counted(model: Path, rows: Path) -> None:
    """What a training needs grows with its rows, and one that is given less is refused with both numbers."""
    few, many = (
        TorchBackend().measure_training(replace(ask(rows, path=model, **RECIPE | {"batch": n}), capacity_bytes=4 << 30))
        for n in (4, 48)
    )
    assert few.total_bytes < many.total_bytes
    with pytest.raises(TrainError, match="but 5 may be given"):
        TorchBackend().train(replace(ask(rows, path=model, **RECIPE), capacity_bytes=5), lambda _: None)


GOOD = [{"text": "salt", "label": "x"}, {"text": "clay", "label": "y"}] * 2
WRONG: list[tuple[list[Any], dict[str, Any], str]] = [
    ([*GOOD, {"text": "a"}], {}, "line 5 has no field 'label'"),
    ([*GOOD, {"text": "a", "label": " "}], {}, "line 5: 'label' is empty"),
    ([*GOOD, {"text": "a", "label": True}], {}, "line 5: 'label' is a bool"),
    ([*GOOD, {"text": "a", "label": "x" * 257}], {}, "has 257 characters; a label has at most 256"),
    ([*GOOD, {"text": "a", "label": "z"}], {}, "line 5 is the only one with the label 'z'; 2 are needed"),
    (GOOD[:1] * 3, {}, "its 3 rows have 1 labels; a classifier has 2 to 1000"),
    ([{"text": 7, "label": n % 2} for n in range(4)], {}, "field 'text' is a int: a row needs a text"),
    (GOOD, {"most_tokens": 64}, "'most_tokens' is 64, but the model serves 32: lower it"),
    (GOOD, {"tune": "some"}, "'tune' is 'some'; it must be one of full, lora, head"),
    (GOOD, {"tune": "lora", "targets": ("nothing",)}, "'targets' names 'nothing', which no layer has"),
]


@pytest.mark.parametrize(("given", "recipe", "why"), WRONG)
def test_what_is_wrong_is_named(
    model: Path, tmp_path: Path, given: list[Any], recipe: dict[str, Any], why: str
) -> None:
    """A row or a field that does not do is refused, with the row or the field."""
    with pytest.raises(TrainError, match=why):
        begin(model, write_rows(tmp_path / "rows.jsonl", given), **recipe)


def test_a_folder_that_contradicts_itself_is_refused(model: Path, rows: Path, tmp_path: Path) -> None:
    """So are settings of models that write text, and what needs more memory than may be given."""
    folder = export(begin(model, rows), tmp_path / "made")
    with pytest.raises(LoadError, match="setting 'context_tokens' is of models that write text"):
        load(folder, context_tokens="9")
    path = folder / "classifier.json"
    sound = json.loads(path.read_text())
    for change, why in (
        ({"labels": ["a", "b", "c"]}, r"classifier\.json and config\.json name other labels"),
        ({"labels": ["a", "a"]}, "has a label twice"),
        ({"labels": ["a"]}, "has 1 labels; 2 to 1000 are taken"),
        ({"version": 9}, "version 9; this backend reads"),
        ({"most_tokens": 0}, "'most_tokens' is 0; it must be a whole number from 1"),
    ):
        path.write_text(json.dumps(sound | change))
        with pytest.raises(LoadError, match=why):
            load(folder)
