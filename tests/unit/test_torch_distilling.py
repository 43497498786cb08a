"""Small models that learn to guess what a large one writes: the same after a kill, and of use beside it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferd.core.training import TrainingMethod
from inferd.plugin import ExportKind, LoadRequest, TrainError, TrainingRecipe, TrainRequest
from inferd.plugin.backend import read_settings
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC as CPU

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from tiny_networks import write_network  # noqa: E402 - it needs both
from tokenizers import Tokenizer  # noqa: E402 - as above

from inferd_torch.backend import TorchBackend  # noqa: E402
from inferd_torch.training.student import choose_layers, shrink  # noqa: E402

torch.set_num_threads(1)
RECIPE = TrainingRecipe(
    method=TrainingMethod.DISTIL, epochs=6, batch=4, learning_rate=0.01, most_tokens=48, held=0.2, layers=1, seed=7
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three layers with random weights."""
    folder = tmp_path_factory.mktemp("model")
    write_network("llama", folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty rows of several lengths."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    texts = [f"the cat {n} sat on the mat again, and {29 - n} dogs saw it"[: 20 + n] for n in range(30)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def request(model: Path, rows: Path, **changes: Any) -> TrainRequest:
    given: dict[str, Any] = {"held": None, "device": "cpu:0", "capacity_bytes": 4 << 30, "cores": 1}
    return TrainRequest(path=model, rows=rows, recipe=replace(RECIPE, **changes), **given)


def train(model: Path, rows: Path, **changes: Any) -> Any:
    return TorchBackend().train(request(model, rows, **changes), lambda _: None)


def export(session: Any, folder: Path) -> Path:
    folder.mkdir()
    assert session.export(folder) is ExportKind.MODEL
    return folder


@pytest.mark.parametrize("width", [0, 32])
def test_more_guesses_are_right_and_a_session_goes_on_bit_for_bit(
    model: Path, rows: Path, tmp_path: Path, width: int
) -> None:
    """Chances come nearer to the model's, as do the likeliest tokens; one made anew ends with the same bytes."""
    whole = train(model, rows, width=width)
    before = whole.evaluate()
    told = [whole.step() for _ in range(whole.steps)]
    after = whole.evaluate()
    assert after.loss < 0.8 * before.loss
    assert after.figures["acceptance"] > before.figures["acceptance"]
    first = train(model, rows, width=width)
    again = [first.step() for _ in range(9)]
    (tmp_path / "kept").mkdir()
    first.save(tmp_path / "kept")
    second = train(model, rows, width=width)
    second.restore(tmp_path / "kept")
    again += [second.step() for _ in range(second.steps - 9)]
    assert again == told
    one, other = export(whole, tmp_path / "one"), export(second, tmp_path / "other")
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_the_loss_and_the_share_are_by_definition(model: Path, rows: Path, tmp_path: Path) -> None:
    """They are what the logits of the model and of the exported folder give, token by token."""
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"text": "the cat sat on the rug"}) + "\n")
    asked = replace(request(model, rows), held=held)
    session: Any = TorchBackend().train(asked, lambda _: None)
    for _ in range(10):
        session.step()
    told = session.evaluate()
    folder = export(session, tmp_path / "small")
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the cat sat on the rug").ids
    ids = torch.tensor([[*tokens, 256]])
    chances = []
    for path in (model, folder):
        network = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        chances.append(torch.log_softmax(network(ids).logits[0, :-1], -1).detach())
    theirs, mine = chances
    divergence = (theirs.exp() * (theirs - mine)).sum(-1).mean().item()
    assert told.loss == pytest.approx(divergence, rel=1e-3)
    rate = (theirs.argmax(-1) == mine.argmax(-1)).float().mean().item()
    assert told.figures["acceptance"] == pytest.approx(rate)
    assert told.figures["tokens_a_step"] == pytest.approx(sum(rate**n for n in range(5)))
    assert told.figures["tokens"] == len(theirs)


def test_one_of_all_layers_is_the_model(model: Path, rows: Path) -> None:
    """With as many layers it begins as the model itself, and nothing is left to learn."""
    told = train(model, rows, layers=3).evaluate()
    assert told.loss == pytest.approx(0, abs=1e-6)
    assert told.figures["acceptance"] == 1
    assert told.figures["tokens_a_step"] == 5


def test_what_comes_of_it_serves_as_the_draft_of_its_model(model: Path, rows: Path, tmp_path: Path) -> None:
    """The backend `cpu` loads the model with it, and both have the same tokens."""
    folder = export(train(model, rows), tmp_path / "small")
    settings = read_settings(CPU, {"kv_tokens": "256", "draft": str(folder)})
    load = LoadRequest(path=model, device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    plain = CpuBackend().measure(replace(load, settings={**settings, "draft": None})).total_bytes
    assert CpuBackend().measure(load).total_bytes > plain
    loaded = CpuBackend().load(load, lambda _: None)
    assert loaded.draft is not None
    assert loaded.draft.limits.vocabulary_size == loaded.session.limits.vocabulary_size
    loaded.draft.close()
    loaded.session.close()


def test_layers_are_spread_evenly_and_what_there_is_not_is_refused(model: Path, rows: Path) -> None:
    """The first and the last one are among several; a field that says more than the model has is named."""
    config = transformers.LlamaConfig(num_hidden_layers=30, hidden_size=64, num_attention_heads=8)
    assert choose_layers(config, replace(RECIPE, layers=4)) == [0, 10, 19, 29]
    assert len(choose_layers(config, replace(RECIPE, layers=0))) == 3
    small = shrink(config, replace(RECIPE, layers=2, width=32))
    assert (small.num_hidden_layers, small.hidden_size, small.num_attention_heads) == (2, 32, 4)
    for changes, why in (
        ({"layers": 4}, "'layers' is 4, but the model has 3"),
        ({"width": 128}, "'width' is 128, but the model has 64: lower it"),
        ({"width": 20}, "'width' is 20; it must be a multiple of 16"),
    ):
        with pytest.raises(TrainError, match=why):
            train(model, rows, **changes)


def test_a_layer_that_changes_nothing_is_pruned(rows: Path, tmp_path: Path) -> None:
    """By the rows those layers stay that are needed: without one that passes all on the model is the same."""
    network = write_network("llama", tmp_path)
    with torch.no_grad():
        network.model.layers[2].self_attn.o_proj.weight.zero_()
        network.model.layers[2].mlp.down_proj.weight.zero_()
    network.save_pretrained(tmp_path)
    needed = train(tmp_path, rows, layers=2, keep="needed").evaluate()
    assert needed.loss == pytest.approx(0, abs=1e-6)
    assert needed.figures["acceptance"] == 1
    assert train(tmp_path, rows, layers=2).evaluate().loss > 1e-3
    with pytest.raises(TrainError, match="'keep' is 'some'; it must be even or needed"):
        train(tmp_path, rows, keep="some")


def test_needed_layers_of_several_kinds_are_not_found_by_several_workers(rows: Path, tmp_path: Path) -> None:
    """Only the worker that leads sees which are needed: the others would compute with layers of other kinds."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "full_attention"]
    write_network("gemma3", tmp_path, num_hidden_layers=4, layer_types=kinds, sliding_window=4)
    asked: dict[str, Any] = {"layers": 2, "keep": "needed", "ranks": 2}
    with pytest.raises(TrainError, match="set 'ranks' to 1 or 'keep' to 'even'"):
        TorchBackend().measure_training(request(tmp_path, rows, **asked))
    for change in ({"ranks": 1}, {"keep": "even"}):
        TorchBackend().measure_training(request(tmp_path, rows, **(asked | change)))


def test_it_counts_both_networks(model: Path, rows: Path) -> None:
    """What it holds is the model, the small one, and what the optimiser keeps of that."""
    need = TorchBackend().measure_training(request(model, rows)).weights_bytes
    large, small = (
        sum(each.nbytes for each in transformers.LlamaForCausalLM(config).parameters())
        for config in (_config(model), shrink(_config(model), RECIPE))
    )
    assert need == large + 3 * small


def _config(path: Path) -> Any:
    return transformers.AutoConfig.from_pretrained(path)
