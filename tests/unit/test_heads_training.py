"""Trainings of classifiers: what they learn, how they are judged, and how they go on."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_rows import ask, make_rows, write_rows
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from inferd.plugin import ExportKind, LoadRequest, TrainError, TrainRequest, TrainSession, TrainStep, judge_labels
from inferd_heads.backend import HeadsBackend
from inferd_heads.head import Head, judge_rows, learning_rate
from inferd_heads.plugin import SPEC
from inferd_heads.sparse import Row
from inferd_heads.tensor_files import write_tensors

BACKEND = HeadsBackend()


BEGUN: list[TrainSession] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    """Trainings are closed at the end of their test."""
    yield
    while BEGUN:
        BEGUN.pop().close()


def begin(request: TrainRequest) -> TrainSession:
    BEGUN.append(BACKEND.train(request, lambda _: None))
    return BEGUN[-1]


def run(training: TrainSession, steps: int) -> list[TrainStep]:
    return [training.step() for _ in range(steps)]


def export(training: TrainSession, folder: Path) -> bytes:
    folder.mkdir()
    assert training.export(folder) is ExportKind.MODEL
    return (folder / "weights.safetensors").read_bytes()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", make_rows(120))


def test_it_learns_what_texts_are_about(rows: Path) -> None:
    """The loss falls, and rows that were held back are found far better than by the label that most have."""
    training = begin(ask(rows, epochs=3.0, held=0.25))
    before = training.evaluate()
    told = run(training, training.steps)
    after = training.evaluate()
    training.close()
    assert [each.step for each in told] == list(range(1, 18))
    assert before.loss == pytest.approx(math.log(3))
    assert after.loss < 0.7 * before.loss
    assert after.figures["macro_f1"] > 0.8
    assert after.figures["majority_accuracy"] == pytest.approx(1 / 3)
    assert after.figures["rows"] == sum(label.support for label in after.labels) == 30


def test_an_evaluation_changes_nothing(rows: Path, tmp_path: Path) -> None:
    """A training that is judged after each step ends with the same bytes as one that is never judged."""
    one, other = begin(ask(rows)), begin(ask(rows))
    run(one, one.steps)
    for _ in range(other.steps):
        other.step()
        other.evaluate()
    assert export(one, tmp_path / "one") == export(other, tmp_path / "other")


@pytest.mark.parametrize("at", [0, 1, 7, 12])
def test_one_that_goes_on_ends_as_the_undisturbed_one(rows: Path, tmp_path: Path, at: int) -> None:
    """Saved at any step and gone on from in a new session, weights and losses are the same bit for bit."""
    asked = ask(rows, epochs=2.0, seed=3, weight_decay=0.01, accumulate=2)
    whole = begin(asked)
    losses = run(whole, whole.steps)
    first = begin(asked)
    run(first, at)
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    first.close()
    second = begin(asked)
    second.restore(tmp_path / "saved")
    assert run(second, second.steps - at) == losses[at:]
    assert export(second, tmp_path / "second") == export(whole, tmp_path / "whole")


def test_what_is_not_kept_in_memory_is_found_again(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for none of what was found in texts, a training gives the same bytes."""
    kept = begin(ask(rows))
    run(kept, kept.steps)
    monkeypatch.setattr("inferd_heads.source.CACHE_BYTES", 0)
    bare = begin(ask(rows))
    run(bare, bare.steps)
    assert export(bare, tmp_path / "bare") == export(kept, tmp_path / "kept")


def test_each_epoch_has_every_row_once(rows: Path) -> None:
    """The rows of an epoch's steps are all that are trained on, in another order in each epoch."""
    training: Any = begin(ask(rows, epochs=2.0, batch=7, held=0.2))
    places = np.concatenate([training._places(step) for step in range(training.steps)])
    assert len(places) == 2 * 96
    assert sorted(places[:96]) == sorted(places[96:]) == training._parts.trained.tolist()
    assert places[:96].tolist() != places[96:].tolist()
    assert not np.isin(places, training._parts.judged).any()


def test_the_share_that_is_held_back_is_of_each_label(tmp_path: Path) -> None:
    """Of every label about that share is held back, at least one and never all; by another seed others are."""
    rows = [{"text": f"text {n}", "label": "common" if n % 10 else "rare"} for n in range(100)]
    rows += [{"text": "twice", "label": "two"}] * 2
    path = write_rows(tmp_path / "rows.jsonl", rows)
    one: Any = begin(ask(path, held=0.2))
    other: Any = begin(ask(path, held=0.2, seed=1))
    names = one._parts.rows.names
    held = np.bincount(one._parts.rows.labels[one._parts.judged])
    assert dict(zip(names, held.tolist(), strict=True)) == {"common": 18, "rare": 2, "two": 1}
    assert one._parts.judged.tolist() != other._parts.judged.tolist()


def test_parts_of_a_step_add_up(rows: Path) -> None:
    """A step whose rows are computed in several parts changes what one in a single part changes."""
    whole, parts = begin(ask(rows)), begin(ask(rows, accumulate=5))
    told = [run(each, each.steps) for each in (whole, parts)]
    for one, other in zip(*told, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    """The gradient equals what small changes of each weight do to the loss."""
    random = np.random.default_rng(2)
    head = Head(5, 3)
    head.weights[:] = random.normal(size=(5, 3))
    rows = [Row(np.array([0, 2]), np.array([1, -2], "f4")), Row(np.array([2, 4]), np.array([0.5, 1], "f4"))]
    labels = np.array([1, 2], np.int32)
    _, columns, slopes, bias = head._differentiate([(rows, labels)], 2)
    assert columns.tolist() == [0, 2, 4]

    def loss() -> float:
        return judge_rows(head.score(rows), labels)[1] / 2

    small = 1e-2
    for numbers, slope in [(head.weights[2], slopes[1]), (head.bias, bias)]:
        for label in range(3):
            kept = numbers[label]
            numbers[label] = kept + small
            above = loss()
            numbers[label] = kept - small
            below = loss()
            numbers[label] = kept
            assert (above - below) / (2 * small) == pytest.approx(slope[label], abs=1e-4)


def test_the_learning_rate_rises_and_falls() -> None:
    """It rises over the warm-up, then falls as the schedule says; without one it has a value of its own."""
    recipe = ask(Path(), learning_rate=1.0, warmup=0.2, schedule="linear").recipe
    told = [learning_rate(recipe, step, 10) for step in range(1, 11)]
    assert told == pytest.approx([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    cosine = ask(Path(), learning_rate=1.0, warmup=0.0).recipe
    assert learning_rate(cosine, 6, 10) == pytest.approx(0.5)
    assert learning_rate(ask(Path(), schedule="constant").recipe, 9, 10) == 0.05


def test_decay_and_clipping_hold_weights_down(rows: Path) -> None:
    """With decay weights are smaller; with a short gradient a step's change of AdamW is that of the same direction."""
    plain: Any = begin(ask(rows, epochs=3.0))
    decayed: Any = begin(ask(rows, epochs=3.0, weight_decay=5.0))
    clipped: Any = begin(ask(rows, clip=1e-3, batch=64))
    for each in (plain, decayed):
        run(each, each.steps)
    clipped.step()
    assert np.square(decayed._head.weights).sum() < 0.9 * np.square(plain._head.weights).sum()
    assert 0 < np.linalg.norm(clipped._head._means) <= 1.01e-4


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    """All figures equal scikit-learn's on the same predictions to 1e-12, of labels that nothing is found as, too."""
    random = np.random.default_rng(seed)
    names = ("a", "b", "c", "d")
    labels, found = random.integers(0, 3, 50), random.integers(0, 2 + seed, 50)
    told = judge_labels(names, labels.tolist(), found.tolist(), 0.5)
    numbers = range(len(names))
    for average in ("macro", "micro", "weighted"):
        expected = precision_recall_fscore_support(labels, found, labels=numbers, average=average, zero_division=0)
        for kind, figure in zip(("precision", "recall", "f1"), expected, strict=False):
            assert told.figures[f"{average}_{kind}"] == pytest.approx(figure, abs=1e-12)
    each = precision_recall_fscore_support(labels, found, labels=numbers, zero_division=0)
    for kind, expected in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert [getattr(score, kind) for score in told.labels] == pytest.approx(expected.tolist(), abs=1e-12)
    assert np.array_equal(told.confusion, confusion_matrix(labels, found, labels=numbers))
    assert told.figures["accuracy"] == pytest.approx((labels == found).mean(), abs=1e-12)


GOOD = [{"text": "a b", "label": "x"}, {"text": "c d", "label": "y"}] * 2
WRONG: list[tuple[list[Any], dict[str, Any], str]] = [
    ([*GOOD, "{"], {}, "row 5 of the rows is not JSON"),
    ([*GOOD, 7], {}, "row 5 of the rows is a int; it must be an object"),
    ([*GOOD, {"label": "x"}], {}, "row 5 of the rows has no field 'text'; it has 'label'"),
    ([*GOOD, {"text": "a"}], {}, "row 5 of the rows has no field 'label'"),
    ([*GOOD, {"text": "a", "label": " "}], {}, "row 5 of the rows: 'label' is empty"),
    ([*GOOD, {"text": "a", "label": True}], {}, "row 5 of the rows: 'label' is a bool"),
    ([*GOOD, {"text": "a", "label": "x" * 257}], {}, "'label' has 257 characters; a label has at most 256"),
    ([*GOOD, {"text": "a", "label": 10**256}], {}, "'label' has 257 characters; a label has at most 256"),
    ([*GOOD, {"text": "a", "label": "\ud800"}], {}, "row 5 of the rows: 'label' has half of a character, '\\ud800'"),
    ([*GOOD, {"text": {}, "label": "x"}], {}, "row 5 of the rows: 'text' must be a text"),
    ([*GOOD, {"text": [1, 2], "label": "x"}], {}, "row 5 of the rows: 'text' is a vector of 2 numbers; in the rows"),
    ([{"text": [1e99], "label": "x"}], {}, "row 1 of the rows: 'text' has a number that is none, or too large"),
    ([{"text": [10**400], "label": "x"}], {}, "row 1 of the rows: 'text' has a number that is none, or too large"),
    ([{"text": [], "label": "x"}], {}, "'text' has 0 numbers; 1 to 16384 are taken"),
    ([*GOOD, {"text": "a", "label": "z"}], {}, "row 5 of the rows is the only one with the label 'z'; 2 are needed"),
    (GOOD[:1] * 3, {}, "all 3 of the rows have the label 'x'; a classifier needs 2 labels"),
    ([], {}, "the rows are none"),
    (
        [{"text": "a", "label": n // 2} for n in range(2002)],
        {},
        "row 2001 of the rows: '1000' is label number 1001; a classifier has at most 1000",
    ),
    ([*GOOD, {"text": "x" * 300_000, "label": "x"}], {"held": 0.01}, "row 5 of the rows: 'text' has 300002 characters"),
    (GOOD, {"precision": "bfloat16"}, "precision is 'bfloat16'; the backend heads computes in float32"),
    (GOOD, {"schedule": "steps"}, "schedule is 'steps'; it must be one of cosine, linear, constant"),
    (GOOD, {"batch": 0}, "batch is 0; it must be from 1 to 65536"),
    (GOOD, {"accumulate": 17}, "accumulate is 17; it must be from 1 to 16"),
    (GOOD, {"epochs": 0.0}, "epochs is 0; it must be more than 0 to 65536"),
    (GOOD, {"learning_rate": math.inf}, "learning_rate is inf; it must be from 0"),
    (GOOD, {"weight_decay": math.nan}, "weight_decay is nan; it must be from 0"),
    (GOOD, {"held": 0.0}, "held is 0; it must be more than 0 to 1"),
    (GOOD, {"path": Path("/models/minilm")}, "begins with no model, but 'minilm' is given"),
]


@pytest.mark.parametrize(("given", "recipe", "why"), WRONG, ids=[why[:40] for _, _, why in WRONG])
def test_what_is_wrong_is_refused_by_row_or_field(
    tmp_path: Path, given: list[Any], recipe: dict[str, Any], why: str
) -> None:
    """Rows and recipes that do not do are a TrainError that names the row, or the field and its bounds."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in given))
    with pytest.raises(TrainError) as told:
        begin(ask(path, **recipe))
    assert why in str(told.value)


def test_rows_that_are_held_back_have_known_labels(tmp_path: Path, rows: Path) -> None:
    """Rows of their own are judged by; one with a label that was not trained is refused by its number."""
    own = write_rows(tmp_path / "own.jsonl", make_rows(12, seed=9))
    training = begin(ask(rows, apart=own))
    assert training.evaluate().figures["rows"] == 12
    write_rows(own, [*make_rows(1), {"text": "a", "label": "moon"}])
    with pytest.raises(TrainError, match=r"row 2 of the rows that are held back: no row .* has the label 'moon'"):
        begin(ask(rows, apart=own))


def test_a_loss_that_is_no_number_ends_it(rows: Path) -> None:
    """Too high a learning rate is told with the step and the rate, and not as weights that are none."""
    training = begin(ask(rows, learning_rate=3e38, warmup=0.0))
    with pytest.raises(TrainError, match=r"step \d: the loss is .* `learning_rate` 3e\+38"):
        run(training, training.steps)


def test_damaged_and_foreign_checkpoints_are_refused(rows: Path, tmp_path: Path) -> None:
    """A checkpoint that lacks a file, has another byte, or is of another recipe or of other rows, changes nothing."""
    training = begin(ask(rows))
    run(training, 3)
    saved = tmp_path / "saved"
    saved.mkdir()
    training.save(saved)
    state, numbers = saved / "state.json", saved / "state.safetensors"
    kept = state.read_bytes(), numbers.read_bytes()
    with pytest.raises(TrainError, match="is of another training"):
        begin(ask(rows, seed=1)).restore(saved)
    with pytest.raises(TrainError, match="is of another training"):
        begin(ask(write_rows(tmp_path / "other.jsonl", make_rows(121)))).restore(saved)
    numbers.write_bytes(kept[1][:-1] + bytes([kept[1][-1] ^ 1]))
    with pytest.raises(TrainError, match="is damaged"):
        training.restore(saved)
    numbers.unlink()
    with pytest.raises(TrainError, match="cannot be read"):
        training.restore(saved)
    numbers.write_bytes(kept[1])
    for text in (b"", b"{", b"[]", b"{}", kept[0].replace(b'"version": 1', b'"version": 2')):
        state.write_bytes(text)
        with pytest.raises(TrainError, match=r"state\.json"):
            training.restore(saved)
    digest = write_tensors(numbers, {"step": np.array([3], np.int64)})
    state.write_text(json.dumps({**json.loads(kept[0]), "numbers": digest}))
    with pytest.raises(TrainError, match="has no tensor 'weights'"):
        training.restore(saved)
    assert training.step().step == 4


def test_what_is_taken_is_what_was_measured(rows: Path) -> None:
    """The need counts the weights of all labels, and what is kept of texts; it is told before anything is taken."""
    need = BACKEND.measure_training(ask(rows))
    assert need.weights_bytes == (1 << 18) * (3 * 3 * 4 + 8)
    assert need.total_bytes < 256 << 20
    wide, parts = (BACKEND.measure_training(ask(rows, batch=60_000, accumulate=each)) for each in (1, 100))
    assert wide.workspace_bytes - parts.workspace_bytes == 59_400 * 3 * 40  # chances of three labels, of rows at once
    with pytest.raises(TrainError, match=r"held is 1\.5; it must be more than 0 to 1"):
        BACKEND.measure_training(ask(rows, held=1.5))


def test_vectors_are_rows_too(tmp_path: Path) -> None:
    """Rows may hold vectors, as embedding models make them; the classifier takes vectors then."""
    random = np.random.default_rng(5)
    centres = random.normal(size=(3, 16))
    vectors = [(centres[n % 3] + 0.3 * random.normal(size=16)).tolist() for n in range(90)]
    rows = [{"text": each, "label": n % 3} for n, each in enumerate(vectors)]
    training = begin(ask(write_rows(tmp_path / "rows.jsonl", rows), epochs=5.0))
    run(training, training.steps)
    assert training.evaluate().figures["accuracy"] > 0.9
    (tmp_path / "model").mkdir()
    training.export(tmp_path / "model")
    settings = {setting.name: setting.default for setting in SPEC.settings}
    asked = LoadRequest(path=tmp_path / "model", device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    loaded: Any = BACKEND.load(asked, lambda _: None)
    assert [info.name for info in loaded.session.signature.inputs] == ["vector"]
