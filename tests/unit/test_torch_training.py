"""Training with torch: the same after a kill, the same in parts, and what of it is served."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.core.training import TrainingMethod
from inferd.plugin import ExportKind, LoadRequest, TrainError, TrainingRecipe, TrainRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, make_batch

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from tiny_networks import make_network, write_network  # noqa: E402 - it needs both

from inferd_torch.backend import TorchBackend  # noqa: E402
from inferd_torch.plugin import SPEC  # noqa: E402
from inferd_torch.training.decoder import LanguageModel  # noqa: E402
from inferd_torch.training.texts import Example  # noqa: E402

torch.set_num_threads(1)
RECIPE = TrainingRecipe(
    method=TrainingMethod.LORA, epochs=2, batch=4, learning_rate=0.01, most_tokens=24, held=0.2, dropout=0.1, seed=7
)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights."""
    folder = tmp_path_factory.mktemp("model")
    write_network("llama", folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows of several lengths."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return write(path, [{"text": "the cat sat on the mat again"[: 5 + n]} for n in range(20)])


def write(path: Path, given: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def request(model: Path, rows: Path, recipe: TrainingRecipe = RECIPE, *, capacity_bytes: int = 4 << 30) -> TrainRequest:
    return TrainRequest(
        path=model, rows=rows, held=None, recipe=recipe, device="cpu:0", capacity_bytes=capacity_bytes, cores=1
    )


def train(model: Path, rows: Path, recipe: TrainingRecipe = RECIPE, **changes: Any) -> Any:
    return TorchBackend().train(request(model, rows, recipe, **changes), lambda _: None)


def finish(session: Any, done: int = 0) -> list[float]:
    return [session.step().loss for _ in range(done, session.steps)]


def exported(session: Any, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    session.export(folder)
    return {each.name: each.read_bytes() for each in folder.glob("*.safetensors")}


@pytest.mark.parametrize("method", [TrainingMethod.LORA, TrainingMethod.FULL])
def test_a_session_made_anew_goes_on_bit_for_bit(
    model: Path, rows: Path, tmp_path: Path, method: TrainingMethod
) -> None:
    """Losses, learning rates and weights of one that was saved and made anew are those of the undisturbed."""
    recipe = replace(RECIPE, method=method, weight_decay=0.1, accumulate=2)
    whole = train(model, rows, recipe)
    assert whole.steps == 8
    told = [whole.step() for _ in range(whole.steps)]
    other, again = train(model, rows, recipe), []
    for at in range(whole.steps):
        if at in {0, 3, 7}:
            (tmp_path / f"at{at}").mkdir()
            other.save(tmp_path / f"at{at}")
            other.close()
            other = train(model, rows, recipe)
            other.restore(tmp_path / f"at{at}")
        again.append(other.step())
    assert again == told
    assert exported(other, tmp_path / "again") == exported(whole, tmp_path / "whole")
    assert other.evaluate() == whole.evaluate()


def test_loss_falls_and_evaluation_changes_nothing(model: Path, rows: Path) -> None:
    """Held-out loss falls, and steps with evaluations between them are those without."""
    first, second = train(model, rows), train(model, rows)
    before = second.evaluate()
    told = []
    for _ in range(second.steps):
        told.append(second.step().loss)
        second.evaluate()
    assert told == finish(first)
    after = second.evaluate()
    assert after.loss < 0.9 * before.loss
    assert after.figures["perplexity"] == pytest.approx(math.exp(after.loss))


def test_parts_of_a_step_give_its_gradient(model: Path, rows: Path) -> None:
    """Steps in one, two and four parts, of rows of other lengths, learn the same, by tokens."""
    given = [train(model, rows, replace(RECIPE, accumulate=parts, dropout=0.0)) for parts in (1, 2, 4)]
    told = np.array([finish(session) for session in given])
    np.testing.assert_allclose(told[1:], told[:1].repeat(2, axis=0), rtol=2e-4)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2"])
def test_filling_up_changes_no_loss(kind: str) -> None:
    """Rows that are computed together have the sum of the losses that each has alone, and those of transformers."""
    network = make_network(kind)
    model = LanguageModel(network, None, device=torch.device("cpu"), export=lambda _: ExportKind.MODEL)
    given = [Example([3, 1, 4, 1, 5, 9, 2, 6][:n] * 5, [True] * (5 * n)) for n in (8, 3, 5)]
    with torch.no_grad():
        alone = [model.loss([each]).item() for each in given]
        together = model.loss(given).item()
        ids = torch.tensor([given[0].ids])
        own = network(input_ids=ids, labels=ids).loss.item() * given[0].targets
    assert together == pytest.approx(sum(alone), rel=1e-5)
    assert alone[0] == pytest.approx(own, rel=1e-5)


def test_layers_computed_again_give_the_same_numbers(model: Path, rows: Path) -> None:
    """Where memory is short layers are computed again, with the same losses; where that does not do it is refused."""
    recipe = replace(RECIPE, batch=16, most_tokens=256, held=0.1, dropout=0.2)
    plain = TorchBackend().measure_training(request(model, rows, recipe)).total_bytes
    spared = TorchBackend().measure_training(request(model, rows, recipe, capacity_bytes=plain - 1)).total_bytes
    assert spared < plain
    assert finish(train(model, rows, recipe, capacity_bytes=plain - 1)) == finish(train(model, rows, recipe))
    with pytest.raises(TrainError, match=f"needs {spared} bytes .* but {spared - 1} may be given: lower 'most_tokens'"):
        train(model, rows, recipe, capacity_bytes=spared - 1)


def test_an_adapter_is_served_as_it_was_trained(model: Path, rows: Path, tmp_path: Path) -> None:
    """The exported folder gives, where the model is served, the loss that the evaluation told."""
    held = write(tmp_path / "held.jsonl", [{"text": "the cat sat on the rug"}])
    session = TorchBackend().train(replace(request(model, rows), held=held), lambda _: None)
    finish(session)
    (tmp_path / "adapter").mkdir()
    assert session.export(tmp_path / "adapter") is ExportKind.ADAPTER
    told = session.evaluate().loss
    given = read_settings(SPEC, {"kv_tokens": "256"})
    loaded = TorchBackend().load(
        LoadRequest(path=model, device="cpu:0", settings=given, capacity_bytes=1 << 30), lambda _: None
    )
    served: Any = loaded.session
    served.add_adapter(0, served.read_adapter(tmp_path / "adapter"))
    ids = [*session._objective.read({"text": "the cat sat on the rug"}, "").ids]
    batch = make_batch([Part(token_ids=ids[:-1], blocks=[0, 1])])
    logits = torch.from_numpy(np.array(served.step(replace(batch, adapters=np.array([0], np.int32))).logits))
    assert torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item() == pytest.approx(told, rel=1e-4)


def test_a_whole_model_is_served_as_it_was_trained(model: Path, rows: Path, tmp_path: Path) -> None:
    """The exported folder is a model with the same tokens, and the loss that the evaluation told."""
    session = train(model, rows, replace(RECIPE, method=TrainingMethod.FULL))
    finish(session)
    (tmp_path / "trained").mkdir()
    assert session.export(tmp_path / "trained") is ExportKind.MODEL
    assert (tmp_path / "trained/tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    again = train(tmp_path / "trained", rows)
    assert again.evaluate().loss == pytest.approx(session.evaluate().loss, rel=1e-5)


def test_of_a_conversation_answers_are_learnt(tmp_path: Path) -> None:
    """What is learnt of messages is what the assistant says, and the token that ends it."""
    folder = tmp_path / "chat"
    write_network("llama", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    talk = [
        {"role": role, "content": content}
        for role, content in (("user", "hi"), ("assistant", "yes"), ("user", "no"), ("assistant", "so"))
    ]
    rows = write(tmp_path / "rows.jsonl", [{"messages": talk}] * 4)
    session = train(folder, rows, replace(RECIPE, most_tokens=128))
    example = session._objective.read({"messages": talk}, "")
    said = bytes(b for b, learnt in zip(example.ids, example.learnt, strict=True) if learnt and b < 256)
    assert len(said) == len("yesso")
    assert [example.ids[n] for n, learnt in enumerate(example.learnt) if learnt].count(256) == 2
    assert session.step().loss > 0
    for messages, why in (
        ([{"role": "user", "content": "hi"}], "nothing to learn"),
        ([{"role": "assistant", "content": "a<end>b"}], "control token '<end>'"),
        ([{"role": "assistant", "content": 5}], "'content' of message 0 is a int"),
        (["hi"], "message 0 is no object"),
    ):
        with pytest.raises(TrainError, match=why):
            session._objective.read({"messages": messages}, "row 1")


def test_rows_that_are_cut_are_counted(model: Path, tmp_path: Path) -> None:
    """Rows longer than the most tokens of a row are cut to them, and a step tells how many."""
    rows = write(tmp_path / "rows.jsonl", [{"text": "a" * 100}] * 3 + [{"text": "b"}])
    held = write(tmp_path / "held.jsonl", [{"text": "b"}])
    session = TorchBackend().train(replace(request(model, rows), held=held), lambda _: None)
    told = session.step()
    assert (told.cut, told.tokens) == (3, 3 * RECIPE.most_tokens + 2)


REFUSED: list[tuple[str, Callable[[Path], Path], dict[str, Any], str]] = [
    ("field", lambda at: write(at, [{"said": "a"}] * 9), {}, r"line \d: field 'text' is not there.*has \['said'\]"),
    ("kind", lambda at: write(at, [{"text": 5}] * 9), {}, "field 'text' is a int"),
    ("few", lambda at: write(at, [{"text": "a"}]), {}, "there is 1 row"),
    ("none", lambda at: write(at, []), {}, "has 0 rows"),
    ("object", lambda at: write(at, [{"text": "a"}, [1]]), {}, "line 2 holds a list"),
    ("json", lambda at: at.write_text("{\n") and at, {}, "line 1 is no JSON"),
    ("held", lambda at: write(at, [{"text": "a"}] * 9), {"held": 0.0}, r"'held' is 0\.0"),
    ("schedule", lambda at: at, {"schedule": "sine"}, "'schedule' is 'sine'; it must be one of cosine"),
    ("accumulate", lambda at: at, {"accumulate": 5}, "'accumulate' is 5; .* which is 4"),
    ("tokens", lambda at: at, {"most_tokens": 513}, "'most_tokens' is 513, but the model serves 512"),
    ("targets", lambda at: at, {"targets": ("query",)}, "'targets' names 'query'.* q_proj"),
]


@pytest.mark.parametrize(("make", "changes", "why"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_cannot_be_trained_is_refused(
    model: Path, tmp_path: Path, make: Callable[[Path], Path], changes: dict[str, Any], why: str
) -> None:
    """Rows and recipes that do not fit are errors with the row or the field, and both numbers."""
    with pytest.raises(TrainError, match=why):
        train(model, make(tmp_path / "rows.jsonl"), replace(RECIPE, **changes))


def test_a_loss_that_is_no_number_ends_the_training(model: Path, rows: Path) -> None:
    """A rate that breaks the weights ends in an error with the step, the rate, and what was found."""
    session = train(model, rows, replace(RECIPE, method=TrainingMethod.FULL, learning_rate=1e30, warmup=0.0))
    with pytest.raises(
        TrainError, match=r"step 2: the (loss|length of the gradient) is (nan|inf); lower 'learning_rate'"
    ):
        finish(session)


def test_a_checkpoint_of_another_request_is_refused(model: Path, rows: Path, tmp_path: Path) -> None:
    """So are one of another recipe, one of other rows, one that lacks a file and one that is cut."""
    session = train(model, rows)
    session.step()
    session.save(tmp_path)
    with pytest.raises(TrainError, match="another recipe, other rows or another model"):
        train(model, rows, replace(RECIPE, seed=8)).restore(tmp_path)
    moments = tmp_path / "moments.safetensors"
    moments.write_bytes(moments.read_bytes()[:-9])
    with pytest.raises(TrainError, match="damaged"):
        session.restore(tmp_path)
    (tmp_path / "state.json").unlink()
    with pytest.raises(TrainError, match="damaged"):
        session.restore(tmp_path)
