"""Models of embeddings that are trained: against the definition of the loss, the same after a kill, and served."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.core.training import TrainingMethod
from inferd.plugin import ExportKind, LoadRequest, TrainError, TrainingRecipe, TrainRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC as CPU

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # noqa: E402

from inferd_torch.backend import TorchBackend  # noqa: E402

torch.set_num_threads(1)
RECIPE = TrainingRecipe(
    method=TrainingMethod.EMBED, epochs=3, batch=6, learning_rate=4e-3, most_tokens=16, held=0.25, seed=2
)
WORDS = [
    "red",
    "green",
    "blue",
    "one",
    "two",
    "three",
    "cat",
    "dog",
    "bird",
    "sun",
    "moon",
    "star",
    "salt",
    "bread",
    "wine",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with random weights, and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "what", "is"])}
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    torch.manual_seed(1)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def make_request(model: Path, folder: Path, **changes: Any) -> TrainRequest:
    rows = folder / "rows.jsonl"
    pairs = [{"text": f"what is {a} {b}", "pair": f"{b} {a} {a}"} for a in WORDS for b in WORDS[:3]]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    fields: dict[str, Any] = {"held": None, "recipe": RECIPE, "device": "cpu:0", "capacity_bytes": 4 << 30, "cores": 1}
    return TrainRequest(path=model, rows=rows, **(fields | changes))


def make_session(request: TrainRequest) -> Any:
    return TorchBackend().train(request, lambda _: None)


def test_pairs_are_found_better_and_a_session_goes_on_bit_for_bit(model: Path, tmp_path: Path) -> None:
    """Loss falls, more pairs are found, and one that is made anew in the middle tells and judges the same."""
    request = make_request(model, tmp_path)
    whole = make_session(request)
    before = whole.evaluate()
    told = [whole.step() for _ in range(whole.steps)]
    first = make_session(request)
    again = [first.step() for _ in range(whole.steps // 2)]
    (tmp_path / "kept").mkdir()
    first.save(tmp_path / "kept")
    second = make_session(request)
    second.restore(tmp_path / "kept")
    again += [second.step() for _ in range(whole.steps - len(again))]
    assert again == told
    after = whole.evaluate()
    assert second.evaluate() == after
    assert after.loss < 0.9 * before.loss
    assert after.figures["mean_reciprocal_rank"] > before.figures["mean_reciprocal_rank"]


def test_the_loss_is_that_of_cosines_of_the_served_embeddings(model: Path, tmp_path: Path) -> None:
    """The exported folder is served by the backend `cpu`, whose embeddings give the loss that was told."""
    held = tmp_path / "held.jsonl"
    pairs = [("what is red", "red red"), ("what is star one", "one star"), ("dog", "dog cat bird")]
    held.write_text("".join(json.dumps({"text": a, "pair": b}) + "\n" for a, b in pairs))
    session = make_session(make_request(model, tmp_path, held=held))
    for _ in range(4):
        session.step()
    told = session.evaluate()
    (tmp_path / "trained").mkdir()
    assert session.export(tmp_path / "trained") is ExportKind.MODEL
    settings = read_settings(CPU, {})
    load = LoadRequest(path=tmp_path / "trained", device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    served: Any = CpuBackend().load(load, lambda _: None)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))

    def embed(text: str) -> Any:
        ids = tokenizer.encode(text).ids
        batch = make_batch([Part(token_ids=ids, blocks=[0, 1], wanted=[])])
        found = served.session.step(replace(batch, hidden_rows=np.arange(len(ids), dtype=np.int32)))
        return np.asarray(found.hidden).mean(0)

    vectors = np.array([[embed(text) for text in pair] for pair in pairs], np.float64)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    scores = 20 * vectors[:, 0] @ vectors[:, 1].T
    losses = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    assert losses.mean() == pytest.approx(told.loss, rel=0.02)


def test_rows_that_lack_a_text_are_refused(model: Path, tmp_path: Path) -> None:
    """So is a recipe that names a field that no row has."""
    with pytest.raises(
        TrainError, match=r"field 'other' is not there: a row needs two texts; it has \['pair', 'text'\]"
    ):
        make_session(make_request(model, tmp_path, recipe=replace(RECIPE, pair="other")))
